package engine

import (
	"fmt"
	"strings"
	"sync"
)

// unanswered keeps which containers the engine gives no answers about although it answers others. That is a trouble of the engine
// which it seldom gets out of by itself, and which no list shows; it impairs the instance.
type unanswered struct {
	mu    sync.Mutex
	calls map[string]string // what was not answered, by task and container
}

// set notes that a verb got no answer, or with an empty one that the engine answers about the container.
func (u *unanswered) set(h *health, task, container string, verb Verb) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := task + " " + container
	if _, known := u.calls[key]; !known && verb == "" {
		return
	}
	delete(u.calls, key)
	if verb != "" {
		if u.calls == nil {
			u.calls = map[string]string{}
		}
		u.calls[key] = fmt.Sprintf("%s of container %s of task %s", verb, container, task)
	}
	h.set("calls", u.cause())
}

// forget drops what concerns a task.
func (u *unanswered) forget(h *health, task string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.calls)
	for key := range u.calls {
		if strings.HasPrefix(key, task+" ") {
			delete(u.calls, key)
		}
	}
	if len(u.calls) != n {
		h.set("calls", u.cause())
	}
}

func (u *unanswered) cause() string {
	if len(u.calls) == 0 {
		return ""
	}
	return fmt.Sprintf("the container engine answers, but not what concerns %d containers, such as the %s; if that goes on it hangs in itself, and only "+
		"its restart helps (with live-restore containers run on)", len(u.calls), u.calls[sortedKeys(u.calls)[0]])
}
