package ecsagent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/test/ecsagent"
)

const (
	attachMessage = "AttachTaskNetworkInterfacesMessage"
	groupsMessage = "SecurityGroupsMessage"
)

const networkFile = `{
	"subnets": {"subnet-a": {"cidrBlock": "10.20.0.0/29", "ipv6CidrBlock": "fd00:20::/64", "domainName": ["tasks.example"], "domainNameServers": ["10.20.0.1"]}},
	"securityGroups": {
		"sg-web": {"ingress": [{"protocol": "tcp", "fromPort": 80, "groups": ["sg-lb"]}]},
		"sg-lb": {"ingress": [{"protocol": "tcp", "fromPort": 443, "cidrs": ["0.0.0.0/0", "::/0"]}], "egress": []}
	}
}`

// networked is a control plane with a file of subnets and security groups.
func networked(t *testing.T) *plane {
	t.Helper()
	file := filepath.Join(t.TempDir(), "network.json")
	writeFile(t, file, networkFile)
	p := newPlane(t, func(c *controlplane.Config) { c.Network, c.NetworkInterval = file, 100*time.Millisecond })
	p.cluster("daemonset")
	return p
}

// writeFile replaces a file, as editors do.
func writeFile(t *testing.T, file, text string) {
	t.Helper()
	next := file + ".new"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
}

// slots joins with an agent that can have interfaces.
func slots(n int, there func(mac string) bool) func(*ecsagent.Config) {
	return func(c *ecsagent.Config) { c.Interfaces = &ecsagent.Interfaces{Slots: n, There: there} }
}

func (p *plane) defineAwsvpc(family string) string {
	p.Helper()
	out := must(p.admin.RegisterTaskDefinition(p.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeAwsvpc,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("registry.test/" + family + ":1"), Memory: aws.Int32(64),
			PortMappings: []types.PortMapping{{ContainerPort: aws.Int32(80)}}}}}))(p.T)
	return fmt.Sprintf("%s:%d", family, out.TaskDefinition.Revision)
}

func awsvpc(groups ...string) *types.NetworkConfiguration {
	return &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{"subnet-a"}, SecurityGroups: groups}}
}

// detail is one of the details of a task's interface.
func detail(t types.Task, name string) string {
	for _, a := range t.Attachments {
		for _, d := range a.Details {
			if aws.ToString(d.Name) == name {
				return aws.ToString(d.Value)
			}
		}
	}
	return ""
}

func attachment(t types.Task) string {
	if len(t.Attachments) != 1 {
		return fmt.Sprint(len(t.Attachments), " attachments")
	}
	return aws.ToString(t.Attachments[0].Status)
}

func TestATaskWithAnInterfaceGoesThroughItsStates(t *testing.T) {
	p := networked(t)
	plugged := make(chan struct{})
	a := p.join(slots(10, func(string) bool {
		select {
		case <-plugged:
			return true
		default:
			return false
		}
	}))
	p.connected(a)
	out := must(p.admin.RunTask(t.Context(), &ecs.RunTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: aws.String(p.defineAwsvpc("web")), NetworkConfiguration: awsvpc("sg-web")}))(t)
	if len(out.Tasks) != 1 {
		t.Fatal(out.Failures)
	}
	made := out.Tasks[0]
	if attachment(made) != "PRECREATED" || aws.ToString(made.LastStatus) != "PROVISIONING" {
		t.Errorf("it is %s, its interface %s", aws.ToString(made.LastStatus), attachment(made))
	}
	address, v6, mac := detail(made, "privateIPv4Address"), detail(made, "ipv6Address"), detail(made, "macAddress")
	if detail(made, "subnetId") != "subnet-a" || !strings.HasPrefix(detail(made, "networkInterfaceId"), "eni-") || detail(made, "privateDnsName") != "ip-10-20-0-2.tasks.example" ||
		address != "10.20.0.2" || v6 != "fd00:20::2" || mac != "0a:58:0a:14:00:02" || aws.ToString(made.Attachments[0].Type) != "ElasticNetworkInterface" {
		t.Errorf("the interface is %+v", made.Attachments[0])
	}
	if i := made.Containers[0].NetworkInterfaces; len(i) != 1 || aws.ToString(i[0].PrivateIpv4Address) != address || aws.ToString(i[0].Ipv6Address) != v6 ||
		aws.ToString(i[0].AttachmentId) != aws.ToString(made.Attachments[0].Id) {
		t.Errorf("the container's interfaces are %+v", i)
	}
	arn := aws.ToString(made.TaskArn)
	p.until("ATTACHING", func() bool { return attachment(p.task(arn)) == "ATTACHING" })
	if is := p.task(arn); aws.ToString(is.LastStatus) != "PROVISIONING" {
		t.Errorf("it is %s", aws.ToString(is.LastStatus))
	}
	order := a.expect("what is told of it", 3, func(e ecsagent.Entry) bool {
		return e.Kind == ecsagent.Received && slices.Contains([]string{groupsMessage, attachMessage, "PayloadMessage"}, e.Type)
	})
	if order[0].Type != groupsMessage || order[1].Type != attachMessage || order[2].Type != "PayloadMessage" {
		t.Errorf("the order is %s, %s, %s", order[0].Type, order[1].Type, order[2].Type)
	}
	close(plugged)
	p.until("RUNNING", func() bool { return aws.ToString(p.task(arn).LastStatus) == "RUNNING" })
	if is := p.task(arn); attachment(is) != "ATTACHED" || is.StartedAt == nil {
		t.Errorf("its interface is %s", attachment(is))
	}
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn}))(t)
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	if is := p.task(arn); attachment(is) != "DELETED" || is.StoppedAt == nil || aws.ToString(is.Containers[0].LastStatus) != "STOPPED" {
		t.Errorf("at its end it is %+v", is)
	}
}

func TestAnAgentThatCantMakeInterfacesIsRefusedByName(t *testing.T) {
	p := networked(t)
	a := p.join()
	p.connected(a)
	run := func() types.Failure {
		t.Helper()
		out := must(p.admin.RunTask(t.Context(), &ecs.RunTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: aws.String(p.defineAwsvpc("web")), NetworkConfiguration: awsvpc()}))(t)
		if len(out.Failures) != 1 {
			t.Fatal(out.Tasks)
		}
		return out.Failures[0]
	}
	if f := run(); aws.ToString(f.Reason) != "ATTRIBUTE" || !strings.Contains(aws.ToString(f.Detail), "ecs.capability.task-eni is missing") || !strings.Contains(aws.ToString(f.Detail), "longshore.capability.security-groups is missing") {
		t.Errorf("%s: %s", aws.ToString(f.Reason), aws.ToString(f.Detail))
	}
}

func TestInterfaceSlotsAndAddressesRunOutAndComeBack(t *testing.T) {
	p := networked(t)
	few, many := p.join(slots(1, nil)), p.join(slots(10, nil))
	p.connected(few)
	p.connected(many)
	def := p.defineAwsvpc("web")
	start := func(a *agent, n int) (*ecs.StartTaskOutput, string) {
		t.Helper()
		in := &ecs.StartTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: &def, NetworkConfiguration: awsvpc()}
		for range n {
			in.ContainerInstances = append(in.ContainerInstances, a.InstanceARN())
		}
		out := must(p.admin.StartTask(t.Context(), in))(t)
		why := ""
		for _, f := range out.Failures {
			why += aws.ToString(f.Reason) + ": " + aws.ToString(f.Detail)
		}
		return out, why
	}
	out, why := start(few, 2)
	if want := "RESOURCE:ENI: it has 0 of 1 network interfaces free, 1 are needed (1 more)"; len(out.Tasks) != 1 || why != want {
		t.Errorf("%d tasks, %s", len(out.Tasks), why)
	}
	out, why = start(many, 6) // of the subnet's 8 addresses the first, the gateway's and the last are nobody's, and one is taken
	if want := "RESOURCE:ENI: subnet subnet-a (10.20.0.0/29) is exhausted: 5 of its 5 addresses are taken"; len(out.Tasks) != 4 || why != want {
		t.Errorf("%d tasks, %s", len(out.Tasks), why)
	}
	if _, again := start(many, 1); again != why {
		t.Error(again)
	}
	seen := map[string]bool{}
	for _, x := range out.Tasks {
		seen[detail(x, "privateIPv4Address")] = true
	}
	if len(seen) != 4 {
		t.Errorf("the addresses are %v", seen)
	}
	// A service that finds no address gets the first that comes free.
	must(p.admin.CreateService(t.Context(), &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("late"), TaskDefinition: &def,
		DesiredCount: aws.Int32(1), NetworkConfiguration: awsvpc("sg-web")}))(t)
	p.until("the service says why it waits", func() bool {
		o := must(p.admin.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"late"}}))(t)
		return slices.ContainsFunc(o.Services[0].Events, func(e types.ServiceEvent) bool {
			m := aws.ToString(e.Message) // one for its slots, one for the subnet
			return strings.Contains(m, "2 instances refused it: ") && strings.Contains(m, "1 short of 1 network interfaces") && strings.Contains(m, "1 RESOURCE:ENI")
		})
	})
	gone := out.Tasks[2]
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: gone.TaskArn}))(t)
	p.until("the service has a task", func() bool {
		list := must(p.admin.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("late")}))(t)
		return len(list.TaskArns) == 1 && detail(p.task(list.TaskArns[0]), "privateIPv4Address") == detail(gone, "privateIPv4Address") &&
			aws.ToString(p.task(list.TaskArns[0]).LastStatus) == "RUNNING"
	})
}

func TestMembersAndRulesReachTheHostsThatTheyConcern(t *testing.T) {
	p := networked(t)
	web, lb, other := p.join(slots(5, nil)), p.join(slots(5, nil)), p.join(slots(5, nil))
	def := p.defineAwsvpc("web")
	start := func(a *agent, group string) types.Task {
		t.Helper()
		p.connected(a)
		out := must(p.admin.StartTask(t.Context(), &ecs.StartTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: &def,
			ContainerInstances: []string{a.InstanceARN()}, NetworkConfiguration: awsvpc(group)}))(t)
		if len(out.Tasks) != 1 {
			t.Fatal(out.Failures)
		}
		arn := aws.ToString(out.Tasks[0].TaskArn)
		p.until("RUNNING", func() bool { return aws.ToString(p.task(arn).LastStatus) == "RUNNING" })
		return p.task(arn)
	}
	members := func(a *agent, group string) []string {
		if g := a.Group(group); g != nil {
			return g.Members
		}
		return nil
	}
	start(web, "sg-web")
	if g := web.Group("sg-web"); g == nil || len(g.Ingress) != 1 || g.Ingress[0].Groups[0] != "sg-lb" || len(g.Members) != 0 || web.Group("sg-lb") == nil || len(web.Group("sg-lb").Ingress) != 0 {
		t.Errorf("%+v %+v", g, web.Group("sg-lb"))
	}
	first := start(lb, "sg-lb")
	want := []string{detail(first, "privateIPv4Address"), detail(first, "ipv6Address")}
	p.until("the new member is known where rules speak of its group", func() bool { return slices.Equal(members(web, "sg-lb"), want) })
	if g := lb.Group("sg-lb"); len(g.Members) != 0 || len(g.Ingress) != 1 || len(g.Egress) != 0 || lb.Group("sg-web") != nil {
		t.Errorf("%+v", g)
	}
	start(other, "default")
	told := len(other.Journal(ecsagent.Is(ecsagent.Received, groupsMessage)))
	if g := other.Group("default"); len(g.Members) != 2 || g.Ingress[0].Groups[0] != "default" || g.Egress[0].Protocol != "-1" {
		t.Errorf("%+v", g)
	}
	// A control plane that is started anew knows all that again, and so does an agent.
	p.stop()
	p.start()
	p.connected(web)
	web.Agent.Stop()
	web.restart()
	p.connected(web)
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: first.TaskArn}))(t)
	p.until("the member is gone", func() bool { return web.Group("sg-lb") != nil && len(members(web, "sg-lb")) == 0 })
	if n := len(other.Journal(ecsagent.Is(ecsagent.Received, groupsMessage))); n > told+1 { // its own once more, after the reconnect
		t.Errorf("a host that nothing concerns was told %d times more", n-told)
	}
}

func TestAChangedFileOpensAndClosesWhatRuns(t *testing.T) {
	p := networked(t)
	a := p.join(slots(5, nil))
	p.connected(a)
	def := p.defineAwsvpc("web")
	must(p.admin.CreateService(t.Context(), &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("web"), TaskDefinition: &def,
		SchedulingStrategy: types.SchedulingStrategyDaemon, NetworkConfiguration: awsvpc("sg-web")}))(t)
	p.settled(a, def)
	ports := func() (ports []int32) {
		for _, r := range a.Group("sg-web").Ingress {
			ports = append(ports, r.FromPort)
		}
		return ports
	}
	writeFile(t, p.cfg.Network, strings.Replace(networkFile, `"groups": ["sg-lb"]}`, `"groups": ["sg-lb"]}, {"protocol": "tcp", "fromPort": 8080, "cidrs": ["::/0"]}`, 1))
	p.until("it is open", func() bool { return slices.Equal(ports(), []int32{80, 8080}) })
	writeFile(t, p.cfg.Network, networkFile)
	p.until("it is closed", func() bool { return slices.Equal(ports(), []int32{80}) })
	// What can't be used changes nothing: no JSON, and a file without the group that a task is in.
	for _, bad := range []string{"{", `{"subnets": {"subnet-a": {"cidrBlock": "10.20.0.0/29"}}}`} {
		writeFile(t, p.cfg.Network, bad)
		told := len(a.Journal(ecsagent.Is(ecsagent.Received, groupsMessage)))
		a.expect("time goes by", len(a.Journal(ecsagent.Is(ecsagent.Received, "AckPublishMetric")))+5, ecsagent.Is(ecsagent.Received, "AckPublishMetric"))
		if n := len(a.Journal(ecsagent.Is(ecsagent.Received, groupsMessage))); n != told || len(ports()) != 1 {
			t.Errorf("after %s the agent was told %d times, port %v", bad, n-told, ports())
		}
	}
	// A daemon belongs where its subnet is.
	writeFile(t, p.cfg.Network, strings.Replace(strings.Replace(networkFile, `"cidrBlock"`, `"availabilityZone": "elsewhere", "cidrBlock"`, 1), `"fromPort": 80,`, `"fromPort": 81,`, 1))
	p.until("the file is read", func() bool { return slices.Equal(ports(), []int32{81}) })
	desired := func() int32 {
		o := must(p.admin.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"web"}}))(t)
		return o.Services[0].DesiredCount
	}
	b := p.join(slots(5, nil))
	p.connected(b)
	p.until("the new host is not counted", func() bool { return desired() == 1 })
	if n := len(p.tasks(b, types.DesiredStatusRunning)); n != 0 {
		t.Errorf("%d tasks run on a host that is in no subnet", n)
	}
	writeFile(t, p.cfg.Network, networkFile)
	p.settled(b, def)
	p.until("it is counted", func() bool { return desired() == 2 })
}

func TestServicesAreUpdatedThoughTheirSubnetHasNoAddressToSpare(t *testing.T) {
	p := networked(t)
	writeFile(t, p.cfg.Network, `{"subnets": {"subnet-a": {"cidrBlock": "10.20.0.0/30", "reserved": ["10.20.0.3"]}, "subnet-b": {"cidrBlock": "10.21.0.0/30"}}}`)
	p.stop()
	p.start()
	a := p.join(slots(5, nil))
	p.connected(a)
	first, second := p.defineAwsvpc("web"), p.defineAwsvpc("web")
	services := map[string]types.SchedulingStrategy{"daemon": types.SchedulingStrategyDaemon, "replica": types.SchedulingStrategyReplica}
	subnets := map[string]string{"daemon": "subnet-a", "replica": "subnet-b"}
	running := func(name string) (definition, address string) {
		list := must(p.admin.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("daemonset"), ServiceName: &name}))(t)
		if len(list.TaskArns) != 1 {
			return fmt.Sprint(len(list.TaskArns), " tasks"), ""
		}
		x := p.task(list.TaskArns[0])
		if aws.ToString(x.LastStatus) != "RUNNING" {
			return aws.ToString(x.LastStatus), ""
		}
		arn := aws.ToString(x.TaskDefinitionArn)
		return arn[strings.LastIndexByte(arn, '/')+1:], detail(x, "privateIPv4Address")
	}
	had := map[string]string{}
	for name, strategy := range services {
		in := &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String(name), TaskDefinition: &first, SchedulingStrategy: strategy,
			NetworkConfiguration: &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{subnets[name]}}}}
		if strategy == types.SchedulingStrategyReplica {
			in.DesiredCount, in.DeploymentConfiguration = aws.Int32(1), &types.DeploymentConfiguration{MinimumHealthyPercent: aws.Int32(0), MaximumPercent: aws.Int32(100)}
		}
		must(p.admin.CreateService(t.Context(), in))(t)
		p.until(name+" runs", func() bool { definition, address := running(name); had[name] = address; return definition == first })
	}
	for name := range services {
		must(p.admin.UpdateService(t.Context(), &ecs.UpdateServiceInput{Cluster: aws.String("daemonset"), Service: aws.String(name), TaskDefinition: &second}))(t)
	}
	for name := range services {
		p.until(name+" is updated", func() bool { definition, address := running(name); return definition == second && address == had[name] })
	}
}

// TestNoTwoMachinesGetOneAddress has many tasks come and go on three machines, with a control plane that is started anew in the
// middle of it. The simulated agents fault at a MAC that a running task has already; here every interface that was announced
// is held against what runs.
func TestNoTwoMachinesGetOneAddress(t *testing.T) {
	p := networked(t)
	writeFile(t, p.cfg.Network, strings.Replace(networkFile, "10.20.0.0/29", "10.20.0.0/27", 1))
	p.stop()
	p.start()
	var machines []*agent
	for range 3 {
		machines = append(machines, p.join(slots(20, nil)))
		p.connected(machines[len(machines)-1])
	}
	def := p.defineAwsvpc("web")
	for round := range 4 {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := p.admin.RunTask(t.Context(), &ecs.RunTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: &def, Count: aws.Int32(7), NetworkConfiguration: awsvpc("sg-web")}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if round == 1 {
			p.stop()
			p.start()
		}
		has := map[string]string{}
		var live []types.Task
		for _, m := range machines {
			p.connected(m)
			live = append(live, p.tasks(m, types.DesiredStatusRunning)...)
		}
		if len(live) != 21 {
			t.Fatalf("%d tasks are placed", len(live))
		}
		for _, x := range live {
			for _, d := range []string{"privateIPv4Address", "ipv6Address", "macAddress"} {
				if at := detail(x, d); at == "" || has[at] != "" {
					t.Errorf("%s %q is also task %s's", d, at, has[at])
				}
				has[detail(x, d)] = aws.ToString(x.TaskArn)
			}
		}
		for _, x := range live {
			arn := aws.ToString(x.TaskArn)
			p.until("RUNNING", func() bool { return aws.ToString(p.task(arn).LastStatus) == "RUNNING" })
			must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn}))(t)
		}
		for _, x := range live {
			arn := aws.ToString(x.TaskArn)
			p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
		}
	}
	// What was announced is what the payload said.
	for _, m := range machines {
		announced := map[string]string{}
		for _, e := range m.Journal(ecsagent.Is(ecsagent.Received, attachMessage)) {
			announced[e.Task] = interfaces(t, e.Body)
		}
		for _, e := range m.Journal(ecsagent.Is(ecsagent.Received, "PayloadMessage"), ecsagent.With("RUNNING")) {
			var body struct{ Tasks []json.RawMessage }
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
			if got := interfaces(t, body.Tasks[0]); got != announced[e.Task] {
				t.Errorf("announced was %s, and the payload has %s", announced[e.Task], got)
			}
		}
	}
}

func interfaces(t *testing.T, body []byte) string {
	t.Helper()
	var m struct {
		ElasticNetworkInterfaces json.RawMessage
	}
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	return string(m.ElasticNetworkInterfaces)
}
