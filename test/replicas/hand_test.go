package replicas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// hand is what goes wrong: one thing after the other, some at the same time, each for a while.
type hand struct {
	w      *world
	agents []*agent
	random *rand.Rand
	did    map[string]int
	undo   []undo
}

type undo struct {
	at time.Time
	do func()
}

// run goes on until ctx ends, and then takes everything back.
func (h *hand) run(ctx context.Context, pause time.Duration) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	next := time.Now().Add(pause)
	for {
		select {
		case <-ctx.Done():
			for _, u := range h.undo {
				u.do()
			}
			h.undo = nil
			return
		case <-tick.C:
		}
		now := time.Now()
		var later []undo
		for _, u := range h.undo {
			if now.After(u.at) {
				u.do()
			} else {
				later = append(later, u)
			}
		}
		h.undo = later
		for _, n := range h.w.controls {
			if n.exited() {
				h.count("start without etcd")
				n.begin()
			}
		}
		if now.After(next) {
			h.act()
			next = now.Add(pause/2 + time.Duration(h.random.Int64N(int64(pause))))
		}
	}
}

func (h *hand) in(least, most time.Duration, do func()) {
	h.undo = append(h.undo, undo{time.Now().Add(least + time.Duration(h.random.Int64N(int64(most-least)))), do})
}

// act does one thing.
func (h *hand) act() {
	all := append(append([]*node{}, h.w.controls...), h.w.members...)
	n := all[h.random.IntN(len(all))]
	switch what := h.random.IntN(12); {
	case what < 4:
		h.kill(n)
	case what < 5:
		h.suspend(n)
	case what < 9:
		other := all[h.random.IntN(len(all))]
		if n == other || n.name[0] == 'c' && other.name[0] == 'c' { // control planes have nothing to do with each other
			h.sever(n, hubIP, "clients")
			return
		}
		h.sever(n, other.ip, other.name[:1])
	case what < 10:
		a := h.agents[h.random.IntN(len(h.agents))]
		h.count("cut of an agent")
		h.in(time.Second, 5*time.Second, a.balancer.freeze())
	default:
		h.count("agent started anew")
		h.agents[h.random.IntN(len(h.agents))].restart()
	}
}

func (h *hand) count(what string) { h.did[what]++ }

// kill ends a process, which is started again after a while.
func (h *hand) kill(n *node) {
	if !n.alive() {
		return
	}
	h.count("kill of a " + n.name[:1])
	_ = n.cmd.Process.Signal(syscall.SIGCONT)
	n.kill()
	h.in(50*time.Millisecond, 3*time.Second, func() {
		if !n.alive() {
			n.begin()
		}
	})
}

// suspend has a process see nothing of the world for a while: what it then does it decides on what is over.
func (h *hand) suspend(n *node) {
	if !n.alive() {
		return
	}
	h.count("suspension of a " + n.name[:1])
	process := n.cmd.Process
	_ = process.Signal(syscall.SIGSTOP)
	h.in(500*time.Millisecond, 8*time.Second, func() { _ = process.Signal(syscall.SIGCONT) })
}

func (h *hand) sever(n *node, from, what string) {
	h.count(fmt.Sprintf("cut of a %s from %s", n.name[:1], what))
	h.w.cut(n.ip, from)
	h.in(200*time.Millisecond, 8*time.Second, func() { h.w.heal(n.ip) })
}
