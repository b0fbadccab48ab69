package collector

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatABusyTimeLeftIsCollectedWhenItIsOver(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		is   heap
		was  uint64
		want bool
	}{
		"busy":                      {heap{200 * mib, 900 * mib, 5000 * mib}, 4000 * mib, false},
		"over":                      {heap{200 * mib, 900 * mib, 5000 * mib}, 4990 * mib, true},
		"over, and little was left": {heap{200 * mib, 400 * mib, 5000 * mib}, 4990 * mib, false},
		"small":                     {heap{2 * mib, 30 * mib, 50 * mib}, 49 * mib, false},
	} {
		if got := c.is.leftover(heap{allocated: c.was}); got != c.want {
			t.Errorf("%s: %t, not %t", name, got, c.want)
		}
	}
}

// garbage is where it is made, so that the compiler can't leave it out.
var garbage []byte

func TestWhatIsLeftIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); govern(ctx, 20*time.Millisecond) }()
	defer func() { cancel(); <-done }()
	runtime.GC()
	for range 10 {
		garbage = make([]byte, 16<<20)
	}
	garbage = nil
	deadline := time.After(time.Minute)
	for read().held > 64<<20 {
		select {
		case <-deadline:
			t.Fatalf("after a minute at rest the heap has %d MiB, of which %d live", read().held>>20, read().live>>20)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestWhoSetsGOGCIsObeyed(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off")
	t.Setenv("GOGC", "70")
	defer debug.SetGCPercent(debug.SetGCPercent(70))
	Govern(t.Context(), zap.NewNop()) // returns at once
	if got := debug.SetGCPercent(70); got != 70 {
		t.Errorf("GOGC is %d", got)
	}
}
