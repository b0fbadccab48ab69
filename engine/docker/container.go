package docker

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/longshore-project/longshore/engine"
)

// known remembers, by id, containers that have been seen to be ours.
type known struct {
	mu  sync.Mutex
	ids map[string]*seen
}

type seen struct {
	starting chan struct{} // of capacity 1: held by the one Start under way
	fresh    bool          // created here and never started; guarded by starting
}

func (k *known) add(id string, fresh bool) *seen {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ids == nil {
		k.ids = map[string]*seen{}
	}
	if k.ids[id] == nil {
		k.ids[id] = &seen{starting: make(chan struct{}, 1), fresh: fresh}
	}
	return k.ids[id]
}

func (k *known) get(id string) *seen {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ids[id]
}

func (k *known) forget(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.ids, id)
}

// keep forgets containers that are no longer on the engine. One that was made while the engine answered is only looked
// at once more before its start.
func (k *known) keep(list []container.Summary) {
	k.mu.Lock()
	defer k.mu.Unlock()
	there := make(map[string]bool, len(list))
	for _, c := range list {
		there[c.ID] = true
	}
	for id, s := range k.ids {
		if !there[id] && len(s.starting) == 0 {
			delete(k.ids, id)
		}
	}
}

// own returns the id of our container that is called by id or name; NotFound if there is none, or a foreign one.
func (r *Runtime) own(ctx context.Context, id string) (string, *seen, error) {
	if s := r.known.get(id); s != nil {
		return id, s, nil
	}
	c, err := r.inspect(ctx, id)
	if err != nil {
		return "", nil, err
	}
	return c.ID, r.known.add(c.ID, false), nil
}

// inspect is the engine's own description of one of our containers.
func (r *Runtime) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	if id == "" {
		return container.InspectResponse{}, refuse(errdefs.ErrInvalidArgument, "no id or name given")
	}
	c, err := r.link.api(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return c, classify(ctx, err)
	}
	// The engine also finds containers by a part of their id; that is no name of ours.
	if c.ContainerJSONBase == nil || c.Config == nil || c.Config.Labels[engine.LabelTaskArn] == "" ||
		c.ID != id && strings.TrimPrefix(c.Name, "/") != id {
		return c, refuse(errdefs.ErrNotFound, "no such container: %s", id)
	}
	return c, nil
}

// Inspect returns one of our containers: one request.
func (r *Runtime) Inspect(ctx context.Context, id string) (engine.State, error) {
	c, err := r.inspect(ctx, id)
	if err != nil {
		return engine.State{}, err
	}
	r.known.add(c.ID, false)
	return fromInspect(c), nil
}

// List returns all of our containers: one request. Of exit code and health it shows what the engine's list says; times,
// OOMKilled and Error need Inspect.
func (r *Runtime) List(ctx context.Context) ([]engine.State, error) {
	list, err := r.link.api(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", engine.LabelTaskArn))})
	if err != nil {
		return nil, classify(ctx, err)
	}
	all := make([]engine.State, 0, len(list))
	r.known.keep(list)
	for _, c := range list {
		if c.Labels[engine.LabelTaskArn] == "" {
			continue
		}
		r.known.add(c.ID, false)
		all = append(all, fromSummary(c))
	}
	r.images.sweep(ctx)
	return all, nil
}

// Create makes a container: one request, and a second if the name is taken.
func (r *Runtime) Create(ctx context.Context, spec engine.Spec) (string, error) {
	conf, host, err := translate(spec)
	if err != nil {
		return "", err
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		made, err := r.link.api(ctx).ContainerCreate(ctx, conf, host, nil, nil, spec.Name)
		if err == nil {
			for _, w := range made.Warnings {
				r.log.Sugar().Warnw("the Docker engine warns about a new container", "container", spec.Name, "warning", w)
			}
			r.known.add(made.ID, true)
			return made.ID, nil
		}
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "already in use") {
			return "", createError(ctx, err)
		}
		conflict := classify(ctx, err)
		id, err := r.existing(ctx, spec)
		if !errdefs.IsNotFound(err) {
			return id, err
		}
		// The name is taken by a container that can't be seen: one that is just being made, or just being removed.
		if pause(ctx, wait) != nil {
			return "", fmt.Errorf("%w; the engine says: %w", ctx.Err(), conflict)
		}
	}
}

// createError: of all that may be missing only the image is NotFound to our callers.
func createError(ctx context.Context, err error) error {
	err = classify(ctx, err)
	if errdefs.IsNotFound(err) && byText(err, []rule{{err, []string{"no such image"}}}) == nil {
		return withClass(err, errdefs.ErrInvalidArgument)
	}
	if errdefs.IsInternal(err) && byText(err, []rule{{err, []string{"invalid", "unknown log opt", "unknown"}}}) != nil {
		return withClass(err, errdefs.ErrInvalidArgument)
	}
	return err
}

// existing returns the container that has the name already, if it is the one that was asked for.
func (r *Runtime) existing(ctx context.Context, spec engine.Spec) (string, error) {
	c, err := r.link.api(ctx).ContainerInspect(ctx, spec.Name)
	if err != nil {
		return "", classify(ctx, err)
	}
	if c.Config.Labels[engine.LabelTaskArn] != spec.Labels[engine.LabelTaskArn] {
		owner := c.Config.Labels[engine.LabelTaskArn]
		if owner == "" {
			owner = "nobody we know"
		}
		return "", refuse(errdefs.ErrAlreadyExists, "the name %s is taken by container %s of %s", spec.Name, c.ID, owner)
	}
	r.known.add(c.ID, false)
	return c.ID, nil
}

// Start starts a container: one request if it was created by this Runtime, else two.
func (r *Runtime) Start(ctx context.Context, name string) error { return r.start(ctx, name, false) }

// Restart starts a container whose process has ended once more, in place: with its id, name, file system and output.
// Restarting a running one does nothing. It makes Runtime an engine.Restarter. Two requests.
func (r *Runtime) Restart(ctx context.Context, name string) error { return r.start(ctx, name, true) }

func (r *Runtime) start(ctx context.Context, name string, again bool) error {
	id, s, err := r.own(ctx, name)
	if err != nil {
		return err
	}
	select {
	case s.starting <- struct{}{}:
		defer func() { <-s.starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !s.fresh {
		c, err := r.inspect(ctx, id)
		if err != nil {
			return err
		}
		switch st := fromInspect(c); {
		case st.Status == engine.StatusRunning:
			return nil
		case !again && (st.Status != engine.StatusCreated || !st.StartedAt.IsZero()):
			return refuse(errdefs.ErrFailedPrecondition, "container %s has run already and ended with exit code %d", st.Name, c.State.ExitCode)
		}
		if err := r.reconnect(ctx, c); err != nil {
			return err
		}
	}
	s.fresh = false
	err = classify(ctx, r.link.api(ctx).ContainerStart(ctx, id, container.StartOptions{}))
	if errdefs.IsNotFound(err) {
		if !strings.Contains(err.Error(), id) { // a network, or a container whose namespaces it wants
			return withClass(err, errdefs.ErrInvalidArgument)
		}
		r.known.forget(id)
	}
	return err
}

// reconnect gives a container its network back. Since Docker 28 a start that fails because a host port is taken leaves the container
// on no network, and the next start would succeed without one, publishing nothing.
func (r *Runtime) reconnect(ctx context.Context, c container.InspectResponse) error {
	if c.NetworkSettings == nil || len(c.NetworkSettings.Networks) > 0 || c.HostConfig == nil || !publishes(c.HostConfig.NetworkMode) || c.Config.NetworkDisabled {
		return nil
	}
	network := c.HostConfig.NetworkMode.NetworkName()
	if c.HostConfig.NetworkMode.IsDefault() {
		network = "bridge"
	}
	err := classify(ctx, r.link.api(ctx).NetworkConnect(ctx, network, c.ID, nil))
	if errdefs.IsNotFound(err) {
		return withClass(err, errdefs.ErrInvalidArgument)
	}
	return err
}

// Stop stops a container: one request, which lasts until the process is gone.
func (r *Runtime) Stop(ctx context.Context, name string, grace time.Duration) error {
	id, _, err := r.own(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	seconds := int(math.Ceil(max(grace, 0).Seconds()))
	err = classify(ctx, r.link.api(ctx).ContainerStop(ctx, id, container.StopOptions{Timeout: &seconds}))
	if err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	if ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return err
	}
	// The engine can fail to signal a process that ends at that moment.
	if c, ierr := r.inspect(ctx, id); errdefs.IsNotFound(ierr) || ierr == nil && status(c.State.Status) != engine.StatusRunning {
		return nil
	}
	return err
}

// Remove removes a container that does not run.
func (r *Runtime) Remove(ctx context.Context, name string) error {
	id, _, err := r.own(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := classify(ctx, r.link.api(ctx).ContainerRemove(ctx, id, container.RemoveOptions{RemoveVolumes: true}))
		if err == nil || errdefs.IsNotFound(err) {
			r.known.forget(id)
			return nil
		}
		// Somebody else is removing it: wait until it is gone.
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "already in progress") {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// RemoveVolume removes a named volume. Removing what no longer exists does nothing; a volume that a container uses is
// FailedPrecondition. It makes Runtime an engine.VolumeRemover. One request.
func (r *Runtime) RemoveVolume(ctx context.Context, name string) error {
	err := classify(ctx, r.link.api(ctx).VolumeRemove(ctx, name, false))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
