package poll

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestASessionThatIsWokenAfterTheEndGetsNoTurn(t *testing.T) {
	for range 200 {
		var c crew
		var turns, after atomic.Int64
		var closed atomic.Bool
		var wakers sync.WaitGroup
		for range 4 {
			s := &seat{crew: &c, turn: func() {
				turns.Add(1)
				if closed.Load() {
					after.Add(1)
				}
			}}
			wakers.Go(func() {
				for range 50 {
					s.wake()
				}
			})
		}
		c.close()
		closed.Store(true)
		wakers.Wait()
		if after.Load() > 0 {
			t.Fatalf("%d of %d turns were taken after the end", after.Load(), turns.Load())
		}
	}
}
