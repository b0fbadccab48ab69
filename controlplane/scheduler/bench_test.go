package scheduler

import (
	"fmt"
	"maps"
	"testing"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// BenchmarkPass is a look at a steady service of 1000 instances, after a change on one of them.
func BenchmarkPass(b *testing.B) {
	w := newWorld(b, 1000)
	w.create(w.define(), constrained("attribute:env==prod"))
	w.settle()
	s := w.snapshot()
	b.ReportAllocs()
	for b.Loop() {
		s.hosts[500] = w.host(s.hosts[500].Instance.ID)
		if !reconcile(s, &w.cfg).empty() {
			b.Fatal("the service is not steady")
		}
	}
}

// BenchmarkPassOfARollout is a look at a service in the midst of a roll-out, after a change on one of its instances: at all of
// them, and at what does not rest.
func BenchmarkPassOfARollout(b *testing.B) {
	for _, hosts := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) { benchmarkRollout(b, hosts) })
	}
}

func benchmarkRollout(b *testing.B, hosts int) {
	w := newWorld(b, hosts)
	w.create(w.define(), constrained("attribute:env==prod"))
	started := func() {
		p := reconcile(w.snapshot(), &w.cfg)
		for _, st := range p.starts {
			t, _ := task.Apply(st.task, task.StateChange{Status: task.Running}, w.now)
			w.tasks = append(w.tasks, t)
		}
		w.svc = p.service
	}
	started()
	w.svc = reconcile(w.snapshot(), &w.cfg).service
	w.deploy(w.define())
	// Half of the instances run the new task, one of 200 is in the wave that is under way, the others keep the old one.
	rollout := store.Rollout{Wave: 12}
	for i, t := range w.tasks {
		if i >= hosts/2+hosts/200 {
			break
		}
		n := *t
		n.Deployment, n.Object.TaskDefinitionArn = *w.svc.Object.Deployments[0].Id, w.svc.Object.TaskDefinition
		if i >= hosts/2 {
			n.Object.LastStatus = new(task.Pending)
		}
		w.tasks[i] = &n
		rollout.Instances = append(rollout.Instances, t.Instance)
	}
	w.svc.Rollouts = map[string]store.Rollout{*w.svc.Object.Deployments[0].Id: rollout}
	if p := reconcile(w.snapshot(), &w.cfg); p.service != nil {
		w.svc = p.service
	}
	s := w.snapshot()
	look := func(b *testing.B, s snapshot) *plan {
		p := reconcile(s, &w.cfg)
		if !p.empty() || p.more > 0 || p.all {
			b.Fatalf("there is something to do: %d stops, %d starts, %q, %s", len(p.stops), len(p.starts), p.events, show(p.service))
		}
		return p
	}
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			look(b, s)
		}
	})
	b.Run("changed", func(b *testing.B) {
		r := newRests(shape(s.service))
		byID := map[string]*placement.Host{}
		on := map[string]*store.Task{}
		for _, h := range s.hosts {
			r.awake[h.Instance.ID], byID[h.Instance.ID] = true, h
		}
		for _, t := range s.tasks {
			on[t.Instance] = t
		}
		r.settle(look(b, s).rests)
		if len(r.awake) > 0 {
			b.Fatalf("%d places are awake", len(r.awake))
		}
		changed := s.tasks[hosts/2].Instance
		b.ReportAllocs()
		for b.Loop() {
			r.rouse(changed)
			part := s
			part.hosts, part.tasks = nil, nil
			r.leaveOut(&part, func(id string) bool { return byID[id] != nil })
			for id := range maps.Keys(r.awake) {
				part.hosts, part.tasks = append(part.hosts, byID[id]), append(part.tasks, on[id])
			}
			r.settle(look(b, part).rests)
		}
	})
}
