package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// mostHostEvents is up to how many instances without room each have an event of its own, passEvents of them in one pass;
// the event about all of them counts any number.
const mostHostEvents, passEvents = 40, 8

// complainHostByHost tells for each instance without room what is short there, when there are several: of one alone the
// event about all tells that.
func (p *pass) complainHostByHost(refusals []*placement.Refusal) {
	if p.svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon {
		return // any instance does
	}
	var short []*placement.Refusal
	for _, r := range refusals {
		if strings.HasPrefix(r.Reason, "RESOURCE:") {
			short = append(short, r)
		}
	}
	if len(short) < 2 || len(short) > mostHostEvents {
		return
	}
	told := 0
	for _, r := range short {
		head := fmt.Sprintf("(service %s) has no room on (container-instance %s): ", p.name, r.Host.Instance.ID)
		if p.said(head) {
			continue
		}
		if told++; told > passEvents {
			p.plan.wake = p.now // the rest follows
			return
		}
		p.say("%s%s: %s.", head, r.Reason, r.Detail)
	}
}

// makeRoom has replicas replaced elsewhere that keep the daemon from a place where it finds no room, when its service is
// tagged so: the newest first, as few as are enough, none when all would not be. Their services do that start-first and
// within their percentages, as in a drain. Meanwhile the room is kept, so that no other replica takes it. It tells whether
// there will be room.
func (p *pass) makeRoom(pl *place, req *placement.Request) bool {
	if !policy.MakesRoom(p.svc.Object.Tags) {
		return false
	}
	if comes, asked := p.rooms[pl.id]; asked {
		return comes
	}
	p.rooms[pl.id] = p.moveReplicas(pl, req)
	return p.rooms[pl.id]
}

func (p *pass) moveReplicas(pl *place, req *placement.Request) bool {
	var movable []*store.Task
	after := pl.host
	for _, t := range pl.host.Tasks {
		switch {
		case !task.Wanted(t) || t.MakesRoomFor != "":
			after = after.Without(t)
		case t.Service != "" && !p.daemon(t.Service) && !task.Protected(t, p.now):
			movable = append(movable, t)
		}
	}
	slices.SortStableFunc(movable, func(a, b *store.Task) int {
		return aws.ToTime(b.Object.CreatedAt).Compare(aws.ToTime(a.Object.CreatedAt))
	})
	var moves []*store.Task
	for _, t := range movable {
		if req.Check(after) == nil {
			break
		}
		after = after.Without(t)
		n := *t
		n.MakesRoomFor, n.MakesRoomSince = p.name, p.now
		moves = append(moves, &n)
	}
	if req.Check(after) != nil {
		return false
	}
	if len(moves) == 0 {
		return true
	}
	p.plan.moves = append(p.plan.moves, moves...)
	p.sayOnce("(service %s) has %d tasks of other services replaced elsewhere to find room on (container-instance %s).", p.name, len(moves), pl.id)
	return true
}
