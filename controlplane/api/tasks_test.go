package api_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
)

func TestRunTaskPlacesTasksAndSaysWhatDidNotFit(t *testing.T) {
	p := newPlane(t)
	p.define("job", 400, 100)
	if _, err := p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job")}); err == nil {
		t.Fatal("a task was placed in an empty cluster")
	} else {
		p.refused(err, "InvalidParameterException", "No Container Instances were found in your cluster.")
	}
	a, b := p.register(p.host, 1024, 1000), p.register(p.host, 1024, 1000)
	out := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job"), Count: aws.Int32(6), Group: aws.String("batch"), StartedBy: aws.String("me"),
		EnableECSManagedTags: true, Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("x")}},
		Overrides: &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("main"), Command: []string{"true"}}}}})
	if len(out.Tasks) != 4 || len(out.Failures) != 2 {
		t.Fatalf("%d tasks, failures %+v", len(out.Tasks), out.Failures)
	}
	for _, f := range out.Failures {
		if *f.Reason != "RESOURCE:CPU" || !strings.Contains(*f.Arn, ":container-instance/daemonset/") {
			t.Errorf("failure %s of %s", *f.Reason, *f.Arn)
		}
	}
	for _, id := range []string{a, b} {
		if r, n := p.reserved(id); n != 2 || r.CPU != 800 || r.Memory != 200 {
			t.Errorf("instance %s: %d tasks reserve %+v", id, n, r)
		}
	}
	got := p.describe(out.Tasks[0].TaskArn)
	if !regexp.MustCompile(`^arn:aws:ecs:us-west-2:123456789012:task/daemonset/[0-9a-f]{32}$`).MatchString(*got.TaskArn) ||
		*got.LastStatus != "PENDING" || *got.DesiredStatus != "RUNNING" || *got.Group != "batch" || *got.StartedBy != "me" || got.Version != 1 ||
		got.LaunchType != types.LaunchTypeEc2 || *got.Cpu != "400" || *got.Memory != "100" || len(got.Tags) != 2 ||
		got.Overrides.ContainerOverrides[0].Command[0] != "true" || *got.Containers[0].LastStatus != "PENDING" {
		t.Errorf("%+v", got)
	}
}

func TestRunTaskRefusesWhatItCannotDo(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	p.register(p.host, 1024, 1000)
	old := p.define("old", 10, 10)
	_, err := p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: aws.String(old)})
	p.must(err)
	for _, test := range []struct{ body, code, text string }{
		{`"taskDefinition":"nobody"`, "ClientException", "TaskDefinition not found."},
		{`"taskDefinition":"old:1"`, "InvalidParameterException", "TaskDefinition is inactive"},
		{`"taskDefinition":""`, "InvalidParameterException", "TaskDefinition can not be blank."},
		{`"taskDefinition":"job","count":0`, "InvalidParameterException", "count should be between 1 and 10"},
		{`"taskDefinition":"job","count":11`, "InvalidParameterException", "count should be between 1 and 10"},
		{`"taskDefinition":"job","count":"1"`, "SerializationException", "count"},
		{`"taskDefinition":"job","launchType":"FARGATE"`, "UnsupportedFeatureException", "FARGATE"},
		{`"taskDefinition":"job","launchType":"MOON"`, "InvalidParameterException", "launchType"},
		{`"taskDefinition":"job","capacityProviderStrategy":[{"capacityProvider":"FARGATE"}]`, "UnsupportedFeatureException", "capacityProviderStrategy"},
		{`"taskDefinition":"job","enableExecuteCommand":true`, "UnsupportedFeatureException", "enableExecuteCommand"},
		{`"taskDefinition":"job","networkConfiguration":{"awsvpcConfiguration":{"subnets":["s"]}}`, "InvalidParameterException", "Network Configuration is not valid for the given networkMode of this task definition."},
		{`"taskDefinition":"job","group":"service:x"`, "InvalidParameterException", "group"},
		{`"taskDefinition":"job","group":"family:x"`, "InvalidParameterException", "group"},
		{`"taskDefinition":"job","group":""`, "InvalidParameterException", "group"},
		{`"taskDefinition":"job","startedBy":"a b"`, "InvalidParameterException", "startedBy"},
		{`"taskDefinition":"job","propagateTags":"SERVICE"`, "InvalidParameterException", "propagateTags"},
		{`"taskDefinition":"job","placementConstraints":[{"type":"memberOf","expression":"attribute:env=prod"}]`, "InvalidParameterException", "Invalid expression"},
		{`"taskDefinition":"job","placementConstraints":[{"type":"nearMe"}]`, "InvalidParameterException", "nearMe"},
		{`"taskDefinition":"job","placementStrategy":[{"type":"binpack","field":"disk"}]`, "InvalidParameterException", "disk"},
		{`"taskDefinition":"job","overrides":{"containerOverrides":[{"name":"other"}]}`, "InvalidParameterException", "Override for container named other is not a container in the TaskDefinition."},
		{`"taskDefinition":"job","overrides":{"cpu":"many"}`, "InvalidParameterException", "overrides.cpu"},
		{`"taskDefinition":"job","overrides":{"containerOverrides":[{"name":"main","memory":1}]}`, "InvalidParameterException", "6 MiB"},
		{`"taskDefinition":"job","overrides":{"containerOverrides":[{"name":"main","command":["` + strings.Repeat("x", 8200) + `"]}]}`, "InvalidParameterException", "8192"},
		{`"taskDefinition":"job","overrides":{"containerOverrides":[{"name":"main","environmentFiles":[{"type":"s3","value":"arn:aws:s3:::a/b"}]}]}`, "UnsupportedFeatureException", "environmentFiles"},
		{`"taskDefinition":"job","tags":[{"key":"aws:x","value":"y"}]`, "InvalidParameterException", "aws:"},
		{`"taskDefinition":"job","clientToken":"` + strings.Repeat("x", 65) + `"`, "InvalidParameterException", "clientToken"},
		{`"count":1`, "InvalidParameterException", "taskDefinition"},
	} {
		answer, status := p.call("RunTask", `{"cluster":"daemonset",`+test.body+`}`)
		if message, _ := answer["message"].(string); status != 400 || answer["__type"] != test.code || !strings.Contains(message, test.text) {
			t.Errorf("%.120s: got %d %v, want %s %q", test.body, status, answer, test.code, test.text)
		}
	}
	if answer, _ := p.call("RunTask", `{"cluster":"nowhere","taskDefinition":"job"}`); answer["__type"] != "ClusterNotFoundException" {
		t.Errorf("in no cluster: %v", answer)
	}
	list, err := p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster)})
	if p.must(err); len(list.TaskArns) != 0 {
		t.Errorf("refused calls left the tasks %v", list.TaskArns)
	}
}

func TestARepeatedRunTaskAnswersTheTasksOfTheFirst(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	a := p.register(p.host, 1024, 1000)
	in := func(count int32) *ecs.RunTaskInput {
		return &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job"), Count: aws.Int32(count), ClientToken: aws.String("token-1")}
	}
	answers := make([]*ecs.RunTaskOutput, 6)
	var g errgroup.Group
	for i := range answers {
		g.Go(func() (err error) {
			answers[i], err = p.admin.RunTask(p.ctx, in(3))
			return err
		})
	}
	p.must(g.Wait())
	for _, out := range answers {
		if len(out.Tasks) != 3 || *out.Tasks[0].TaskArn != *answers[0].Tasks[0].TaskArn {
			t.Fatalf("%+v", out)
		}
	}
	if _, n := p.reserved(a); n != 3 {
		t.Fatalf("%d tasks were placed", n)
	}
	_, err := p.admin.RunTask(p.ctx, in(2))
	p.refused(err, "ConflictException", "token-1")
	if answer, _ := p.call("RunTask", `{"cluster":"daemonset","taskDefinition":"job","count":2,"clientToken":"token-1"}`); len(answer["resourceIds"].([]any)) != 3 {
		t.Errorf("%v", answer)
	}
}

func TestStartTaskGoesWhereItIsTold(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10, func(in *ecs.RegisterTaskDefinitionInput) {
		in.PlacementConstraints = []types.TaskDefinitionPlacementConstraint{{Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:env==prod")}}
	})
	a, b := p.register(p.host, 1024, 1000), p.register(p.host, 5, 1000)
	ghost := "e2814b69-ab60-4db2-a89d-cd0ea8dd1a7b"
	out, err := p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job:1"), ContainerInstances: []string{a, ghost, b}})
	p.must(err)
	if len(out.Tasks) != 1 || !strings.HasSuffix(*out.Tasks[0].ContainerInstanceArn, a) || len(out.Failures) != 2 ||
		*out.Failures[0].Reason != "MISSING" || *out.Failures[1].Reason != "RESOURCE:CPU" {
		t.Fatalf("tasks %+v, failures %+v", out.Tasks, out.Failures)
	}
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: aws.String(testCluster), ContainerInstances: []string{a}, Status: types.ContainerInstanceStatusDraining})
	p.must(err)
	out, err = p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job:1"), ContainerInstances: []string{a}})
	if p.must(err); len(out.Tasks) != 0 || *out.Failures[0].Reason != "INACTIVE" {
		t.Errorf("on a DRAINING instance: tasks %+v, failures %+v", out.Tasks, out.Failures)
	}
	for body, text := range map[string]string{`[]`: "Container Instances cannot be empty.", `["` + strings.Repeat(`a","`, 10) + `a"]`: "at most 10"} {
		if answer, _ := p.call("StartTask", `{"cluster":"daemonset","taskDefinition":"job","containerInstances":`+body+`}`); !strings.Contains(fmt.Sprint(answer["message"]), text) {
			t.Errorf("%s: %v", body, answer)
		}
	}
}

func TestATaskIsStoppedByItsUserAndByItsAgent(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10, port(8080))
	a := p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	if again := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}); len(again.Tasks) != 0 || *again.Failures[0].Reason != "RESOURCE:PORTS" {
		t.Errorf("a second one on the same port: %+v", again)
	}
	p.register(p.host, 4, 1000)
	full := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")})
	var said []string
	for _, f := range full.Failures {
		said = append(said, *f.Detail)
	}
	if text := strings.Join(said, "\n"); len(said) != 2 || strings.Count(text, "2 instances refused it: 1 port 8080 in use, 1 short of 10 CPU units.") != 1 {
		t.Errorf("the nearest miss counts what all refuse for: %q", said)
	}
	p.submit(arn, "RUNNING")
	out, err := p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: arn, Reason: aws.String("maintenance")})
	p.must(err)
	if *out.Task.DesiredStatus != "STOPPED" || *out.Task.LastStatus != "RUNNING" || out.Task.StopCode != types.TaskStopCodeUserInitiated || *out.Task.StoppedReason != "maintenance" {
		t.Errorf("%+v", out.Task)
	}
	if _, n := p.reserved(a); n != 1 {
		t.Error("a task that is being stopped has lost its reservation")
	}
	p.submit(arn, "STOPPED", func(in *ecs.SubmitTaskStateChangeInput) { in.Containers[0].ExitCode = aws.Int32(143) })
	got := p.describe(arn)
	if *got.LastStatus != "STOPPED" || *got.StoppedReason != "maintenance" || *got.Containers[0].ExitCode != 143 || got.StartedAt == nil || got.StoppedAt == nil || got.Version != 4 {
		t.Errorf("%+v", got)
	}
	if _, n := p.reserved(a); n != 0 {
		t.Error("a STOPPED task holds a reservation")
	}
	if _, err := p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: arn, Reason: aws.String("again")}); err != nil {
		t.Errorf("stopping a STOPPED task: %v", err)
	}
	_, err = p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: aws.String("nobody")})
	p.refused(err, "InvalidParameterException", "The referenced task was not found.")
	_, err = p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: aws.String("arn:aws:ecs:us-west-2:123456789012:task/other/x")})
	p.refused(err, "InvalidParameterException", "Invalid identifier: Identifier is for cluster other. Your cluster is daemonset")
}

func TestListTasksFilters(t *testing.T) {
	p := newPlane(t)
	p.define("one", 10, 10)
	p.define("two", 10, 10)
	a := p.register(p.host, 1024, 1000)
	one := *p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("one"), StartedBy: aws.String("me")}).Tasks[0].TaskArn
	two := *p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("two"), LaunchType: types.LaunchTypeExternal}).Tasks[0].TaskArn
	ended := *p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("two"), StartedBy: aws.String("me")}).Tasks[0].TaskArn
	p.submit(&ended, "STOPPED")
	b := p.register(p.host, 1024, 1000)
	for _, test := range []struct {
		filter string
		want   []string
	}{
		{``, []string{one, two}},
		{`"desiredStatus":"STOPPED"`, []string{ended}},
		{`"desiredStatus":"PENDING"`, nil},
		{`"family":"two"`, []string{two}},
		{`"family":"tw"`, nil},
		{`"launchType":"EXTERNAL"`, []string{two}},
		{`"startedBy":"me"`, []string{one}},
		{`"startedBy":"me","desiredStatus":"STOPPED"`, []string{ended}},
		{`"containerInstance":"` + a + `"`, []string{one, two}},
		{`"containerInstance":"` + b + `"`, nil},
		{`"containerInstance":"` + a + `","family":"one"`, []string{one}},
	} {
		answer, _ := p.call("ListTasks", `{"cluster":"daemonset"`+comma(test.filter)+`}`)
		var got []string
		for _, arn := range answer["taskArns"].([]any) {
			got = append(got, arn.(string))
		}
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.filter, got, test.want)
		}
	}
	for filter, code := range map[string]string{
		`"serviceName":"nobody"`:       "ServiceNotFoundException",
		`"containerInstance":"nobody"`: "InvalidParameterException",
		`"startedBy":"x","family":"y"`: "InvalidParameterException",
		`"desiredStatus":"DEAD"`:       "InvalidParameterException",
		`"maxResults":101`:             "InvalidParameterException",
		`"nextToken":"nonsense"`:       "InvalidParameterException",
		`"daemonName":"d"`:             "UnsupportedFeatureException",
	} {
		if answer, status := p.call("ListTasks", `{"cluster":"daemonset"`+comma(filter)+`}`); status != 400 || answer["__type"] != code {
			t.Errorf("%s: %d %v, want %s", filter, status, answer, code)
		}
	}
	page, err := p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster), MaxResults: aws.Int32(1)})
	if p.must(err); len(page.TaskArns) != 1 || page.NextToken == nil {
		t.Fatalf("%+v", page)
	}
	page, err = p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster), MaxResults: aws.Int32(1), NextToken: page.NextToken})
	if p.must(err); len(page.TaskArns) != 1 || page.NextToken != nil {
		t.Fatalf("%+v", page)
	}
}

func comma(s string) string {
	if s == "" {
		return ""
	}
	return "," + s
}

func TestDescribeTasksNamesWhatIsMissing(t *testing.T) {
	p := newPlane(t)
	out, err := p.admin.DescribeTasks(p.ctx, &ecs.DescribeTasksInput{Cluster: aws.String(testCluster), Tasks: []string{"e2814b69-ab60-4db2-a89d-cd0ea8dd1a7b"}})
	if p.must(err); len(out.Tasks) != 0 || *out.Failures[0].Reason != "MISSING" || *out.Failures[0].Arn != "arn:aws:ecs:us-west-2:123456789012:task/daemonset/e2814b69ab604db2a89dcd0ea8dd1a7b" {
		t.Errorf("%+v", out)
	}
	_, err = p.admin.DescribeTasks(p.ctx, &ecs.DescribeTasksInput{Cluster: aws.String(testCluster), Tasks: []string{}})
	p.refused(err, "InvalidParameterException", "Tasks cannot be empty.")
	_, err = p.admin.DescribeTasks(p.ctx, &ecs.DescribeTasksInput{Cluster: aws.String(testCluster), Tasks: make([]string, 101)})
	p.refused(err, "InvalidParameterException", "100")
}

func TestATaskOfADisconnectedInstanceShowsIt(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	a := p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	if c := p.describe(arn).Connectivity; c != "" {
		t.Errorf("connectivity %s before the first report", c)
	}
	p.submit(arn, "RUNNING")
	if c := p.describe(arn).Connectivity; c != types.ConnectivityConnected {
		t.Errorf("connectivity %s", c)
	}
	txn := p.store.Txn()
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		txn.Delete(v.Connection(testCluster, a))
		return nil
	}))
	p.must(txn.Commit(p.ctx))
	if got := p.describe(arn); got.Connectivity != types.ConnectivityDisconnected || *got.LastStatus != "RUNNING" {
		t.Errorf("connectivity %s, status %s", got.Connectivity, *got.LastStatus)
	}
	if out := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}); len(out.Tasks) != 0 || *out.Failures[0].Reason != "AGENT" {
		t.Errorf("%+v", out)
	}
}

// Many callers place tasks and many agents report their ends at once. At no revision of the store is an instance given
// more than it has.
func TestConcurrentPlacementsNeverGiveAnInstanceMoreThanItHas(t *testing.T) {
	p := newPlane(t)
	p.define("job", 300, 100)
	p.define("port", 10, 10, port(9000))
	instances := []string{p.register(p.host, 1000, 1000), p.register(p.host, 1000, 1000)}
	over := make(chan string, 1)
	cancel := p.store.OnChange(func(revision int64, changes []store.Change) {
		for _, c := range changes {
			alloc, ok := c.New.(*store.Allocation)
			if !ok {
				continue
			}
			var cpu, ports int64
			for _, r := range alloc.Tasks {
				cpu, ports = cpu+r.CPU, ports+int64(len(r.PortsTCP))
			}
			if cpu > 1000 || ports > 1 {
				select {
				case over <- fmt.Sprintf("revision %d: instance %s has %d CPU units and %d times the port taken", revision, alloc.Instance, cpu, ports):
				default:
				}
			}
		}
	})
	defer cancel()
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			for j := range 4 {
				family := "job"
				if (i+j)%4 == 0 {
					family = "port"
				}
				out, err := p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String(family), Count: aws.Int32(3)})
				if err != nil {
					return err
				}
				if len(out.Tasks) < 3 && len(out.Failures) == 0 {
					return fmt.Errorf("%d of 3 tasks without a failure", len(out.Tasks))
				}
				for _, t := range out.Tasks {
					for _, status := range []string{"RUNNING", "STOPPED", "STOPPED"} {
						if _, err := p.host.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: t.TaskArn, Status: aws.String(status)}); err != nil {
							return err
						}
					}
				}
			}
			return nil
		})
	}
	p.must(g.Wait())
	select {
	case what := <-over:
		t.Fatal(what)
	default:
	}
	for _, id := range instances {
		if r, n := p.reserved(id); n != 0 {
			t.Errorf("instance %s: %d tasks still reserve %+v", id, n, r)
		}
	}
}

func TestAnAgentSpeaksOnlyForItsOwnInstance(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	stranger := p.hostKey(false)
	for name, err := range map[string]error{
		"task":      second(stranger.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: arn, Status: aws.String("STOPPED")})),
		"container": second(stranger.SubmitContainerStateChange(p.ctx, &ecs.SubmitContainerStateChangeInput{Cluster: aws.String(testCluster), Task: arn, ContainerName: aws.String("main"), Status: aws.String("STOPPED")})),
		"read-only": second(p.client(p.keys[store.RoleReadOnly]).SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: arn, Status: aws.String("STOPPED")})),
		"run":       second(p.host.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job")})),
	} {
		t.Run(name, func(*testing.T) { p.refused(err, "AccessDeniedException", "is not authorized to perform") })
	}
	if got := p.describe(arn); *got.LastStatus != "PENDING" || got.Version != 1 {
		t.Errorf("%+v", got)
	}
	_, err := p.host.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: aws.String("arn:aws:ecs:us-west-2:123456789012:task/daemonset/e2814b69ab604db2a89dcd0ea8dd1a7b"), Status: aws.String("STOPPED")})
	p.refused(err, "InvalidParameterException", "The referenced task was not found.")
	_, err = p.host.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: arn, Status: aws.String("FLYING")})
	p.refused(err, "InvalidParameterException", "FLYING")
}

func second[T any](_ T, err error) error { return err }

func TestAReportIsRecordedOnceAndCutToSize(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	_, err := p.host.SubmitContainerStateChange(p.ctx, &ecs.SubmitContainerStateChangeInput{Cluster: aws.String(testCluster), Task: arn, ContainerName: aws.String("main"),
		Status: aws.String("RUNNING"), RuntimeId: aws.String(strings.Repeat("r", 300))})
	p.must(err)
	got := p.describe(arn)
	if *got.LastStatus != "PENDING" || *got.Containers[0].LastStatus != "RUNNING" || len(*got.Containers[0].RuntimeId) != 255 || got.Version != 2 {
		t.Errorf("%+v", got)
	}
	failed := func(in *ecs.SubmitTaskStateChangeInput) {
		in.Containers[0].Reason = aws.String("CannotPullContainerError: " + strings.Repeat("é", 600))
		in.ExecutionStoppedAt = aws.Time(time.Unix(1_700_000_000, 0))
	}
	p.submit(arn, "STOPPED", failed)
	p.submit(arn, "STOPPED", failed)
	p.submit(arn, "RUNNING")
	got = p.describe(arn)
	if got.StopCode != types.TaskStopCodeTaskFailedToStart || !strings.HasPrefix(*got.StoppedReason, "CannotPullContainerError: é") || len(*got.StoppedReason) != 1024 ||
		got.Version != 3 || got.ExecutionStoppedAt.Unix() != 1_700_000_000 {
		t.Errorf("version %d, %s %q", got.Version, got.StopCode, *got.StoppedReason)
	}
	_, err = p.host.SubmitAttachmentStateChanges(p.ctx, &ecs.SubmitAttachmentStateChangesInput{Cluster: aws.String(testCluster),
		Attachments: []types.AttachmentStateChange{{AttachmentArn: aws.String("arn:aws:ecs:us-west-2:123456789012:attachment/x"), Status: aws.String("ATTACHED")}}})
	p.must(err)
}

// The acceptors of the waiters tasks-running and tasks-stopped.
func TestTheWaitersOfTasksSeeTheEndOfTheirWait(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	in := &ecs.DescribeTasksInput{Cluster: aws.String(testCluster), Tasks: []string{*arn}}
	fast := func(o *ecs.TasksRunningWaiterOptions) { o.MinDelay, o.MaxDelay = time.Millisecond, time.Millisecond }
	p.submit(arn, "RUNNING")
	p.must(ecs.NewTasksRunningWaiter(p.admin, fast).Wait(p.ctx, in, time.Minute))
	p.submit(arn, "STOPPED")
	p.must(ecs.NewTasksStoppedWaiter(p.admin).Wait(p.ctx, in, time.Minute))
	if err := ecs.NewTasksRunningWaiter(p.admin, fast).Wait(p.ctx, in, time.Minute); err == nil {
		t.Error("tasks-running succeeds for a STOPPED task")
	}
}

func TestLostTasksReleaseWhatTheyHeld(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	a := p.register(p.host, 1024, 1000)
	run := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job"), Count: aws.Int32(5)})
	p.must(store.Retry(p.ctx, func() error {
		txn := p.store.Txn()
		p.must(p.store.Read(p.ctx, func(v *store.View) error {
			var lost []*store.Task
			for t := range v.TasksOn(testCluster, a) {
				lost = append(lost, task.Lost(t, "", task.HostLost(v.Instance(testCluster, a), 5*time.Second), time.Now()))
			}
			task.Finish(txn, v, lost...)
			return nil
		}))
		return txn.Commit(p.ctx)
	}))
	if _, n := p.reserved(a); n != 0 {
		t.Errorf("%d tasks still hold resources", n)
	}
	if got := p.describe(run.Tasks[0].TaskArn); *got.LastStatus != "STOPPED" || !strings.Contains(*got.StoppedReason, a) {
		t.Errorf("%+v", got)
	}
}

// A placement that was decided before an instance was deregistered does not follow onto it.
func TestNoTaskFollowsOntoADeregisteredInstance(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	for range 10 {
		id := p.register(p.host, 1024, 1000)
		var placed *ecs.StartTaskOutput
		var gone error
		var g errgroup.Group
		g.Go(func() (err error) {
			placed, err = p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job"), ContainerInstances: []string{id}})
			return err
		})
		g.Go(func() error {
			_, gone = p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(testCluster), ContainerInstance: aws.String(id)})
			return nil
		})
		p.must(g.Wait())
		if gone == nil && len(placed.Tasks) > 0 {
			t.Fatal("a task is on an instance that was deregistered")
		}
		if gone != nil {
			p.refused(gone, "InvalidParameterException", "Found running tasks on the instance.")
		}
	}
}

func TestANearlyFullStoreTakesStopsAndReportsButNoNewTasks(t *testing.T) {
	client := storetest.Etcd(t)
	p := newPlaneOn(t, storetest.Open(t, client))
	p.define("job", 10, 10)
	p.define("agent", 10, 10)
	a := p.register(p.host, 1024, 1000)
	p.daemon("s", "agent")
	daemon := p.schedule("s", a)
	p.submit(daemon, "RUNNING")
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	full := storetest.OpenWith(t, store.Config{Client: client, FullAt: 1e-9, SpaceInterval: time.Millisecond, Log: zap.NewNop()})
	for !full.Space().Full {
		select {
		case <-time.After(time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("the store does not notice that it is full")
		}
	}
	p.serve(full)
	_, err := p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job")})
	p.refused(err, "ThrottlingException", "Rate exceeded")
	_, err = p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: arn})
	p.must(err)
	p.submit(arn, "STOPPED")
	p.submit(daemon, "STOPPED")
	out, err := p.admin.DeleteService(p.ctx, &ecs.DeleteServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s")})
	if p.must(err); *out.Service.Status != "INACTIVE" {
		t.Errorf("the service is %s", *out.Service.Status)
	}
	if _, n := p.reserved(a); n != 0 {
		t.Errorf("%d tasks hold resources", n)
	}
}
