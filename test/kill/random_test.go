package kill

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestKillsAtRandomInstantsLeaveEachTaskRunOnce kills the agent, the control plane, or both while a task comes and goes.
// KILL_ROUNDS says how often; the seed of a run is in its log.
func TestKillsAtRandomInstantsLeaveEachTaskRunOnce(t *testing.T) {
	t.Parallel()
	rounds := 10
	if v := os.Getenv("KILL_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("KILL_ROUNDS=%q is not a number of rounds", v)
		}
		rounds = n
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "rn", 99)
	w.define("daemon", 1)
	w.startAgent()
	bystander := w.daemon("bystander")
	w.running(bystander)
	clean := w.agentWalk()

	kills := 0
	for i := range rounds {
		w.round(t, "round "+strconv.Itoa(i), func() {
			if !w.agent.alive() {
				w.startAgent()
			}
			first := random.IntN(3) // the agent, the control plane, both
			if first != 1 {
				defer w.killAfter(w.agent, time.Duration(random.Int64N(int64(500*time.Millisecond))))()
			}
			if first != 0 {
				defer w.killAfter(w.control, time.Duration(random.Int64N(int64(500*time.Millisecond))))()
			}
			s := w.run("serving")
			ran := random.IntN(4) > 0
			if ran {
				w.await(s, "RUNNING")
				w.running(s)
			}
			w.stop(s)
			w.await(s, "STOPPED")
			w.judge(s, ran)
			if ran && s.last.Version != clean.last.Version {
				w.t.Errorf("the control plane recorded %d changes, and undisturbed %d; seen: %v", s.last.Version, clean.last.Version, s.statuses)
			}
			w.running(bystander)
			kills += w.kills
		})
	}
	w.nothingLeft(bystander)
	if n := len(w.events.of(bystander.arn, "die", "kill", "stop", "restart")); n != 0 {
		t.Errorf("the container beside was touched %d times", n)
	}
	t.Logf("%d kills in %d rounds", kills, rounds)
}

// killAfter kills a process after a while. The function that it returns keeps it from doing so later.
func (w *world) killAfter(p *process, delay time.Duration) (disarm func()) {
	pid := p.cmd.Process.Pid
	if p == w.agent {
		for pid = child(p.cmd.Process.Pid); pid == 0 && p.alive(); pid = child(p.cmd.Process.Pid) {
		}
	}
	timer := time.AfterFunc(delay, func() {
		if pid != 0 && p.alive() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return func() { timer.Stop() }
}
