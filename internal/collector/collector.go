// Package collector says how hard Go's garbage collector works in a process that rests for long and is now and then very busy.
//
// While it is busy the heap may grow to five times what is alive (GOGC=400), which takes a quarter of the time that Go's own
// setting does. When it rests again, what the busy time left behind is collected and given back to the system, as soon as it
// is more than what is alive: at rest the process is not larger than it would be with Go's own setting.
//
// The limit keeps that from the system's own: from 80 % of the memory that the control group or the machine allows on, the
// collector works as hard as it takes. GOGC and GOMEMLIMIT, where they are set, are obeyed instead.
package collector

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/zap"
)

const (
	busyPercent = 400
	ofMemory    = 0.8
	period      = 2 * time.Second
	// floor is what is not worth a collection.
	floor = 32 << 20
)

// Govern sets the collector up, and goes on until ctx ends.
func Govern(ctx context.Context, log *zap.Logger) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		provider := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)
		if _, err := memlimit.Set(memlimit.WithProvider(provider), memlimit.WithRatio(ofMemory)); err != nil {
			log.Warn("how much memory there is can't be told: the collector has no limit; set GOMEMLIMIT", zap.Error(err))
		}
	}
	if _, set := os.LookupEnv("GOGC"); set {
		return
	}
	govern(ctx, period)
}

func govern(ctx context.Context, period time.Duration) {
	debug.SetGCPercent(busyPercent)
	tick := time.NewTicker(period)
	defer tick.Stop()
	for was := read(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		is := read()
		if is.leftover(was) {
			debug.FreeOSMemory()
			is = read()
		}
		was = is
	}
}

// heap is what is known of it at a moment, in bytes.
type heap struct {
	live      uint64 // when it was last collected
	held      uint64 // what is alive, what nobody has collected yet, and what is free but not given back
	allocated uint64 // since the start
}

func read() heap {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return heap{live: s[0].Value.Uint64(), held: s[1].Value.Uint64() + s[2].Value.Uint64(), allocated: s[3].Value.Uint64()}
}

// leftover tells whether a busy time is over that has left more behind than what is alive.
func (h heap) leftover(before heap) bool {
	return h.held > 2*h.live+floor && h.allocated-before.allocated < h.live/8+floor
}
