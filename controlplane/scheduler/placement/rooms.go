package placement

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Rooms are the hosts of clusters as they are for tasks that are no daemons, kept up to date by what changes: who asks for
// all hosts of a large cluster pays for those that changed since somebody asked. It is safe for concurrent use.
type Rooms struct {
	network  *network.Network
	turn     chan struct{} // of one
	mu       sync.Mutex
	told     int64 // the revision up to which changes are known
	clusters map[string]*rooms
}

type rooms struct {
	marksMu sync.Mutex
	marks   map[string]int64 // instances that changed, and at which revision

	mu      sync.Mutex
	daemons string               // what of the DAEMON services the hosts depend on
	at      map[string]*Host     // by instance
	gates   map[string]time.Time // when the first gate of a host opens
	order   []string             // of the instances; nil: not known
}

// NewRooms follows a store, for as long as that lives.
func NewRooms(st *store.Store, net *network.Network) *Rooms {
	r := &Rooms{network: net, turn: make(chan struct{}, 1), clusters: map[string]*rooms{}}
	if st != nil {
		st.OnChange(r.note)
	}
	return r
}

// Turn waits until no other placement by these strategies is under way in this process, and returns what ends the turn.
// Where all want the best hosts, all but one would choose in vain.
func (r *Rooms) Turn(ctx context.Context, strategies []types.PlacementStrategy) (done func(), err error) {
	if !likes(strategies) {
		return func() {}, nil
	}
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other placements: %w", ctx.Err())
	}
}

// note marks the instances that changes concern, of clusters that were asked for.
func (r *Rooms) note(revision int64, changes []store.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = revision
	mark := func(cluster, instance string) {
		if c := r.clusters[cluster]; c != nil {
			c.marksMu.Lock()
			c.marks[instance] = revision
			c.marksMu.Unlock()
		}
	}
	for _, change := range changes {
		for _, record := range []store.Record{change.Old, change.New} {
			switch x := record.(type) {
			case *store.Task:
				mark(x.Cluster, x.Instance)
			case *store.Allocation:
				mark(x.Cluster, x.Instance)
			case *store.Connection:
				mark(x.Cluster, x.Instance)
			case *store.Instance:
				mark(x.Cluster, x.ID)
			}
		}
	}
}

// HostsOf is [HostsOf], but that the hosts are shared: they are not to be changed, and may be newer than the view.
func (r *Rooms) HostsOf(v *store.View, cluster string, now time.Time) []*Host {
	r.mu.Lock()
	c := r.clusters[cluster]
	if c == nil {
		if v.Revision() < r.told { // what changed since would be missed
			r.mu.Unlock()
			return HostsOf(v, r.network, cluster, now)
		}
		c = &rooms{marks: map[string]int64{}, at: map[string]*Host{}, gates: map[string]time.Time{}}
		for inst := range v.Instances(cluster) {
			c.marks[inst.ID] = 0
		}
		r.clusters[cluster] = c
	}
	r.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read(v, r.network, cluster, now)
	hosts := make([]*Host, len(c.order))
	for i, id := range c.order {
		hosts[i] = c.at[id]
	}
	return hosts
}

// read brings the hosts up to date.
func (c *rooms) read(v *store.View, net *network.Network, cluster string, now time.Time) {
	marks := map[string]bool{}
	c.marksMu.Lock()
	for id, revision := range c.marks {
		if revision <= v.Revision() { // a later change is for a later view
			marks[id] = true
			delete(c.marks, id)
		}
	}
	c.marksMu.Unlock()
	if d := DaemonsOf(v, net, cluster); d != c.daemons {
		c.daemons = d
		for id := range c.at {
			marks[id] = true
		}
	}
	for id, at := range c.gates {
		if !at.After(now) {
			marks[id] = true
		}
	}
	if len(marks) == 0 {
		return
	}
	var bare []*Host
	for id := range marks {
		inst := v.Instance(cluster, id)
		delete(c.gates, id)
		if inst == nil || !takesPart(inst) {
			if c.at[id] != nil {
				delete(c.at, id)
				c.order = nil
			}
			continue
		}
		h := hostOf(v, inst)
		h.Subject() // before it is shared
		bare = append(bare, h)
	}
	made, _ := DaemonsFirst(v, net, cluster, bare, now)
	for _, h := range made {
		id := h.Instance.ID
		if c.at[id] == nil {
			c.order = nil
		}
		c.at[id] = h
		for _, g := range h.Gates {
			if at := c.gates[id]; at.IsZero() || g.Until.Before(at) {
				c.gates[id] = g.Until
			}
		}
	}
	if c.order == nil {
		c.order = make([]string, 0, len(c.at))
		for id := range c.at {
			c.order = append(c.order, id)
		}
		slices.Sort(c.order)
	}
}

// DaemonsOf is the state of a cluster's DAEMON services and of their networks, on which depends what they leave to others.
func DaemonsOf(v *store.View, net *network.Network, cluster string) string {
	var b strings.Builder
	fmt.Fprint(&b, net.Version(), " ")
	if c := v.Cluster(cluster); c != nil {
		fmt.Fprint(&b, c.Revision())
	}
	for svc := range v.Services(cluster) {
		if svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon && aws.ToString(svc.Object.Status) == "ACTIVE" {
			fmt.Fprint(&b, " ", aws.ToString(svc.Object.ServiceName), " ", svc.Revision())
		}
	}
	return b.String()
}
