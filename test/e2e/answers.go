package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
)

// The members of the CLI's answers that the tests look at.
type (
	Service struct {
		ServiceName, Status, TaskDefinition, SchedulingStrategy string
		DesiredCount, RunningCount, PendingCount                int
		Deployments                                             []Deployment
		Events                                                  []struct{ ID, Message string }
	}
	Deployment struct {
		ID, Status, TaskDefinition, RolloutState, RolloutStateReason string
		DesiredCount, RunningCount, PendingCount, FailedTasks        int
	}
	Task struct {
		TaskArn, TaskDefinitionArn, ContainerInstanceArn, Group, StartedBy string
		LastStatus, DesiredStatus, StopCode, StoppedReason, LaunchType     string
		Version                                                            int
		Containers                                                         []struct {
			Name, LastStatus, Reason, RuntimeID, ImageDigest string
			ExitCode                                         *int
			NetworkBindings                                  []struct {
				BindIP, Protocol        string
				ContainerPort, HostPort int
			}
		}
	}
	Instance struct {
		ContainerInstanceArn, Ec2InstanceID, Status, StatusReason string
		AgentConnected                                            bool
		RunningTasksCount, PendingTasksCount                      int
		Attributes                                                []struct{ Name, Value string }
		RegisteredResources                                       []struct {
			Name, Type     string
			IntegerValue   int
			StringSetValue []string
		}
	}
	Failure struct{ Arn, Reason, Detail string }
)

const cluster = "daemonset"

// Service describes one service.
func (l *Lab) Service(name string) Service {
	l.t.Helper()
	got := Ask[struct {
		Services []Service
		Failures []Failure
	}](l, "describe-services", "--cluster", cluster, "--services", name)
	if len(got.Services) != 1 {
		l.t.Fatalf("describe-services %s: %+v", name, got)
	}
	return got.Services[0]
}

// Tasks lists and describes; filters are CLI arguments of list-tasks.
func (l *Lab) Tasks(filters ...string) []Task {
	l.t.Helper()
	list := Ask[struct{ TaskArns []string }](l, "list-tasks", append([]string{"--cluster", cluster}, filters...)...)
	if len(list.TaskArns) == 0 {
		return nil
	}
	return l.DescribeTasks(list.TaskArns...)
}

// DescribeTasks describes tasks by id or ARN.
func (l *Lab) DescribeTasks(ids ...string) []Task {
	l.t.Helper()
	return Ask[struct{ Tasks []Task }](l, "describe-tasks", append([]string{"--cluster", cluster, "--tasks"}, ids...)...).Tasks
}

// Instances lists and describes; filters are CLI arguments of list-container-instances.
func (l *Lab) Instances(filters ...string) []Instance {
	l.t.Helper()
	list := Ask[struct{ ContainerInstanceArns []string }](l, "list-container-instances", append([]string{"--cluster", cluster}, filters...)...)
	if len(list.ContainerInstanceArns) == 0 {
		return nil
	}
	return Ask[struct{ ContainerInstances []Instance }](l, "describe-container-instances", append([]string{"--cluster", cluster, "--container-instances"}, list.ContainerInstanceArns...)...).ContainerInstances
}

// waited waits for tasks or a service, and then has the CLI's waiter of that name agree; alone that would look every 6 or 15 seconds.
func (l *Lab) waited(waiter string, names ...string) {
	l.t.Helper()
	kind, status, _ := strings.Cut(waiter, "-")
	l.Until(60*time.Second, waiter+" "+strings.Join(names, " "), func() error {
		if kind == "services" {
			if s := l.Service(names[0]); status == "inactive" && s.Status != "INACTIVE" {
				return fmt.Errorf("%+v", s)
			}
			return nil
		}
		for _, task := range l.DescribeTasks(names...) {
			if task.LastStatus != strings.ToUpper(status) {
				return fmt.Errorf("%+v", task)
			}
		}
		return nil
	})
	l.Do(append([]string{"ecs", "wait", waiter, "--cluster", cluster, "--" + kind}, names...)...)
}

// sameByCLI has the CLI list and describe what was asked without it.
func (l *Lab) sameByCLI(service string, tasks []Task) {
	l.t.Helper()
	list := AWS[struct{ TaskArns []string }](l, "ecs", "list-tasks", "--cluster", cluster, "--service-name", service).TaskArns
	described := AWS[struct{ Tasks []Task }](l, append([]string{"ecs", "describe-tasks", "--cluster", cluster, "--tasks"}, list...)...).Tasks
	byArn := func(a, b Task) int { return strings.Compare(a.TaskArn, b.TaskArn) }
	slices.SortFunc(described, byArn)
	slices.SortFunc(tasks, byArn)
	if got, want := fmt.Sprintf("%+v", described), fmt.Sprintf("%+v", tasks); got != want {
		l.t.Errorf("by the CLI there are %s, else %s", got, want)
	}
	if s := AWS[struct{ Services []Service }](l, "ecs", "describe-services", "--cluster", cluster, "--services", service).Services; len(s) != 1 || s[0].RunningCount != len(tasks) {
		l.t.Errorf("%+v", s)
	}
	instances := AWS[struct{ ContainerInstanceArns []string }](l, "ecs", "list-container-instances", "--cluster", cluster, "--filter", "agentConnected == true").ContainerInstanceArns
	if got := AWS[struct{ ContainerInstances []Instance }](l, append([]string{"ecs", "describe-container-instances", "--cluster", cluster, "--container-instances"}, instances...)...).ContainerInstances; len(got) != len(l.Instances("--filter", "agentConnected == true")) {
		l.t.Errorf("%+v", got)
	}
}

// Connected waits until as many instances as that are connected.
func (l *Lab) Connected(n int) {
	l.t.Helper()
	l.Until(60*time.Second, fmt.Sprintf("%d instances are connected", n), func() error {
		if got := l.Instances("--filter", "agentConnected == true"); len(got) != n {
			return fmt.Errorf("%d are", len(got))
		}
		return nil
	})
}

// InstanceOf returns host i's container instance: the one that its agent's introspection names.
func (l *Lab) InstanceOf(i int) string {
	l.t.Helper()
	var arn string
	l.Until(60*time.Second, fmt.Sprintf("host %d's agent names its container instance", i), func() error {
		out, err := l.OnHost(i, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:51678/v1/metadata").Output()
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(out), `"ContainerInstanceArn":"`)
		arn, _, _ = strings.Cut(rest, `"`)
		if !strings.HasPrefix(arn, "arn:aws:ecs:") {
			return fmt.Errorf("introspection says %s", out)
		}
		return nil
	})
	return arn
}

// ID is the last part of an ARN.
func ID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// Containers are all containers on host i's engine that carry ECS's task label and one of the services' family, newest first, whatever their state.
func (l *Lab) Containers(i int, family string) []container.Summary {
	l.t.Helper()
	list, err := l.Seen(i).List(context.WithoutCancel(l.t.Context()))
	if err != nil {
		l.t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(c container.Summary) bool { return c.Labels["com.amazonaws.ecs.task-definition-family"] != family })
}

// Running are those of Containers that run.
func (l *Lab) Running(i int, family string) []container.Summary {
	return slices.DeleteFunc(l.Containers(i, family), func(c container.Summary) bool { return c.State != "running" })
}

// Steady waits until the service is steady: one deployment, as many running as desired, and that many in all.
func (l *Lab) Steady(service string, tasks int) Service {
	l.t.Helper()
	var s Service
	l.Until(60*time.Second, fmt.Sprintf("service %s is steady with %d tasks", service, tasks), func() error {
		s = l.Service(service)
		if len(s.Deployments) != 1 || s.RunningCount != tasks || s.DesiredCount != tasks || s.Deployments[0].RolloutState != "COMPLETED" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return s
}

// write makes a file in the lab's directory, for file:// arguments.
func (l *Lab) write(name, content string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return "file://" + path
}

// loggingAgent is a task definition with host networking, a host volume and a user, as in the README.
func (l *Lab) loggingAgent(image, command string) string {
	if command != "" {
		command = `,"command":` + command
	}
	return l.write("logging-agent.json", `{"family":"datadog-agent-task","networkMode":"host","requiresCompatibilities":["EC2"],"cpu":"128","memory":"64",
 "containerDefinitions":[{"name":"agent","image":`+strconv.Quote(image)+`,"user":"1000","mountPoints":[{"sourceVolume":"logs","containerPath":"/logs"}]`+command+`}],
 "volumes":[{"name":"logs","host":{"sourcePath":"/tmp/host/logs"}}]}`)
}

// noneOrErr turns a count that should be zero into an error.
func atMost(got, most int, what string) error {
	if got > most {
		return fmt.Errorf("%d %s, want at most %d", got, what, most)
	}
	return nil
}

var errNotYet = errors.New("not yet")
