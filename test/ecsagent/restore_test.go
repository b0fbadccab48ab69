package ecsagent_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/test/ecsagent"
)

// TestRecordsThatWereLostComeBackFromAnAgentThatListsNoTasks restores the control plane from a backup that is older than a task, and then empties
// its store, under an agent that goes on as a real one does: it is never told that its instance is inactive, starts and stops nothing, and its tasks
// are known again under their ARNs.
func TestRecordsThatWereLostComeBackFromAnAgentThatListsNoTasks(t *testing.T) {
	p, a := ready(t)
	p.patience = time.Minute // what its metrics say comes last
	p.daemon("logging-agent", p.define("logging"))
	daemon := aws.ToString(p.settled(a, "logging:1").TaskArn)
	backup := filepath.Join(t.TempDir(), "one.backup")
	if err := controlplane.Backup(t.Context(), p.cfg.DataDir, backup); err != nil {
		t.Fatal(err)
	}
	job := p.runs(a, p.define("app"))
	p.until("the job runs", func() bool { return aws.ToString(p.task(job).LastStatus) == "RUNNING" })
	containers := func() map[string]bool {
		all := map[string]bool{}
		for _, c := range a.Containers("") {
			all[c.ID] = c.Running
		}
		return all
	}
	before := containers()
	known := func(when, status string) {
		t.Helper()
		p.until(when+" both tasks are known", func() bool {
			tasks, err := p.admin.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("daemonset"), Tasks: []string{daemon, job}})
			if err != nil || len(tasks.Tasks) != 2 {
				return false
			}
			for _, task := range tasks.Tasks {
				if aws.ToString(task.LastStatus) != "RUNNING" || aws.ToString(task.DesiredStatus) != "RUNNING" {
					return false
				}
			}
			is, err := p.admin.DescribeContainerInstances(t.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String("daemonset"), ContainerInstances: []string{a.InstanceARN()}})
			return err == nil && len(is.ContainerInstances) == 1 && is.ContainerInstances[0].AgentConnected && aws.ToString(is.ContainerInstances[0].Status) == status
		})
		if now := containers(); !maps.Equal(now, before) {
			t.Errorf("%s the containers are %v, and were %v", when, now, before)
		}
		if n := len(a.Journal(ecsagent.Is(ecsagent.Process, ""))); n != 0 {
			t.Errorf("%s the agent had ended %d times", when, n)
		}
	}

	p.stop()
	if err := os.RemoveAll(p.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := controlplane.Restore(t.Context(), controlplane.Config{DataDir: p.cfg.DataDir}, backup); err != nil {
		t.Fatal(err)
	}
	p.start()
	known("restored", "ACTIVE")

	p.stop()
	if err := os.RemoveAll(filepath.Join(p.cfg.DataDir, "etcd")); err != nil {
		t.Fatal(err)
	}
	p.start()
	known("emptied", "REGISTERING")
	a.Stop()
	a.restart()
	p.until("the agent, started again, has registered", func() bool { return aws.ToString(p.instance(a).Status) == "ACTIVE" && p.instance(a).AgentConnected })
	if now := containers(); !maps.Equal(now, before) {
		t.Errorf("at the end the containers are %v, and were %v", now, before)
	}
}
