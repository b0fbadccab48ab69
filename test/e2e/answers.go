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
	"github.com/docker/docker/api/types/filters"
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
	got := AWS[struct {
		Services []Service
		Failures []Failure
	}](l, "ecs", "describe-services", "--cluster", cluster, "--services", name)
	if len(got.Services) != 1 {
		l.t.Fatalf("describe-services %s: %+v", name, got)
	}
	return got.Services[0]
}

// Tasks lists and describes; filters are CLI arguments of list-tasks.
func (l *Lab) Tasks(filters ...string) []Task {
	l.t.Helper()
	list := AWS[struct{ TaskArns []string }](l, append([]string{"ecs", "list-tasks", "--cluster", cluster}, filters...)...)
	if len(list.TaskArns) == 0 {
		return nil
	}
	return l.DescribeTasks(list.TaskArns...)
}

// DescribeTasks describes tasks by id or ARN.
func (l *Lab) DescribeTasks(ids ...string) []Task {
	l.t.Helper()
	return AWS[struct{ Tasks []Task }](l, append([]string{"ecs", "describe-tasks", "--cluster", cluster, "--tasks"}, ids...)...).Tasks
}

// Instances lists and describes; filters are CLI arguments of list-container-instances.
func (l *Lab) Instances(filters ...string) []Instance {
	l.t.Helper()
	list := AWS[struct{ ContainerInstanceArns []string }](l, append([]string{"ecs", "list-container-instances", "--cluster", cluster}, filters...)...)
	if len(list.ContainerInstanceArns) == 0 {
		return nil
	}
	return AWS[struct{ ContainerInstances []Instance }](l, append([]string{"ecs", "describe-container-instances", "--cluster", cluster, "--container-instances"},
		list.ContainerInstanceArns...)...).ContainerInstances
}

// InstanceOf returns host i's container instance: the one that its agent's introspection names.
func (l *Lab) InstanceOf(i int) string {
	l.t.Helper()
	var arn string
	l.Until(20*time.Second, fmt.Sprintf("host %d's agent names its container instance", i), func() error {
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
	list, err := l.Engine(i).ContainerList(context.Background(), container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("label", "com.amazonaws.ecs.task-arn"), filters.Arg("label", "com.amazonaws.ecs.task-definition-family="+family))})
	if err != nil {
		l.t.Fatal(err)
	}
	return list
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
