package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func (w *replicaWorld) expectWhere(want string) {
	w.t.Helper()
	if got := strings.TrimSpace(w.where()); got != want {
		w.t.Fatalf("the tasks are on %q, want %q; events: %s", got, want, w.history())
	}
}

func (w *replicaWorld) expectRevisions(want string) {
	w.t.Helper()
	if got := strings.TrimSpace(w.revisions()); got != want {
		w.t.Fatalf("wanted are %q, want %q; the service is %s; events: %s", got, want, show(w.svc), w.history())
	}
}

func TestReplicasSpreadOverZonesThenInstances(t *testing.T) {
	w := newReplicaWorld(t, 4)
	for id, zone := range map[string]string{"host-1": "a", "host-2": "a", "host-3": "a", "host-4": "b"} {
		w.inZone(id, zone)
		w.size(id, 4096)
	}
	w.create(w.define(), replicas(6))
	w.settle()
	w.expectWhere("host-1:1 host-2:1 host-3:1 host-4:3")
	w.after(time.Minute)
	w.expectSteady(t)
	w.expectTold(1, "has reached a steady state")
	w.scale(2)
	w.settle()
	if n := strings.Count(w.where(), "host-4:1"); n != 1 || len(w.wanted()) != 2 {
		t.Errorf("scale-in mirrors placement: left are %s", w.where())
	}
	w.expectSteady(t)
	w.scale(0)
	w.settle()
	w.expectWhere("")
	w.expectSteady(t)
}

func TestStrategiesAreAppliedInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		strategies []types.PlacementStrategy
		want       string
		left       string // of two after a scale-in; empty: any
	}{
		"binpack takes the fullest":    {[]types.PlacementStrategy{{Type: types.PlacementStrategyTypeBinpack, Field: aws.String("MEMORY")}}, "host-1:2 host-2:1", "host-1:2"},
		"spread over an attribute":     {[]types.PlacementStrategy{{Type: types.PlacementStrategyTypeSpread, Field: aws.String("attribute:rack")}, {Type: types.PlacementStrategyTypeBinpack, Field: aws.String("memory")}}, "host-1:2 host-3:1", "host-1:1 host-3:1"},
		"spread over instances":        {[]types.PlacementStrategy{{Type: types.PlacementStrategyTypeSpread, Field: aws.String("host")}}, "host-1:1 host-2:1 host-3:1", ""},
		"binpack after a random start": {[]types.PlacementStrategy{{Type: types.PlacementStrategyTypeRandom}, {Type: types.PlacementStrategyTypeBinpack, Field: aws.String("memory")}}, "host-1:2 host-2:1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newReplicaWorld(t, 3)
			w.size("host-1", 1100)
			w.size("host-2", 2000)
			w.size("host-3", 4000)
			for id, rack := range map[string]string{"host-1": "x", "host-2": "x", "host-3": "y"} {
				inst := *w.hosts[id].inst
				inst.Object.Attributes = []types.Attribute{{Name: aws.String("rack"), Value: aws.String(rack)}}
				w.hosts[id].inst = &inst
			}
			w.create(w.define(), replicas(3, func(s *types.Service) { s.PlacementStrategy = c.strategies }))
			w.settle()
			w.expectWhere(c.want)
			if c.left != "" {
				w.after(time.Minute)
				w.scale(2)
				w.settle()
				w.expectWhere(c.left)
			}
		})
	}
}

func TestAnInstanceHasOneTaskWithDistinctInstanceAndAnEventTellsOfTheRest(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.create(w.define(), replicas(3, func(s *types.Service) {
		s.PlacementConstraints = []types.PlacementConstraint{{Type: types.PlacementConstraintTypeDistinctInstance}}
	}))
	w.settle()
	w.expectWhere("host-1:1 host-2:1")
	w.expectTold(1, "was unable to place a task because no container instance met all of its requirements. The closest matching (container-instance host-")
	w.join("host-3")
	w.settle()
	w.expectWhere("host-1:1 host-2:1 host-3:1")
}

func TestNoInstanceIsToldWithECSsText(t *testing.T) {
	w := newReplicaWorld(t, 0)
	w.create(w.define(), replicas(1))
	w.settle()
	w.expectTold(1, "Reason: No Container Instances were found in your cluster.")
}

func TestARollingUpdateStartsNewTasksBeforeOldOnesStop(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.create(w.define(), replicas(4))
	w.settle()
	w.after(time.Minute)
	w.deploy(w.define())
	w.settle()
	w.expectRevisions("1:4 2:4")
	w.after(39 * time.Second)
	w.expectRevisions("1:4 2:4") // RUNNING, and nothing checks: 40 s
	w.after(2 * time.Second)
	w.expectRevisions("2:4")
	w.expectSteady(t)
	w.expectTold(2, "deployment completed.")
}

func TestARollingUpdateWithoutRoomStopsOldTasksFirst(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.create(w.define(), replicas(4, percents(50, 100)))
	w.settle()
	w.after(time.Minute)
	w.deploy(w.define())
	w.settle()
	w.expectRevisions("1:2 2:2")
	w.after(time.Minute)
	w.expectRevisions("2:4")
	w.expectSteady(t)
}

func TestNothingMovesWhereThePercentagesLeaveNoRoom(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.create(w.define(), replicas(4, percents(100, 100)))
	w.settle()
	w.after(time.Minute)
	w.deploy(w.define())
	w.after(time.Hour)
	w.expectRevisions("1:4")
	w.expectTold(1, "was unable to stop or start tasks during a deployment because of the service deployment configuration.")
	percents(50, 100)(&w.svc.Object)
	w.settle()
	w.after(time.Hour)
	w.expectRevisions("2:4")
	w.expectSteady(t)
}

func TestAnUnhealthyTaskIsReplacedStartFirst(t *testing.T) {
	w := newReplicaWorld(t, 3)
	w.create(w.define(healthChecked), replicas(2))
	w.settle()
	for _, own := range w.wanted() {
		w.health(own, types.HealthStatusHealthy)
	}
	w.settle()
	w.expectSteady(t)
	first := w.wanted()[0]
	w.health(first, types.HealthStatusUnhealthy)
	w.settle()
	if len(w.wanted()) != 3 {
		t.Fatalf("the replacement is started first: wanted are %s; events: %s", w.where(), w.history())
	}
	w.expectTold(1, fmt.Sprintf("(service agent) (task %s) failed container health checks.", first.ID))
	second := w.wanted()[2]
	w.health(second, types.HealthStatusUnhealthy)
	w.settle()
	if sick := w.sick(); len(w.wanted()) < 2 || sick != 1 {
		t.Fatalf("a replacement that is UNHEALTHY too: either goes, down to desiredCount; %d are wanted, %d of them sick; events: %s", len(w.wanted()), sick, w.history())
	}
	w.after(time.Minute)
	for _, own := range w.wanted() {
		if own.Object.HealthStatus == types.HealthStatusUnknown {
			w.health(own, types.HealthStatusHealthy)
		}
	}
	w.after(time.Minute)
	if len(w.wanted()) != 2 || w.sick() != 0 {
		t.Fatalf("a replacement that is HEALTHY: the unhealthy one goes; %d are wanted, %d of them sick; events: %s", len(w.wanted()), w.sick(), w.history())
	}
	w.expectSteady(t)
}

func (w *replicaWorld) sick() (n int) {
	for _, t := range w.wanted() {
		if t.Object.HealthStatus == types.HealthStatusUnhealthy {
			n++
		}
	}
	return n
}

func TestUnhealthyTasksWithoutRoomAreReplacedOneAtATime(t *testing.T) {
	w := newReplicaWorld(t, 3)
	w.create(w.define(healthChecked), replicas(3, percents(0, 100)))
	w.settle()
	for _, own := range w.wanted() {
		w.health(own, types.HealthStatusHealthy)
	}
	w.settle()
	for _, own := range w.wanted() {
		w.health(own, types.HealthStatusUnhealthy)
	}
	for round := 3; round > 0; round-- {
		if w.sick() != round {
			t.Fatalf("one at a time: %d are unhealthy, want %d; events: %s", w.sick(), round, w.history())
		}
		w.after(10 * time.Minute)
		if w.sick() != round-1 || len(w.wanted()) != 3 {
			t.Fatalf("one at a time: %d are unhealthy and %d wanted after one was replaced; events: %s", w.sick(), len(w.wanted()), w.history())
		}
		for _, own := range w.wanted() {
			if own.Object.HealthStatus == types.HealthStatusUnknown {
				w.health(own, types.HealthStatusHealthy)
			}
		}
	}
}

func TestTheGracePeriodIsRespected(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.create(w.define(healthChecked), replicas(1, func(s *types.Service) { s.HealthCheckGracePeriodSeconds = aws.Int32(120) }))
	w.settle()
	w.health(w.wanted()[0], types.HealthStatusUnhealthy)
	w.after(119 * time.Second)
	if len(w.wanted()) != 1 {
		t.Fatalf("healthCheckGracePeriodSeconds respected: wanted are %s", w.where())
	}
	w.after(2 * time.Second)
	if len(w.wanted()) != 2 {
		t.Fatalf("after it a replacement is started: wanted are %s", w.where())
	}
}

func TestADrainedInstanceIsLeftStartFirst(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.create(w.define(), replicas(2, percents(0, 200)))
	w.settle()
	w.after(time.Minute)
	w.setStatus("host-1", draining)
	w.settle()
	w.expectWhere("host-1:1 host-2:2")
	w.after(41 * time.Second)
	w.expectWhere("host-2:2")
	w.expectSteady(t)
}

func TestOfTheTasksThatLeaveAnInstanceAHealthyOneGoesLast(t *testing.T) {
	w := newReplicaWorld(t, 1)
	w.size("host-1", 1024)
	w.create(w.define(healthChecked), replicas(2, percents(50, 150)))
	w.settle()
	well := w.wanted()[0]
	w.health(well, types.HealthStatusHealthy)
	w.join("host-2")
	w.setStatus("host-1", draining)
	w.settle()
	w.expectWhere("host-1:2 host-2:1")
	w.scale(1)
	w.pass()
	if left := w.wanted(); len(left) != 2 || left[0].ID != well.ID {
		t.Fatalf("the healthy task was stopped before one that is not: %s; events: %s", w.where(), w.history())
	}
}

func TestWhatAPassTookIsTakenForTheRestOfIt(t *testing.T) {
	w := newReplicaWorld(t, 1)
	w.create(w.define(), replicas(2, percents(0, 200)))
	w.settle()
	w.after(time.Minute)
	w.join("host-2")
	w.size("host-2", 512)
	w.setStatus("host-1", draining)
	w.settle() // the first place is taken, then room is made, and there is none for the second
	w.expectWhere("host-2:1")
}

func TestABrokenHostDelaysOnlyItself(t *testing.T) {
	w := newReplicaWorld(t, 3)
	w.agents = func(t *store.Task) string {
		if t.Instance == "host-1" {
			return task.Stopped
		}
		return task.Running
	}
	w.create(w.define(), replicas(3))
	w.settle()
	w.after(2 * time.Second)
	if well := len(w.wanted()); well != 3 || strings.Contains(w.where(), "host-1") {
		t.Fatalf("a broken host delays only itself: wanted are %s; events: %s", w.where(), w.history())
	}
	w.after(time.Hour)
	w.expectSteady(t)
}

func TestAServiceWhoseTasksFailIsRetriedWithGrowingDelay(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.agents = func(*store.Task) string { return task.Stopped }
	w.create(w.define(), replicas(4))
	w.settle()
	w.after(time.Hour)
	if n := len(w.tasks); n > 4*24 || n < 4*8 {
		t.Errorf("it never spins: %d tasks were started in an hour", n)
	}
	w.expectTold(1, "is unable to consistently start tasks successfully")
	if w.svc.Object.Deployments[0].FailedTasks != int32(len(w.tasks)) {
		t.Errorf("failedTasks is %d of %d", w.svc.Object.Deployments[0].FailedTasks, len(w.tasks))
	}
	w.agents = nil
	w.after(10 * time.Minute)
	w.expectSteady(t)
	if n := w.svc.Object.Deployments[0].FailedTasks; n != 0 {
		t.Errorf("failedTasks is %d when all is well", n)
	}
}

func breakerOn(rollback bool) func(*types.Service) {
	return func(s *types.Service) {
		s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, Rollback: rollback}
	}
}

func TestTheCircuitBreakerRollsAReplicaServiceBack(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.create(w.define(), replicas(4, breakerOn(true)))
	w.settle()
	w.after(time.Minute)
	w.agents = bad("2")
	w.deploy(w.define())
	w.after(time.Hour)
	w.expectRevisions("1:4")
	w.expectTold(1, "deployment failed: tasks failed to start.")
	w.expectTold(1, "(deployment ecs-svc/2) rolling back to deployment ecs-svc/1.")
	w.expectSteady(t)
}

func TestWithoutRollbackAFailedDeploymentKeepsWhatRuns(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.create(w.define(), replicas(4, breakerOn(false)))
	w.settle()
	w.after(time.Minute)
	w.agents = bad("2")
	w.deploy(w.define())
	w.after(time.Hour)
	w.expectRevisions("1:4")
	if s := w.svc.Object.Deployments[0].RolloutState; s != types.DeploymentRolloutStateFailed {
		t.Errorf("the deployment is %s", s)
	}
	lost := w.wanted()[0]
	w.replace(task.Stop(lost, types.TaskStopCodeUserInitiated, "", w.now))
	w.settle()
	w.expectRevisions("1:4")
}

func TestZonesAreRebalancedStartFirstOneAtATime(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.inZone("host-1", "a")
	w.size("host-1", 4096)
	w.inZone("host-2", "a")
	w.create(w.define(), replicas(4, func(s *types.Service) {
		s.AvailabilityZoneRebalancing = types.AvailabilityZoneRebalancingEnabled
	}))
	w.settle()
	w.after(time.Minute)
	w.join("host-3")
	w.inZone("host-3", "b")
	w.size("host-3", 4096)
	w.settle()
	if n := len(w.wanted()); n != 5 || !strings.Contains(w.where(), "host-3:1") {
		t.Fatalf("start-first and bounded: %s", w.where())
	}
	w.after(10 * time.Minute)
	if n := len(w.wanted()); n != 4 || !strings.Contains(w.where(), "host-3:2") {
		t.Fatalf("two in each zone: %s; events: %s", w.where(), w.history())
	}
	w.expectSteady(t)
}

func TestAScaleInEndsTheBalancingOfZones(t *testing.T) {
	w := newReplicaWorld(t, 1)
	w.inZone("host-1", "a")
	w.size("host-1", 4096)
	w.create(w.define(), replicas(4, func(s *types.Service) {
		s.AvailabilityZoneRebalancing = types.AvailabilityZoneRebalancingEnabled
	}))
	w.settle()
	w.after(time.Minute)
	w.join("host-2")
	w.inZone("host-2", "b")
	w.settle()
	w.expectWhere("host-1:4 host-2:1") // the one that is ahead has not proved itself yet
	w.scale(3)
	w.pass()
	w.expectWhere("host-1:3")
}

func TestARandomHistoryOfReplicasKeepsEveryPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newReplicaWorld(t, rapid.IntRange(0, 5).Draw(t, "hosts"))
		for i, id := range slices.Sorted(maps.Keys(w.hosts)) {
			w.inZone(id, []string{"a", "b"}[i%2])
		}
		failing, checked := map[string]bool{}, rapid.Bool().Draw(t, "checked")
		images := map[string]string{}
		w.agents = func(t *store.Task) string {
			switch {
			case failing[revisionOf(t)]:
				return task.Stopped
			case failing["slow "+revisionOf(t)]:
				return ""
			}
			return task.Running
		}
		definition := func() string {
			return w.define(func(d *types.TaskDefinition) {
				if checked {
					healthChecked(d)
				}
			})
		}
		limits := rapid.SampledFrom([][2]int32{{100, 200}, {50, 100}, {0, 100}, {50, 150}, {100, 125}}).Draw(t, "limits")
		w.create(definition(), replicas(rapid.Int32Range(0, 6).Draw(t, "desired"), percents(limits[0], limits[1]), func(s *types.Service) {
			if rapid.Bool().Draw(t, "breaker") {
				breakerOn(rapid.Bool().Draw(t, "rollback"))(s)
			}
			if rapid.Bool().Draw(t, "rebalancing") {
				s.AvailabilityZoneRebalancing = types.AvailabilityZoneRebalancingEnabled
			}
			if rapid.Bool().Draw(t, "images first") {
				imagesFirst(s)
			}
		}))
		w.images = func(p *store.Preparation) string { return images[p.Instance+p.Deployment] }
		host := func() string {
			if len(w.hosts) == 0 {
				return ""
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(w.hosts))).Draw(t, "host")
		}
		own := func() *store.Task {
			if all := w.wanted(); len(all) > 0 {
				return all[rapid.IntRange(0, len(all)-1).Draw(t, "task")]
			}
			return nil
		}
		joined := len(w.hosts)
		t.Repeat(map[string]func(*rapid.T){
			"a host joins": func(t *rapid.T) {
				if len(w.hosts) < 7 {
					joined++
					id := fmt.Sprintf("host-%d", joined)
					if w.join(id); rapid.Bool().Draw(t, "prepares") {
						w.prepares(id)
					}
					w.inZone(id, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone"))
				}
			},
			"a host is lost": func(t *rapid.T) {
				if id := host(); id != "" {
					delete(w.hosts, id)
					for _, l := range w.live(id) {
						w.replace(task.Lost(l, "", "gone", w.now))
					}
				}
			},
			"a connection changes": func(t *rapid.T) {
				if id := host(); id != "" {
					w.connect(id, !w.hosts[id].connected)
				}
			},
			"an instance is drained or activated": func(t *rapid.T) {
				if id := host(); id != "" {
					w.setStatus(id, rapid.SampledFrom([]string{active, draining}).Draw(t, "status"))
				}
			},
			"a task is stopped by a user": func(*rapid.T) {
				if l := own(); l != nil {
					w.replace(task.Stop(l, types.TaskStopCodeUserInitiated, "", w.now))
				}
			},
			"health is reported": func(t *rapid.T) {
				if l := own(); l != nil && checked && task.LastStatus(l) == task.Running {
					w.health(l, rapid.SampledFrom([]types.HealthStatus{types.HealthStatusHealthy, types.HealthStatusHealthy, types.HealthStatusUnhealthy}).Draw(t, "health"))
				}
			},
			"images are had or not": func(t *rapid.T) {
				for _, id := range slices.Sorted(maps.Keys(w.preparations)) {
					images[id+w.preparations[id].Deployment] = rapid.SampledFrom([]string{store.PreparationReady, store.PreparationFailed}).Draw(t, id)
				}
			},
			"it is scaled": func(t *rapid.T) { w.scale(rapid.Int32Range(0, 8).Draw(t, "desired")) },
			"an update": func(t *rapid.T) {
				w.now = w.now.Add(time.Millisecond)
				arn := definition()
				kind := rapid.SampledFrom([]string{"good", "good", "failing", "slow"}).Draw(t, "kind")
				failing[revisionIn(arn)], failing["slow "+revisionIn(arn)] = kind == "failing", kind == "slow"
				w.deploy(arn)
			},
			"the agents report": func(*rapid.T) { w.report() },
			"time passes": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 40, 60, 600}).Draw(t, "seconds")) * time.Second)
			},
			"": func(*rapid.T) { w.pass() },
		})

		// However it went: when all is well again, there are desiredCount of the newest.
		w.agents, w.images = nil, always(store.PreparationReady)
		for id := range w.hosts {
			w.connect(id, true)
			w.setStatus(id, active)
		}
		for range 3 {
			id := fmt.Sprintf("large-%d", len(w.hosts))
			w.join(id)
			w.size(id, 8192)
		}
		percents(50, 200)(&w.svc.Object)
		w.now = w.now.Add(time.Millisecond)
		w.settle()
		for _, l := range w.wanted() { // a check that never speaks holds a roll-out, as on ECS
			w.health(l, types.HealthStatusHealthy)
		}
		w.deploy(w.define())
		w.settle()
		w.after(time.Hour)
		if want := int(w.svc.Object.DesiredCount); len(w.wanted()) != want || len(w.svc.Object.Deployments) != 1 || w.svc.SteadySince.IsZero() {
			t.Fatalf("it converges: %d tasks are wanted, not %d (%s); the service is %s; events: %s", len(w.wanted()), want, w.where(), show(w.svc), w.history())
		}
		for _, l := range w.wanted() {
			if *l.Object.TaskDefinitionArn != *w.svc.Object.TaskDefinition || task.LastStatus(l) != task.Running {
				t.Fatalf("it converges: task %s is %s of %s", l.ID, task.LastStatus(l), *l.Object.TaskDefinitionArn)
			}
		}
	})
}

func TestAProtectedReplicaSurvivesScaleInAndRollOuts(t *testing.T) {
	w := newReplicaWorld(t, 4)
	w.create(w.define(), replicas(3))
	w.settle()
	w.after(time.Minute)
	protected := w.wanted()[1]
	w.replace(task.Protect(protected, w.now.Add(time.Hour)))
	w.scale(1)
	w.settle()
	if left := w.wanted(); len(left) != 1 || left[0].ID != protected.ID {
		t.Fatalf("left are %s; events: %s", w.where(), w.history())
	}
	w.scale(0)
	w.settle()
	w.expectTold(1, "was unable to scale in: 1 tasks more than it wants are protected, (task "+protected.ID+") until ")
	w.scale(1)
	w.settle()
	w.deploy(w.define())
	w.settle()
	w.after(10 * time.Minute)
	w.expectRevisions("1:1 2:1")
	w.after(time.Hour)
	w.expectRevisions("2:1")
	w.expectSteady(t)
}
