package api_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

var everything = types.ClusterField("").Values()

func (p *plane) cluster(name string) types.Cluster {
	p.t.Helper()
	out, err := p.admin.DescribeClusters(p.ctx, &ecs.DescribeClustersInput{Clusters: []string{name}, Include: everything})
	p.must(err)
	if len(out.Clusters) != 1 {
		p.t.Fatalf("DescribeClusters of %s: %+v", name, out)
	}
	return out.Clusters[0]
}

func TestTheDefaultClusterDoesNotExistBeforeItIsCreated(t *testing.T) {
	p := newPlane(t)
	out, err := p.admin.DescribeClusters(p.ctx, &ecs.DescribeClustersInput{})
	p.must(err)
	if len(out.Clusters) != 0 || len(out.Failures) != 1 || *out.Failures[0].Reason != "MISSING" ||
		*out.Failures[0].Arn != "arn:aws:ecs:us-west-2:123456789012:cluster/default" {
		t.Fatalf("got %+v", out)
	}
	_, err = p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{})
	p.refused(err, "ClusterNotFoundException", "Cluster not found.")
	made, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{})
	p.must(err)
	if *made.Cluster.ClusterName != "default" {
		t.Errorf("made %s", *made.Cluster.ClusterName)
	}
}

func TestAClusterIsEchoedAndCreatedOnce(t *testing.T) {
	p := newPlane(t)
	answer, status := p.call("CreateCluster", `{"clusterName":"c","tags":[{"key":"a","value":"b"}],"settings":[{"name":"containerInsights","value":"enhanced"}],
		"configuration":{"executeCommandConfiguration":{"logging":"DEFAULT"}},"capacityProviders":[],"serviceConnectDefaults":null}`)
	if status != 200 {
		t.Fatal(answer)
	}
	got := fmt.Sprint(answer["cluster"])
	want := "map[activeServicesCount:0 attachments:[] capacityProviders:[] clusterArn:arn:aws:ecs:us-west-2:123456789012:cluster/c clusterName:c " +
		"configuration:map[executeCommandConfiguration:map[logging:DEFAULT]] defaultCapacityProviderStrategy:[] pendingTasksCount:0 " +
		"registeredContainerInstancesCount:0 runningTasksCount:0 settings:[map[name:containerInsights value:enhanced]] "
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "status:ACTIVE tags:[map[key:a value:b]]]") {
		t.Errorf("got  %s\nwant %s…", got, want)
	}
	again, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String("c")})
	p.must(err)
	if len(again.Cluster.Tags) != 1 {
		t.Errorf("the second call changed the cluster: %+v", again.Cluster)
	}
	plain, err := p.admin.DescribeClusters(p.ctx, &ecs.DescribeClustersInput{Clusters: []string{"arn:aws:ecs:us-west-2:123456789012:cluster/c"}})
	p.must(err)
	if c := plain.Clusters[0]; len(c.Tags)+len(c.Settings)+len(c.Statistics) != 0 || c.Tags == nil || c.Settings == nil || c.Statistics == nil || c.Configuration != nil {
		t.Errorf("without include: %+v", c)
	}
}

func TestBadClustersAreRefused(t *testing.T) {
	p := newPlane(t)
	long := strings.Repeat("x", 256)
	for body, want := range map[string]string{
		`{"clusterName":"a b"}`:                                              `InvalidParameterException: Cluster must match ^[a-zA-Z0-9\-_]{1,255}$, but was a b`,
		`{"clusterName":""}`:                                                 `InvalidParameterException: Cluster must match`,
		`{"clusterName":"` + long + `"}`:                                     `InvalidParameterException: Cluster must match`,
		`{"capacityProviders":["FARGATE"]}`:                                  `UnsupportedFeatureException: CreateCluster: the member capacityProviders with the value ["FARGATE"]`,
		`{"serviceConnectDefaults":{"namespace":"n"}}`:                       `UnsupportedFeatureException: CreateCluster: the member serviceConnectDefaults`,
		`{"configuration":{"managedStorageConfiguration":{"kmsKeyId":"k"}}}`: `UnsupportedFeatureException: CreateCluster: the member configuration.managedStorageConfiguration`,
		`{"settings":[{"name":"colour","value":"red"}]}`:                     `InvalidParameterException: Unknown cluster setting "colour"`,
		`{"settings":[{"name":"containerInsights","value":"maybe"}]}`:        `InvalidParameterException: The value of the cluster setting containerInsights`,
		`{"tags":[{"key":"aws:x","value":"y"}]}`:                             `InvalidParameterException: The tag key "aws:x"`,
		`{"tags":[{"key":"x","value":"y"},{"key":"x","value":"z"}]}`:         `InvalidParameterException: Duplicate tag keys found: x.`,
		`{"tags":[{"key":"x","value":"<>"}]}`:                                `InvalidParameterException: The value of the tag "x"`,
	} {
		answer, status := p.call("CreateCluster", body)
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, want) {
			t.Errorf("%.80s: status %d: %s\nwant %s", body, status, got, want)
		}
	}
}

func TestAClusterWithSomethingInItIsNotDeleted(t *testing.T) {
	p := newPlane(t)
	remove := func() error {
		_, err := p.admin.DeleteCluster(p.ctx, &ecs.DeleteClusterInput{Cluster: aws.String(testCluster)})
		return err
	}
	id := p.register(p.host, 1024, 1000)
	p.refused(remove(), "ClusterContainsContainerInstancesException", "The Cluster cannot be deleted while Container Instances are active or draining.")
	arn := *p.run(&ecs.RunTaskInput{TaskDefinition: aws.String(p.define("f", 1, 6))}).Tasks[0].TaskArn
	if c := p.cluster(testCluster); c.PendingTasksCount != 1 || c.RunningTasksCount != 0 || c.RegisteredContainerInstancesCount != 1 ||
		!slices.ContainsFunc(c.Statistics, func(x types.KeyValuePair) bool { return *x.Name == "pendingEC2TasksCount" && *x.Value == "1" }) {
		t.Errorf("counts: %+v", c)
	}
	p.submit(&arn, "RUNNING")
	if c := p.cluster(testCluster); c.PendingTasksCount != 0 || c.RunningTasksCount != 1 {
		t.Errorf("counts: %+v", c)
	}
	_, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(testCluster), ContainerInstance: &id, Force: aws.Bool(true)})
	p.must(err)
	p.must(remove())
	if c := p.cluster(testCluster); *c.Status != "INACTIVE" {
		t.Errorf("a deleted cluster is %s", *c.Status)
	}
	list, err := p.admin.ListClusters(p.ctx, &ecs.ListClustersInput{})
	p.must(err)
	if len(list.ClusterArns) != 0 {
		t.Errorf("ListClusters has %v", list.ClusterArns)
	}
	_, err = p.admin.UpdateCluster(p.ctx, &ecs.UpdateClusterInput{Cluster: aws.String(testCluster)})
	p.refused(err, "ClientException", "The referenced cluster was inactive.")
	p.must(remove())
	fresh, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String(testCluster)})
	p.must(err)
	if *fresh.Cluster.Status != "ACTIVE" {
		t.Errorf("a cluster that was created again is %s", *fresh.Cluster.Status)
	}
	_, err = p.admin.DeleteCluster(p.ctx, &ecs.DeleteClusterInput{Cluster: aws.String("none")})
	p.refused(err, "ClusterNotFoundException", "Cluster not found.")
}

func TestNothingIsRegisteredInAClusterThatIsBeingDeleted(t *testing.T) {
	p := newPlane(t)
	for round := range 8 {
		name := fmt.Sprint("race", round)
		_, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: &name})
		p.must(err)
		var deleted, registered error
		var wg sync.WaitGroup
		wg.Go(func() { _, deleted = p.admin.DeleteCluster(p.ctx, &ecs.DeleteClusterInput{Cluster: &name}) })
		wg.Go(func() {
			_, registered = p.host.RegisterContainerInstance(p.ctx, &ecs.RegisterContainerInstanceInput{Cluster: &name})
		})
		wg.Wait()
		if (deleted == nil) == (registered == nil) {
			t.Errorf("round %d: deleted: %v, registered: %v; one of them must fail", round, deleted, registered)
		}
		if c := p.cluster(name); *c.Status == "DEPROVISIONING" || (*c.Status == "ACTIVE") != (registered == nil) {
			t.Errorf("round %d: the cluster is %s, registered: %v", round, *c.Status, registered)
		}
	}
}

func TestAnUpdatedClusterKeepsWhatWasNotMentioned(t *testing.T) {
	p := newPlane(t)
	_, err := p.admin.UpdateCluster(p.ctx, &ecs.UpdateClusterInput{Cluster: aws.String(testCluster),
		Settings: []types.ClusterSetting{{Name: "containerInsights", Value: aws.String("enabled")}}})
	p.must(err)
	_, err = p.admin.UpdateCluster(p.ctx, &ecs.UpdateClusterInput{Cluster: aws.String(testCluster),
		Configuration: &types.ClusterConfiguration{ExecuteCommandConfiguration: &types.ExecuteCommandConfiguration{Logging: types.ExecuteCommandLoggingNone}}})
	p.must(err)
	if c := p.cluster(testCluster); *c.Settings[0].Value != "enabled" || c.Configuration == nil {
		t.Errorf("got %+v", c)
	}
	out, err := p.admin.UpdateClusterSettings(p.ctx, &ecs.UpdateClusterSettingsInput{Cluster: aws.String(testCluster),
		Settings: []types.ClusterSetting{{Name: "containerInsights", Value: aws.String("disabled")}}})
	p.must(err)
	if *out.Cluster.Settings[0].Value != "disabled" || out.Cluster.Configuration == nil {
		t.Errorf("got %+v", out.Cluster)
	}
}

func TestClustersAreListedInPages(t *testing.T) {
	p := newPlane(t)
	for i := range 5 {
		_, err := p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String(fmt.Sprint("c", i))})
		p.must(err)
	}
	var arns []string
	for pages := ecs.NewListClustersPaginator(p.admin, &ecs.ListClustersInput{MaxResults: aws.Int32(4)}); pages.HasMorePages(); {
		page, err := pages.NextPage(p.ctx)
		p.must(err)
		arns = append(arns, page.ClusterArns...)
	}
	if len(arns) != 6 || !slices.IsSorted(arns) {
		t.Errorf("got %q", arns)
	}
	_, err := p.admin.ListClusters(p.ctx, &ecs.ListClustersInput{NextToken: aws.String("zzz")})
	p.refused(err, "InvalidParameterException", "Invalid token")
}
