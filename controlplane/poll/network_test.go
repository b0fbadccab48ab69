package poll

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

func config(t testing.TB, groups string) *network.Config {
	t.Helper()
	c, err := network.Parse([]byte(`{"subnets":{"a":{"cidrBlock":"10.20.0.0/16","ipv6CidrBlock":"fd00:20::/64","domainName":["tasks.example"],"domainNameServers":["10.20.0.2"]}},"securityGroups":{` + groups + `}}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const webAndLB = `"sg-web":{"ingress":[{"protocol":"tcp","fromPort":80,"groups":["sg-lb"]}]},"sg-lb":{}`

// networked is a world with the security groups sg-web and sg-lb, whose agent makes interfaces.
func networked(t testing.TB, change ...func(*Config)) (*world, *network.Network) {
	t.Helper()
	net, err := network.Open("", nil)
	if err != nil {
		t.Fatal(err)
	}
	net.Set(config(t, webAndLB))
	w := newWorld(t, append([]func(*Config){func(c *Config) {
		net.Follow(c.Store)
		c.Network, c.Resend, c.ResendMax = net, time.Minute, time.Minute
	}}, change...)...)
	w.makesInterfaces(instance)
	w.create(&store.TaskDefinition{Object: *awsvpcDefinition()})
	return w, net
}

func awsvpcDefinition() *types.TaskDefinition {
	def := definition()
	def.Revision, def.TaskDefinitionArn, def.NetworkMode = 4, aws.String(owner.TaskDefinition("logging-agent", 4)), types.NetworkModeAwsvpc
	return def
}

// makesInterfaces has an instance's agent say so.
func (w *world) makesInterfaces(id string) {
	w.Helper()
	i := *w.instance(id)
	i.Object.Attributes = []types.Attribute{{Name: aws.String(acs.CapabilitySecurityGroups)}}
	txn := w.store.Txn()
	txn.Update(&i)
	w.commit(txn)
}

// placeIn places a task with an interface in a group.
func (w *world) placeIn(net *network.Network, id, group string) *store.Task {
	w.Helper()
	i := w.instance(id)
	claim := net.Claim(&types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{"a"}, SecurityGroups: []string{group}}})
	if !claim.Pick(id, &query.Subject{}) {
		w.Fatal("no address is left")
	}
	t, err := task.New(task.Params{Cluster: cluster, Definition: awsvpcDefinition(), Instance: i, Interfaces: claim.Give(id), Now: time.Now()})
	if err != nil {
		w.Fatal(err)
	}
	txn := w.store.Txn()
	var alloc *store.Allocation
	w.store.Peek(func(v *store.View) { alloc = v.Allocation(cluster, id) })
	task.Place(txn, alloc, false, t)
	w.commit(txn)
	return t
}

// end has a task be STOPPED.
func (w *world) end(id string) {
	w.Helper()
	for range 2 {
		w.edit(id, func(_ *store.View, t *store.Task) *store.Task {
			n, _ := task.Apply(t, task.StateChange{Status: task.Stopped}, time.Now())
			return n
		})
	}
}

func (a *agent) acknowledge(message string) {
	a.Helper()
	a.send(&acs.AckRequest{Cluster: owner.Cluster(cluster), ContainerInstance: owner.ContainerInstance(cluster, instance), MessageID: message})
}

func members(m *acs.SecurityGroupsMessage, group string) []string {
	for _, g := range m.Groups {
		if g.GroupID == group {
			return g.Members
		}
	}
	return nil
}

func TestGroupsInterfaceAndTaskAreSentInThisOrderAndAgainUntilTheyAreAcknowledged(t *testing.T) {
	w, net := networked(t, func(c *Config) { c.Resend, c.ResendMax = 20*time.Millisecond, 40*time.Millisecond })
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	made := w.placeIn(net, instance, "sg-web")
	groups, attach, payload := next[*acs.SecurityGroupsMessage](a), next[*acs.AttachTaskNetworkInterfacesMessage](a), next[*acs.PayloadMessage](a)
	for _, m := range []interface{ Validate() error }{groups, attach, payload, payload.Tasks[0]} {
		if err := m.Validate(); err != nil {
			t.Errorf("%T: %v", m, err)
		}
	}
	if len(groups.Groups) != 2 || groups.Groups[0].GroupID != "sg-lb" || groups.Groups[0].Ingress != nil || groups.Groups[1].Members != nil || len(groups.Groups[1].Egress) != 1 {
		t.Errorf("%+v", groups)
	}
	e := attach.ElasticNetworkInterfaces[0]
	if attach.TaskArn != *made.Object.TaskArn || attach.WaitTimeoutMs != 300_000 || e.InterfaceAssociationProtocol != acs.AssociationVeth || e.MacAddress != "0a:58:0a:14:00:02" ||
		e.IPv4Addresses[0].PrivateAddress != "10.20.0.2" || !e.IPv4Addresses[0].Primary || e.IPv6Addresses[0].Address != "fd00:20::2" || e.SubnetGatewayIpv4Address != "10.20.0.1/16" ||
		e.SubnetGatewayIpv6Address != "fd00:20::1/64" || e.PrivateDNSName != "ip-10-20-0-2.tasks.example" || e.DomainNameServers[0] != "10.20.0.2" || e.SecurityGroups[0] != "sg-web" ||
		!strings.HasSuffix(e.AttachmentArn, ":attachment/"+made.Interfaces[0].Attachment) {
		t.Errorf("%+v", e)
	}
	if p := payload.Tasks[0]; p.NetworkMode != "awsvpc" || fmt.Sprintf("%+v", *p.ElasticNetworkInterfaces[0]) != fmt.Sprintf("%+v", *e) && p.ElasticNetworkInterfaces[0].AttachmentArn != e.AttachmentArn {
		t.Errorf("%+v", p)
	}
	again := next[*acs.SecurityGroupsMessage](a)
	if again.Generation <= groups.Generation || again.MessageID == groups.MessageID {
		t.Errorf("%+v after %+v", again, groups)
	}
	if m := next[*acs.AttachTaskNetworkInterfacesMessage](a); m.MessageID != attach.MessageID {
		t.Error("the announcement has another message id when it is sent again")
	}
	// A connection that comes anew is told anew.
	b := w.connect(instance)
	if m := next[*acs.SecurityGroupsMessage](b); m.Generation <= again.Generation {
		t.Errorf("generation %d after %d", m.Generation, again.Generation)
	} else {
		b.acknowledge(m.MessageID)
	}
	b.acknowledge(next[*acs.AttachTaskNetworkInterfacesMessage](b).MessageID)
	b.ack(next[*acs.PayloadMessage](b))
	w.until("the interface is on its way", func() bool { return *w.task(made.ID).Object.Attachments[0].Status == task.AttachmentAttaching })
	w.end(made.ID)
}

func TestAnAgentIsToldOfMembersAtARateAndOfTheLastOnesInAnyCase(t *testing.T) {
	w, net := networked(t, func(c *Config) { c.Ping, c.PongTimeout = time.Minute, time.Minute }) // the test does not always read
	a := w.connect(instance)
	w.placeIn(net, instance, "sg-web")
	first := next[*acs.SecurityGroupsMessage](a)
	a.acknowledge(first.MessageID)
	const other = "00000000000000000000000000000001"
	w.register(other)
	begun := time.Now()
	var placed []*store.Task
	for range 150 {
		placed = append(placed, w.placeIn(net, other, "sg-lb"))
	}
	for _, x := range placed[:100] {
		w.end(x.ID)
	}
	most := int(time.Since(begun)/memberRest) + 3
	var want []string
	for _, x := range placed[100:] {
		want = append(want, x.Interfaces[0].IPv4)
	}
	for told := 1; ; told++ {
		m := next[*acs.SecurityGroupsMessage](a)
		a.acknowledge(m.MessageID)
		if told > most {
			t.Fatalf("it was told %d times within %s", told, time.Since(begun))
		}
		have := slices.DeleteFunc(slices.Clone(members(m, "sg-lb")), func(a string) bool { return strings.Contains(a, ":") })
		slices.Sort(want)
		slices.Sort(have)
		if slices.Equal(have, want) {
			break
		}
	}
}

func TestRulesAreToldAtOnceAndMembersOnlyToThoseWhoNeedThem(t *testing.T) {
	w, net := networked(t)
	const other = "00000000000000000000000000000001"
	w.register(other)
	a := w.connect(instance)
	w.placeIn(net, instance, "sg-web")
	a.acknowledge(next[*acs.SecurityGroupsMessage](a).MessageID)
	w.placeIn(net, other, "sg-lb") // an agent that makes no interfaces is not told, though it has one
	b := w.connect(other)
	next[*acs.PayloadMessage](b)
	if m := next[*acs.SecurityGroupsMessage](a); len(members(m, "sg-lb")) != 2 {
		t.Errorf("%+v", m)
	}
	w.placeIn(net, other, "sg-web") // nobody's rules speak of it
	net.Set(config(t, `"sg-web":{"ingress":[{"protocol":"tcp","fromPort":81,"cidrs":["::/0"]}]},"sg-lb":{}`))
	m := next[*acs.SecurityGroupsMessage](a)
	if len(m.Groups) != 1 || m.Groups[0].Ingress[0].FromPort != 81 || m.Groups[0].Members != nil {
		t.Errorf("%+v", m.Groups[0])
	}
	next[*acs.PayloadMessage](b)
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	if n := len(w.server.interests.of); n != 0 {
		t.Errorf("%d groups are still of interest", n)
	}
}

func TestATaskWhoseInterfaceDoesNotComeIsStopped(t *testing.T) {
	w, net := networked(t, func(c *Config) { c.AttachWait = 50 * time.Millisecond })
	a := w.connect(instance)
	made := w.placeIn(net, instance, "sg-web")
	there := w.placeIn(net, instance, "sg-web")
	for range 2 {
		p := next[*acs.PayloadMessage](a)
		if p.Tasks[0].Arn == *there.Object.TaskArn {
			w.edit(there.ID, func(_ *store.View, t *store.Task) *store.Task {
				n, _ := task.Apply(t, task.StateChange{Attachments: []types.AttachmentStateChange{{AttachmentArn: aws.String(task.AttachmentARN(t, &t.Interfaces[0])), Status: aws.String("ATTACHED")}}}, time.Now())
				return n
			})
		}
		a.ack(p)
	}
	w.until("the task is stopped", func() bool { return !task.Wanted(w.task(made.ID)) })
	if o := w.task(made.ID).Object; o.StopCode != types.TaskStopCodeTaskFailedToStart || aws.ToString(o.StoppedReason) != task.ReasonNoInterface {
		t.Errorf("%s: %s", o.StopCode, aws.ToString(o.StoppedReason))
	}
	if !task.Wanted(w.task(there.ID)) {
		t.Error("the task that has its interface is stopped, too")
	}
	if p := next[*acs.PayloadMessage](a); p.Tasks[0].DesiredStatus != "STOPPED" || p.Tasks[0].Arn != *made.Object.TaskArn {
		t.Errorf("%+v", p.Tasks[0])
	}
}

// BenchmarkMembers measures what a change of one of 10,000 members costs: what all hosts have in common, what each of them
// looks at, and the message to one.
func BenchmarkMembers(b *testing.B) {
	w, net := networked(b)
	const most = 10_000
	net.Set(config(b, `"sg-all":{"ingress":[{"protocol":"-1","groups":["sg-all"]}]}`))
	for i := 0; i < most; i += 60 {
		txn := w.store.Txn()
		for n := i; n < min(i+60, most); n++ {
			txn.Create(&store.Address{Address: fmt.Sprintf("10.20.%d.%d", n/250, n%250+2), Subnet: "a", Cluster: cluster, Task: "t", SecurityGroups: []string{"sg-all"}})
		}
		w.commit(txn)
	}
	var states []network.GroupState
	b.Run("in common", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			a := &store.Address{Address: "10.20.250.250", Subnet: "a", Cluster: cluster, Task: "t", SecurityGroups: []string{"sg-all"}}
			w.create(a)
			w.commit(w.store.Txn().Delete(a))
			b.StartTimer()
			states = net.Groups([]string{"sg-all"})
		}
	})
	b.Run("each host looks", func(b *testing.B) {
		for b.Loop() {
			if is := net.Groups([]string{"sg-all"}); !sameRules(is, states) || !sameMembers(is, states) {
				b.Fatal("it changed")
			}
		}
	})
	b.Run("message", func(b *testing.B) {
		for b.Loop() {
			frame, err := acs.Encode(&acs.SecurityGroupsMessage{MessageID: "m", ClusterArn: "c", ContainerInstanceArn: "i", Generation: 1, Groups: []*acs.SecurityGroup{states[0].SecurityGroup}})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(frame)))
		}
	})
}
