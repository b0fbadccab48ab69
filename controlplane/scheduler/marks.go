package scheduler

import (
	"reflect"
	"slices"
	"sync"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// marks are what has changed in a cluster since its worker last looked.
type marks struct {
	kick chan struct{} // of one: something is marked

	mu        sync.Mutex
	all       bool            // every service
	network   bool            // addresses came free
	services  map[string]bool // by name
	instances map[string]bool // whose hosts are to be read again
	drained   map[string]bool // whose hosts are to be read again if they are DRAINING
}

// taken are marks that a worker took.
type taken struct {
	all       bool
	network   bool
	services  map[string]bool
	instances map[string]bool
	drained   map[string]bool
}

func (m *marks) take() taken {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := taken{m.all, m.network, m.services, m.instances, m.drained}
	m.all, m.network, m.services, m.instances, m.drained = false, false, map[string]bool{}, map[string]bool{}, map[string]bool{}
	return t
}

// add marks and wakes the worker.
func (m *marks) add(all bool, service, instance string) {
	m.mu.Lock()
	m.all = m.all || all
	if service != "" {
		m.services[service] = true
	}
	if instance != "" {
		m.instances[instance] = true
	}
	m.mu.Unlock()
	m.wake()
}

// addDrained marks an instance of which only a drain tells what changed, and wakes the worker.
func (m *marks) addDrained(instance string) {
	m.mu.Lock()
	m.drained[instance] = true
	m.mu.Unlock()
	m.wake()
}

// addNetwork marks that addresses came free, and wakes the worker.
func (m *marks) addNetwork() {
	m.mu.Lock()
	m.network = true
	m.mu.Unlock()
	m.wake()
}

func (m *marks) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// marksOf are the marks of a cluster, which gets a worker if it has none yet.
func (s *Scheduler) marksOf(cluster string) *marks {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.marks[cluster]
	if m == nil {
		m = &marks{kick: make(chan struct{}, 1), services: map[string]bool{}, instances: map[string]bool{}, drained: map[string]bool{}}
		s.marks[cluster] = m
		select {
		case s.fresh <- struct{}{}:
		default:
		}
	}
	return m
}

func (s *Scheduler) clusters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.marks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// everywhere calls f with the marks of every cluster.
func (s *Scheduler) everywhere(f func(*marks)) {
	for _, cluster := range s.clusters() {
		f(s.marksOf(cluster))
	}
}

// note marks what changes of the store concern.
func (s *Scheduler) note(changes []store.Change) {
	freed := false
	defer func() {
		if freed {
			s.everywhere((*marks).addNetwork)
		}
	}()
	for _, c := range changes {
		r := c.New
		if r == nil {
			r = c.Old
		}
		switch r := r.(type) {
		case *store.Cluster:
			s.marksOf(*r.Object.ClusterName).add(true, "", "") // its tags may have changed
		case *store.Service:
			s.marksOf(r.Cluster).add(false, *r.Object.ServiceName, "")
		case *store.Task:
			if m := s.marksOf(r.Cluster); placement.SameHost(c) {
				m.addDrained(r.Instance)
			} else {
				m.add(false, r.Service, r.Instance)
			}
		case *store.Allocation:
			s.marksOf(r.Cluster).add(false, "", r.Instance)
		case *store.Address:
			freed = freed || c.New == nil
		case *store.Preparation:
			s.marksOf(r.Cluster).add(false, r.Service, r.Instance)
		case *store.Connection:
			s.marksOf(r.Cluster).add((c.Old == nil) != (c.New == nil), "", r.Instance)
		case *store.Instance:
			s.marksOf(r.Cluster).add(!sameForPlacement(c.Old, c.New), "", r.ID)
		}
	}
}

// sameForPlacement tells whether an instance changed only in what services don't care about, such as its sequence number.
func sameForPlacement(a, b store.Record) bool {
	x, ok := a.(*store.Instance)
	if !ok {
		return false
	}
	y, ok := b.(*store.Instance)
	return ok && reflect.DeepEqual(x.Object.Attributes, y.Object.Attributes) &&
		reflect.DeepEqual(x.Object.RegisteredResources, y.Object.RegisteredResources) &&
		reflect.DeepEqual(x.Object.Status, y.Object.Status) &&
		reflect.DeepEqual(x.Object.VersionInfo, y.Object.VersionInfo) &&
		x.InactiveSince.Equal(y.InactiveSince) && x.Unlisted == y.Unlisted
}
