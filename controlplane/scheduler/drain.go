package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A drain empties a container instance, in this order:
//
//	tasks of REPLICA services    their service replaces them within its percentages, those that are protected when that ends
//	standalone tasks             are left alone, as on ECS, stopped at once, or after a time: longshore:drain-standalone
//	daemons                      when every other task is STOPPED
//
// and is over when every task is STOPPED, not when they were asked to. What it waits for is the instance's statusReason. At
// its deadline (longshore:drain-deadline) all that is left is stopped, protected or not, or the drain is abandoned and the
// instance is ACTIVE again (longshore:drain-at-deadline). The services do their own part; what is here is the rest.
type drain struct {
	host    *placement.Host
	policy  policy.Drain
	service func(name string) *store.Service
	now     time.Time
}

// drainPlan is what is to be done about a drain.
type drainPlan struct {
	stops    []*store.Task
	instance *store.Instance // the changed record; nil: it stays
	wake     time.Time       // when to look again though nothing changed; zero: never
}

// plan decides. It is pure.
func (d drain) plan() (p drainPlan) {
	inst := *d.host.Instance
	if inst.DrainingSince.IsZero() { // of an instance that was drained before this was recorded
		inst.DrainingSince = d.now
	}
	ended := false
	if d.policy.Deadline > 0 {
		deadline := inst.DrainingSince.Add(d.policy.Deadline)
		if ended = !deadline.After(d.now); !ended {
			p.wake = deadline
		}
	}
	tasks := slices.Clone(d.host.Tasks)
	switch {
	case ended && d.policy.Abandon && len(tasks) > 0:
		since := inst.DrainingSince
		inst.Object.Status, inst.DrainingSince = aws.String(active), time.Time{}
		inst.Object.StatusReason = aws.String(fmt.Sprintf("The drain that began at %s was abandoned at its deadline %s later: %s",
			since.UTC().Format(time.RFC3339), d.policy.Deadline, d.left(tasks, since)))
		inst.Object.Version++
		p.instance, p.wake = &inst, time.Time{}
		return p
	case ended:
		p.stops = d.stop(tasks, fmt.Sprintf("Container instance %s is draining, and its deadline of %s has passed", inst.ID, d.policy.Deadline), func(t *store.Task) bool { return !d.daemon(t) })
	case d.policy.Standalone >= 0:
		if at := inst.DrainingSince.Add(d.policy.Standalone); at.After(d.now) {
			p.wake = sooner(p.wake, at)
		} else {
			p.stops = d.stop(tasks, "Container instance "+inst.ID+" is draining", func(t *store.Task) bool { return t.Service == "" })
		}
	}
	reason := d.reason(&inst, tasks)
	if len(tasks) == 0 && strings.HasPrefix(aws.ToString(inst.Object.StatusReason), drained) {
		reason = *inst.Object.StatusReason
	}
	if aws.ToString(inst.Object.StatusReason) != reason || !inst.DrainingSince.Equal(d.host.Instance.DrainingSince) {
		inst.Object.StatusReason = aws.String(reason)
		inst.Object.Version++
		p.instance = &inst
	}
	return p
}

// drained is how the statusReason of an instance begins on which every task is STOPPED.
const drained = "Drained: "

// stop stops those of the tasks that are chosen, and puts the changed ones into tasks.
func (d drain) stop(tasks []*store.Task, reason string, chosen func(*store.Task) bool) (stops []*store.Task) {
	for i, t := range tasks {
		if !chosen(t) {
			continue
		}
		code := types.TaskStopCodeServiceSchedulerInitiated
		if t.Service == "" {
			code = types.TaskStopCodeUserInitiated
		}
		if n := task.Stop(t, code, reason, d.now); n != nil {
			tasks[i] = n
			stops = append(stops, n)
		}
	}
	return stops
}

func (d drain) daemon(t *store.Task) bool {
	if t.Service == "" {
		return false
	}
	svc := d.service(t.Service)
	return svc != nil && svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
}

// reason is the statusReason: what the drain waits for, and why.
func (d drain) reason(inst *store.Instance, tasks []*store.Task) string {
	if len(tasks) == 0 {
		return fmt.Sprintf("%severy task is STOPPED since %s. The instance takes no tasks until it is ACTIVE again.", drained, d.now.UTC().Format(time.RFC3339))
	}
	reason := "Draining since " + inst.DrainingSince.UTC().Format(time.RFC3339) + ": " + d.left(tasks, inst.DrainingSince)
	if !d.host.Connected {
		reason += " Its agent is not connected: nothing is known to be STOPPED there before it is back, or the instance is given up."
	}
	if d.policy.Deadline > 0 {
		then := "what is left is stopped"
		if d.policy.Abandon {
			then = "the drain is abandoned"
		}
		reason += fmt.Sprintf(" At %s %s.", inst.DrainingSince.Add(d.policy.Deadline).UTC().Format(time.RFC3339), then)
	}
	return reason
}

// left tells which tasks are left and what each waits for.
func (d drain) left(tasks []*store.Task, since time.Time) string {
	type group struct{ service, wait string }
	counts := map[group]int{}
	var order []group
	others := slices.ContainsFunc(tasks, func(t *store.Task) bool { return !d.daemon(t) })
	for _, t := range tasks {
		g := group{t.Service, d.waitsFor(t, since, others)}
		if counts[g]++; counts[g] == 1 {
			order = append(order, g)
		}
	}
	slices.SortFunc(order, func(a, b group) int { return strings.Compare(a.service+"\x00"+a.wait, b.service+"\x00"+b.wait) })
	var parts []string
	for _, g := range order {
		of := "of no service"
		if g.service != "" {
			of = "of service " + g.service
		}
		parts = append(parts, fmt.Sprintf("%d %s (%s)", counts[g], of, g.wait))
	}
	noun := "tasks are"
	if len(tasks) == 1 {
		noun = "task is"
	}
	return fmt.Sprintf("%d %s left: %s.", len(tasks), noun, strings.Join(parts, ", "))
}

// waitsFor is what a task there waits for; others is whether there are tasks that are no daemons.
func (d drain) waitsFor(t *store.Task, since time.Time, others bool) string {
	switch {
	case !task.Wanted(t):
		return "being stopped"
	case d.daemon(t) && others:
		return "a daemon, stopped when every other task is STOPPED"
	case d.daemon(t):
		return "a daemon, stopped next"
	case t.Service == "" && d.policy.Standalone < 0:
		return "waited for: stop it, or set the tag " + policy.DrainStandalone
	case t.Service == "":
		return "stopped at " + since.Add(d.policy.Standalone).UTC().Format(time.RFC3339)
	case task.Protected(t, d.now):
		return "protected from scale-in until " + t.ProtectedUntil.UTC().Format(time.RFC3339)
	}
	svc := d.service(t.Service)
	if svc == nil || svc.Object.DeploymentConfiguration == nil {
		return "to be replaced"
	}
	c := svc.Object.DeploymentConfiguration
	least, most := aws.ToInt32(c.MinimumHealthyPercent), aws.ToInt32(c.MaximumPercent)
	wait := fmt.Sprintf("to be replaced within minimumHealthyPercent %d and maximumPercent %d", least, most)
	if least >= 100 && most <= 100 {
		wait += ", which allow nothing: lower the one or raise the other"
	}
	return wait
}

// drainAll looks at the instances that are being drained, and says when one of them is due next.
func (w *worker) drainAll(ctx context.Context) (next time.Time) {
	ids := make([]string, 0, len(w.drains))
	for id := range w.drains {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		next = sooner(next, w.drainOne(ctx, id))
	}
	return next
}

func (w *worker) drainOne(ctx context.Context, id string) time.Time {
	h := w.hosts[id]
	if h == nil {
		delete(w.drains, id)
		return time.Time{}
	}
	var p drainPlan
	txn := w.s.cfg.Store.Txn().Guard(w.lead).StateChange()
	w.s.cfg.Store.Peek(func(v *store.View) {
		d := drain{host: h, now: w.cfg.Now(), service: func(name string) *store.Service { return v.Service(w.cluster, name) }}
		if c := v.Cluster(w.cluster); c != nil {
			d.policy = policy.Draining(c.Object.Tags, h.Instance.Object.Tags)
		}
		p = d.plan()
		p.stops = p.stops[:min(len(p.stops), mostStops)]
		if len(p.stops) == mostStops { // the rest follows
			p.wake = d.now
		}
		for _, t := range p.stops {
			txn.Update(t)
		}
		if p.instance != nil {
			txn.Update(p.instance)
		} else {
			txn.Unchanged(h.Instance)
		}
	})
	if len(p.stops) == 0 && p.instance == nil {
		return p.wake
	}
	if err := w.commit(ctx, txn); err != nil {
		w.marks.add(false, "", id)
		return w.again(ctx, id, "go on with the drain of a container instance", err)
	}
	for _, t := range p.stops {
		w.log.Info("stopping a task of an instance that is drained", zap.String("task", aws.ToString(t.Object.TaskArn)), zap.String("instance", id), zap.String("reason", aws.ToString(t.Object.StoppedReason)))
	}
	if p.instance != nil {
		w.log.Info("a drain goes on", zap.String("instance", id), zap.String("status", aws.ToString(p.instance.Object.Status)), zap.String("reason", aws.ToString(p.instance.Object.StatusReason)))
	}
	w.s.cfg.Store.Peek(func(v *store.View) { w.readHost(v, id) })
	w.marks.add(false, "", id)
	return p.wake
}
