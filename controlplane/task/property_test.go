package task

import (
	"maps"
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
)

var (
	anyStatus = rapid.SampledFrom([]string{Pending, Running, Stopped, "", "NONSENSE"})
	anyName   = rapid.SampledFrom([]string{"web", "helper", "nobody", ""})
	anyReason = rapid.SampledFrom([]string{"", "CannotPullContainerError: x", ReasonEssentialExited})
)

func drawContainer(t *rapid.T) types.ContainerStateChange {
	c := types.ContainerStateChange{ContainerName: aws.String(anyName.Draw(t, "container")), Status: aws.String(anyStatus.Draw(t, "container status"))}
	if rapid.Bool().Draw(t, "exited") {
		c.ExitCode = aws.Int32(rapid.Int32Range(0, 255).Draw(t, "exit code"))
	}
	c.Reason = aws.String(anyReason.Draw(t, "container reason"))
	c.RuntimeId = aws.String(rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(t, "runtime id"))
	return c
}

func drawChange(t *rapid.T) StateChange {
	c := StateChange{Status: anyStatus.Draw(t, "status"), Reason: anyReason.Draw(t, "reason")}
	c.Containers = rapid.SliceOfN(rapid.Custom(drawContainer), 0, 3).Draw(t, "containers")
	if rapid.Bool().Draw(t, "pulled") {
		c.PullStartedAt = now.Add(time.Duration(rapid.IntRange(0, 9).Draw(t, "pull started")) * time.Second)
	}
	return c
}

// forward fails when the task went back, or changed after its end.
func forward(t *rapid.T, was, is *store.Task) {
	if IsStopped(was) && !reflect.DeepEqual(was.Object, is.Object) {
		t.Fatalf("a STOPPED task changed from %s to %s", show(was.Object), show(is.Object))
	}
	if rank(LastStatus(is)) < rank(LastStatus(was)) || (!Wanted(was) && Wanted(is)) {
		t.Fatalf("the task went from %s/%s to %s/%s", LastStatus(was), *was.Object.DesiredStatus, LastStatus(is), *is.Object.DesiredStatus)
	}
	for i := range is.Object.Containers {
		a, b := was.Object.Containers[i], is.Object.Containers[i]
		if rank(*b.LastStatus) < rank(*a.LastStatus) {
			t.Fatalf("container %s went from %s to %s", *a.Name, *a.LastStatus, *b.LastStatus)
		}
		if a.ExitCode != nil && *a.LastStatus == Stopped && (b.ExitCode == nil || *b.ExitCode != *a.ExitCode) {
			t.Fatalf("container %s has another exit code after its end", *a.Name)
		}
		if IsStopped(is) && *b.LastStatus != Stopped {
			t.Fatalf("container %s is %s in a STOPPED task", *b.Name, *b.LastStatus)
		}
	}
	if IsStopped(is) && (Wanted(is) || is.Object.StoppedAt == nil || is.Object.StoppingAt == nil) {
		t.Fatalf("STOPPED, but %s", show(is.Object))
	}
	if changed := !reflect.DeepEqual(was.Object, is.Object); changed != (is.Object.Version == was.Object.Version+1) {
		t.Fatalf("changed is %t, versions %d and %d", changed, was.Object.Version, is.Object.Version)
	}
}

func TestWhateverIsReportedStatesOnlyMoveForward(t *testing.T) {
	first := newTask(t)
	rapid.Check(t, func(t *rapid.T) {
		task := first
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			at := now.Add(time.Duration(i) * time.Second)
			var next *store.Task
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				next = Stop(task, types.TaskStopCodeUserInitiated, "asked", at)
			case 1:
				next, _ = SetHealth(task, definition(), map[string]types.HealthStatus{"web": types.HealthStatusHealthy})
			case 2:
				if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
					next = Lost(task, "", "lost", at)
				}
			default:
				change := drawChange(t)
				next, _ = Apply(task, change, at)
				if again, changed := Apply(next, change, at.Add(time.Hour)); changed {
					t.Fatalf("a repeated %s changed %s to %s", show(change), show(next.Object), show(again.Object))
				}
			}
			if next == nil {
				next = task
			}
			forward(t, task, next)
			if asked := task.Object.StopCode != ""; asked && next.Object.StopCode != task.Object.StopCode {
				t.Fatalf("stop code went from %s to %s", task.Object.StopCode, next.Object.StopCode)
			}
			task = next
		}
	})
	if *first.Object.LastStatus != Pending || first.Object.Version != 1 {
		t.Error("a record that was given was modified")
	}
}

func TestAnAllocationHoldsExactlyTheTasksThatAreNotStopped(t *testing.T) {
	made := make([]*store.Task, 8)
	for i := range made {
		made[i] = newTask(t)
	}
	rapid.Check(t, func(t *rapid.T) {
		alloc := &store.Allocation{Cluster: "daemonset", Instance: instance().ID}
		live, pool := map[string]*store.Task{}, made
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			kept := maps.Clone(alloc.Tasks)
			was := alloc
			if rapid.Bool().Draw(t, "place") && len(pool) > 0 {
				n := rapid.IntRange(1, len(pool)).Draw(t, "tasks")
				alloc = Reserve(alloc, pool[:n]...)
				for _, task := range pool[:n] {
					live[task.ID] = task
				}
				pool = pool[n:]
			} else {
				task := rapid.SampledFrom(made).Draw(t, "task")
				next, _ := Apply(task, drawChange(t), now)
				_, placed := live[task.ID]
				if IsStopped(next) {
					if n := Release(alloc, next); n != nil {
						alloc = n
					} else if placed {
						t.Fatalf("task %s was not released", task.ID)
					}
					delete(live, task.ID)
				}
			}
			if len(kept) > 0 && !reflect.DeepEqual(was.Tasks, kept) {
				t.Fatal("the allocation that was given was modified")
			}
			if len(alloc.Tasks) != len(live) {
				t.Fatalf("%d tasks hold resources, %d are live", len(alloc.Tasks), len(live))
			}
			for id, task := range live {
				if !reflect.DeepEqual(alloc.Tasks[id], task.Reserved) {
					t.Fatalf("task %s holds %v, not %v", id, alloc.Tasks[id], task.Reserved)
				}
			}
		}
	})
}
