//go:build bench

package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"
)

// many measures CONTAINERS tasks at once, and the stop of one more, beside a bare client that does the same with the
// parallelism that suits the engine best.
func (w *world) many() {
	n := setting("CONTAINERS", 100)
	for _, mode := range []string{"host", "bridge"} {
		w.agent("prefer-cached")
		w.longshore(mode) // the image is local from here on
		best := w.parallelism(mode)
		var start, stop, bareStart, bareStop series
		for round := range setting("MANY", 5) {
			profiled := func() {}
			if round == 0 {
				profiled = w.profile("many-"+mode, 8)
			}
			a, b := w.atOnce(mode, n)
			start.add(a)
			stop.add(b)
			profiled()
			a, b = w.bareAtOnce(mode, n, best)
			bareStart.add(a)
			bareStop.add(b)
		}
		w.table.add(fmt.Sprintf("%d tasks at once, %s; floor: bare client, %d at a time", n, mode, best), start.String(), bareStart.String(), ratio(start, bareStart), "1.02")
		w.table.add(fmt.Sprintf("stop of %d tasks, %s", n+1, mode), stop.String(), bareStop.String(), ratio(stop, bareStop), "2500 ms")
		w.lab.StopAgent(1)
	}
}

// atOnce runs n tasks at once and then stops them and another one; it returns the times from the first call to the last RUNNING, and
// to the last STOPPED, as the control plane has noted them.
func (w *world) atOnce(mode string, n int) (started, stopped time.Duration) {
	began := time.Now()
	arns := w.run(mode, n)
	last := latest(w.reach(arns, "RUNNING"), func(t types.Task) *time.Time { return t.StartedAt })
	started = last.Sub(began)
	one := w.run(mode, 1)
	w.reach(one, "RUNNING")
	arns = append(arns, one...)
	began = time.Now()
	w.stop(arns)
	last = latest(w.reach(arns, "STOPPED"), func(t types.Task) *time.Time { return t.StoppedAt })
	stopped = last.Sub(began)
	w.empty()
	return started, stopped
}

func latest(tasks []types.Task, of func(types.Task) *time.Time) (last time.Time) {
	for _, t := range tasks {
		if at := of(t); at != nil && at.After(last) {
			last = *at
		}
	}
	return last
}

// bareAtOnce does the same through the engine's API, some containers at a time.
func (w *world) bareAtOnce(mode string, n, atATime int) (started, stopped time.Duration) {
	began := time.Now()
	ids := make([]string, n+1)
	start := func(ctx context.Context, i int) (err error) { ids[i], err = w.bare(ctx, mode); return err }
	w.sideBySide(n, atATime, start)
	started = time.Since(began)
	if err := start(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	began = time.Now()
	w.sideBySide(n+1, atATime, func(ctx context.Context, i int) error { return w.docker.ContainerStop(ctx, ids[i], container.StopOptions{}) })
	stopped = time.Since(began)
	w.removeAll()
	return started, stopped
}

func (w *world) sideBySide(n, atATime int, do func(ctx context.Context, i int) error) {
	group, ctx := errgroup.WithContext(w.t.Context())
	group.SetLimit(atATime)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		w.t.Fatal(err)
	}
}

// parallelism finds how many requests at a time suit the engine best.
func (w *world) parallelism(mode string) int {
	const containers = 24
	best, took := 0, time.Duration(0)
	for _, p := range []int{1, 2, 4, 8, 16} {
		fastest := time.Hour
		for range 2 {
			a, b := w.bareAtOnce(mode, containers, p)
			fastest = min(fastest, a+b)
		}
		fmt.Printf("  bare client, %s, %2d at a time: %d containers started and stopped in %v\n", mode, p, containers, fastest.Round(time.Millisecond))
		if best == 0 || fastest < took {
			best, took = p, fastest
		}
	}
	return best
}
