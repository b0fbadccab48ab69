//go:build bench

package bench

import (
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// update measures how long a host is without its daemon when that is updated: from the end of the old container, as the agent tells
// it, to the new task RUNNING as the control plane records it. The container ends at once when it is told to. The floor is the bare
// engine's start of the same container, in turn.
func (w *world) update() {
	ctx := w.t.Context()
	w.agent("prefer-cached")
	w.define("updated", types.NetworkModeHost)
	if _, err := w.ecs.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("updated"), TaskDefinition: aws.String("updated"), SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
		w.t.Fatal(err)
	}
	var gap, bare series
	old := ""
	for round := range w.rounds + 1 {
		var task types.Task
		w.await("the newest daemon runs alone", func() bool {
			services, err := w.ecs.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: aws.String(cluster), Services: []string{"updated"}})
			list, listed := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: aws.String("updated")})
			if err != nil || listed != nil || len(services.Services[0].Deployments) != 1 || services.Services[0].RunningCount != 1 || len(list.TaskArns) != 1 || list.TaskArns[0] == old {
				return false
			}
			task = w.reach(list.TaskArns, "RUNNING")[0]
			return true
		})
		if round > 0 {
			gap.add(task.StartedAt.Sub(*w.reach([]string{old}, "STOPPED")[0].ExecutionStoppedAt))
			bare.add(w.single("host"))
		}
		old = *task.TaskArn
		if round < w.rounds {
			if _, err := w.ecs.UpdateService(ctx, &ecs.UpdateServiceInput{Cluster: aws.String(cluster), Service: aws.String("updated"), ForceNewDeployment: true}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.table.add("daemon updated: old container ended → new task RUNNING, image cached", gap.String(), bare.String(), ratio(gap, bare), "150 ms")
	if _, err := w.ecs.DeleteService(ctx, &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("updated")}); err != nil {
		w.t.Fatal(err)
	}
	w.reach([]string{old}, "STOPPED")
	w.lab.StopAgent(1)
}
