package containerd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/logdriver"
)

// labelName is the label that holds a container's name. containerd's own names are ids of ours.
const labelName = "longshore.name"

const extension = "longshore.container"

// record is what we keep of a container beyond what containerd does. It never changes.
type record struct {
	Spec      engine.Spec
	ImageID   string
	Image     engine.ImageConfig
	Anonymous map[string]string // volumes of the image by mount point: their names
}

func init() { typeurl.Register(&record{}, "longshore", "container", "1") }

// labels are those that people see: the image's, the document's and ours, and ours win.
func (rec *record) labels() map[string]string {
	all := maps.Clone(rec.Image.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, rec.Spec.Config.Labels)
	for k := range all {
		if strings.HasPrefix(k, "com.amazonaws.ecs.") || strings.HasPrefix(k, "longshore.") {
			delete(all, k)
		}
	}
	maps.Copy(all, rec.Spec.Labels)
	return all
}

// box is a container of ours: its record on containerd, and what we keep.
type box struct {
	containers.Container
	rec record
}

// open reads what a container's record says; NotFound if it is not ours.
func open(c containers.Container) (box, error) {
	b := box{Container: c}
	any, ours := c.Extensions[extension]
	if !ours || c.Labels[engine.LabelTaskArn] == "" {
		return b, noContainer(c.ID)
	}
	if err := typeurl.UnmarshalTo(any, &b.rec); err != nil {
		return b, refuse(errdefs.ErrDataLoss, "what is recorded of container %s can't be read: %v", c.ID, err)
	}
	return b, nil
}

// find returns our container by id or name.
func (r *Runtime) find(ctx context.Context, ref string) (box, error) {
	if ref == "" {
		return box{}, refuse(errdefs.ErrInvalidArgument, "no id or name given")
	}
	c, err := r.client.ContainerService().Get(ctx, ref)
	if err == nil {
		return open(c)
	}
	if err := classify(ctx, err); !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		return box{}, err
	}
	return r.byName(ctx, ref)
}

// byName returns our container of a name.
func (r *Runtime) byName(ctx context.Context, name string) (box, error) {
	if !r.names.whole() {
		list, err := r.client.ContainerService().List(ctx)
		if err != nil {
			return box{}, classify(ctx, err)
		}
		r.names.fill(list)
	}
	id := r.names.id(name)
	if id == "" {
		return box{}, noContainer(name)
	}
	c, err := r.client.ContainerService().Get(ctx, id)
	if err = classify(ctx, err); errdefs.IsNotFound(err) { // somebody else has removed it
		r.names.drop(name, id)
	}
	if err != nil {
		return box{}, err
	}
	return open(c)
}

// names are the ids of our containers by their names. Only this process makes and removes containers of ours, so what it has seen once
// and done since is all there is: containerd, which has no index of labels, would read every container to find one.
type names struct {
	mu   sync.Mutex
	ids  map[string]string
	seen bool // everything that was there before us
}

func (n *names) whole() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// fill takes what there is. What this process has made since the list was asked for is newer than it.
func (n *names) fill(list []containers.Container) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids == nil {
		n.ids = map[string]string{}
	}
	for _, c := range list {
		if name := c.Labels[labelName]; name != "" && n.ids[name] == "" {
			n.ids[name] = c.ID
		}
	}
	n.seen = true
}

// doubt says that there may be one that is not known.
func (n *names) doubt() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = false
}

func (n *names) id(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ids[name]
}

func (n *names) put(name, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ids[name] = id
}

// drop forgets a container, unless the name is another's by now.
func (n *names) drop(name, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids[name] == id {
		delete(n.ids, name)
	}
}

// task is a container's task; nil if it has none.
func (r *Runtime) task(ctx context.Context, id string) (*tasktypes.Process, error) {
	answer, err := r.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if err != nil {
		if err = native(err); errdefs.IsNotFound(err) {
			return nil, nil
		}
		return nil, classify(ctx, err)
	}
	return answer.Process, nil
}

func alive(t *tasktypes.Process) bool {
	return t != nil && (t.Status == tasktypes.Status_RUNNING || t.Status == tasktypes.Status_PAUSED || t.Status == tasktypes.Status_PAUSING)
}

// Inspect returns one of our containers.
func (r *Runtime) Inspect(ctx context.Context, ref string) (engine.State, error) {
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if err != nil {
		return engine.State{}, err
	}
	// An end that is on record needs no question: a shim that waits for its log process, which may wait for a service, answers none.
	if was, err := r.readRun(b.ID); err == nil && !was.FinishedAt.IsZero() {
		return r.state(b, nil, was), nil
	}
	t, err := r.task(ctx, b.ID)
	if err != nil {
		return engine.State{}, err
	}
	return r.look(ctx, b, t)
}

// look is the state of a container with its task, of which an end that nobody has written down yet is written down.
func (r *Runtime) look(ctx context.Context, b box, t *tasktypes.Process) (engine.State, error) {
	was, err := r.readRun(b.ID)
	if err != nil {
		return engine.State{}, fmt.Errorf("what is remembered of container %s: %w", b.rec.Spec.Name, err)
	}
	if !alive(t) && was.running() {
		if t, was, err = r.settle(ctx, b); err != nil {
			return engine.State{}, err
		}
	}
	return r.state(b, t, was), nil
}

func (r *Runtime) state(b box, t *tasktypes.Process, was run) engine.State {
	spec := b.rec.Spec
	st := engine.State{
		ID: b.ID, Name: spec.Name, Labels: b.rec.labels(), Image: spec.Image, ImageID: b.rec.ImageID, CreatedAt: b.CreatedAt,
		StartedAt: was.StartedAt, NetworkMode: networkMode(spec), Mounts: r.mounts(b.rec), Status: engine.StatusCreated, Error: was.Error, ExitCode: was.ExitCode,
	}
	switch {
	case (alive(t) || t == nil) && was.running():
		st.Status, st.Pid, st.Health, st.ExitCode = engine.StatusRunning, was.Pid, was.Health, 0
		if was.Network != nil {
			st.Ports, st.Addresses = was.Network.Ports, was.Network.Addresses
		}
		if st.Health.Status == "" && checks(b.rec) != nil {
			st.Health.Status = "UNKNOWN"
		}
	case t != nil && was.FinishedAt.IsZero(): // made, and not started yet
		st.StartedAt = time.Time{}
	case !was.StartedAt.IsZero():
		st.Status, st.FinishedAt, st.OOMKilled = engine.StatusExited, was.FinishedAt, was.OOMKilled
	}
	return st
}

// List returns all of our containers: one request for the records and one for the tasks.
func (r *Runtime) List(ctx context.Context) ([]engine.State, error) {
	ctx = r.ns(ctx)
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return nil, err
	}
	var all []engine.State
	for _, c := range list {
		b, err := open(c)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		st, err := r.look(ctx, b, tasks[b.ID])
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}

// everything is the tasks by their containers' ids, and the records of the namespace: asked for in this order, so that no end is missed.
func (r *Runtime) everything(ctx context.Context) (map[string]*tasktypes.Process, []containers.Container, error) {
	tasks, err := r.tasks(ctx)
	if err != nil {
		return nil, nil, err
	}
	list, err := r.client.ContainerService().List(ctx)
	return tasks, list, classify(ctx, err)
}

// tasks are the tasks of all containers, by their ids.
func (r *Runtime) tasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	answer, err := r.client.TaskService().List(ctx, &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, classify(ctx, err)
	}
	all := make(map[string]*tasktypes.Process, len(answer.Tasks))
	for _, t := range answer.Tasks {
		all[t.ID] = t
	}
	return all, nil
}

// known are locks: one for each name while a container of it is made, and one for each id while its process is begun or ended.
type known struct {
	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	held  chan struct{} // of capacity 1
	users int
}

// lock takes the lock of a name or an id; the returned function gives it back.
func (k *known) lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*lock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &lock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// Create makes a container: its snapshot and its record.
func (r *Runtime) Create(ctx context.Context, spec engine.Spec) (string, error) {
	ctx = r.ns(ctx)
	if err := check(spec); err != nil {
		return "", err
	}
	unlock, err := r.known.lock(ctx, "name "+spec.Name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if id, err := r.existing(ctx, spec); id != "" || err != nil {
		return id, err
	}
	img, err := r.local(ctx, spec.Image)
	if err != nil {
		return "", err
	}
	if spec.Mounts, err = r.inherit(ctx, spec); err != nil {
		return "", err
	}
	rec := record{Spec: spec, ImageID: img.ID, Image: img.Config, Anonymous: map[string]string{}}
	for _, at := range img.Config.Volumes {
		if !slices.ContainsFunc(spec.Mounts, func(m engine.Mount) bool { return path.Clean(m.Target) == path.Clean(at) }) {
			rec.Anonymous[path.Clean(at)] = newID()
		}
	}
	id := newID()
	f := r.input(id, rec)
	if u, err := r.user(ctx, rec); err == nil { // what is wrong with a user is said at the start
		f.User = u
	}
	oci, err := compose(rec, f)
	if err != nil {
		return "", err
	}
	return id, r.make(ctx, id, rec, oci, img)
}

func newID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// make makes the container of a record. What a failure leaves is taken back; what a crash leaves is collected by containerd, as
// nothing holds it but a lease that ends.
func (r *Runtime) make(ctx context.Context, id string, rec record, oci *specs.Spec, img local) (err error) {
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return classify(ctx, err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	if err := os.Mkdir(r.dir(id), 0o711); err != nil {
		return err
	}
	asked := false // containerd may have made it, whatever it says
	defer func() {
		if err != nil && !asked {
			_ = os.RemoveAll(r.dir(id))
		}
	}()
	if err := r.prepare(ctx, id, img); err != nil {
		return err
	}
	if err := r.makeVolumes(ctx, rec); err != nil {
		return err
	}
	kept, err := typeurl.MarshalAny(&rec)
	if err != nil {
		return err
	}
	ociAny, err := typeurl.MarshalAny(oci)
	if err != nil {
		return err
	}
	runtime, err := r.oci.info()
	if err != nil {
		return err
	}
	asked = true
	_, err = r.client.ContainerService().Create(ctx, containers.Container{
		ID: id, Image: img.name, Labels: map[string]string{labelName: rec.Spec.Name, engine.LabelTaskArn: rec.Spec.Labels[engine.LabelTaskArn]},
		Runtime: runtime, Spec: ociAny, SnapshotKey: id, Snapshotter: r.cfg.Snapshotter,
		Extensions: map[string]typeurl.Any{extension: kept},
	})
	if err != nil {
		r.names.doubt()
		return classify(ctx, err)
	}
	r.names.put(rec.Spec.Name, id)
	return nil
}

// check refuses what no container can be made of.
func check(spec engine.Spec) error {
	switch {
	case spec.Name == "":
		return refuse(errdefs.ErrInvalidArgument, "a container needs a name")
	case spec.Labels[engine.LabelTaskArn] == "":
		return refuse(errdefs.ErrInvalidArgument, "container %s has no label %s", spec.Name, engine.LabelTaskArn)
	}
	driver, options := logConfig(record{Spec: spec})
	if err := logdriver.Check(driver, options); err != nil {
		return &wrapped{errdefs.ErrInvalidArgument, err}
	}
	for _, m := range spec.Mounts {
		switch {
		case !path.IsAbs(m.Target):
			return refuse(errdefs.ErrInvalidArgument, "mount target %q is not an absolute path", m.Target)
		case m.Type == "bind" && !path.IsAbs(m.Source):
			return refuse(errdefs.ErrInvalidArgument, "host path %q for %s is not absolute", m.Source, m.Target)
		case m.Type != "bind" && m.Type != "volume" && m.Type != "tmpfs":
			return refuse(errdefs.ErrInvalidArgument, "mount type %q for %s is none of bind, volume and tmpfs", m.Type, m.Target)
		}
	}
	return nil
}

// existing returns the container that has the name already, if it is the one that was asked for.
func (r *Runtime) existing(ctx context.Context, spec engine.Spec) (string, error) {
	if c, err := r.client.ContainerService().Get(ctx, spec.Name); err == nil {
		return "", refuse(errdefs.ErrAlreadyExists, "the name %s is taken by container %s, which is not of this agent", spec.Name, c.ID)
	} else if err := classify(ctx, err); !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		return "", err
	}
	b, err := r.byName(ctx, spec.Name)
	switch {
	case errdefs.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", err
	case b.Labels[engine.LabelTaskArn] != spec.Labels[engine.LabelTaskArn]:
		return "", refuse(errdefs.ErrAlreadyExists, "the name %s is taken by container %s of %s", spec.Name, b.ID, b.Labels[engine.LabelTaskArn])
	}
	return b.ID, nil
}

// Remove removes a container that does not run.
func (r *Runtime) Remove(ctx context.Context, ref string) error {
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	unlock, err := r.known.lock(ctx, b.ID)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := r.task(ctx, b.ID)
	switch {
	case err != nil:
		return err
	case alive(t):
		return refuse(errdefs.ErrFailedPrecondition, "container %s runs", b.rec.Spec.Name)
	case t != nil:
		if err := r.release(ctx, b.ID); err != nil {
			return err
		}
	}
	return r.remove(ctx, b)
}

// remove takes away what a container without a task has. The lock is held.
func (r *Runtime) remove(ctx context.Context, b box) error {
	if err := r.disconnect(ctx, b); err != nil {
		return err
	}
	if err := r.client.ContainerService().Delete(ctx, b.ID); err != nil && !errdefs.IsNotFound(native(err)) {
		return classify(ctx, err)
	}
	if err := r.client.SnapshotService(b.Snapshotter).Remove(ctx, b.SnapshotKey); err != nil && !errdefs.IsNotFound(native(err)) {
		return classify(ctx, err) // containerd's collector takes it later
	}
	for name := range volumesOf(b.rec) {
		if !anonymous.MatchString(name) {
			continue
		}
		if err := r.RemoveVolume(ctx, name); err != nil && !errdefs.IsFailedPrecondition(err) { // another one has it too
			return err
		}
	}
	r.names.drop(b.rec.Spec.Name, b.ID)
	return os.RemoveAll(r.dir(b.ID))
}

// mounts are what the container has of the host, volumes with their folders.
func (r *Runtime) mounts(rec record) []engine.Mount {
	all := slices.Clone(rec.Spec.Mounts)
	for i := range all {
		if all[i].Type == "volume" {
			all[i].Path = r.volumeData(all[i].Source)
		}
	}
	return all
}

func networkMode(spec engine.Spec) string {
	for _, m := range []string{spec.HostConfig.NetworkMode, spec.NetworkMode} {
		if m != "" && m != "default" {
			return m
		}
	}
	return "bridge"
}

// now is a time as it is written into files.
func now() time.Time { return time.Now().UTC() }

// ImageUses lists every container of the namespace.
func (r *Runtime) ImageUses(ctx context.Context) ([]engine.ImageUse, error) {
	ctx = r.ns(ctx)
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return nil, err
	}
	var uses []engine.ImageUse
	for _, c := range list {
		use := engine.ImageUse{Name: c.ID, Status: engine.StatusExited}
		if alive(tasks[c.ID]) {
			use.Status = engine.StatusRunning
		}
		if b, err := open(c); err == nil {
			use.ImageID, use.Name, use.Ours = b.rec.ImageID, b.rec.Spec.Name, true
		} else if img, err := r.local(ctx, c.Image); err == nil {
			use.ImageID = img.ID
		}
		uses = append(uses, use)
	}
	return uses, nil
}
