package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func places(l *lane) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.free
}

func TestALaneLetsThoseInAHurryPassFirstAndTheOthersInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1)
		leave, err := l.enter(t.Context(), false, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		var all sync.WaitGroup
		for i, name := range []string{"a", "b", "hurried", "gives up", "c"} {
			all.Go(func() {
				<-time.After(time.Duration(i) * time.Second)
				ctx := t.Context()
				if name == "gives up" {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second)
					defer cancel()
				}
				leave, err := l.enter(ctx, name == "hurried" || name == "gives up", time.Hour)
				if err != nil {
					return
				}
				order = append(order, name)
				leave()
				leave() // twice is once
			})
		}
		<-time.After(10 * time.Second)
		leave()
		all.Wait()
		if got := strings.Join(order, " "); got != "hurried a b c" || places(l) != 1 {
			t.Errorf("%s, %d free", got, places(l))
		}
	})
}

func TestAPlaceInALaneIsLostToOthersAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(2)
		var entered []string
		for i := range 4 {
			leave, err := l.enter(t.Context(), false, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			defer leave()
			entered = append(entered, fmt.Sprint(i, time.Now().Format(" 04:05")))
		}
		if want := []string{"0 00:00", "1 00:00", "2 01:00", "3 01:00"}; !slices.Equal(entered, want) {
			t.Error(entered)
		}
		<-time.After(time.Hour)
		if places(l) != 2 {
			t.Errorf("%d free", places(l))
		}
	})
}

func TestAPlaceThatComesAsItsHolderGivesUpIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1)
		leave, _ := l.enter(t.Context(), false, time.Hour)
		place := l.queue(false)
		leave() // it is given the place …
		l.giveUp(place)
		if places(l) != 1 {
			t.Errorf("%d free", places(l))
		}
	})
}
