package containerd

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// healthCheck is a check with Docker's defaults.
type healthCheck struct {
	argv                           []string
	interval, timeout, startPeriod time.Duration
	retries                        int
}

func newHealthCheck(h *acs.HealthConfig) *healthCheck {
	if h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil
	}
	or := func(ns int64, otherwise time.Duration) time.Duration {
		if ns <= 0 {
			return otherwise
		}
		return time.Duration(ns)
	}
	c := &healthCheck{interval: or(h.Interval, 30*time.Second), timeout: or(h.Timeout, 30*time.Second), startPeriod: time.Duration(h.StartPeriod), retries: int(h.Retries)}
	if c.retries <= 0 {
		c.retries = 3
	}
	switch h.Test[0] {
	case "CMD":
		c.argv = h.Test[1:]
	case "CMD-SHELL":
		c.argv = append([]string{"/bin/sh", "-c"}, h.Test[1:]...)
	default:
		c.argv = append([]string{"/bin/sh", "-c"}, h.Test...)
	}
	if len(c.argv) == 0 {
		return nil
	}
	return c
}

// maxOutput is how much of a check's output is kept, as in Docker.
const maxOutput = 4096

// judge is the health after a check, and the number of failures in a row.
func (c *healthCheck) judge(was engine.Health, failures int, age time.Duration, code int, output string) (engine.Health, int) {
	next := engine.Health{Status: was.Status, Since: was.Since, ExitCode: code, Output: output}
	set := func(status string) {
		if next.Status != status {
			next.Status, next.Since = status, now()
		}
	}
	if code == 0 {
		set("HEALTHY")
		return next, 0
	}
	if age < c.startPeriod && was.Status != "HEALTHY" {
		return next, 0 // it is still coming up
	}
	if failures++; failures >= c.retries {
		set("UNHEALTHY")
	}
	return next, failures
}

// publisher runs the health checks, and tells of changes.
type publisher struct {
	mu      sync.Mutex
	checked map[string]context.CancelFunc // by container id
	hear    map[chan<- engine.Event]struct{}
	work    sync.WaitGroup
	over    bool
}

// watch checks a container's health as long as it runs. Watching it twice does nothing.
func (r *Runtime) watch(b box) {
	check := checks(b.rec)
	p := &r.health
	p.mu.Lock()
	defer p.mu.Unlock()
	if check == nil || p.over || p.checked[b.ID] != nil {
		return
	}
	if p.checked == nil {
		p.checked = map[string]context.CancelFunc{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.checked[b.ID] = cancel
	p.work.Go(func() {
		r.checkHealth(r.ns(ctx), b, check)
		p.forget(b.ID)
	})
}

// forget ends the checks of a container.
func (p *publisher) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel := p.checked[id]; cancel != nil {
		cancel()
		delete(p.checked, id)
	}
}

// end ends all checks, and waits for that.
func (p *publisher) end() {
	p.mu.Lock()
	p.over = true
	for _, cancel := range p.checked {
		cancel()
	}
	p.mu.Unlock()
	p.work.Wait()
}

func (r *Runtime) checkHealth(ctx context.Context, b box, check *healthCheck) {
	failures := 0
	tick := time.NewTicker(check.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		code, output, err := r.runCheck(ctx, b.ID, check)
		if ctx.Err() != nil || errdefs.IsNotFound(err) {
			return
		}
		if err != nil {
			r.log.Debug("a health check could not be run", zap.String("container", b.rec.Spec.Name), zap.Error(err))
			if errdefs.IsUnavailable(err) {
				continue // containerd is away, which says nothing of the container
			}
			code, output = -1, err.Error()
		}
		if failures, err = r.setHealth(ctx, b, check, failures, code, output); err != nil && ctx.Err() == nil {
			r.log.Warn("the health of a container could not be written down", zap.String("container", b.rec.Spec.Name), zap.Error(err))
		}
	}
}

// setHealth writes down what a check said, if the process still runs.
func (r *Runtime) setHealth(ctx context.Context, b box, check *healthCheck, failures, code int, output string) (int, error) {
	unlock, err := r.known.lock(ctx, b.ID)
	if err != nil {
		return failures, err
	}
	defer unlock()
	was, err := r.readRun(b.ID)
	if err != nil || !was.running() {
		return failures, err
	}
	before := was.Health
	was.Health, failures = check.judge(was.Health, failures, time.Since(was.StartedAt), code, output)
	if was.Health == before {
		return failures, nil
	}
	if err := r.writeRun(b.ID, was); err != nil {
		return failures, err
	}
	if was.Health.Status != before.Status {
		r.health.tell(engine.Event{ContainerID: b.ID, TaskArn: b.Labels[engine.LabelTaskArn], Action: "health", Time: was.Health.Since})
	}
	return failures, nil
}

func (p *publisher) tell(e engine.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.hear {
		select {
		case c <- e:
		default: // events are hints
		}
	}
}

// runCheck runs a check in the container: its exit code and output.
func (r *Runtime) runCheck(ctx context.Context, id string, check *healthCheck) (int, string, error) {
	within, cancel := context.WithTimeout(ctx, check.timeout)
	defer cancel()
	c, err := r.client.LoadContainer(within, id)
	if err != nil {
		return 0, "", classify(within, err)
	}
	spec, err := c.Spec(within)
	if err != nil {
		return 0, "", classify(within, err)
	}
	task, err := c.Task(within, nil)
	if err != nil {
		return 0, "", classify(within, err)
	}
	process := *spec.Process
	process.Args, process.Terminal = check.argv, false
	out := &capped{limit: maxOutput}
	e, err := task.Exec(within, "check-"+newID()[:12], &process, cio.NewCreator(cio.WithStreams(nil, out, out), cio.WithFIFODir(r.dir(id))))
	if err != nil {
		return 0, "", classify(within, err)
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, _ = e.Delete(after, client.WithProcessKill)
	}()
	gone, err := e.Wait(within)
	if err != nil {
		return 0, "", classify(within, err)
	}
	if err := e.Start(within); err != nil {
		return 0, "", startError(within, err)
	}
	select {
	case status := <-gone:
		code, _, err := status.Result()
		if err != nil {
			return 0, "", classify(within, err)
		}
		e.IO().Wait()
		return int(code), out.String(), nil
	case <-within.Done():
		if ctx.Err() != nil {
			return 0, "", ctx.Err()
		}
		_ = e.Kill(context.WithoutCancel(ctx), unix.SIGKILL)
		return -1, "Health check exceeded timeout (" + check.timeout.String() + ")", nil
	}
}

// capped keeps the first bytes that are written.
type capped struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	limit int
}

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := c.limit - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}
