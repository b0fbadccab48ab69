//go:build loss

package e2e

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// TestTheControlPlanesRecordsAreLostAndRestoredUnderTwentyDaemons deletes the control plane's data directory under twenty daemons,
// and restores it from a backup that was made before half of them. No process ends and none is added, whatever the control
// plane knows; what it did not know it knows afterwards, under the same ARNs.
func TestTheControlPlanesRecordsAreLostAndRestoredUnderTwentyDaemons(t *testing.T) {
	l := NewLab(t, "loss", 90, 1)
	image := l.Push("serving:1", images.Serving())
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	l.StartAgent(1)
	instance := l.InstanceOf(1)
	define := func(family string) {
		l.Do("ecs", "register-task-definition", "--family", family, "--container-definitions", fmt.Sprintf(`[{"name":"app","image":"%s","memory":8}]`, image))
	}
	daemons := func(definition string, from, to int) {
		for i := from; i < to; i++ {
			Ask[any](l, "create-service", "--cluster", cluster, "--service-name", fmt.Sprint("daemon-", i), "--scheduling-strategy", "DAEMON", "--task-definition", definition)
		}
		l.Until(90*time.Second, "the daemons run", func() error { return l.allRun(to) })
	}
	define("before")
	daemons("before:1", 0, 10)
	job := Ask[struct{ Tasks []Task }](l, "run-task", "--cluster", cluster, "--task-definition", "before:1").Tasks[0].TaskArn
	l.Until(30*time.Second, "the job runs", func() error { return l.allRun(11) })
	backup := filepath.Join(l.dir, "control.backup")
	l.control1("backup", backup, "--data-dir", filepath.Join(l.dir, "control"))

	Ask[any](l, "stop-task", "--cluster", cluster, "--task", job)
	l.Until(30*time.Second, "the job has ended", func() error { return l.allRun(10) })
	define("after")
	daemons("after:1", 10, 20)
	Ask[any](l, "run-task", "--cluster", cluster, "--task-definition", "after:1")
	l.Until(30*time.Second, "all tasks run", func() error { return l.allRun(21) })
	tasks, pids := l.running(), l.pids(1)

	unchanged := func(when string) {
		t.Helper()
		if got := l.pids(1); !maps.Equal(got, pids) {
			t.Errorf("%s the processes are %v, and were %v", when, got, pids)
		}
	}

	data := filepath.Join(l.dir, "control")
	l.stop(l.control, syscall.SIGTERM)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	l.control1("restore", backup, "--data-dir", data)
	l.StartControl()
	l.Until(60*time.Second, "a restored store knows what runs", func() error { return l.same(tasks, instance) })
	for i := range 10 {
		l.Steady(fmt.Sprint("daemon-", i), 1)
	}
	if got := l.DescribeTasks(job)[0]; got.LastStatus != "STOPPED" {
		t.Errorf("the job that ended after the backup is %+v", got)
	}
	unchanged("after the restore")
	l.control1("check", "--data-dir", data)

	lost := filepath.Join(l.dir, "lost")
	l.stop(l.control, syscall.SIGTERM)
	if err := os.Rename(data, lost); err != nil {
		t.Fatal(err)
	}
	l.keepFiles(lost, data)
	l.StartControl()
	l.Until(60*time.Second, "an empty store knows what runs", func() error { return l.same(tasks, instance) })
	unchanged("after the records were deleted")
	define("before")
	Ask[any](l, "create-service", "--cluster", cluster, "--service-name", "daemon-0", "--scheduling-strategy", "DAEMON", "--task-definition", "before:2")
	l.Steady("daemon-0", 1)
	if err := l.same(tasks, instance); err != nil {
		t.Errorf("a service that is created again does not take the daemon that runs: %v", err)
	}
	unchanged("after a service was created again")

	l.stop(l.control, syscall.SIGTERM) // what is adopted is a task like any other
	l.StartControl()
	l.Until(60*time.Second, "the host is connected again", func() error { return l.same(tasks, instance) })
	unchanged("after a restart")
	var last []string // the tasks of a service that nobody has created again
	for task, group := range tasks {
		if group == "service:daemon-19" {
			last = append(last, task)
		}
	}
	if len(last) != 1 {
		t.Fatalf("of the last daemon there are %v", last)
	}
	Ask[any](l, "stop-task", "--cluster", cluster, "--task", last[0])
	l.Until(60*time.Second, "an adopted task can be stopped", func() error {
		if got := l.DescribeTasks(last...)[0]; got.LastStatus != "STOPPED" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if log := l.agentLog(1); strings.Contains(log, "older than what is known already") {
		t.Error("a manifest was ignored because its number had not risen")
	}
}

// running are the ARNs of the tasks that run, with their services.
func (l *Lab) running() map[string]string {
	l.t.Helper()
	out := map[string]string{}
	for from, all := 0, l.arns(); from < len(all); from += 100 {
		for _, task := range l.DescribeTasks(all[from:min(len(all), from+100)]...) {
			if task.LastStatus == "RUNNING" && task.DesiredStatus == "RUNNING" {
				out[task.TaskArn] = strings.TrimPrefix(task.Group, "family:") // a standalone task has no service
			}
		}
	}
	return out
}

func (l *Lab) arns() []string {
	l.t.Helper()
	return Ask[struct{ TaskArns []string }](l, "list-tasks", "--cluster", cluster, "--desired-status", "RUNNING").TaskArns
}

// allRun is nil when exactly so many tasks are wanted, and all run.
func (l *Lab) allRun(n int) error {
	if wanted, run := len(l.arns()), len(l.running()); wanted != n || run != n {
		return fmt.Errorf("%d tasks are wanted and %d run, not %d", wanted, run, n)
	}
	return nil
}

// same is nil when the control plane knows these tasks, all others are STOPPED, and the host is the same instance.
func (l *Lab) same(tasks map[string]string, instance string) error {
	found := Ask[struct{ Clusters []struct{ Status string } }](l, "describe-clusters", "--clusters", cluster).Clusters
	if len(found) == 0 {
		return fmt.Errorf("the cluster is not known")
	}
	if got := l.Instances(); len(got) != 1 || got[0].ContainerInstanceArn != instance || got[0].Status != "ACTIVE" || !got[0].AgentConnected {
		return fmt.Errorf("the host is %+v", got)
	}
	if got := l.running(); !maps.Equal(got, tasks) {
		return fmt.Errorf("%d tasks run: %v, not the %d that did: %v", len(got), got, len(tasks), tasks)
	}
	return l.allRun(len(tasks))
}

// pids are the first processes of the tasks' containers that run on a host, by container.
func (l *Lab) pids(i int) map[string]int {
	l.t.Helper()
	out := map[string]int{}
	for _, family := range []string{"before", "after"} {
		for _, c := range l.Running(i, family) {
			is, err := l.Seen(i).Inspect(l.t.Context(), c.ID)
			if err != nil {
				l.t.Fatal(err)
			}
			out[c.ID] = is.State.Pid
		}
	}
	return out
}

// control1 runs the control plane's binary once.
func (l *Lab) control1(args ...string) {
	l.t.Helper()
	bin, err := binaries()
	if err != nil {
		l.t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "longshore-control"), args...).CombinedOutput(); err != nil {
		l.t.Fatalf("longshore-control %v: %v: %s", args, err, out)
	}
}

// keepFiles takes the key files over into a new data directory, as somebody does who has them elsewhere.
func (l *Lab) keepFiles(from, to string) {
	l.t.Helper()
	if err := os.Mkdir(to, 0o700); err != nil {
		l.t.Fatal(err)
	}
	for _, name := range []string{"admin.env", "host.env"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o600)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *Lab) agentLog(i int) string {
	l.t.Helper()
	data, err := os.ReadFile(l.Farm.Disk(i, "var/log/ecs/ecs-agent.log"))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(data)
}
