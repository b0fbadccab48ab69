package loss

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
)

// tasks are the ARNs of the tasks that are wanted and run, with their groups, and how many are wanted.
func (w *world) tasks() (running map[string]string, wanted int) {
	running = map[string]string{}
	listed, err := w.api.ListTasks(w.Context(), &ecs.ListTasksInput{Cluster: aws.String(cluster), DesiredStatus: types.DesiredStatusRunning})
	if err != nil || len(listed.TaskArns) == 0 {
		return running, 0
	}
	described, err := w.api.DescribeTasks(w.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: listed.TaskArns})
	if err != nil {
		return running, 0
	}
	for _, t := range described.Tasks {
		if aws.ToString(t.LastStatus) == "RUNNING" {
			running[*t.TaskArn] = aws.ToString(t.Group)
		}
	}
	return running, len(listed.TaskArns)
}

func (w *world) define(family string) {
	w.Helper()
	_, err := w.api.RegisterTaskDefinition(w.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("web"), Image: aws.String("web:1"), Memory: aws.Int32(16)}}})
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) daemons(definition string, from, to int) {
	w.Helper()
	for i := from; i < to; i++ {
		if _, err := w.api.CreateService(w.Context(), &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String(fmt.Sprint("daemon-", i)),
			TaskDefinition: &definition, SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) job(definition string) string {
	w.Helper()
	out, err := w.api.RunTask(w.Context(), &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: &definition})
	if err != nil || len(out.Tasks) != 1 {
		w.Fatalf("%+v %v", out, err)
	}
	return *out.Tasks[0].TaskArn
}

// run waits until exactly so many tasks are wanted, and all run.
func (w *world) run(n int, h *host) map[string]string {
	w.Helper()
	var running map[string]string
	w.until(fmt.Sprintf("%d tasks run", n), func() bool {
		var wanted int
		running, wanted = w.tasks()
		return wanted == n && len(running) == n
	}, h)
	return running
}

// known waits until the control plane knows these tasks and no others, on the instance that it had.
func (w *world) known(when string, tasks map[string]string, instance string, h *host) {
	w.Helper()
	w.until(when+" the control plane knows what runs", func() bool {
		running, wanted := w.tasks()
		is := w.instances()
		return maps.Equal(running, tasks) && wanted == len(tasks) && len(is) == 1 && *is[0].ContainerInstanceArn == instance && *is[0].Status == "ACTIVE" && is[0].AgentConnected
	}, h)
}

// TestRecordsThatWereLostComeBackUnderTwentyDaemons deletes the control plane's records under twenty daemons of a real agent,
// and restores them from a backup that was made before half of them: no container is touched in memory's engine either.
func TestRecordsThatWereLostComeBackUnderTwentyDaemons(t *testing.T) {
	w := newWorld(t, false)
	h := w.machine(1)
	h.start()
	w.until("the host is connected", func() bool { return w.connected() == 1 }, h)
	instance := *w.instances()[0].ContainerInstanceArn
	w.define("before")
	w.daemons("before:1", 0, 10)
	job := w.job("before:1")
	w.run(11, h)
	backup := filepath.Join(t.TempDir(), "one.backup")
	if err := controlplane.Backup(t.Context(), w.dir, backup); err != nil {
		t.Fatal(err)
	}
	if _, err := w.api.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &job}); err != nil {
		t.Fatal(err)
	}
	w.run(10, h)
	w.define("after")
	w.daemons("after:1", 10, 20)
	w.job("after:1")
	tasks := w.run(21, h)
	starts, stops := h.engine.Calls("Start"), h.engine.Calls("Stop")
	untouched := func(when string) {
		t.Helper()
		if h.engine.Calls("Start") != starts || h.engine.Calls("Stop") != stops || h.engine.Running() != 21 {
			t.Errorf("%s %d containers run; %d were started and %d stopped", when, h.engine.Running(), h.engine.Calls("Start")-starts, h.engine.Calls("Stop")-stops)
		}
	}

	w.lose()
	if _, err := controlplane.Restore(t.Context(), controlplane.Config{DataDir: w.dir}, backup); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.known("with a restored store", tasks, instance, h)
	for i := range 10 {
		w.steady(fmt.Sprint("daemon-", i))
	}
	ended, err := w.api.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{job}})
	if err != nil || len(ended.Tasks) != 1 || *ended.Tasks[0].LastStatus != "STOPPED" {
		t.Errorf("the job that ended after the backup is %+v %v", ended, err)
	}
	w.known("when all is steady", tasks, instance, h)
	untouched("after the restore")
	if wrong, err := controlplane.CheckRunning(t.Context(), w.dir); err != nil || len(wrong) > 0 {
		t.Errorf("the restored records: %v %v", wrong, err)
	}
	if strings.Contains(h.log(), "older than what is known already") {
		t.Error("a manifest was ignored because its number had not risen")
	}

	w.lose(auth.AdminFile, auth.HostFile)
	w.start()
	w.known("with an empty store", tasks, instance, h)
	w.define("before")
	w.daemons("before", 0, 1) // as another revision, for the first one may not be given out again
	w.steady("daemon-0")
	w.known("with a service that was created again", tasks, instance, h)
	untouched("after the records were deleted")

	w.restart()
	w.known("after a restart", tasks, instance, h)
	untouched("after a restart")
	for arn, group := range tasks {
		if group != "service:daemon-19" {
			continue
		}
		if _, err := w.api.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &arn}); err != nil {
			t.Fatal(err)
		}
		delete(tasks, arn)
		w.known("after an adopted task was stopped", tasks, instance, h)
	}
}

// lose ends the control plane and deletes its data directory but for some files.
func (w *world) lose(kept ...string) {
	w.Helper()
	if err := w.plane.Close(); err != nil {
		w.Fatal(err)
	}
	next := w.TempDir()
	for _, name := range kept {
		data, err := os.ReadFile(filepath.Join(w.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(next, name), data, 0o600)
		}
		if err != nil {
			w.Fatal(err)
		}
	}
	w.dir = next
}

func (w *world) restart() {
	w.Helper()
	if err := w.plane.Close(); err != nil {
		w.Fatal(err)
	}
	w.start()
}

// steady waits until a daemon is as it should be on the one host.
func (w *world) steady(name string) {
	w.Helper()
	var out *ecs.DescribeServicesOutput
	w.Cleanup(func() {
		if w.Failed() && out != nil {
			w.Logf("%s is %+v", name, out.Services)
		}
	})
	w.until(name+" is steady", func() (so bool) {
		var err error
		out, err = w.api.DescribeServices(w.Context(), &ecs.DescribeServicesInput{Cluster: aws.String(cluster), Services: []string{name}})
		return err == nil && len(out.Services) == 1 && out.Services[0].RunningCount == 1 && out.Services[0].DesiredCount == 1 && out.Services[0].PendingCount == 0 &&
			len(out.Services[0].Deployments) == 1 && out.Services[0].Deployments[0].RolloutState == types.DeploymentRolloutStateCompleted
	})
}
