//go:build bench

package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"
)

// many measures CONTAINERS tasks at once, and the stop of one more, beside a bare client that does the same with the
// parallelism that suits the engine best.
func (w *world) many() {
	n := setting("CONTAINERS", 100)
	for _, mode := range strings.Split(cmp.Or(os.Getenv("MODES"), "host,bridge"), ",") {
		w.agent("prefer-cached")
		w.longshore(mode) // the image is local from here on
		best := setting("PARALLEL", 0)
		if best == 0 {
			best = w.parallelism(mode)
		}
		var start, stop, bareStart, bareStop burst
		for round := range setting("MANY", 5) {
			profiled := func() {}
			if round == 0 {
				profiled = w.profile("many-"+mode, 8)
			}
			w.atOnce(mode, n, &start, &stop)
			profiled()
			w.bareAtOnce(mode, n, best, &bareStart, &bareStop)
		}
		w.burst(fmt.Sprintf("%d tasks at once, %s; floor: bare client, %d at a time", n, mode, best), &start, &bareStart, "1.02")
		w.burst(fmt.Sprintf("stop of %d tasks, %s", n+1, mode), &stop, &bareStop, "2500 ms")
		w.lab.StopAgent(1)
	}
}

// burst is how long something took that was done several times, and the CPU time that it cost: where the machine is busy, wall
// time is the CPU's.
type burst struct{ took, engine, agent, control series }

func (w *world) burst(what string, ours, floor *burst, aim string) {
	w.table.add(what, ours.took.String(), floor.took.String(), ratio(ours.took, floor.took), aim)
	if floor.engine.median() == 0 {
		return // there is no control group that counts
	}
	all := ours.engine.median() + ours.agent.median() + ours.control.median()
	w.table.add("  CPU time of that", fmt.Sprintf("engine %.0f ms, agent %.0f, control plane %.0f", ours.engine.median(), ours.agent.median(), ours.control.median()),
		fmt.Sprintf("engine %.0f ms", floor.engine.median()), fmt.Sprintf("%.2f", all/floor.engine.median()), "")
}

// spent adds the CPU time from now on to b, until the function that it returns is called.
func (w *world) spent(b *burst) (done func()) {
	engine, agent, control := w.engineGroup(), cpu(w.t, w.lab.AgentPid(1)), cpu(w.t, w.lab.ControlPid())
	return func() {
		b.engine.add(w.engineGroup() - engine)
		b.agent.add(cpu(w.t, w.lab.AgentPid(1)) - agent)
		b.control.add(cpu(w.t, w.lab.ControlPid()) - control)
	}
}

// atOnce runs n tasks at once and then stops them and another one: from the first call to the last RUNNING, and to the last
// STOPPED, as the control plane has noted them.
func (w *world) atOnce(mode string, n int, start, stop *burst) {
	done := w.spent(start)
	began := time.Now()
	arns := w.run(mode, n)
	w.count(n)
	last := latest(w.reach(arns, "RUNNING"), func(t types.Task) *time.Time { return t.StartedAt })
	start.took.add(last.Sub(began))
	done()
	one := w.run(mode, 1)
	w.reach(one, "RUNNING")
	arns = append(arns, one...)
	done = w.spent(stop)
	began = time.Now()
	w.stop(arns)
	w.count(0)
	last = latest(w.reach(arns, "STOPPED"), func(t types.Task) *time.Time { return t.StoppedAt })
	stop.took.add(last.Sub(began))
	done()
	w.empty()
}

// count waits until the instance runs so many tasks, and has no others on their way. One number is asked for, and not each task: what
// the measurement asks of the control plane counts as its own.
func (w *world) count(n int) {
	deadline := time.Now().Add(3 * time.Minute)
	for {
		list, err := w.ecs.ListContainerInstances(w.t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster)})
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := w.ecs.DescribeContainerInstances(w.t.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: list.ContainerInstanceArns})
		if err != nil {
			w.t.Fatal(err)
		}
		if i := got.ContainerInstances; len(i) == 1 && int(i[0].RunningTasksCount) == n && i[0].PendingTasksCount == 0 || time.Now().After(deadline) {
			return
		}
		still(220 * time.Millisecond)
	}
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
func (w *world) bareAtOnce(mode string, n, atATime int, started, stopped *burst) {
	ids := make([]string, n+1)
	start := func(ctx context.Context, i int) (err error) { ids[i], err = w.bare(ctx, mode); return err }
	done := w.spent(started)
	began := time.Now()
	w.sideBySide(n, atATime, start)
	started.took.add(time.Since(began))
	done()
	if err := start(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	done = w.spent(stopped)
	began = time.Now()
	w.sideBySide(n+1, atATime, func(ctx context.Context, i int) error {
		return w.docker.ContainerStop(ctx, ids[i], container.StopOptions{})
	})
	stopped.took.add(time.Since(began))
	done()
	w.removeAll()
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

// parallelism finds how many containers at a time suit the engine best.
func (w *world) parallelism(mode string) int {
	const containers = 24
	best, took := 0, 0.0
	for _, p := range []int{1, 2, 4, 8, 16} {
		var start, stop burst
		for range 3 {
			w.bareAtOnce(mode, containers, p, &start, &stop)
		}
		fastest := start.took.at(0)
		fmt.Printf("  bare client, %s, %2d at a time: %d containers started in %.0f ms at best\n", mode, p, containers, fastest)
		if best == 0 || fastest < took {
			best, took = p, fastest
		}
	}
	return best
}
