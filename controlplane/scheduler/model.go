package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A Model is a cluster as it was at one moment, to be asked about and to be tried out: what is changed in it changes
// nothing else. It is for one goroutine.
type Model struct {
	cluster    string
	now        time.Time
	cfg        Config
	tags       []types.Tag
	services   map[string]*store.Service
	instances  map[string]*store.Instance
	tasks      map[string]*store.Task
	hosts      map[string]*placement.Host // as daemons see them; those that changed are missing
	prepares   map[string][]*store.Preparation
	events     map[string][]string // the newest of each service, newest first
	definition func(arn string) *store.TaskDefinition
	connection func(instance string) *store.Connection
}

// modelEvents is how many events of a service a model knows.
const modelEvents = 3

// NewModel is the cluster of a view. cfg is the scheduler's; its zero value is the defaults.
func NewModel(v *store.View, cluster string, cfg Config, now time.Time) *Model {
	m := &Model{
		cluster: cluster, now: now, cfg: cfg.withDefaults(), services: map[string]*store.Service{}, instances: map[string]*store.Instance{},
		tasks: map[string]*store.Task{}, hosts: map[string]*placement.Host{}, events: map[string][]string{},
		prepares:   map[string][]*store.Preparation{},
		definition: func(arn string) *store.TaskDefinition { return placement.Definition(v, arn) },
		connection: func(id string) *store.Connection { return v.Connection(cluster, id) },
	}
	m.cfg.PrepareWait = -1 // what is tried out finds every image where it needs it
	if c := v.Cluster(cluster); c != nil {
		m.tags = c.Object.Tags
	}
	for svc := range v.Services(cluster) {
		name := aws.ToString(svc.Object.ServiceName)
		if m.services[name] != nil || aws.ToString(svc.Object.Status) == inactive {
			continue
		}
		m.services[name] = svc
		m.prepares[name] = slices.Collect(v.Preparations(cluster, name))
		for e := range v.Events(cluster, name) {
			if len(m.events[name]) == modelEvents {
				break
			}
			m.events[name] = append(m.events[name], aws.ToString(e.Object.Message))
		}
	}
	for i := range v.Instances(cluster) {
		if aws.ToString(i.Object.Status) != inactive {
			m.instances[i.ID] = i
			m.hosts[i.ID] = placement.HostForDaemons(v, cluster, i.ID)
		}
	}
	for t := range v.Tasks(cluster) {
		m.tasks[t.ID] = t
	}
	return m
}

// host is an instance as daemons see it, nil when there is none.
func (m *Model) host(id string) *placement.Host {
	inst := m.instances[id]
	if inst == nil || m.hosts[id] != nil {
		return m.hosts[id]
	}
	alloc := &store.Allocation{Cluster: m.cluster, Instance: id, Tasks: map[string]store.Resources{}}
	var tasks []*store.Task
	for _, name := range slices.Sorted(maps.Keys(m.tasks)) {
		if t := m.tasks[name]; t.Instance == id && !task.IsStopped(t) {
			tasks = append(tasks, t)
			alloc.Tasks[t.ID] = t.Reserved
		}
	}
	m.hosts[id] = placement.NewHost(inst, alloc, m.connection(id) != nil, tasks)
	return m.hosts[id]
}

// bare are the hosts as daemons see them, in order of id.
func (m *Model) bare() (hosts []*placement.Host) {
	for _, id := range slices.Sorted(maps.Keys(m.instances)) {
		hosts = append(hosts, m.host(id))
	}
	return hosts
}

// room are the hosts as other tasks see them.
func (m *Model) room() ([]*placement.Host, time.Time) {
	d := placement.Daemons{Network: m.cfg.Network, Tags: m.tags, Definition: m.definition, Connection: m.connection}
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		d.Services = append(d.Services, m.services[name])
	}
	return d.First(m.bare(), m.now)
}

func (m *Model) isDaemon(service string) bool {
	svc := m.services[service]
	return svc != nil && svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
}

// tasksOf are the tasks of a service, in order of id.
func (m *Model) tasksOf(service string) (tasks []*store.Task) {
	for _, id := range slices.Sorted(maps.Keys(m.tasks)) {
		if t := m.tasks[id]; t.Service == service {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

func (m *Model) snapshot(name string) snapshot {
	svc := m.services[name]
	s := snapshot{
		service: svc, definitions: map[string]*store.TaskDefinition{}, hosts: m.bare(), tasks: m.tasksOf(name), now: m.now,
		daemon: m.isDaemon,
		away: func(id string) time.Time {
			if i := m.instances[id]; i != nil {
				return i.DisconnectedSince
			}
			return time.Time{}
		},
		said: func(string) bool { return true },
		find: func(id string) *placement.Host { return m.host(id) },
		room: m.room, lostAfter: policy.LostAfter(m.tags, svc.Object.Tags),
		zones: func() map[string]int {
			zones := map[string]int{}
			for _, h := range m.bare() {
				zones[zone(h)]++
			}
			return zones
		},
	}
	for _, d := range svc.Object.Deployments {
		if def := m.definition(aws.ToString(d.TaskDefinition)); def != nil {
			s.definitions[aws.ToString(d.TaskDefinition)] = def
		}
	}
	if svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon && aws.ToString(svc.Object.Status) == active {
		s.hosts = nil // it asks for room
	}
	return s
}

// A Move is a task that is stopped or started.
type Move struct {
	Instance       string `json:"instance"`
	Service        string `json:"service,omitempty"`
	Task           string `json:"task,omitempty"` // that is stopped
	TaskDefinition string `json:"taskDefinition"`
	Reason         string `json:"reason,omitempty"` // why it is stopped
}

// The bounds of a trial: of its time, which is the model's, and of its steps.
const (
	trialTime  = time.Hour
	trialSteps = 5000
)

// try lets the services and played agents go on until nothing happens any more, at most for trialTime: what starts is
// healthy at once, and what is to stop stops, on instances whose agent is connected. It returns what was stopped of what
// was there, and what was started and stayed.
func (m *Model) try(services []string) (stops, starts []Move) {
	end := m.now.Add(trialTime)
	started := map[string]bool{}
	for range trialSteps {
		var wake time.Time
		busy := false
		for _, name := range services {
			if aws.ToString(m.services[name].Object.Status) == inactive {
				continue
			}
			p := reconcile(m.snapshot(name), &m.cfg)
			wake = sooner(wake, p.wake)
			busy = busy || !p.empty()
			if p.service != nil {
				m.services[name] = p.service
			}
			for _, t := range p.stops {
				if !started[t.ID] {
					stops = append(stops, moveOf(t, aws.ToString(t.Object.StoppedReason)))
				}
				m.put(t)
			}
			for _, st := range p.starts {
				started[st.task.ID] = true
				m.put(st.task)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(m.instances)) {
			if aws.ToString(m.instances[id].Object.Status) != draining {
				continue
			}
			p := m.drain(id).plan()
			wake = sooner(wake, p.wake)
			for _, t := range p.stops {
				stops = append(stops, moveOf(t, aws.ToString(t.Object.StoppedReason)))
				m.put(t)
			}
			if p.instance != nil {
				m.instances[id] = p.instance
				delete(m.hosts, id)
			}
		}
		busy = m.act() || busy
		if !busy {
			if wake.IsZero() || wake.After(end) || !wake.After(m.now) {
				break
			}
			m.now = wake
		}
	}
	for id := range started {
		if t := m.tasks[id]; task.Wanted(t) && !task.IsStopped(t) {
			starts = append(starts, moveOf(t, ""))
		}
	}
	for _, moves := range [][]Move{stops, starts} {
		slices.SortFunc(moves, func(a, b Move) int {
			return slices.Compare([]string{a.Instance, a.Service, a.Task}, []string{b.Instance, b.Service, b.Task})
		})
	}
	for i := range starts {
		starts[i].Task = "" // it will have another id
	}
	return stops, starts
}

func (m *Model) drain(id string) drain {
	h := m.host(id)
	return drain{host: h, policy: policy.Draining(m.tags, h.Instance.Object.Tags), now: m.now, service: func(name string) *store.Service { return m.services[name] }}
}

func (m *Model) put(t *store.Task) {
	m.tasks[t.ID] = t
	delete(m.hosts, t.Instance)
}

// act plays the agents; whether one had anything to do.
func (m *Model) act() (acted bool) {
	for _, t := range m.tasks {
		if task.IsStopped(t) || m.instances[t.Instance] == nil || m.connection(t.Instance) == nil {
			continue
		}
		change := task.StateChange{Status: task.Running}
		if !task.Wanted(t) {
			change.Status = task.Stopped
		}
		n, changed := task.Apply(t, change, m.now)
		def := m.definition(aws.ToString(t.Object.TaskDefinitionArn))
		if task.Wanted(t) && def != nil && t.Object.HealthStatus != types.HealthStatusHealthy && task.Checked(&def.Object) {
			if !changed {
				continue // it was there before, and is as healthy as it is
			}
			healthy := *n
			healthy.Object.HealthStatus = types.HealthStatusHealthy
			n = &healthy
		}
		if changed {
			acted = true
			m.put(n)
		}
	}
	return acted
}

func moveOf(t *store.Task, reason string) Move {
	return Move{Instance: t.Instance, Service: t.Service, Task: t.ID, TaskDefinition: definitionName(aws.ToString(t.Object.TaskDefinitionArn)), Reason: reason}
}
