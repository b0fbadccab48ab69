package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/endpoints/taskserver"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
)

// answers is what the commands of this host ask the agent, over the local socket.
type answers struct {
	a       *Agent
	started <-chan struct{} // closed when there is an engine
	begun   time.Time
}

// serveLocal answers them until ctx ends.
func (a *Agent) serveLocal(ctx context.Context, l net.Listener, started <-chan struct{}) error {
	s, q := local.New(a.log), &answers{a: a, started: started, begun: time.Now()}
	s.Handle("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { local.Answer(w, q.status()) })
	s.Handle("GET /v1/tasks", func(w http.ResponseWriter, _ *http.Request) {
		local.Answer(w, local.Tasks{Now: time.Now().UTC(), Tasks: q.tasks()})
	})
	s.Handle("GET /v1/explain", q.explain)
	s.Handle("GET /v1/explanations", func(w http.ResponseWriter, r *http.Request) {
		local.Answer(w, local.ExplainNamed(q.statuses(), r.URL.Query().Get("name"), time.Now()))
	})
	s.Handle("GET /v1/logs", q.logs)
	s.Handle("GET /v1/exec", q.exec)
	s.Handle("POST /v1/depart", q.depart)
	s.Handle("GET /v1/log-level", func(w http.ResponseWriter, _ *http.Request) { local.Answer(w, a.logLevel()) })
	s.Handle("POST /v1/log-level", a.setLogLevel)
	s.Handle("POST /v1/gc", func(w http.ResponseWriter, r *http.Request) { a.collect(w, r, q.engine() != nil) })
	return s.Serve(ctx, l)
}

// engine is nil before there is one.
func (q *answers) engine() *engine.Engine {
	select {
	case <-q.started:
		return q.a.engine
	default:
		return nil
	}
}

// tasks are all that are on record: first those with a worker, in the order of their acceptance.
func (q *answers) tasks() []local.Task {
	out := []local.Task{}
	e := q.engine()
	if e == nil {
		return out
	}
	here, past := e.Tasks(), e.Past()
	for i := range here {
		out = append(out, local.TaskOf(&here[i]))
	}
	for i := range past {
		t := local.TaskOf(&past[i])
		t.CleanedUp = true
		out = append(out, t)
	}
	return out
}

// statuses are all tasks that are on record.
func (q *answers) statuses() []engine.TaskStatus {
	e := q.engine()
	if e == nil {
		return nil
	}
	return append(e.Tasks(), e.Past()...)
}

// explain explains the task that the query names.
func (q *answers) explain(w http.ResponseWriter, r *http.Request) {
	t, err := local.Resolve(q.tasks(), r.URL.Query().Get("task"))
	if err != nil {
		local.Refuse(w, http.StatusNotFound, err)
		return
	}
	if e := q.engine(); e != nil {
		all := e.Past()
		if now, ok := e.Task(t.Arn); ok {
			all = []engine.TaskStatus{now}
		}
		for i := range all {
			if all[i].Arn == t.Arn {
				local.Answer(w, local.Explain(&all[i], time.Now()))
				return
			}
		}
	}
	local.Refuse(w, http.StatusNotFound, errors.New("the task was forgotten just now"))
}

func (q *answers) status() *local.Status {
	a := q.a
	cluster, arn := a.instance()
	s := &local.Status{
		Now: time.Now().UTC(), Version: a.opt.Version, Hash: a.opt.Hash, PID: os.Getpid(), StartedAt: q.begun.UTC(), Cluster: cluster, ContainerInstanceArn: arn,
		Connection: a.link.get(), Tasks: local.Count(q.tasks()),
		Resources: local.Resources{
			CPU: local.Amount{Registered: a.host.CPU}, Memory: local.Amount{Registered: a.host.Memory}, ReservedMemory: a.cfg.ReservedMemory,
			GPUs: local.Amount{Registered: int64(len(a.gpus))}, Ports: []string{},
		},
	}
	s.Connection.Endpoint, s.Configuration = orRegion(a.cfg), *a.warnings.Load()
	if p := a.polling.Load(); p != nil {
		s.Connection.Connected = p.Connected()
	}
	if changes, err := a.state.Changes(); err == nil {
		s.UnsentChanges = len(changes)
	}
	root := ""
	if info := a.info.Load(); info != nil {
		s.Engine, root = engineOf(*info), info.Root
	}
	s.Disks = local.Disks(a.cfg.DataDir, root)
	e := q.engine()
	if e != nil && a.asked != nil {
		s.Containers.Address = net.JoinHostPort(taskserver.Address, "80")
		if _, problem := a.asked.state(); problem != nil {
			s.Containers.Problem = problem.Error()
		}
	}
	if e == nil {
		s.Health = local.Health{Reasons: []string{"the container engine has not answered since the agent's start"}, Since: q.begun.UTC()}
		return s
	}
	h := e.Health()
	if h.Engine.Version != "" {
		s.Engine = engineOf(h.Engine)
	}
	s.Health = local.Health{OK: !h.Impaired, Reasons: h.Causes, Since: h.Since.UTC()}
	s.Preloaded = a.preloaded()
	for _, l := range a.logLosses() {
		s.LostOutput = append(s.LostOutput, local.LogLossOf(l))
	}
	used := e.Usage()
	s.Resources.CPU.Used, s.Resources.Memory.Used, s.Resources.GPUs.Used = used.CPU, used.Memory, int64(len(used.GPUs))
	for _, p := range used.Ports {
		s.Resources.Ports = append(s.Resources.Ports, p.String())
	}
	return s
}

func engineOf(i engine.Info) local.Engine {
	return local.Engine{Name: i.Name, Version: i.Version, APIVersion: i.APIVersion, CgroupVersion: i.CgroupVersion, Root: i.Root}
}

// orRegion is the control plane's URL in words.
func orRegion(cfg *config.Config) string {
	if cfg.APIEndpoint != "" {
		return cfg.APIEndpoint
	}
	return "Amazon ECS in " + cfg.Region
}

// link is how the connection with the control plane stands.
type link struct {
	now atomic.Pointer[local.Connection]
}

func (l *link) get() local.Connection {
	if c := l.now.Load(); c != nil {
		return *c
	}
	return local.Connection{}
}

// set notes that the connection came or went.
func (l *link) set(up bool) { l.now.Store(&local.Connection{Connected: up, Since: time.Now().UTC()}) }

// failed notes why there is none. The time since when stays.
func (l *link) failed(err error) {
	c := l.get()
	if err != nil && !c.Connected {
		c.Problem = err.Error()
		l.now.Store(&c)
	}
}

// lateEngine is the engine for those who ask before it is there.
type lateEngine struct {
	a       *Agent
	started <-chan struct{}
}

// Tasks are the engine's, none while it is not there.
func (l lateEngine) Tasks() []engine.TaskStatus {
	select {
	case <-l.started:
		return l.a.engine.Tasks()
	default:
		return nil
	}
}

// Past are the engine's, none while it is not there.
func (l lateEngine) Past() []engine.TaskStatus {
	select {
	case <-l.started:
		return l.a.engine.Past()
	default:
		return nil
	}
}
