//go:build bench

package bench

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// boot measures how long a host that joins is without its daemon: from the start of the agent's process, with nothing known of an
// earlier one and the image on the host, to the daemon RUNNING as the control plane records it. The floor is the bare engine's
// start of the same container, in turn. The host is no EC2 instance, which its firmware tables show; the last rounds are those of a
// host that nothing is known of, whose agent asks the instance metadata service, where nobody answers, for a second.
func (w *world) boot() {
	w.bootWith("")
	w.bootWith(", asking for instance metadata that nobody has", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254")
}

func (w *world) bootWith(what string, settings ...string) {
	ctx := w.t.Context()
	w.define("booted", types.NetworkModeHost)
	if _, err := w.ecs.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("booted"), TaskDefinition: aws.String("booted"), SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
		w.t.Fatal(err)
	}
	var connected, running, bare series
	for round := range w.rounds + 1 {
		w.lab.StartAgent(1, append(settings, "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s")...)
		began := time.Now() // the process was forked just now
		var arns []string
		w.await("the daemon is assigned", func() bool {
			list, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: aws.String("booted")})
			arns = list.TaskArns
			return err == nil && len(list.TaskArns) == 1
		})
		task := w.reach(arns, "RUNNING")[0]
		if round > 0 { // the first one pulls the image
			connected.add(task.CreatedAt.Sub(began))
			running.add(task.StartedAt.Sub(began))
		}
		w.leave(task.ContainerInstanceArn)
		if round > 0 {
			bare.add(w.single("host"))
		}
	}
	w.table.add("agent's process started → daemon assigned"+what, connected.String(), "", "", "")
	w.table.add("agent's process started → daemon RUNNING, image cached"+what, running.String(), bare.String(), ratio(running, bare), "p99 500 ms")
	if _, err := w.ecs.DeleteService(ctx, &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("booted")}); err != nil {
		w.t.Fatal(err)
	}
}
