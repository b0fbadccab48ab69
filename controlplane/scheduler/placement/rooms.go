package placement

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Rooms are the hosts of clusters as they are for tasks that are no daemons, kept up to date by what changes: who places a
// task pays for the hosts that changed since somebody asked, and for those that are looked at, not for all of a large
// cluster. It is safe for concurrent use; its hosts are shared and are not to be changed.
type Rooms struct {
	network  *network.Network
	turn     chan struct{} // of one
	mu       sync.Mutex
	told     int64 // the revision up to which changes are known
	clusters map[string]*rooms
}

// rooms are those of a cluster.
type rooms struct {
	marksMu sync.Mutex
	marks   map[string]int64 // instances that changed, and at which revision
	first   int64            // the revision at which what daemons depend on last changed

	mu      sync.Mutex
	read    int64  // the revision of the newest view that was read
	daemons string // what of the DAEMON services the hosts depend on
	network string // the version of the network for which that is so
	hosts   []*Host
	at      map[string]int       // in hosts, by instance
	gates   map[string]time.Time // when the first gate of a host opens
	busy    map[string]int       // on how many placements that are under way an instance is
	lines   []*line              // those that were asked for last come last
}

// A line is a picker for requests of one kind, kept for the next one.
type line struct {
	kind   string
	picker *Picker
	stale  map[string]bool // instances that changed since it was used
}

// mostLines is how many kinds of requests have a line: each costs some 200 bytes per host.
const mostLines = 8

// NewRooms follows a store, for as long as that lives.
func NewRooms(st *store.Store, net *network.Network) *Rooms {
	r := &Rooms{network: net, turn: make(chan struct{}, 1), clusters: map[string]*rooms{}}
	if st != nil {
		st.OnChange(r.note)
	}
	return r
}

// note marks the instances that changes concern, of clusters that were asked for.
func (r *Rooms) note(revision int64, changes []store.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = revision
	mark := func(cluster, instance string) {
		if c := r.clusters[cluster]; c != nil {
			c.marksMu.Lock()
			defer c.marksMu.Unlock()
			if instance == "" {
				c.first = revision
			} else {
				c.marks[instance] = revision
			}
		}
	}
	for _, change := range changes {
		if SameHost(change) {
			continue
		}
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
			case *store.Cluster:
				mark(aws.ToString(x.Object.ClusterName), "")
			case *store.Service:
				if x.Object.SchedulingStrategy == types.SchedulingStrategyDaemon {
					mark(x.Cluster, "")
				}
			}
		}
	}
}

// of are the rooms of a cluster, locked and up to date with the view, or newer.
func (r *Rooms) of(v *store.View, cluster string, now time.Time) *rooms {
	r.mu.Lock()
	c := r.clusters[cluster]
	if c == nil {
		c = &rooms{marks: map[string]int64{}, read: -1, at: map[string]int{}, gates: map[string]time.Time{}, busy: map[string]int{}}
		for inst := range v.Instances(cluster) {
			c.marks[inst.ID] = 0
		}
		if v.Revision() < r.told { // what changed since would be missed
			r.mu.Unlock()
			c.mu.Lock()
			c.update(v, r.network, cluster, now)
			return c
		}
		r.clusters[cluster] = c
	}
	r.mu.Unlock()
	c.mu.Lock()
	c.update(v, r.network, cluster, now)
	return c
}

// HostsOf is [HostsOf], but that the hosts are shared, and may be newer than the view.
// gate is when the first gate opens though nothing changes; zero: there is none.
func (r *Rooms) HostsOf(v *store.View, cluster string, now time.Time) (hosts []*Host, gate time.Time) {
	c := r.of(v, cluster, now)
	defer c.mu.Unlock()
	return slices.SortedFunc(slices.Values(c.hosts), byInstance), c.gate()
}

func byInstance(a, b *Host) int { return strings.Compare(a.Instance.ID, b.Instance.ID) }

// update brings the hosts up to date.
func (c *rooms) update(v *store.View, net *network.Network, cluster string, now time.Time) {
	if v.Revision() < c.read {
		return // others have brought them further
	}
	marks := map[string]bool{}
	c.marksMu.Lock()
	for id, revision := range c.marks {
		if revision <= v.Revision() { // a later change is for a later view
			marks[id] = true
			delete(c.marks, id)
		}
	}
	first := c.first
	c.marksMu.Unlock()
	if version := fmt.Sprint(net.Version()); c.read < first || c.read < 0 || version != c.network {
		c.network = version
		if d := DaemonsOf(v, net, cluster); d != c.daemons {
			c.daemons = d
			for id := range c.at {
				marks[id] = true
			}
		}
	}
	c.read = v.Revision()
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
			c.drop(id)
			continue
		}
		h := hostOf(v, inst)
		h.Subject() // before it is shared
		bare = append(bare, h)
	}
	made, _ := DaemonsFirst(v, net, cluster, bare, now)
	for _, h := range made {
		c.put(h)
	}
}

func (c *rooms) put(h *Host) {
	id := h.Instance.ID
	if i, ok := c.at[id]; ok {
		c.hosts[i] = h
	} else {
		c.at[id] = len(c.hosts)
		c.hosts = append(c.hosts, h)
	}
	for _, g := range h.Gates {
		if at := c.gates[id]; at.IsZero() || g.Until.Before(at) {
			c.gates[id] = g.Until
		}
	}
	for _, l := range c.lines {
		l.stale[id] = true
	}
}

func (c *rooms) drop(id string) {
	i, ok := c.at[id]
	if !ok {
		return
	}
	last := len(c.hosts) - 1
	c.hosts[i], c.hosts[last] = c.hosts[last], nil
	c.hosts = c.hosts[:last]
	delete(c.at, id)
	if i < last {
		c.at[c.hosts[i].Instance.ID] = i
	}
	for _, l := range c.lines {
		l.stale[id] = true
	}
}

// Line is a picker of the hosts as [Rooms.HostsOf] has them, kept from call to call: it costs what changed. What is picked is
// given up with the next call for such a request; until then it is the caller's, who is to be alone in asking for hosts of
// the cluster. gate is when the first gate opens though nothing changes, zero if there is none; looked is at how many hosts was
// looked.
func (r *Rooms) Line(v *store.View, cluster string, now time.Time, req *Request, strategies []types.PlacementStrategy) (p *Picker, gate time.Time, looked int) {
	c := r.of(v, cluster, now)
	defer c.mu.Unlock()
	l, looked := c.line(req, strategies)
	return l.picker, c.gate(), looked
}

// gate is when the first one opens.
func (c *rooms) gate() (first time.Time) {
	for _, at := range c.gates {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// line is the picker for a request, with all hosts as they are.
func (c *rooms) line(req *Request, strategies []types.PlacementStrategy) (l *line, looked int) {
	kind := req.kind(strategies)
	i := slices.IndexFunc(c.lines, func(l *line) bool { return l.kind == kind })
	if i < 0 {
		if len(c.lines) == mostLines {
			c.lines = slices.Delete(c.lines, 0, 1)
		}
		l = &line{kind: kind, picker: NewPicker(c.hosts, req, strategies, Options{}), stale: map[string]bool{}}
		c.lines = append(c.lines, l)
		return l, len(c.hosts)
	}
	l = c.lines[i]
	c.lines = append(slices.Delete(c.lines, i, i+1), l)
	return l, l.update(c)
}

// update puts the hosts into the line that changed, or that were picked for the request before.
func (l *line) update(c *rooms) (looked int) {
	for _, id := range l.picker.picked {
		l.stale[id] = true
	}
	l.picker.picked = l.picker.picked[:0]
	for id := range l.stale {
		if i, ok := c.at[id]; ok {
			l.picker.Put(c.hosts[i])
		} else {
			l.picker.Drop(id)
		}
	}
	looked = len(l.stale)
	clear(l.stale)
	return looked
}

// kind is all of a request that decides where its tasks are placed.
func (r *Request) kind(strategies []types.PlacementStrategy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %+v %d %t %t", r.Group, r.Service, r.Need, r.gpus, r.distinct, r.awsvpc())
	if r.Definition != nil {
		for _, a := range r.Definition.RequiresAttributes {
			fmt.Fprintf(&b, " %q=%q", aws.ToString(a.Name), aws.ToString(a.Value))
		}
	}
	for _, m := range r.memberOf {
		fmt.Fprintf(&b, " (%q)", m.text)
	}
	for _, s := range strategies {
		fmt.Fprintf(&b, " %q:%q", s.Type, aws.ToString(s.Field))
	}
	return b.String()
}

// DaemonsOf is the state of a cluster's DAEMON services and of their networks, as far as it depends on that what they leave
// to others.
func DaemonsOf(v *store.View, net *network.Network, cluster string) string {
	var b strings.Builder
	fmt.Fprint(&b, net.Version())
	tags := func(of []types.Tag) {
		for _, t := range of {
			fmt.Fprintf(&b, " %q=%q", aws.ToString(t.Key), aws.ToString(t.Value))
		}
	}
	if c := v.Cluster(cluster); c != nil {
		tags(c.Object.Tags)
	}
	for svc := range v.Services(cluster) {
		o := &svc.Object
		if o.SchedulingStrategy != types.SchedulingStrategyDaemon || aws.ToString(o.Status) != "ACTIVE" {
			continue
		}
		fmt.Fprintf(&b, "\n%q %q", aws.ToString(o.ServiceName), aws.ToString(o.TaskDefinition))
		tags(o.Tags)
		for _, p := range o.PlacementConstraints {
			fmt.Fprintf(&b, " %s(%q)", p.Type, aws.ToString(p.Expression))
		}
		for _, d := range o.Deployments {
			fmt.Fprintf(&b, " %s %s %t", aws.ToString(d.Id), aws.ToString(d.Status), d.RolloutState == types.DeploymentRolloutStateFailed)
		}
		if c := o.NetworkConfiguration; c != nil && c.AwsvpcConfiguration != nil {
			fmt.Fprintf(&b, " %q %q", c.AwsvpcConfiguration.Subnets, c.AwsvpcConfiguration.SecurityGroups)
		}
		if policy.Surges(o.Tags) != policy.NoSurge && policy.MakesRoom(o.Tags) { // room is kept where a roll-out has come
			for _, id := range slices.Sorted(maps.Keys(svc.Rollouts)) {
				fmt.Fprintf(&b, " %s %q", id, svc.Rollouts[id].Instances)
			}
		}
	}
	return b.String()
}

// A Turn is a placement under way in this process. Where all placements want the best hosts, all but one would choose in
// vain: they take turns. Where any host will do, they choose different ones as long as there are such.
type Turn struct {
	r          *Rooms
	strategies []types.PlacementStrategy
	of         *rooms
	held       []string // instances that were chosen
}

// Turn waits until it may begin. It ends with [Turn.Done], when what was chosen is in the store, or is given up.
func (r *Rooms) Turn(ctx context.Context, strategies []types.PlacementStrategy) (*Turn, error) {
	t := &Turn{r: r, strategies: strategies}
	if !likes(strategies) {
		return t, nil
	}
	select {
	case r.turn <- struct{}{}:
		return t, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other placements: %w", ctx.Err())
	}
}

// Done ends the turn.
func (t *Turn) Done() {
	t.release()
	if likes(t.strategies) {
		<-t.r.turn
	}
}

func (t *Turn) release() {
	if t.of == nil {
		return
	}
	t.of.mu.Lock()
	defer t.of.mu.Unlock()
	for _, id := range t.held {
		if t.of.busy[id]--; t.of.busy[id] == 0 {
			delete(t.of.busy, id)
		}
	}
	t.of, t.held = nil, nil
}

// Choose is [Choose] among the hosts of a cluster as [HostsOf] has them; none tells that there are none. What it chose
// before is given up. The hosts are shared.
func (t *Turn) Choose(v *store.View, cluster string, now time.Time, req *Request, n int) (chosen []*Host, refusals []*Refusal, none bool) {
	t.release()
	c := t.r.of(v, cluster, now)
	defer c.mu.Unlock()
	if likes(t.strategies) {
		chosen, refusals = c.best(req, t.strategies, n)
	} else {
		chosen, refusals = c.any(req, n)
	}
	t.of = c
	for _, h := range chosen {
		t.held = append(t.held, h.Instance.ID)
		c.busy[h.Instance.ID]++
	}
	slices.SortFunc(refusals, func(a, b *Refusal) int { return byInstance(a.Host, b.Host) })
	return chosen, refusals, len(c.hosts) == 0
}

// best are the hosts that the strategies like best.
func (c *rooms) best(req *Request, strategies []types.PlacementStrategy, n int) (chosen []*Host, refusals []*Refusal) {
	if req.Claim != nil { // it is for one decision
		return Choose(c.hosts, req, strategies, n)
	}
	l, _ := c.line(req, strategies)
	for len(chosen) < n {
		h, _ := l.picker.Pick()
		if h == nil {
			refusals = l.picker.Refusals()
			break
		}
		chosen = append(chosen, c.hosts[c.at[h.Instance.ID]])
	}
	return chosen, refusals
}

// any are hosts of which any will do: those that no placement under way has chosen before others.
func (c *rooms) any(req *Request, n int) (chosen []*Host, refusals []*Refusal) {
	host := func(i int) *Host { return c.hosts[i] }
	if req.Claim == nil && len(c.busy) > 0 { // a claim keeps what it has picked, and is not picked for twice
		idle := func(h *Host) bool { return c.busy[h.Instance.ID] == 0 }
		if chosen, _ = chooseAny(len(c.hosts), host, idle, req, n); len(chosen) == n {
			return chosen, nil
		}
	}
	return chooseAny(len(c.hosts), host, func(*Host) bool { return true }, req, n)
}

// likes tells whether one of the strategies prefers a host to another.
func likes(strategies []types.PlacementStrategy) bool {
	return slices.ContainsFunc(strategies, func(s types.PlacementStrategy) bool { return s.Type != types.PlacementStrategyTypeRandom })
}
