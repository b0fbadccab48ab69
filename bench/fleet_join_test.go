//go:build bench

package bench

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// joiners measures how soon a host that joins has its daemon, and whether before any other task, while replicas wait for just such
// a host and the gate is as it is by default. Acknowledged is a message later than assigned.
func (r *fleetRun) joiners() {
	const lasting, each = 10 * time.Second, 5                      // replicas that a host has room for
	began := time.Now().Truncate(time.Second).Add(2 * time.Second) // the query knows whole seconds
	later, cancel := context.WithDeadline(r.ctx, began)
	<-later.Done()
	cancel()
	r.must("RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: aws.String("pressed"), NetworkMode: types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("sleep:1"), Memory: aws.Int32(3_900_000 / each), Cpu: 1}}}, nil)
	desired := int32(lasting/(100*time.Millisecond)) * each
	if err := r.service("pressed", types.SchedulingStrategyReplica, &desired, types.PlacementConstraint{Type: types.PlacementConstraintTypeMemberOf,
		Expression: aws.String("registeredAt >= " + began.UTC().Format(time.RFC3339))}); err != nil {
		r.t.Fatal(err)
	}
	joining, stop := context.WithTimeout(r.ctx, lasting)
	defer stop()
	used := r.meter()
	agents := r.join(joining)
	have := func(family string) (n int) {
		for _, a := range agents {
			if !r.fleet.FirstAck(family, a.ARN).IsZero() {
				n++
			}
		}
		return n
	}
	if !within(time.Minute, func() bool {
		return have("everywhere") == len(agents) && r.fleet.Tally("pressed").Acknowledged >= int(desired)*9/10
	}) {
		r.say("hosts that joined under replica pressure: NOT DONE in a minute: %d of %d have their daemon, %d of %d replicas run", have("everywhere"), len(agents), r.fleet.Tally("pressed").Acknowledged, desired)
		return
	}
	var asked, connected, waited series
	first := 0
	for _, a := range agents {
		daemon, replica := r.fleet.FirstAck("everywhere", a.ARN), r.fleet.FirstAck("pressed", a.ARN)
		asked.add(daemon.Sub(a.Registered))
		connected.add(daemon.Sub(a.Connected))
		if replica.IsZero() || daemon.Before(replica) {
			first++
		}
		if !replica.IsZero() {
			waited.add(replica.Sub(daemon))
		}
	}
	r.say("%d hosts joined, ten per second, while %d replicas waited for them: registered → daemon acknowledged %s; connected → daemon acknowledged %s (aim p99 50 ms); daemon first on %d of %d; first replica after its daemon by %s; control plane's CPU %.2f s; load %s",
		len(agents), desired, asked, connected, first, len(agents), waited, used().Seconds(), load())
	r.must("DeleteService", &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("pressed"), Force: aws.Bool(true)}, nil)
}
