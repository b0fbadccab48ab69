package enginetest

import (
	"errors"

	"github.com/longshore-project/longshore/engine"
)

// Kernel shows the processes of a Fake's containers as the host's kernel would, whatever the engine says: it is an engine.Processes.
type Kernel struct {
	*Fake
	// Immortal processes do not end at SIGKILL, as when they wait for a disk. Set it before the first call.
	Immortal bool
	// Foreign processes are another host's: this one's kernel does not show them. Set it before the first call.
	Foreign bool
}

var _ engine.Processes = Kernel{}

// Has reports whether pid is the process of a container.
func (k Kernel) Has(id string, pid int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.containers[id]
	return !k.Foreign && c != nil && c.state.Status == engine.StatusRunning && !c.lost && c.state.Pid == pid
}

// Of returns the process of a container.
func (k Kernel) Of(id string) ([]int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.containers[id]; !k.Foreign && c != nil && c.state.Status == engine.StatusRunning && !c.lost {
		return []int{c.state.Pid}, nil
	}
	return nil, nil
}

// Kill ends the process of a container.
func (k Kernel) Kill(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls["kernel's Kill"]++
	if k.Foreign {
		return errors.New("no such process")
	}
	if c := k.containers[id]; c != nil && !k.Immortal {
		k.end(c, 137, false)
	}
	return nil
}

// Deaf makes the engine miss the end of processes from now on: it goes on showing them as running. When it is not deaf any more
// it notices what it has missed.
func (f *Fake) Deaf(deaf bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = deaf
	for _, c := range f.containers {
		if c.lost && !deaf {
			f.end(c, 137, false)
		}
	}
}
