package netns

import (
	"context"
)

// Host is the host's side of tasks' networks. Its methods may be called at once for different tasks; those for one task must
// follow each other, which [Keeper] sees to.
type Host struct {
	// Namespace is the file descriptor of the host's network namespace; 0 is the own one.
	Namespace int
}

// EnsureTask makes the task's namespace what t says, and says what it had to change, in words for the log: nothing when all
// was as it should be. It may be repeated at any time, also after a crash in the middle. An error is a [Fault] where its cause
// has a name; what could be done in spite of it is done, but an interface is never up before its security groups hold.
//
// New addresses on [Bridged] and [Macvlan] interfaces are asked for on the network before they are used, which takes probeWait.
func (h Host) EnsureTask(ctx context.Context, t Task) (changed []string, err error) {
	panic("skeleton")
}

// RemoveTask takes away what the task has on the host, and says what that was. Of t it needs the ID, and the Namespace as long as it lives:
// cards are moved back from there. Removing what is not there does nothing. It takes tens of milliseconds of the kernel's:
// nobody should wait for it.
func (h Host) RemoveTask(ctx context.Context, t Task) (removed []string, err error) {
	panic("skeleton")
}

// Held is something on the host that is there for a task.
type Held struct {
	Task string // its id; empty for what a crash left before it could be written on it
	Link string // the interface's name
}

// Listed is what is on the host for tasks, whoever remembers them. Bridges are not: they are there for all.
func (h Host) Listed() ([]Held, error) {
	panic("skeleton")
}

// Sweep removes what is on the host for tasks that are not in keep, and says what that was: what crashes and lost state have left.
func (h Host) Sweep(ctx context.Context, keep []string) (removed []string, err error) {
	panic("skeleton")
}
