package engine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// A task in the network mode awsvpc has a network namespace of its own, which its network pause container owns and all others
// join. The pause container is started first, in a namespace without a network. Then [Networks] is told what that namespace is
// to be; it makes it so, keeps it so as long as the container runs, and tells how it stands ([Engine.NetworkLooked]). Only once
// it is right are the others started. What keeps it from being right is waited for while the task starts, for a bounded time; a task
// that runs goes on, and says what its network lacks until it is right again.

// Networks makes and keeps the network namespaces of tasks (agent wires netns to it). Neither method waits for anything.
type Networks interface {
	// Want says what a namespace is to be from now on. It is said once for each run of a pause container in each life of the
	// agent; [Engine.NetworkLooked] is told of what follows, at least once.
	Want(n Namespace)
	// Release says that no process of a task is left: what the host holds for it goes. It may be said again, and of a task of
	// which nothing was wanted.
	Release(taskArn string)
}

// Namespace is a task's network namespace.
type Namespace struct {
	Task  *acs.Task // as accepted; of a task that was rebuilt from labels the interfaces are there, too
	Owner string    // names the run of the pause container that owns it
	Pid   int       // of its process
}

// NetworkObserved is what is known of the namespace of a task.
type NetworkObserved struct {
	Owner   string    // the run for which a namespace was wanted; empty: none
	Right   bool      // it was as it should be at the last look
	Problem error     // why it was not
	Since   time.Time // of the first of the looks in a row that found a problem
}

// noNetworks is where there are none.
type noNetworks struct{ e *Engine }

func (n noNetworks) Want(ns Namespace) {
	n.e.NetworkLooked(ns.Task.Arn, ns.Owner, nil, fmt.Errorf("this agent makes no task networks on this host: %w", errdefs.ErrNotImplemented))
}
func (noNetworks) Release(string) {}

// ownerOf names one run of a container.
func ownerOf(st *State) string { return st.ID + " " + st.StartedAt.UTC().Format(time.RFC3339Nano) }

// networkOwner is the running container that owns the task's namespace; nil if there is none, or it is to be looked at first.
func (v *view) networkOwner() *State {
	cr, co := v.rec.container(networkPause), v.obs.of(networkPause)
	if cr == nil || cr.Final != nil || !co.alive() || co.Stale || co.State.Pid == 0 {
		return nil
	}
	return co.State
}

// networkRight reports whether the namespace of the present run is as it should be.
func (v *view) networkRight() bool {
	st := v.networkOwner()
	return st != nil && v.obs.Network.Right && v.obs.Network.Owner == ownerOf(st)
}

// network has the task's namespace kept as it should be.
func (p *planning) network() {
	st := p.networkOwner()
	switch n := &p.obs.Network; {
	case st == nil:
	case n.Owner != ownerOf(st):
		p.Actions = append(p.Actions, Action{Verb: VerbNet, Container: networkPause})
	case n.Problem != nil:
		p.wait("the task's network: " + n.Problem.Error())
		if !p.begun() {
			p.wakeAt(n.Since.Add(p.set.NetworkTimeout))
		}
	}
}

// networkFault is why a task's network can't be waited for any longer; empty if it can, and of a task that has begun to run.
func (v *view) networkFault(c *Container) string {
	n := &v.obs.Network
	switch {
	case c.Name != networkPause || n.Problem == nil || v.begun():
		return ""
	case errdefs.IsInvalidArgument(n.Problem) || errdefs.IsNotImplemented(n.Problem):
		return "ResourceInitializationError: the task's network can't be made: " + n.Problem.Error()
	case v.now.Before(n.Since.Add(v.set.NetworkTimeout)):
		return ""
	}
	return fmt.Sprintf("ResourceInitializationError: the task's network could not be made within %s: %v", v.set.NetworkTimeout, n.Problem)
}

// begun reports whether one of the definition's containers was started, or is about to be.
func (v *view) begun() bool {
	return slices.ContainsFunc(v.rec.Containers, func(cr *ContainerRecord) bool {
		return !Internal(cr.Name) && (cr.Intent != nil || !cr.StartedAt.IsZero())
	})
}

// wantNetwork says what the namespace of the pause container is to be.
func (w *worker) wantNetwork(st *State) {
	w.obs.Network = NetworkObserved{Owner: ownerOf(st)}
	failpoint.Hit("engine/network-before")
	w.e.cfg.Networks.Want(Namespace{Task: w.task.payload, Owner: ownerOf(st), Pid: st.Pid})
	failpoint.Hit("engine/network-after")
}

// NetworkLooked says how the namespace of a task stands, by the Owner for which it was wanted: what was made right in it, and
// why it is not what it should be; nil: it is. An error of the class InvalidArgument or NotImplemented is final, every other one is a state
// that may pass, and its text names it. It returns at once.
func (e *Engine) NetworkLooked(taskArn, owner string, changed []string, problem error) {
	if w := e.worker(taskArn); w != nil {
		at := time.Now()
		w.note(func(w *worker) { w.networkLooked(owner, changed, problem, at) })
	}
}

func (w *worker) networkLooked(owner string, changed []string, problem error, at time.Time) {
	was := w.obs.Network
	if was.Owner != owner { // the run is over
		return
	}
	step := func(outcome, text string) {
		if len(changed) > 0 {
			text += ": " + strings.Join(changed, ", ")
		}
		w.timeline.note("", string(VerbNet), outcome, text, at)
	}
	n := NetworkObserved{Owner: owner, Right: problem == nil, Problem: problem, Since: at}
	switch {
	case problem != nil:
		if was.Problem != nil {
			n.Since = was.Since
		}
		if was.Problem == nil || was.Problem.Error() != problem.Error() {
			w.timeline.note("", string(VerbNet), OutcomeWarning, problem.Error(), at)
		}
	case !was.Right:
		step(OutcomeDone, "the task's network is right")
	case len(changed) > 0:
		step(OutcomeDone, "the task's network was made right")
	}
	w.obs.Network = n
}
