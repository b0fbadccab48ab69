package scheduler

import (
	"sync"
	"testing"

	"github.com/longshore-project/longshore/controlplane/store"
)

// counted are the looks of a scheduler, by how many hosts each had to do with.
type counted struct {
	mu   sync.Mutex
	most int
	sum  int
}

func (c *counted) look(hosts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.sum = max(c.most, hosts), c.sum+hosts
}

func (c *counted) reset() (most, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	most, sum = c.most, c.sum
	c.most, c.sum = 0, 0
	return most, sum
}

func TestALookCostsWhatChangedAndNotWhatExists(t *testing.T) {
	const hosts = 60
	s := newStage(t, hosts)
	var looks counted
	s.cfg.looked = looks.look
	s.create("agent", s.define(64))
	s.schedule()
	s.wait("it runs everywhere", func(v *store.View) bool {
		return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts
	})
	if most, _ := looks.reset(); most != hosts {
		t.Errorf("the first look had to do with %d of %d hosts", most, hosts)
	}
	s.join("another")
	s.wait("it runs there too", func(v *store.View) bool {
		return steady(v, "agent") && v.DaemonSlot("c", "agent", "another") != nil && v.Service("c", "agent").Object.DesiredCount == hosts+1
	})
	s.stop(s.taskOn("agent", "host-7"))
	s.wait("it runs there again", func(v *store.View) bool {
		slot := v.DaemonSlot("c", "agent", "host-7")
		return slot != nil && steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts+1
	})
	s.setStatus("host-9", draining)
	s.wait("it has left one that is drained", func(v *store.View) bool {
		return v.DaemonSlot("c", "agent", "host-9") == nil && steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts
	})
	// Three places changed, one after the other. That others are looked at with them is a matter of luck, when their last
	// change was seen in the same look.
	if most, sum := looks.reset(); most > 5 {
		t.Errorf("a look after that had to do with %d of %d hosts, all looks with %d", most, hosts, sum)
	}
	s.update("agent", s.define(96))
	s.wait("the new one runs everywhere", func(v *store.View) bool {
		return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts && len(v.Service("c", "agent").Object.Deployments) == 1
	})
}

// taskOn is the id of a service's task on an instance.
func (s *stage) taskOn(service, host string) (id string) {
	s.st.Peek(func(v *store.View) {
		if slot := v.DaemonSlot("c", service, host); slot != nil {
			id = slot.Task
		}
	})
	return id
}
