// Package watchdog tells systemd that a process is alive, for as long as each of its main loops goes round.
//
// A loop has a [Pulse], and beats it each time round. [Run] looks at all of them, a few times in each of systemd's
// intervals (WATCHDOG_USEC), and feeds the watchdog only if none is older than it may be. A loop that hangs is named in the
// log; systemd then ends the process with SIGABRT, which has the runtime write down what every goroutine waits for, and starts it
// again. Containers have no part in that. What is outside, an engine or a control plane that does not answer, never stops a
// pulse: every call that a loop waits for has a deadline, and the loop goes on.
package watchdog

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Pulse is the life of one loop. It is safe for concurrent use.
type Pulse struct {
	name string
	most time.Duration
	last atomic.Pointer[time.Time]
}

// NewPulse makes the pulse of a loop that goes round at least every most, as long as it is well. It has just beaten.
func NewPulse(name string, most time.Duration) *Pulse {
	p := &Pulse{name: name, most: most}
	p.Beat()
	return p
}

// Beat says that the loop went round.
func (p *Pulse) Beat() {
	now := time.Now()
	p.last.Store(&now)
}

// quiet is for how long the loop has not gone round.
func (p *Pulse) quiet() time.Duration { return time.Since(*p.last.Load()) }

// looks are how many times in an interval the pulses are felt.
const looks = 4

// Run feeds the watchdog, whose interval is every, until ctx ends. With an interval of zero systemd does not watch, and it
// returns at once. feed tells systemd.
func Run(ctx context.Context, every time.Duration, feed func(), log *zap.Logger, pulses ...*Pulse) {
	if every <= 0 {
		return
	}
	ticker := time.NewTicker(every / looks)
	defer ticker.Stop()
	said := map[*Pulse]bool{}
	for {
		well := true
		for _, p := range pulses {
			hangs := p.quiet() > p.most
			if hangs && !said[p] {
				log.Error("a main loop hangs; systemd will end this process and start it again, containers stay as they are", zap.String("loop", p.name), zap.Duration("quiet", p.quiet()), zap.Duration("most", p.most))
			}
			said[p] = hangs
			well = well && !hangs
		}
		if well {
			feed()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
