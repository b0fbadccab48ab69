package ecsagent

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The statuses that the control plane hears of.
const (
	pending = "PENDING"
	running = "RUNNING"
	stopped = "STOPPED"
)

// managed is a task. It outlives the process, as the real agent's saved task does, but for the members set by resume.
type managed struct {
	arn  string
	wire *wireTask

	mu         sync.Mutex
	desired    string
	status     string // what it is: PENDING, RUNNING or STOPPED
	sent       string // what the control plane has accepted
	containers []*contained
	admitted   bool // the machine's resources are its
	pulled     bool
	reason     string // of the task's end

	pullStarted, pullStopped, executionStopped time.Time

	wake chan struct{}
	// Of the process:
	stopping chan struct{} // closed when it is to stop
	queue    []*stateChange
	queued   chan struct{}
	final    bool // STOPPED is in the queue, or was
}

// contained is a container of a task.
type contained struct {
	def      *wireContainer
	status   string // PENDING before it was started
	reported string // of the process: what was put into the queue
	sent     string
	digest   string
	told     bool // the digest was
	id       string
	exit     *int
	reason   string
	bindings []binding
}

func newManaged(w *wireTask, desired string) *managed {
	t := &managed{arn: *w.Arn, wire: w, desired: desired, status: pending, wake: make(chan struct{}, 1)}
	for _, c := range w.Containers {
		t.containers = append(t.containers, &contained{def: c, status: pending, reported: pending, sent: pending})
	}
	t.resume()
	return t
}

// resume sets what a process does not save.
func (t *managed) resume() {
	t.queued, t.stopping = make(chan struct{}, 1), make(chan struct{})
	t.queue, t.final = nil, false
	if t.desired == stopped {
		close(t.stopping)
	}
	for _, c := range t.containers {
		c.reported = c.sent
	}
}

func (t *managed) wanted() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.desired
}

// want moves the desired status forward; it never goes back.
func (t *managed) want(desired string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if desired == stopped && t.desired != stopped {
		t.desired = stopped
		close(t.stopping)
		t.poke()
	}
}

func (t *managed) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (a *Agent) task(arn string) *managed {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return a.m.disk.tasks[arn]
}

func (a *Agent) known() []*managed {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	out := make([]*managed, 0, len(a.m.disk.tasks))
	for _, t := range a.m.disk.tasks {
		out = append(out, t)
	}
	return out
}

// recover takes up the saved tasks. Those that hold resources come first.
func (a *Agent) recover() {
	tasks := a.known()
	for _, t := range tasks {
		t.resume()
		if t.admitted && t.status != stopped {
			a.ledger.take(t)
		}
	}
	for _, t := range tasks {
		if t.status != pending && t.sent != t.status {
			a.emit(t, t.status)
		}
		a.manage(t)
	}
}

// manage runs a task until it is over, and its reports until they are accepted.
func (a *Agent) manage(t *managed) {
	a.wg.Go(func() { a.report(t) })
	a.wg.Go(func() {
		for a.ctx.Err() == nil {
			t.mu.Lock()
			over := t.status == stopped
			t.mu.Unlock()
			if over {
				return
			}
			if a.step(t) {
				continue
			}
			select {
			case <-a.ctx.Done():
			case <-t.wake:
			}
		}
	})
}

// step does what can be done next, and tells whether that was anything.
func (a *Agent) step(t *managed) bool {
	a.observe(t)
	if t.wanted() == stopped {
		return a.stopAll(t)
	}
	if cycle(t.wire.Containers) {
		t.mu.Lock()
		t.reason = "Task dependencies cannot be resolved, taskArn: " + t.arn
		t.mu.Unlock()
		t.want(stopped)
		return true
	}
	if !t.admitted {
		return a.admit(t)
	}
	if !a.interfacesThere(t) {
		return false
	}
	if !t.pulled {
		a.pull(t)
		return a.ctx.Err() == nil
	}
	progress := a.startReady(t)
	t.mu.Lock()
	started := !slices.ContainsFunc(t.containers, func(c *contained) bool { return c.status == pending })
	runs := started && t.status == pending && t.desired != stopped
	if runs {
		t.status = running
	}
	t.mu.Unlock()
	if runs {
		a.emit(t, running)
	}
	return progress || runs
}

// observe looks how the containers are.
func (a *Agent) observe(t *managed) {
	for _, c := range t.containers {
		if c.status != running {
			continue
		}
		have := a.m.find(t.arn, *c.def.Name)
		if have == nil {
			a.ended(t, c, nil, "ContainerVanishedError: the container is gone")
			continue
		}
		if runs, code := a.m.watchFor(have, t.poke); !runs {
			a.ended(t, c, &code, "")
		}
	}
}

// ended notes a container's end. An essential one ends its task.
func (a *Agent) ended(t *managed, c *contained, code *int, reason string) {
	t.mu.Lock()
	c.status, c.exit, c.reason = stopped, code, reason
	essential := deref(c.def.Essential)
	if essential && t.executionStopped.IsZero() {
		t.executionStopped = time.Now()
	}
	t.mu.Unlock()
	if essential {
		t.want(stopped)
	}
}

// pull asks for each image's digest, tells it, and pulls.
func (a *Agent) pull(t *managed) {
	for _, c := range t.containers {
		t.mu.Lock()
		if !strings.Contains(*c.def.Image, "@") {
			c.digest = a.m.script(t.arn, *c.def.Name).Digest
		}
		t.mu.Unlock()
	}
	if slices.ContainsFunc(t.containers, func(c *contained) bool { return c.digest != "" && !c.told }) {
		a.emit(t, pending)
	}
	done, stop := make(chan struct{}), make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-a.ctx.Done():
		case <-t.stopping:
		case <-stop:
		}
		close(done)
	})
	defer watching.Wait()
	defer close(stop)
	t.mu.Lock()
	t.pullStarted = time.Now()
	t.mu.Unlock()
	for _, c := range t.containers {
		s := a.m.script(t.arn, *c.def.Name)
		if s.Pull == nil {
			continue
		}
		if err := s.Pull(done); err != nil {
			if a.ctx.Err() == nil {
				a.ended(t, c, nil, "CannotPullImageManifestError: Error response from daemon: "+err.Error())
			}
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pullStopped, t.pulled = time.Now(), a.ctx.Err() == nil
}

// startReady starts the containers whose dependencies are met.
func (a *Agent) startReady(t *managed) (progress bool) {
	for _, c := range t.containers {
		if c.status != pending || t.wanted() == stopped {
			continue
		}
		ready, failed := t.dependencies(c)
		if failed {
			code := 143
			a.ended(t, c, &code, "CannotStartContainerError: a dependency did not succeed")
			progress = true
			continue
		}
		if !ready {
			continue
		}
		have := a.m.start(a.number, t.arn, *c.def.Name, a.m.script(t.arn, *c.def.Name))
		t.mu.Lock()
		c.status, c.id, c.bindings = running, have.ID, a.bind(t, c)
		t.mu.Unlock()
		progress = true
	}
	return progress
}

// bind publishes a container's ports; without a host port the agent chooses one.
func (a *Agent) bind(t *managed, c *contained) (out []binding) {
	if mode := deref(t.wire.NetworkMode); mode != "" && mode != "bridge" {
		return nil
	}
	for _, p := range c.def.PortMappings {
		host := deref(p.HostPort)
		if host == 0 {
			host = a.m.port()
		}
		out = append(out, binding{BindIP: "0.0.0.0", ContainerPort: deref(p.ContainerPort), HostPort: host, Protocol: deref(p.Protocol)})
	}
	return out
}

// dependencies says whether what a container waits for has happened, or can't any more.
func (t *managed) dependencies(c *contained) (ready, failed bool) {
	ready = true
	for _, d := range c.def.DependsOn {
		for _, other := range t.containers {
			if deref(other.def.Name) != deref(d.ContainerName) {
				continue
			}
			switch deref(d.Condition) {
			case "COMPLETE":
				ready = ready && other.status == stopped
			case "SUCCESS":
				ready = ready && other.status == stopped && deref(other.exit) == 0
				failed = failed || other.status == stopped && deref(other.exit) != 0
			default: // START, HEALTHY: every container here is healthy
				ready = ready && other.status != pending
			}
		}
	}
	return ready, failed
}

func cycle(containers []*wireContainer) bool {
	waits := map[string][]string{}
	for _, c := range containers {
		for _, d := range c.DependsOn {
			waits[deref(c.Name)] = append(waits[deref(c.Name)], deref(d.ContainerName))
		}
	}
	var visit func(name string, seen []string) bool
	visit = func(name string, seen []string) bool {
		if slices.Contains(seen, name) {
			return true
		}
		return slices.ContainsFunc(waits[name], func(n string) bool { return visit(n, append(slices.Clone(seen), name)) })
	}
	for name := range waits {
		if visit(name, nil) {
			return true
		}
	}
	return false
}

// stopAll stops what runs; when nothing does any more, the task is over.
func (a *Agent) stopAll(t *managed) bool {
	for _, c := range slices.Backward(t.containers) {
		if c.status == running {
			if have := a.m.find(t.arn, *c.def.Name); have != nil {
				a.m.stop(have)
			}
		}
	}
	a.observe(t)
	a.ledger.release(t)
	t.mu.Lock()
	for _, c := range t.containers {
		c.status = stopped
	}
	if len(t.containers) == 0 && t.reason == "" {
		t.reason = "TaskStateError: Agent could not progress task's state to stopped"
	}
	t.status = stopped
	t.mu.Unlock()
	a.emit(t, stopped)
	return true
}

// admit gives a task its resources, when it is its turn and they are free: whoever came first holds up the rest.
func (a *Agent) admit(t *managed) bool {
	ok := a.ledger.admit(t, a.cfg.CPU, a.cfg.Memory)
	if ok {
		t.mu.Lock()
		t.admitted = true
		t.mu.Unlock()
	}
	return ok
}

// ledger accounts the machine's resources among the tasks.
type ledger struct {
	mu          sync.Mutex
	waiting     []*managed
	holders     []*managed
	cpu, memory int64
}

func (l *ledger) admit(t *managed, cpu, memory int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Contains(l.waiting, t) {
		l.waiting = append(l.waiting, t)
	}
	c, m := t.needs()
	if l.waiting[0] != t || l.cpu+c > cpu || l.memory+m > memory || l.portTaken(t) {
		return false
	}
	l.waiting = l.waiting[1:]
	l.hold(t)
	l.next()
	return true
}

func (l *ledger) take(t *managed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold(t)
}

func (l *ledger) hold(t *managed) {
	c, m := t.needs()
	l.cpu, l.memory = l.cpu+c, l.memory+m
	l.holders = append(l.holders, t)
}

func (l *ledger) release(t *managed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.holders, t); i >= 0 {
		c, m := t.needs()
		l.cpu, l.memory = l.cpu-c, l.memory-m
		l.holders = slices.Delete(l.holders, i, i+1)
	}
	l.waiting = slices.DeleteFunc(l.waiting, func(w *managed) bool { return w == t })
	l.next()
}

func (l *ledger) next() {
	if len(l.waiting) > 0 {
		l.waiting[0].poke()
	}
}

func (l *ledger) portTaken(t *managed) bool {
	for _, p := range t.ports() {
		if slices.Contains(reserved, strings.TrimSuffix(p, "/tcp")) {
			return true
		}
		for _, h := range l.holders {
			if slices.Contains(h.ports(), p) {
				return true
			}
		}
	}
	return false
}

// needs are what a task takes of the machine, in CPU units and MiB.
func (t *managed) needs() (cpu, memory int64) {
	for _, c := range t.wire.Containers {
		cpu += deref(c.CPU)
		memory += deref(c.Memory)
	}
	if own := int64(deref(t.wire.CPU) * 1024); own > 0 {
		cpu = own
	}
	if own := deref(t.wire.Memory); own > 0 {
		memory = own
	}
	return cpu, memory
}

// ports are the host's ports that a task's definition fixes. A task with an interface of its own takes none.
func (t *managed) ports() (out []string) {
	if deref(t.wire.NetworkMode) == "awsvpc" {
		return nil
	}
	for _, c := range t.wire.Containers {
		for _, p := range c.PortMappings {
			port := deref(p.HostPort)
			if deref(t.wire.NetworkMode) == "host" && port == 0 {
				port = deref(p.ContainerPort)
			}
			if port != 0 {
				out = append(out, strconv.FormatInt(port, 10)+"/"+deref(p.Protocol))
			}
		}
	}
	return out
}
