package docker

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/longshore-project/longshore/engine"
)

// Events follows the engine's events of our containers. The engine answers a moment before it subscribes, so it is
// asked for events since the call began: nothing after ready is missed, and something before it may be repeated.
func (r *Runtime) Events(ctx context.Context, ready func(), f func(engine.Event)) error {
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	now := time.Now()
	args := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("label", engine.LabelTaskArn))
	for _, action := range []events.Action{
		events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionOOM, events.ActionStop, events.ActionKill,
		events.ActionDestroy, events.ActionPause, events.ActionUnPause, events.ActionHealthStatus,
	} {
		args.Add("event", string(action))
	}
	since := strconv.FormatInt(now.Unix(), 10) + "." + nanos(now)
	messages, errs := r.link.api(ctx).Events(streamCtx, events.ListOptions{Since: since, Filters: args})
	select {
	case err := <-errs: // refused at once
		if ctx.Err() != nil {
			return nil
		}
		return classify(ctx, err)
	default:
	}
	if ready != nil {
		ready()
	}
	for {
		select {
		case m := <-messages:
			if arn := m.Actor.Attributes[engine.LabelTaskArn]; arn != "" {
				f(engine.Event{ContainerID: m.Actor.ID, TaskArn: arn, Action: action(string(m.Action)), Time: time.Unix(0, m.TimeNano)})
			}
		case err := <-errs:
			if ctx.Err() != nil {
				return nil
			}
			return classify(ctx, err)
		}
	}
}

func nanos(t time.Time) string {
	s := strconv.Itoa(t.Nanosecond())
	return strings.Repeat("0", 9-len(s)) + s
}

func action(docker string) string {
	if strings.HasPrefix(docker, string(events.ActionHealthStatus)) {
		return "health"
	}
	return docker
}
