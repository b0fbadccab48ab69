//go:build bench

package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
)

// join measures a host's way from registration to its daemon, several times with a new identity.
func (w *world) join() {
	ctx := w.t.Context()
	w.define("daemon", types.NetworkModeHost)
	if _, err := w.ecs.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("daemon"), TaskDefinition: aws.String("daemon"), SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
		w.t.Fatal(err)
	}
	var assigned, running series
	for round := range 6 {
		w.agent("prefer-cached")
		var arns []string
		w.await("the daemon is assigned", func() bool {
			list, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster)})
			arns = list.TaskArns
			return err == nil && len(list.TaskArns) == 1
		})
		task := w.reach(arns, "RUNNING")[0]
		in, err := w.ecs.DescribeContainerInstances(ctx, &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: []string{aws.ToString(task.ContainerInstanceArn)}})
		if err != nil {
			w.t.Fatal(err)
		}
		if round > 0 { // the first one pulls the image
			registered := aws.ToTime(in.ContainerInstances[0].RegisteredAt)
			assigned.add(task.CreatedAt.Sub(registered))
			running.add(task.StartedAt.Sub(registered))
		}
		w.leave(task.ContainerInstanceArn)
	}
	w.table.add("host registered → daemon assigned", assigned.String(), "", "", "")
	w.table.add("host registered → daemon RUNNING (host network)", running.String(), "", "", "")
	if _, err := w.ecs.DeleteService(ctx, &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("daemon")}); err != nil {
		w.t.Fatal(err)
	}
}

// leave stops the agent and takes the host out of the cluster, with all that it ran and knew.
func (w *world) leave(instance *string) {
	w.lab.StopAgent(1)
	if _, err := w.ecs.DeregisterContainerInstance(w.t.Context(), &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(cluster), ContainerInstance: instance, Force: aws.Bool(true)}); err != nil {
		w.t.Fatal(err)
	}
	w.removeAll()
	w.onHost("sh", "-c", "rm -rf /var/lib/ecs/data/*")
}

// starts measures single starts: Longshore's and the bare engine's, in turn.
func (w *world) starts() {
	for _, behaviour := range strings.Split(cmp.Or(os.Getenv("BEHAVIOURS"), "prefer-cached,once,default,always"), ",") {
		rounds, aim := w.rounds, "1.08, 8 ms"
		if behaviour != "prefer-cached" {
			rounds, aim = max(w.rounds/4, 5), ""
		}
		w.agent(behaviour)
		for _, mode := range []string{"host", "bridge"} {
			var ours, bare series
			accepted := map[string]types.Task{}
			w.longshore(mode) // the image is local from here on
			w.single(mode)
			for range rounds {
				task := w.longshore(mode)
				accepted[aws.ToString(task.TaskArn)] = task
				ours.add(task.StartedAt.Sub(*task.CreatedAt))
				bare.add(w.single(mode))
			}
			what := fmt.Sprintf("start, %s, %s: RunTask accepted → RUNNING", behaviour, mode)
			w.table.add(what, ours.String(), bare.String(), ratio(ours, bare)+", "+ms(ours.median()-bare.median()), aim)
			if behaviour == "prefer-cached" {
				w.phases(mode, accepted)
			}
		}
		w.lab.StopAgent(1)
	}
}

// longshore runs a task, waits for its end and returns it as it was when it ran.
func (w *world) longshore(family string) types.Task {
	arns := w.run(family, 1)
	task := w.reach(arns, "RUNNING")[0]
	w.stop(arns)
	w.reach(arns, "STOPPED")
	w.empty()
	return task
}

// single is how long the engine takes for the same container without us.
func (w *world) single(mode string) time.Duration {
	began := time.Now()
	id, err := w.bare(w.t.Context(), mode)
	took := time.Since(began)
	if err == nil {
		err = w.docker.ContainerRemove(w.t.Context(), id, container.RemoveOptions{Force: true})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return took
}

// phases says where the time of the tasks' starts went, by the timelines that the agent has kept of them.
func (w *world) phases(mode string, tasks map[string]types.Task) {
	type step struct {
		Name, Detail string
		Start, End   time.Time
	}
	var stopped struct {
		Tasks []struct {
			Arn      string
			Timeline []step
		}
	}
	if err := json.Unmarshal(w.introspect("/v1/tasks/stopped"), &stopped); err != nil {
		fmt.Printf("  the timelines can't be read: %v\n", err)
		return
	}
	names := []string{"RunTask accepted → agent has it", "accepted, durable", "image", "plan, before create", "create", "plan, before start", "intent durable, start", "plan, before report", "RUNNING durable, reported, recorded"}
	spent := make([]series, len(names))
	for _, t := range stopped.Tasks {
		task, measured := tasks[t.Arn]
		at := map[string]step{}
		for _, s := range t.Timeline {
			if _, seen := at[s.Name]; !seen && (s.Name != "report" || strings.HasPrefix(s.Detail, "RUNNING")) {
				at[s.Name] = s
			}
		}
		if !measured || at["report"].Start.IsZero() || at["create"].End.IsZero() {
			continue
		}
		marks := []time.Time{*task.CreatedAt, at["accept"].Start, at["pull"].Start, at["pull"].End, at["create"].Start, at["create"].End, at["start"].Start, at["start"].End, at["report"].Start, *task.StartedAt}
		for i := range names {
			spent[i].add(marks[i+1].Sub(marks[i]))
		}
	}
	for i, name := range names {
		w.table.add(fmt.Sprintf("  phase, %s: %s", mode, name), spent[i].String(), "", "", "")
	}
}
