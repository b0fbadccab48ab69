package docker

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestThoseWhoAskTheSameAtTheSameTimeShareTheNextRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared[time.Time]
		calls := 0
		ask := func(context.Context) (time.Time, error) {
			calls++
			began := time.Now()
			<-time.After(time.Second)
			return began, nil
		}
		var all sync.WaitGroup
		for i := range 50 {
			all.Go(func() {
				<-time.After(time.Duration(i) * 10 * time.Millisecond)
				asked := time.Now()
				if began, err := s.do(t.Context(), "x", ask); err != nil || began.Before(asked) {
					t.Errorf("asked at %s, answered as of %s, %v", asked, began, err)
				}
			})
		}
		all.Wait()
		if calls != 2 || len(s.asked) != 0 {
			t.Errorf("%d requests, %d left", calls, len(s.asked))
		}
	})
}

func TestWhoeverGivesUpTakesNobodyElseAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared[int]
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		hung := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		go func() { _, _ = s.do(ctx, "x", hung) }()
		synctest.Wait()
		short, end := context.WithTimeout(t.Context(), time.Millisecond)
		defer end()
		if _, err := s.do(short, "x", hung); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n, err := s.do(t.Context(), "x", func(context.Context) (int, error) { return 7, nil }); n != 7 || err != nil {
			t.Error(n, err)
		}
	})
}
