package api_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// newNetworkedPlane is a plane with the subnets subnet-a and subnet-b and the security group sg-web.
func newNetworkedPlane(t *testing.T) *plane {
	t.Helper()
	p := newPlaneOn(t, storetest.New(t))
	config, err := network.Parse([]byte(`{"subnets":{"subnet-a":{"cidrBlock":"10.20.0.0/24"},"subnet-b":{"cidrBlock":"10.21.0.0/29"}},"securityGroups":{"sg-web":{}}}`))
	p.must(err)
	net, err := network.Open("", nil)
	p.must(err)
	net.Set(config)
	net.Follow(p.store)
	p.serveWith(api.Config{Store: p.store, Verifier: auth.NewVerifier(auth.StoredKeys(p.store, p.seal), auth.Options{}), Scheduling: scheduler.Config{Network: net}})
	return p
}

func awsvpcMode(in *ecs.RegisterTaskDefinitionInput) { in.NetworkMode = types.NetworkModeAwsvpc }

func vpc(subnets ...string) *types.NetworkConfiguration {
	return &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: append([]string{}, subnets...)}}
}

func TestANetworkConfigurationIsJudgedInECSsWords(t *testing.T) {
	p := newNetworkedPlane(t)
	p.define("net", 10, 10, awsvpcMode)
	p.define("bridge", 10, 10)
	many := func(n int) []string { return strings.Split(strings.Repeat("subnet-a ", n)[:9*n-1], " ") }
	with := func(change func(*types.AwsVpcConfiguration)) *types.NetworkConfiguration {
		c := vpc("subnet-a")
		change(c.AwsvpcConfiguration)
		return c
	}
	for _, c := range []struct {
		definition string
		network    *types.NetworkConfiguration
		want       string
	}{
		{"net", nil, "Network Configuration must be provided when networkMode 'awsvpc' is specified."},
		{"net", vpc(), "Network Configuration must be provided when networkMode 'awsvpc' is specified."},
		{"bridge", vpc("subnet-a"), "Network Configuration is not valid for the given networkMode of this task definition."},
		{"net", with(func(v *types.AwsVpcConfiguration) { v.AssignPublicIp = types.AssignPublicIpEnabled }), "Assign public IP is not supported for this launch type."},
		{"net", with(func(v *types.AwsVpcConfiguration) { v.AssignPublicIp = "MAYBE" }), "assignPublicIp should be one of"},
		{"net", with(func(v *types.AwsVpcConfiguration) { v.Subnets, v.SecurityGroups = []string{}, []string{"sg-web"} }), "subnets can not be empty."},
		{"net", vpc(many(17)...), "subnets can have at most 16 items."},
		{"net", with(func(v *types.AwsVpcConfiguration) { v.SecurityGroups = many(6) }), "securityGroups can have at most 5 items."},
		{"net", vpc("subnet-a", "subnet-x"), "The subnet ID 'subnet-x' does not exist"},
		{"net", with(func(v *types.AwsVpcConfiguration) { v.SecurityGroups = []string{"sg-x"} }), "The security group 'sg-x' does not exist"},
	} {
		_, err := p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String(c.definition), NetworkConfiguration: c.network})
		p.refused(err, "InvalidParameterException", c.want)
		_, err = p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String(c.definition), ContainerInstances: []string{strings.Repeat("a", 32)}, NetworkConfiguration: c.network})
		p.refused(err, "InvalidParameterException", c.want)
		_, err = p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("s"), TaskDefinition: aws.String(c.definition), DesiredCount: aws.Int32(1), NetworkConfiguration: c.network})
		p.refused(err, "InvalidParameterException", c.want)
	}
	bare := newPlane(t)
	bare.define("net", 10, 10, awsvpcMode)
	_, err := bare.admin.RunTask(bare.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("net"), NetworkConfiguration: vpc("subnet-a")})
	bare.refused(err, "InvalidParameterException", "this control plane runs without --network")
}

func TestAServiceKeepsAndChangesItsNetworkConfiguration(t *testing.T) {
	p := newNetworkedPlane(t)
	p.define("net", 10, 10, awsvpcMode)
	p.define("net", 20, 20, awsvpcMode)
	p.define("bridge", 10, 10)
	created, err := p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("s"), TaskDefinition: aws.String("net:1"), DesiredCount: aws.Int32(1), NetworkConfiguration: vpc("subnet-a")})
	p.must(err)
	check := func(what string, s *types.Service, deployments int, want *types.NetworkConfiguration) {
		t.Helper()
		if want != nil {
			want.AwsvpcConfiguration.AssignPublicIp = types.AssignPublicIpDisabled
			if want.AwsvpcConfiguration.SecurityGroups == nil {
				want.AwsvpcConfiguration.SecurityGroups = []string{}
			}
		}
		ignore := cmpopts.IgnoreUnexported(types.NetworkConfiguration{}, types.AwsVpcConfiguration{})
		for where, got := range map[string]*types.NetworkConfiguration{"the service": s.NetworkConfiguration, "its deployment": s.Deployments[0].NetworkConfiguration} {
			if d := cmp.Diff(want, got, ignore); d != "" {
				t.Errorf("%s: %s: %s", what, where, d)
			}
		}
		arn := strings.Replace(*s.ServiceArn, ":service/", ":service-revision/", 1) + "/" + strings.TrimPrefix(*s.Deployments[0].Id, "ecs-svc/")
		out, err := p.admin.DescribeServiceRevisions(p.ctx, &ecs.DescribeServiceRevisionsInput{ServiceRevisionArns: []string{arn}})
		p.must(err)
		if d := cmp.Diff(want, out.ServiceRevisions[0].NetworkConfiguration, ignore); d != "" {
			t.Errorf("%s: the revision: %s", what, d)
		}
		id := *s.Deployments[0].Id
		again, err := p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: []string{"s"}})
		p.must(err)
		if *again.Services[0].Deployments[0].Id != id || deployments == 0 {
			t.Errorf("%s: %+v", what, again.Services[0].Deployments)
		}
	}
	check("created", created.Service, 1, vpc("subnet-a"))
	first := *created.Service.Deployments[0].Id
	update := func(in *ecs.UpdateServiceInput) *types.Service {
		t.Helper()
		in.Cluster, in.Service = aws.String(testCluster), aws.String("s")
		out, err := p.admin.UpdateService(p.ctx, in)
		p.must(err)
		return out.Service
	}
	if s := update(&ecs.UpdateServiceInput{NetworkConfiguration: vpc("subnet-a")}); *s.Deployments[0].Id != first {
		t.Error("the same configuration began a deployment")
	}
	s := update(&ecs.UpdateServiceInput{NetworkConfiguration: vpc("subnet-b")})
	if *s.Deployments[0].Id == first {
		t.Error("another configuration began no deployment")
	}
	check("updated", s, 1, vpc("subnet-b"))
	check("another definition", update(&ecs.UpdateServiceInput{TaskDefinition: aws.String("net:2")}), 1, vpc("subnet-b"))
	check("a definition that has no use for it", update(&ecs.UpdateServiceInput{TaskDefinition: aws.String("bridge")}), 1, nil)
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("net:2")})
	p.refused(err, "InvalidParameterException", "Network Configuration must be provided")
	in := update(&ecs.UpdateServiceInput{TaskDefinition: aws.String("net:2"), NetworkConfiguration: &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{"subnet-a"}, SecurityGroups: []string{"sg-web"}}}})
	want := vpc("subnet-a")
	want.AwsvpcConfiguration.SecurityGroups = []string{"sg-web"}
	check("and back", in, 1, want)
}

func TestADefinitionWithInterfacesNeedsAHostThatHasThem(t *testing.T) {
	p := newNetworkedPlane(t)
	out, err := p.admin.RegisterTaskDefinition(p.ctx, &ecs.RegisterTaskDefinitionInput{Family: aws.String("net"), NetworkMode: types.NetworkModeAwsvpc, ContainerDefinitions: []types.ContainerDefinition{{
		Name: aws.String("main"), Image: aws.String("main:1"), Memory: aws.Int32(10), PortMappings: []types.PortMapping{{ContainerPort: aws.Int32(80)}}}}})
	p.must(err)
	d := out.TaskDefinition
	if d.NetworkMode != types.NetworkModeAwsvpc || *d.ContainerDefinitions[0].PortMappings[0].HostPort != 80 || len(d.RequiresAttributes) != 1 || *d.RequiresAttributes[0].Name != "ecs.capability.task-eni" {
		t.Errorf("%+v", d)
	}
	p.register(p.host, 1000, 1000)
	ran := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("net"), NetworkConfiguration: vpc("subnet-a")})
	if len(ran.Failures) != 1 || *ran.Failures[0].Reason != "ATTRIBUTE" || !strings.Contains(*ran.Failures[0].Detail, "its agent can't make network interfaces") {
		t.Errorf("%+v", ran)
	}
}

func TestRunTaskGivesInterfacesAndItsTokenTheSameOnes(t *testing.T) {
	p := newNetworkedPlane(t)
	p.define("net", 10, 10, awsvpcMode)
	p.register(p.host, 4096, 4096, types.Attribute{Name: aws.String("ecs.capability.task-eni")}, types.Attribute{Name: aws.String("longshore.capability.security-groups")},
		types.Attribute{Name: aws.String("longshore.interface-slots"), Value: aws.String("7")})
	in := &ecs.RunTaskInput{TaskDefinition: aws.String("net"), NetworkConfiguration: vpc("subnet-b", "subnet-a"), Count: aws.Int32(9), ClientToken: aws.String("once")}
	ran := p.run(in)
	if len(ran.Tasks) != 7 || len(ran.Failures) != 1 || *ran.Failures[0].Reason != "RESOURCE:ENI" || !strings.Contains(*ran.Failures[0].Detail, "it has 0 of 7 network interfaces free") {
		t.Fatalf("%d tasks, %+v", len(ran.Tasks), ran.Failures)
	}
	again := p.run(in)
	if len(again.Tasks) != 7 || *again.Tasks[3].Attachments[0].Id != *ran.Tasks[3].Attachments[0].Id {
		t.Errorf("%+v", again.Tasks)
	}
	arn := ran.Tasks[0].TaskArn
	attachment := strings.Replace((*arn)[:strings.Index(*arn, ":task/")], ":task", "", 1) + ":attachment/" + *ran.Tasks[0].Attachments[0].Id
	_, err := p.host.SubmitAttachmentStateChanges(p.ctx, &ecs.SubmitAttachmentStateChangesInput{Cluster: aws.String(testCluster), Attachments: []types.AttachmentStateChange{
		{AttachmentArn: aws.String(attachment), Status: aws.String("ATTACHED")}, {AttachmentArn: aws.String("arn:aws:ecs:us-west-2:123456789012:attachment/none"), Status: aws.String("ATTACHED")}}})
	p.must(err)
	if is := p.describe(arn); *is.LastStatus != "PENDING" || *is.Attachments[0].Status != "ATTACHED" {
		t.Errorf("%s %s", *is.LastStatus, *is.Attachments[0].Status)
	}
	p.submit(arn, "STOPPED")
	if is := p.describe(arn); *is.LastStatus != "STOPPED" || *is.Attachments[0].Status != "DELETED" {
		t.Errorf("%s %s", *is.LastStatus, *is.Attachments[0].Status)
	}
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		n := 0
		for range v.Addresses() {
			n++
		}
		if n != 6 {
			t.Errorf("%d addresses are kept", n)
		}
		return nil
	}))
}

func TestAPlacementWithInterfacesIsExplained(t *testing.T) {
	p := newNetworkedPlane(t)
	p.define("net", 10, 10, awsvpcMode)
	id := p.register(p.host, 4096, 4096, types.Attribute{Name: aws.String("ecs.capability.task-eni")}, types.Attribute{Name: aws.String("longshore.capability.security-groups")})
	const placement = `{"kind":"placement","cluster":"daemonset","taskDefinition":"net",`
	for body, want := range map[string]string{
		placement + `"subnets":["subnet-a"],"count":3}`:                             "3 of 3 tasks would be placed now.",
		placement + `"subnets":["subnet-b"],"securityGroups":["sg-web"],"count":9}`: "5 of 9 tasks would be placed now.",
		placement + `"subnets":["subnet-b"],"count":6}`:                             "subnet subnet-b (10.21.0.0/29) is exhausted: 5 of its 5 addresses are taken",
		`{"kind":"host","cluster":"daemonset","containerInstances":["` + id + `"]}`: "250 of 250 network interfaces",
	} {
		e, status, text := p.ask(store.RoleReadOnly, body)
		if status != 200 || !strings.Contains(strings.Join(e.Text, "\n"), want) {
			t.Errorf("%s: %d, %q is not in %s", body, status, want, text)
		}
	}
	if _, status, text := p.ask(store.RoleAdmin, placement+`"subnets":["subnet-x"]}`); status != 400 || !strings.Contains(text, "does not exist") {
		t.Errorf("%d %s", status, text)
	}
	if _, status, text := p.ask(store.RoleAdmin, strings.TrimSuffix(placement, ",")+`}`); status != 400 || !strings.Contains(text, "Network Configuration must be provided") {
		t.Errorf("%d %s", status, text)
	}
}
