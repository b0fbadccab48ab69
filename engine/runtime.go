package engine

import (
	"context"
	"io"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Runtime is what a container engine does for the agent: the one interface between a task and Docker or containerd.
// engine/enginetest is its conformance suite; every implementation, the in-memory one included, passes it.
//
// Every method honours its context's deadline and leaves the engine in a state that a repeated call can continue from.
// All methods may be called concurrently, also for the same container. Errors carry a class of
// github.com/containerd/errdefs (NotFound, AlreadyExists, InvalidArgument, FailedPrecondition, Unavailable,
// DeadlineExceeded, Unauthenticated, PermissionDenied, ResourceExhausted …), tested by class and never by text; the text
// is the engine's own and is for people. Unavailable means that the engine itself does not answer: nothing is known
// about the outcome, and the caller looks again when it does. A call whose context ends returns that context's error
// (DeadlineExceeded or Canceled); the engine may still carry out what it was asked for.
//
// A container is ours if it carries LabelTaskArn, and no method shows or changes any other: for all of them a foreign
// container does not exist. Where a container is named, its full id and its name do equally.
//
// Restart policy, log routing, awsvpc, dependencies and admission are above the contract. Below it, because the engines
// differ: health checks (Docker runs them itself; containerd's Runtime runs them by exec), publishing ports, and writing
// hosts, hostname and resolv.conf files. A Runtime hides that difference: it takes a Spec and shows a State.
type Runtime interface {
	// Info describes the engine. It is also the liveness probe: Unavailable when the engine does not answer.
	Info(ctx context.Context) (Info, error)

	// List returns every container that carries LabelTaskArn, in any state, in one call to the engine whatever their
	// number. Fields that need an inspect on this engine may be zero; Partial is then true.
	List(ctx context.Context) ([]State, error)

	// Inspect returns one container by id or name. NotFound if there is none.
	Inspect(ctx context.Context, id string) (State, error)

	// Create makes a container and returns its id. The name decides: if a container of that name and task exists it is
	// returned unchanged, so that a repeated call after a crash finds what the first one made. A container of that name
	// which is foreign or of another task is AlreadyExists. NotFound: no such image; nothing is ever pulled here.
	// InvalidArgument: the engine refuses the Spec. The container is never restarted or removed by the engine itself.
	Create(ctx context.Context, spec Spec) (string, error)

	// Start starts a created container. Starting a running one does nothing, and of concurrent calls one starts it. A
	// container whose process has run and ended is FailedPrecondition and stays as it is: a process runs once, a further
	// attempt is a further container. A start that the engine refuses leaves the container not running: InvalidArgument
	// for a command or user that can't be run, ResourceExhausted for a host port that is taken, else what the engine
	// says. Inspect then shows its exit code and Error where the engine knows them, and Start may be tried again as
	// long as the status is created.
	Start(ctx context.Context, id string) error

	// Stop sends the container's stop signal, waits up to grace, kills, and returns when the process is gone or ctx ends.
	// Stopping what does not run, or no longer exists, does nothing. The signal is the Spec's StopSignal, else the
	// image's, else SIGTERM. A part of a second of grace may be rounded up to a whole one. After a DeadlineExceeded the
	// engine may still be stopping it; a repeated call joins in, and one with a shorter grace may shorten the wait.
	Stop(ctx context.Context, id string, grace time.Duration) error

	// Remove removes a container that does not run, with its anonymous volumes. Removing what no longer exists does
	// nothing; a running container is FailedPrecondition. When Remove returns nil the name is free.
	Remove(ctx context.Context, id string) error

	// Logs copies a container's output to w, or a part of it: standard output and error as one stream, in the order in which it
	// came. NotFound: there is no such container, or its log driver can't be read here; the text says then where its output is. When
	// following, it returns nil when the process has ended and all of its output is copied, at once if it does not run. Any number
	// may read and follow at once, and none holds up the container: who is slow may miss what was rotated away.
	Logs(ctx context.Context, id string, o LogOptions, w io.Writer) error

	// Exec runs a further process in a running container, and returns its exit code when it has ended and its output is copied:
	// 128 + the signal's number after a signal. Each call is a process of its own; any number may run at once. When ctx ends the
	// process is killed; when the container's does, it ends with it. NotFound: no such container. FailedPrecondition: it does not
	// run. InvalidArgument: the program, user or directory is not one that can be used. Unavailable: the engine went away, and the process
	// may go on.
	Exec(ctx context.Context, id string, e Exec) (int, error)

	// Events calls f for each event of our containers until ctx ends (nil) or the stream breaks (error). Events are
	// hints: they may be lost, repeated or late. ready (may be nil) is called once when the subscription stands; what
	// happens after it is not missed but by a fault. f is called by one goroutine at a time and must return soon.
	// The caller subscribes again, and then lists, because what happened in between has no event.
	Events(ctx context.Context, ready func(), f func(Event)) error

	// Image returns a local image by reference (repo[:tag] or repo@digest), digest or id. NotFound if it is not local.
	// With a reference, Digest is the one under which that repository gave it.
	Image(ctx context.Context, ref string) (Image, error)

	// Images lists all local images.
	Images(ctx context.Context) ([]Image, error)

	// Pull pulls an image, one tag ("latest" unless ref says another) or one digest, and returns it. progress (may be
	// nil) is called with rising totals, often, one call at a time, and never after Pull has returned. auth may be nil.
	// Unauthenticated or PermissionDenied: the registry refuses the credentials; NotFound: it has no such image;
	// ResourceExhausted: it limits the rate, or the disk is full; Unavailable: it, or the engine, can't be reached.
	Pull(ctx context.Context, ref string, auth *RegistryAuth, progress func(Progress)) (Image, error)

	// RemoveImage removes a reference, and the image with its last one. FailedPrecondition: a container uses it. Removing
	// what no longer exists does nothing. By id it removes an image with all its references.
	RemoveImage(ctx context.Context, ref string) error

	// ReadFile reads a regular file of an image, following symlinks inside the image only; at most limit bytes.
	// NotFound if there is none, FailedPrecondition if it is not a regular file, OutOfRange if it is larger than limit.
	// path is absolute. It may cost tens of milliseconds: resolve once per image, never on the hot path.
	ReadFile(ctx context.Context, imageID, path string, limit int64) ([]byte, error)

	// Stat returns type, mode, owner and, for a symlink, target of a path of an image, following symlinks inside the
	// image but not the last component. NotFound if there is none. It costs what ReadFile costs.
	Stat(ctx context.Context, imageID, path string) (FileInfo, error)

	// Close releases the connection to the engine; containers are not touched.
	Close() error
}

// Labels on every container we make. The first five are ECS's own.
const (
	LabelCluster       = "com.amazonaws.ecs.cluster"
	LabelContainerName = "com.amazonaws.ecs.container-name"
	LabelTaskArn       = "com.amazonaws.ecs.task-arn"
	LabelFamily        = "com.amazonaws.ecs.task-definition-family"
	LabelVersion       = "com.amazonaws.ecs.task-definition-version"
	// LabelTask holds the secret-free part of the task that plan needs, as JSON, so that a lost state file can be rebuilt.
	LabelTask = "longshore.task"
)

// Info describes an engine.
type Info struct {
	Name          string // docker or containerd
	Version       string
	APIVersion    string
	APIVersions   []string // every one it speaks, oldest first; Docker only
	Root          string   // where it keeps images and containers
	CgroupVersion int
	CgroupDriver  string
	LogDrivers    []string // those that work
	LogDriver     string   // of containers that name none; empty: not known
	VolumeDrivers []string
	SecurityOpts  []string // name=seccomp,…, name=userns …
	LiveRestore   bool
	Runtime       string // the OCI runtime of containers, by name: runc, crun …; empty: not known
	// UserNS is the first host uid and gid of the engine's user-namespace remapping; nil when there is none.
	UserNS *UserNS
}

// UserNS maps container ids to host ids: host = First + container, for Size ids.
type UserNS struct {
	UIDFirst, UIDSize uint32
	GIDFirst, GIDSize uint32
}

// Spec is all that a Runtime needs to make a container.
type Spec struct {
	Name   string // unique on the engine: ecs-<family>-<version>-<container>-<hash of task ARN, container, attempt>
	Labels map[string]string
	Image  string // a local image id or reference
	// ImageConfig of the image, so that no Runtime needs to look again; nil means look.
	ImageConfig  *ImageConfig
	EntryPoint   []string // empty: the image's
	Command      []string // empty: the image's
	Env          []string // KEY=value, in addition to the image's
	CPUShares    int64
	Memory       int64  // bytes, 0 = none
	NetworkMode  string // bridge, host, none or container:<id>
	Ports        []Port
	Mounts       []Mount
	Links        []string // container name:alias
	VolumesFrom  []string // container name[:ro]
	CgroupParent string
	Hooks        []Hook // containerd only: Docker has no place for them
	// Config and HostConfig are the payload's documents, already decoded. What they set wins over the fields above, except
	// that our own labels (com.amazonaws.ecs.*, longshore.*) always win over Config.Labels.
	Config     acs.ContainerConfig
	HostConfig acs.HostConfig
}

// Hook is a program of the host's that is run at a point of a container's life (OCI runtime specification, config.md, "POSIX-platform Hooks").
type Hook struct {
	Point   string // createRuntime, createContainer, startContainer, poststart, poststop or prestart
	Path    string
	Args    []string // the program's name included
	Env     []string
	Timeout int // in seconds; 0: none
}

// Port publishes a container port on the host. Host 0 lets the Runtime choose within the engine's range.
type Port struct {
	Container int32
	Host      int32
	Protocol  string // tcp or udp
}

// Mount is a mount of a container. Source is an absolute host path (bind), or a volume name (volume), or empty (tmpfs).
type Mount struct {
	Type     string // bind, volume or tmpfs
	Source   string
	Target   string
	ReadOnly bool
	// Path is where the engine keeps a volume's files on the host, as far as it says; only in a State.
	Path string
}

// Status is where a container is.
type Status string

// The statuses of a container on the engine.
const (
	StatusCreated Status = "created"
	StatusRunning Status = "running" // paused and restarting count as running: the process exists
	StatusExited  Status = "exited"  // the process is gone
	StatusDead    Status = "dead"    // exited, and the engine could not remove it
)

// State is a container as the engine shows it. Times are zero when they have not come.
type State struct {
	ID          string
	Name        string
	Labels      map[string]string
	Image       string // as given at creation
	ImageID     string
	Status      Status
	Pid         int
	ExitCode    int // when Status is exited or dead, or Error is set; 128 + the signal's number after a signal
	OOMKilled   bool
	Error       string // the engine's reason why it did not start
	CreatedAt   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	Health      Health
	Ports       []Binding // while it runs; one for IPv4 and perhaps one for IPv6 of each published port
	Addresses   []string  // container addresses on bridges, while it runs
	NetworkMode string
	Mounts      []Mount
	Partial     bool
}

// Health is what the container's health check says; empty Status when it has none.
type Health struct {
	Status   string // HEALTHY, UNHEALTHY or UNKNOWN
	Since    time.Time
	ExitCode int
	Output   string
}

// Binding is a published port as it is bound.
type Binding struct {
	Port
	HostIP string
}

// Event says that something about a container changed.
type Event struct {
	ContainerID string
	TaskArn     string
	Action      string // create, start, die, oom, health, destroy; an engine may add others
	Time        time.Time
}

// RegistryAuth are credentials for one registry. It never appears in logs: String hides it.
type RegistryAuth struct {
	Username, Password, IdentityToken, ServerAddress string
}

// String hides the credentials.
func (RegistryAuth) String() string { return "[credentials]" }

// GoString hides the credentials.
func (RegistryAuth) GoString() string { return "[credentials]" }

// Progress is how far a pull has come, in bytes; Total is 0 while it is unknown.
type Progress struct {
	Current, Total int64
	Layers, Done   int
	Phase          string // resolving, downloading, extracting
}

// Image is a local image.
type Image struct {
	ID      string   // sha256:… of its configuration
	Digest  string   // sha256:… of its manifest, as the registry names it; empty if it was not pulled
	Names   []string // references, repo:tag and repo@digest
	Size    int64
	Created time.Time
	Config  ImageConfig
}

// ImageConfig is the part of an image's configuration that matters to a task.
type ImageConfig struct {
	User        string
	WorkingDir  string
	Env         []string
	EntryPoint  []string
	Command     []string
	Volumes     []string
	Labels      map[string]string
	StopSignal  string
	Healthcheck *acs.HealthConfig
}

// FileInfo is a path inside an image. Mode is st_mode of stat(2): S_IFDIR, S_IFREG, S_IFLNK … and the permission bits,
// setuid, setgid and sticky included (not Go's io/fs.FileMode).
type FileInfo struct {
	Mode     uint32
	UID, GID uint32 // as the container sees them; -1 (4294967295) where the engine does not tell
	Link     string // a symlink's target as it is written
}
