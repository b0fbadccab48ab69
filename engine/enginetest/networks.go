package enginetest

import (
	"sync"

	"github.com/longshore-project/longshore/engine"
)

// Networks is an [engine.Networks] in memory. What is wrong with the namespaces is what [Networks.Be] said last; they are
// right at first.
type Networks struct {
	mu       sync.Mutex
	looked   func(taskArn, owner string, changed []string, problem error)
	problem  error
	wanted   map[string]engine.Namespace // by task ARN
	right    map[string]string           // by task ARN: the owner whose namespace was right once
	released map[string]int
}

// NewNetworks makes one. [Networks.Serve] says for which engine.
func NewNetworks() *Networks {
	return &Networks{wanted: map[string]engine.Namespace{}, right: map[string]string{}, released: map[string]int{}}
}

// Serve begins anew, for an engine that was just made: what was wanted before is not known any more.
func (n *Networks) Serve(e *engine.Engine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.looked = e.NetworkLooked
	clear(n.wanted)
}

// Want keeps a namespace.
func (n *Networks) Want(ns engine.Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted[ns.Task.Arn] = ns
	n.tell(ns, "eth0")
}

// tell has the mutex.
func (n *Networks) tell(ns engine.Namespace, changed ...string) {
	if n.problem == nil {
		n.right[ns.Task.Arn] = ns.Owner
		n.looked(ns.Task.Arn, ns.Owner, changed, nil)
		return
	}
	n.looked(ns.Task.Arn, ns.Owner, nil, n.problem)
}

// Release forgets a namespace.
func (n *Networks) Release(taskArn string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.wanted, taskArn)
	n.released[taskArn]++
}

// Be says what is wrong with all namespaces from now on; nil: nothing.
func (n *Networks) Be(problem error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.problem = problem
	for _, ns := range n.wanted {
		n.tell(ns)
	}
}

// Wanted is the namespace that is kept for a task.
func (n *Networks) Wanted(taskArn string) (engine.Namespace, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ns, ok := n.wanted[taskArn]
	return ns, ok
}

// WasRight names the run of the pause container whose namespace was right last; empty: none was.
func (n *Networks) WasRight(taskArn string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.right[taskArn]
}

// Released counts how often the end of a task was told.
func (n *Networks) Released(taskArn string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.released[taskArn]
}
