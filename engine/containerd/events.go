package containerd

import (
	"cmp"
	"context"
	"fmt"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	coreevents "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"github.com/longshore-project/longshore/engine"
)

// Events follows the events of our containers.
func (r *Runtime) Events(ctx context.Context, ready func(), each func(engine.Event)) error {
	ctx, cancel := context.WithCancel(r.ns(ctx))
	defer cancel()
	health := make(chan engine.Event, 256)
	r.health.listen(health)
	defer r.health.unlisten(health)
	heard, failed := r.client.Subscribe(ctx, `topic~="^/(containers|tasks|longshore)/"`)
	err := r.stands(ctx, heard, failed)
	var owners map[string]string
	if err == nil {
		owners, err = r.owners(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if ready != nil {
		ready()
	}
	for {
		select {
		case e := <-heard:
			if e == nil || e.Namespace != r.cfg.Namespace {
				continue
			}
			if told, ours := r.translate(ctx, e, owners); ours {
				each(told)
			}
		case e := <-health:
			each(e)
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = fmt.Errorf("containerd has ended the stream of events: %w", errdefs.ErrUnavailable)
			}
			return classify(ctx, err)
		case <-ctx.Done():
			return nil
		}
	}
}

// stands waits until a subscription stands, which containerd does not say: until an event that is published is heard.
func (r *Runtime) stands(ctx context.Context, heard <-chan *coreevents.Envelope, failed <-chan error) error {
	token := newID()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		if err := r.client.EventService().Publish(ctx, "/longshore/subscribed", &apievents.NamespaceCreate{Name: token}); err != nil {
			return classify(ctx, err)
		}
		select {
		case e := <-heard:
			if e == nil {
				continue
			}
			if any, err := typeurl.UnmarshalAny(e.Event); err == nil {
				if v, is := any.(*apievents.NamespaceCreate); is && v.Name == token {
					return nil
				}
			}
		case err := <-failed:
			return classify(ctx, cmp.Or(err, error(errdefs.ErrUnavailable)))
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// owners are the tasks of our containers by the containers' ids.
func (r *Runtime) owners(ctx context.Context) (map[string]string, error) {
	list, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, classify(ctx, err)
	}
	owners := map[string]string{}
	for _, c := range list {
		if arn := c.Labels[engine.LabelTaskArn]; arn != "" {
			owners[c.ID] = arn
		}
	}
	return owners, nil
}

// translate turns one of containerd's events into ours.
func (r *Runtime) translate(ctx context.Context, e *coreevents.Envelope, owners map[string]string) (engine.Event, bool) {
	any, err := typeurl.UnmarshalAny(e.Event)
	if err != nil {
		return engine.Event{}, false
	}
	told := engine.Event{Time: e.Timestamp}
	switch v := any.(type) {
	case *apievents.ContainerCreate:
		told.ContainerID, told.Action = v.ID, "create"
		if c, err := r.client.ContainerService().Get(ctx, v.ID); err == nil && c.Labels[engine.LabelTaskArn] != "" {
			owners[v.ID] = c.Labels[engine.LabelTaskArn]
		}
	case *apievents.ContainerDelete:
		told.ContainerID, told.Action = v.ID, "destroy"
		defer delete(owners, v.ID)
	case *apievents.TaskStart:
		told.ContainerID, told.Action = v.ContainerID, "start"
	case *apievents.TaskExit:
		if v.ID != v.ContainerID {
			return told, false // of a program run in it
		}
		told.ContainerID, told.Action = v.ContainerID, "die"
	case *apievents.TaskOOM:
		told.ContainerID, told.Action = v.ContainerID, "oom"
	default:
		return told, false
	}
	told.TaskArn = owners[told.ContainerID]
	return told, told.TaskArn != ""
}

func (p *publisher) listen(c chan<- engine.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hear == nil {
		p.hear = map[chan<- engine.Event]struct{}{}
	}
	p.hear[c] = struct{}{}
}

func (p *publisher) unlisten(c chan<- engine.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.hear, c)
}
