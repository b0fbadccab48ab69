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

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// healthyHere counts the healthy tasks of the service on the instances where it belongs, and those instances.
func (w *world) healthyHere() (healthy, desired int) {
	p := newPass(w.snapshot(), &w.cfg)
	if p.readDeployments() != nil {
		return 0, 0
	}
	p.locate()
	for _, pl := range p.places {
		if pl.belongs {
			desired++
			if p.served(pl) {
				healthy++
			}
		}
	}
	return healthy, desired
}

// belowMinimum says how a decision goes below minimumHealthyPercent, empty when it does not.
func belowMinimum(s snapshot, p *plan, cfg *Config) string {
	stopped := map[string]*store.Task{}
	byUs := false
	for _, t := range p.stops {
		stopped[t.ID] = t
		byUs = byUs || strings.HasPrefix(*t.Object.StoppedReason, "Scaling activity") && task.LastStatus(t) == task.Running
	}
	if !byUs || aws.ToString(s.service.Object.Status) != active {
		return ""
	}
	after := s
	after.tasks = slices.Clone(s.tasks)
	for i, t := range after.tasks {
		if stopped[t.ID] != nil {
			after.tasks[i] = stopped[t.ID]
		}
	}
	was, _ := healthyOf(s, cfg)
	is, lower := healthyOf(after, cfg)
	if is < was && was >= lower && is < lower {
		return fmt.Sprintf("never below minimumHealthyPercent by our own doing: %d tasks of %s are healthy, %d must be, and %d were before", is, *s.service.Object.ServiceName, lower, was)
	}
	return ""
}

// healthyOf counts the healthy tasks of a snapshot's service, and how many there must be.
func healthyOf(s snapshot, cfg *Config) (healthy, lower int) {
	p := newPass(s, cfg)
	if p.readDeployments() != nil {
		return 0, 0
	}
	if p.svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon {
		r := &replicaPass{pass: p}
		r.limits()
		r.classify()
		return r.count(isHealthy), r.lower
	}
	p.locate()
	healthy = p.calm.served()
	for _, pl := range p.places {
		if pl.belongs && p.served(pl) {
			healthy++
		}
	}
	percent := 0
	if c := p.svc.Object.DeploymentConfiguration; c != nil {
		percent = int(aws.ToInt32(c.MinimumHealthyPercent))
	}
	return healthy, (p.desired()*percent + 99) / 100
}

// checkedPass is a pass that also checks minimumHealthyPercent.
func (w *world) checkedPass() *plan {
	percent := int(*w.svc.Object.DeploymentConfiguration.MinimumHealthyPercent)
	before, _ := w.healthyHere()
	p := w.pass()
	for _, s := range p.stops {
		if strings.HasPrefix(*s.Object.StoppedReason, "Scaling activity") { // one whose place is served by another takes nothing away
			if healthy, desired := w.healthyHere(); healthy < before && w.hadHealthy(p) && healthy*100 < desired*percent {
				w.t.Fatalf("never below minimumHealthyPercent by our own doing: %d of %d are healthy, and the minimum is %d%%", healthy, desired, percent)
			}
			break
		}
	}
	return p
}

// hadHealthy tells whether the plan stopped a healthy task for the roll-out; stopping an unhealthy one takes nothing away.
func (w *world) hadHealthy(p *plan) bool {
	return slices.ContainsFunc(p.stops, func(s *store.Task) bool {
		return strings.HasPrefix(*s.Object.StoppedReason, "Scaling activity") && task.LastStatus(s) == task.Running
	})
}

func TestARandomHistoryKeepsEveryPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(0, 6).Draw(t, "hosts"))
		w.cfg.RolloutParallel = rapid.IntRange(0, 3).Draw(t, "parallel") == 0
		failing := map[string]bool{}
		w.agents = func(t *store.Task) string {
			switch {
			case failing[revisionOf(t)]:
				return task.Stopped
			case failing["slow "+revisionOf(t)]:
				return ""
			}
			return task.Running
		}
		w.create(w.define(), constrained("attribute:env==prod"), minimum(rapid.SampledFrom([]int32{0, 0, 50, 67}).Draw(t, "minimum")), surging(rapid.SampledFrom([]string{"true", "false"}).Draw(t, "surge")),
			tagged(policy.SecondHost, rapid.SampledFrom([]string{"true", "false"}).Draw(t, "second host")), func(s *types.Service) {
				if rapid.Bool().Draw(t, "makes room") {
					tagged(policy.MakeRoom, "true")(s)
				}
				s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{
					Enable: rapid.IntRange(0, 3).Draw(t, "breaker") == 0, Rollback: rapid.Bool().Draw(t, "rollback"), ResetOnHealthyTask: aws.Bool(rapid.Bool().Draw(t, "resets"))}
			})
		images := rapid.SampledFrom([]string{"", store.PreparationReady, store.PreparationFailed}) // the answers of those that prepare them
		w.images = func(*store.Preparation) string { return images.Draw(t, "images") }
		host := func() string {
			if len(w.hosts) == 0 {
				return ""
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(w.hosts))).Draw(t, "host")
		}
		joined := len(w.hosts)
		t.Repeat(map[string]func(*rapid.T){
			"a host joins": func(t *rapid.T) {
				if len(w.hosts) < 8 {
					joined++
					h := w.join(fmt.Sprintf("host-%d", joined))
					w.connect(h.inst.ID, rapid.Bool().Draw(t, "connected"))
					if rapid.Bool().Draw(t, "prepares") {
						w.prepares(h.inst.ID)
					}
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
			"an attribute changes": func(t *rapid.T) {
				if id := host(); id != "" {
					w.setAttribute(id, rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "env"))
				}
			},
			"an instance is drained or activated": func(t *rapid.T) {
				if id := host(); id != "" {
					w.setStatus(id, rapid.SampledFrom([]string{active, draining}).Draw(t, "status"))
				}
			},
			"a task takes the room": func(t *rapid.T) {
				if id := host(); id != "" && w.host(id).Free.Memory >= 600 {
					w.tasks = append(w.tasks, &store.Task{Cluster: "c", ID: fmt.Sprint("other-", len(w.tasks)), Instance: id, Reserved: store.Resources{Memory: 600},
						Service: rapid.SampledFrom([]string{"", "web"}).Draw(t, "of"),
						Object:  types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}})
				}
			},
			"a task is stopped by a user": func(t *rapid.T) {
				if id := host(); id != "" {
					for _, l := range w.live(id) {
						if n := task.Stop(l, types.TaskStopCodeUserInitiated, "", w.now); n != nil {
							w.replace(n)
							return
						}
					}
				}
			},
			"an update": func(t *rapid.T) {
				w.now = w.now.Add(time.Millisecond)
				w.deploy(w.define(func(d *types.TaskDefinition) {
					kind := rapid.SampledFrom([]string{"good", "good", "failing", "slow", "large"}).Draw(t, "kind")
					revision := itoa(d.Revision)
					failing[revision], failing["slow "+revision] = kind == "failing", kind == "slow"
					if kind == "large" {
						d.ContainerDefinitions[0].Memory = aws.Int32(1000)
					}
				}))
			},
			"a replica makes room": func(*rapid.T) {
				for _, l := range w.tasks {
					if n := task.Stop(l, types.TaskStopCodeServiceSchedulerInitiated, "", w.now); l.MakesRoomFor != "" && n != nil {
						w.replace(n)
						return
					}
				}
			},
			"the agents report": func(*rapid.T) { w.report() },
			"time passes": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 10, 60, 600}).Draw(t, "seconds")) * time.Second)
			},
			"": func(*rapid.T) { w.checkedPass() },
		})

		// However it went: when all is well again, all arrive.
		w.agents, w.images = nil, always(store.PreparationReady)
		for id := range w.hosts {
			w.connect(id, true)
		}
		for _, l := range w.tasks {
			if l.Service != "agent" {
				if n := task.Stop(l, types.TaskStopCodeUserInitiated, "", w.now); n != nil {
					w.replace(n)
				}
			}
		}
		w.now = w.now.Add(time.Millisecond)
		minimum(0)(&w.svc.Object) // some percentages allow no update at all
		w.deploy(w.define())
		w.settle()
		w.after(time.Hour)
		for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
			h := w.hosts[id].inst
			want := *h.Object.Status == active && *h.Object.Attributes[0].Value == "prod"
			if own := w.own(id); (own != nil) != want || own != nil && (task.LastStatus(own) != task.Running || *own.Object.TaskDefinitionArn != *w.svc.Object.TaskDefinition) {
				t.Fatalf("it converges: %s (%s, env %s) does not run what it should; all run %s; the service is %s; events: %s", id, *h.Object.Status, *h.Object.Attributes[0].Value, w.running(), show(w.svc), w.history())
			}
		}
		if len(w.svc.Object.Deployments) != 1 || w.svc.SteadySince.IsZero() {
			t.Fatalf("it converges: the service is %s; events: %s", show(w.svc), w.history())
		}
	})
}

func TestACrashingImageNeverReachesTwoHostsOrThreeOnRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(2, 8).Draw(t, "hosts"))
		w.create(w.define(), minimum(rapid.SampledFrom([]int32{0, 25}).Draw(t, "minimum")), surging(rapid.SampledFrom([]string{"true", "false"}).Draw(t, "surge")))
		most := 1
		if rapid.Bool().Draw(t, "a second host") {
			most = 2
			tagged(policy.SecondHost, "true")(&w.svc.Object)
		}
		w.settle()
		w.after(time.Hour)
		w.deploy(w.define())
		w.agents = bad("2")
		ids := slices.Sorted(maps.Keys(w.hosts))
		reached := map[string]bool{} // by the crashing image
		check := func() {
			for _, l := range w.tasks {
				if revisionOf(l) == "2" {
					reached[l.Instance] = true
				}
			}
			if len(reached) > most {
				t.Fatalf("it holds at the failing wave: the crashing image reached %v; events: %s", slices.Sorted(maps.Keys(reached)), w.history())
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"a connection changes": func(t *rapid.T) {
				if id := rapid.SampledFrom(ids).Draw(t, "host"); true {
					w.connect(id, !w.hosts[id].connected)
				}
			},
			"an old task is slow to stop": func(t *rapid.T) {
				if own := w.own(rapid.SampledFrom(ids).Draw(t, "host")); own != nil && revisionOf(own) == "1" {
					w.stubborn[own.ID] = !w.stubborn[own.ID]
				}
			},
			"a task is stopped by a user": func(t *rapid.T) {
				if own := w.own(rapid.SampledFrom(ids).Draw(t, "host")); own != nil {
					if n := task.Stop(own, types.TaskStopCodeUserInitiated, "", w.now); n != nil {
						w.replace(n)
					}
				}
			},
			"a host joins": func(*rapid.T) {
				if len(w.hosts) < 10 {
					w.join(fmt.Sprintf("joined-%d", len(w.hosts)))
				}
			},
			"a replica makes room": func(*rapid.T) {
				for _, l := range w.tasks {
					if n := task.Stop(l, types.TaskStopCodeServiceSchedulerInitiated, "", w.now); l.MakesRoomFor != "" && n != nil {
						w.replace(n)
						return
					}
				}
			},
			"the agents report": func(*rapid.T) { w.report() },
			"time passes": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 10, 120, 600}).Draw(t, "seconds")) * time.Second)
			},
			"": func(*rapid.T) {
				w.checkedPass()
				check()
			},
		})
	})
}
