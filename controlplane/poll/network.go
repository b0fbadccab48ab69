package poll

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/protocol/acs"
)

// An agent is told of the network what its tasks need, in this order: the security groups of their interfaces, then of each
// interface that is not attached yet, then the tasks themselves.

// interfacesOf are a task's interfaces as its agent gets them: it makes them itself.
func interfacesOf(t *store.Task) (out []*acs.ElasticNetworkInterface) {
	for n := range t.Interfaces {
		i := &t.Interfaces[n]
		e := &acs.ElasticNetworkInterface{
			AttachmentArn: task.AttachmentARN(t, i), Ec2ID: i.ID, MacAddress: i.MAC, Index: int64(n), InterfaceAssociationProtocol: acs.AssociationVeth,
			SubnetGatewayIpv4Address: i.IPv4Gateway, SubnetGatewayIpv6Address: i.IPv6Gateway,
			DomainName: i.DomainName, DomainNameServers: i.DomainNameServers, PrivateDNSName: i.PrivateDNSName, SecurityGroups: i.SecurityGroups,
		}
		if i.IPv4 != "" {
			e.IPv4Addresses = []*acs.IPv4Address{{PrivateAddress: i.IPv4, Primary: true}}
		}
		if i.IPv6 != "" {
			e.IPv6Addresses = []*acs.IPv6Address{{Address: i.IPv6, Primary: true}}
		}
		out = append(out, e)
	}
	return out
}

// attach announces the interfaces of tasks that wait for them, and stops the tasks that have waited too long. It tells when to
// look again, zero for never; false when the socket has ended.
func (c *acsSession) attach(j job, now time.Time) (next time.Time, ok bool) {
	var wants []want
	waiting := map[string]*store.Task{}
	for _, t := range j.tasks {
		if task.LastStatus(t) != task.Provisioning || !task.Wanted(t) {
			continue
		}
		due := now.Add(c.cfg.AttachWait)
		if !t.AcceptedAt.IsZero() {
			due = t.AcceptedAt.Add(c.cfg.AttachWait)
		}
		if !due.After(now) {
			c.stopUnstarted(t, task.ReasonNoInterface, "longshore-agent explain says on its host what the interface waited for", func(is *store.Task) bool { return task.LastStatus(is) == task.Provisioning })
			due = now.Add(c.cfg.AttachWait)
		} else {
			wants = append(wants, want{t.ID, task.Provisioning})
			waiting[t.ID] = t
		}
		next = sooner(next, due)
	}
	attempts, again := c.attachments.due(wants, now)
	for _, a := range attempts {
		t := waiting[a.id]
		wait := c.cfg.AttachWait
		if !t.AcceptedAt.IsZero() {
			wait -= now.Sub(t.AcceptedAt)
		}
		err := c.send(&acs.AttachTaskNetworkInterfacesMessage{
			MessageID: a.message, ClusterArn: j.clusterArn, ContainerInstanceArn: j.instanceArn, TaskArn: aws.ToString(t.Object.TaskArn),
			TaskClusterArn: aws.ToString(t.Object.ClusterArn), GeneratedAt: now.UnixMilli(), WaitTimeoutMs: max(wait.Milliseconds(), 1),
			ElasticNetworkInterfaces: interfacesOf(t),
		})
		if err != nil && !errors.Is(err, errTooLarge) {
			return next, false
		}
	}
	return sooner(next, again), true
}

// sooner is the earlier of two times, of which zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// told is what one connection's agent was told of security groups.
type told struct {
	states   []network.GroupState // that were sent last
	message  string               // id of the message, until it is acknowledged; empty: nothing is under way
	pause    time.Duration
	resendAt time.Time
	nextAt   atomic.Int64 // Unix nanoseconds before which a change of members alone is not told
	interest []string     // the groups whose members the agent needs; guarded by the server's lock
}

// tellGroups tells the agent of the security groups of its tasks' interfaces, if what it knows is not so any more. It tells when
// to look again, zero for never; false when the socket has ended.
func (c *acsSession) tellGroups(j job, now time.Time) (next time.Time, ok bool) {
	if !j.makesInterfaces {
		return next, true
	}
	states := c.cfg.Network.Groups(groupsOf(j.tasks))
	c.server.takeInterest(c, states)
	c.hasGroups.Store(len(states) > 0)
	g := &c.groups
	rules, members := sameRules(g.states, states), sameMembers(g.states, states)
	switch {
	case len(states) == 0, rules && members && g.message == "":
		return next, true
	case rules && members && g.resendAt.After(now):
		return g.resendAt, true
	case rules && !members && g.nextAt.Load() > now.UnixNano():
		return time.Unix(0, g.nextAt.Load()), true
	case rules && members:
		g.pause = min(2*g.pause, c.cfg.ResendMax)
	default:
		g.pause = c.cfg.Resend
	}
	generation, ok := c.nextNumber()
	if !ok {
		return next, false
	}
	m := &acs.SecurityGroupsMessage{MessageID: uuid.NewString(), ClusterArn: j.clusterArn, ContainerInstanceArn: j.instanceArn, Generation: generation}
	count := 0
	for _, s := range states {
		m.Groups = append(m.Groups, s.SecurityGroup)
		count += len(s.SecurityGroup.Members)
	}
	g.states, g.message, g.resendAt = states, m.MessageID, now.Add(g.pause)
	g.nextAt.Store(now.Add(c.server.memberPause(states, count)).UnixNano())
	err := c.send(m)
	c.log().Debug("security groups sent", zap.Int64("generation", generation), zap.Int("groups", len(m.Groups)), zap.Int("members", count), zap.Error(err))
	if errors.Is(err, errTooLarge) {
		c.log().Error("the security groups of an agent's tasks are too large for a message: it goes on with those it has; use fewer rules or members",
			zap.Int("groups", len(m.Groups)), zap.Int("members", count), zap.Error(err))
	}
	return g.resendAt, err == nil || errors.Is(err, errTooLarge)
}

// groupsOf are the security groups of the tasks' interfaces.
func groupsOf(tasks []*store.Task) (names []string) {
	for _, t := range tasks {
		for _, i := range t.Interfaces {
			for _, name := range i.SecurityGroups {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

func sameRules(a, b []network.GroupState) bool {
	return slices.EqualFunc(a, b, func(x, y network.GroupState) bool {
		return x.GroupID == y.GroupID && x.Rules == y.Rules && (x.Members == 0) == (y.Members == 0) && len(x.Ingress) == len(y.Ingress) && len(x.Egress) == len(y.Egress)
	})
}

func sameMembers(a, b []network.GroupState) bool {
	return slices.EqualFunc(a, b, func(x, y network.GroupState) bool { return x.Members == y.Members })
}

// interests are the sessions by the groups whose members their agents need: a change of members wakes these and no others.
type interests struct {
	of map[string]map[*acsSession]struct{} // guarded by the server's lock

	mu    sync.Mutex
	dirty map[string]struct{} // groups whose members changed, and not every session of interest was woken since
	kick  chan struct{}       // of one
}

// takeInterest has the session woken by changes of the groups whose members are in states.
func (s *Server) takeInterest(c *acsSession, states []network.GroupState) {
	var names []string
	for _, g := range states {
		if g.Members != 0 {
			names = append(names, g.GroupID)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.ctx.Err() != nil { // its last turn
		names = nil
	}
	if slices.Equal(names, c.groups.interest) {
		return
	}
	s.dropInterest(c)
	c.groups.interest = names
	for _, name := range names {
		if s.interests.of[name] == nil {
			s.interests.of[name] = map[*acsSession]struct{}{}
		}
		s.interests.of[name][c] = struct{}{}
	}
}

// dropInterest ends that; the caller holds mu.
func (s *Server) dropInterest(c *acsSession) {
	for _, name := range c.groups.interest {
		if delete(s.interests.of[name], c); len(s.interests.of[name]) == 0 {
			delete(s.interests.of, name)
		}
	}
	c.groups.interest = nil
}

// membersChanged notes groups whose members changed.
func (s *Server) membersChanged(a *store.Address) {
	s.interests.mu.Lock()
	for _, name := range a.SecurityGroups {
		s.interests.dirty[name] = struct{}{}
	}
	s.interests.mu.Unlock()
	kick(s.interests.kick)
}

// memberPause is how long an agent is not told again of members that change, after it was told of so many: the more hosts want to
// know of the more members, the less often each hears. A first change after a while is told at once.
func (s *Server) memberPause(states []network.GroupState, members int) time.Duration {
	hosts := 0
	s.mu.Lock()
	for _, g := range states {
		hosts = max(hosts, len(s.interests.of[g.GroupID]))
	}
	s.mu.Unlock()
	const each = 100 * time.Nanosecond // ten million members a second, over all hosts
	return max(memberRest, time.Duration(hosts)*time.Duration(members)*each)
}

// memberRest is the shortest pause between two messages to an agent about members alone.
const memberRest = 100 * time.Millisecond

// tellMembers wakes the sessions that changes of members concern, each when it may be told again.
func (s *Server) tellMembers(ctx context.Context) {
	tick := time.NewTicker(memberRest)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.interests.kick:
		}
		for s.wakeInterested(time.Now()) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// wakeInterested tells whether some sessions are still to be woken.
func (s *Server) wakeInterested(now time.Time) (more bool) {
	s.interests.mu.Lock()
	dirty := s.interests.dirty
	s.interests.dirty = map[string]struct{}{}
	s.interests.mu.Unlock()
	var left []string
	s.mu.Lock()
	for name := range dirty {
		later := false
		for c := range s.interests.of[name] {
			if c.groups.nextAt.Load() > now.UnixNano() {
				later = true
			} else {
				c.notify()
			}
		}
		if later {
			left = append(left, name)
		}
	}
	s.mu.Unlock()
	s.interests.mu.Lock()
	defer s.interests.mu.Unlock()
	for _, name := range left {
		s.interests.dirty[name] = struct{}{}
	}
	return len(s.interests.dirty) > 0
}

// rulesChanged wakes all sessions whose agents have interfaces.
func (s *Server) rulesChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.acs {
		if c.hasGroups.Load() {
			c.notify()
		}
	}
}

// stopUnstarted stops a task that can't be started, for a reason, if it is still so, and tells in the log what to do about it.
func (c *acsSession) stopUnstarted(t *store.Task, reason, help string, still func(*store.Task) bool) {
	log := c.log().With(zap.String("task", aws.ToString(t.Object.TaskArn)), zap.String("step", "place"), zap.String("reason", reason))
	ctx, cancel := context.WithTimeout(c.ctx, stopRoleWait)
	defer cancel()
	err := store.Retry(ctx, func() error {
		var n *store.Task
		if err := c.cfg.Store.Read(ctx, func(v *store.View) error {
			if now := v.Task(t.Cluster, t.ID); now != nil && still(now) {
				n = task.Stop(now, types.TaskStopCodeTaskFailedToStart, reason, time.Now())
			}
			return nil
		}); err != nil || n == nil {
			return err
		}
		return c.cfg.Store.Txn().Update(n).StateChange().Commit(ctx)
	})
	switch {
	case err == nil:
		log.Error("a task that can't be started was stopped: "+help, zap.String("error", reason), zap.String("remedy", remedy.Of(reason).Do))
	case c.ctx.Err() == nil:
		log.Warn("a task that can't be started could not be stopped; it is tried again", zap.Error(err))
	}
}
