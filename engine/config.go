package engine

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Config configures an [Engine]. All fields but the durations, Changed and those that may be nil are required.
type Config struct {
	Runtime Runtime
	Images  Images
	Volumes VolumeChecker
	State   TaskState
	Secrets Secrets // may be nil: tasks that need some fail
	// Groups holds each task to its limits; nil: a task's cpu only gives shares, and its memory limits each container.
	Groups TaskGroups
	Policy Policy // nil: nothing is denied
	// Networks makes the namespaces of tasks in the network mode awsvpc; nil: such tasks are refused.
	Networks Networks
	// NetworkTimeout is for how long a task that starts waits for its network; 5 min if zero.
	NetworkTimeout time.Duration
	// Prepare is asked, in order, what each container gets beside what its definition says.
	Prepare []Prepare
	// Ready says what this host lacks for a container, which waits for it at most ReadyTimeout, 5 min if zero. May be nil.
	Ready        Ready
	ReadyTimeout time.Duration
	Log          *zap.Logger
	Host         Host
	// Changed is called whenever there is something new to tell: a StateChange in TaskState, another verdict of Health, or
	// another health of a container. It must return at once, and not call the engine.
	Changed func()
	// Stepped is told of each step of a task's timeline when it has ended; it must return at once. May be nil.
	Stepped func(Step)
	// Looked is told after each look at all containers, whether the container engine answered or not; it must return at once. May be nil.
	Looked func()
	// Intervals; zero means the default in the comment.
	RelistInterval time.Duration // 10 s
	StopTimeout    time.Duration // 30 s, ECS_CONTAINER_STOP_TIMEOUT
	CleanupWait    time.Duration // 3 h, ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION
	// CleanupJitter spreads the clean-up of tasks that ended together: each gets a part of it of its own (ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER).
	CleanupJitter time.Duration
	// KeepPerFamily is of how many stopped tasks of each family the record is kept when their containers are removed, and the
	// containers as long as their time is not over although the disk is short.
	KeepPerFamily int
	// DiskPressure says why the host's disks are short; empty: they are not. It returns at once. May be nil.
	DiskPressure func() string
	// LogMaxSize (such as 10m) and LogMaxFiles bound a json-file log that says neither; LogMaxSize empty or 0 leaves it to the
	// engine.
	LogMaxSize  string
	LogMaxFiles int
	// NoLogCopy has the engine keep no copy of output that its log driver sends elsewhere.
	NoLogCopy bool
	// Disowned says of a container that no task has why it is not this host's although it has our labels; empty, or nil: nothing does. One
	// that is disowned is no reason to rebuild a task.
	Disowned func(State) string
	// OrphanPolicy is what happens to containers of ours that no task has: OrphansKeep (if empty), OrphansStop or OrphansRemove.
	OrphanPolicy  string
	CreateTimeout time.Duration // 4 min
	StartTimeout  time.Duration // 3 min
	PullTimeout   time.Duration // 2 h
	ListTimeout   time.Duration // 10 s, for each look at all containers and each inspect
	// AnswerMargin is how long the engine may take to say that a container has ended, beyond the time in which it must have.
	AnswerMargin time.Duration // 10 s
	// BootID is the kernel's id of this boot of the host; empty: reboots are not told from restarts.
	BootID string
	// ResumeDaemons starts daemons again in place after a reboot of the host, where Runtime is a Restarter (ECS_RESUME_ON_BOOT).
	ResumeDaemons bool
	// Processes is what the kernel shows of containers' processes; nil: what Proc shows.
	Processes Processes
	// Proc is where the listeners of the host are read, to find foreign ones on static host ports; "/proc" if empty.
	Proc string
}

// Host is what the instance registered; admission never grants more.
type Host struct {
	Cluster           string
	InstanceArn       string
	Region            string // for AWS_REGION in containers; empty adds none
	CPU               int64  // units
	Memory            int64  // MiB
	ReservedTCP       []int32
	ReservedUDP       []int32
	DynamicPorts      [2]int32 // first and last; zero means the engine's choice
	DisablePrivileged bool
	VolumeCheck       string            // enforce, warn or off
	FirelensDir       string            // where the files of log routers go; empty refuses FireLens
	FirelensAsync     bool              // containers don't wait for their log router
	PauseLabels       map[string]string // of the containers that the agent adds to a task
	// PropagateMemory gives a task's memory limit to its containers without one, besides the task's control group.
	PropagateMemory bool
	GPUs            map[string]GPU // by id
	// MatchSharedVolumes refuses a shared volume that exists with another driver, options or labels.
	MatchSharedVolumes bool
	EFSPlugin          bool // EFS file systems are mounted by their own volume plugin
}

// Images is what the engine asks of the image cache (imagecache implements it).
type Images interface {
	// Ensure makes ref local following the pull behaviour, and holds it against collection until release is called.
	// step receives human-readable progress for the timeline. It returns when ctx ends at the latest.
	Ensure(ctx context.Context, req ImageRequest) (img Image, release func(), err error)
}

// ImageRequest is one container's need for an image.
type ImageRequest struct {
	TaskArn   string
	Container string
	Ref       string
	Priority  int // lower goes first
	Auth      *acs.RegistryAuthentication
	Progress  func(Progress)
	// Note takes what belongs in the task's timeline: a try that failed, a pull that was joined, a local image used instead.
	Note func(text string)
}

// VolumeChecker is the check of a container's user against its host volumes (engine/volume implements it).
type VolumeChecker interface {
	// Check asks the kernel whether the user can use each mount. It has its own deadline.
	Check(ctx context.Context, req VolumeRequest) VolumeResult
}

// VolumeRequest is one container about to be created.
type VolumeRequest struct {
	ImageID        string
	User           string  // effective user string: the definition's, else the image's
	Mounts         []Mount // bind mounts only
	CapAdd         []string
	CapDrop        []string
	Privileged     bool
	ReadonlyRootfs bool
	UserNS         *UserNS
	Files          ImageFiles
}

// ImageFiles reads files of an image; a [Runtime] is one.
type ImageFiles interface {
	ReadFile(ctx context.Context, imageID, path string, limit int64) ([]byte, error)
	Stat(ctx context.Context, imageID, path string) (FileInfo, error)
}

// VolumeResult is the outcome: Refusal is non-empty when the container must not start, with the whole reason;
// Warnings go to the log and the timeline.
type VolumeResult struct {
	Refusal  string
	Warnings []string
}

// TaskState keeps what survives a crash (statemgr, wired by agent, implements it). Each call is durable when it returns nil.
type TaskState interface {
	// Save writes the record and appends the changes in one transaction, and sets each change's Sequence.
	Save(rec *TaskRecord, changes ...*StateChange) error
	// Load returns all records.
	Load() ([]*TaskRecord, error)
	// Delete removes a record and its accepted changes.
	Delete(taskArn string) error
	// Unsent reports whether changes of the task wait for acceptance.
	Unsent(taskArn string) (bool, error)
}

// withDefaults checks a configuration and fills in what is zero.
func (c Config) withDefaults() (Config, error) {
	if c.Runtime == nil || c.Images == nil || c.Volumes == nil || c.State == nil || c.Log == nil {
		return c, fmt.Errorf("engine: Runtime, Images, Volumes, State and Log must be set")
	}
	switch c.Host.VolumeCheck {
	case "":
		c.Host.VolumeCheck = "enforce"
	case "enforce", "warn", "off":
	default:
		return c, fmt.Errorf("engine: the host volume check %q is none of enforce, warn and off", c.Host.VolumeCheck)
	}
	switch c.OrphanPolicy {
	case "":
		c.OrphanPolicy = OrphansKeep
	case OrphansKeep, OrphansStop, OrphansRemove:
	default:
		return c, fmt.Errorf("engine: the orphan policy %q is none of keep, stop and remove", c.OrphanPolicy)
	}
	if c.DiskPressure == nil {
		c.DiskPressure = func() string { return "" }
	}
	if c.CleanupJitter < 0 || c.KeepPerFamily < 0 {
		return c, fmt.Errorf("engine: the clean-up's jitter %s and the %d tasks kept per family must not be negative", c.CleanupJitter, c.KeepPerFamily)
	}
	if p := c.Host.DynamicPorts; p != [2]int32{} && (p[0] < 1 || p[1] > 65535 || p[0] > p[1]) {
		return c, fmt.Errorf("engine: the dynamic host ports %d-%d are no range of ports", p[0], p[1])
	}
	for _, d := range []struct {
		set   *time.Duration
		value time.Duration
	}{
		{&c.RelistInterval, 10 * time.Second}, {&c.StopTimeout, 30 * time.Second}, {&c.CleanupWait, 3 * time.Hour}, {&c.CreateTimeout, 4 * time.Minute},
		{&c.StartTimeout, 3 * time.Minute}, {&c.PullTimeout, 2 * time.Hour}, {&c.ListTimeout, 10 * time.Second}, {&c.ReadyTimeout, 5 * time.Minute}, {&c.AnswerMargin, 10 * time.Second},
	} {
		if *d.set == 0 {
			*d.set = d.value
		}
		if *d.set < 0 {
			return c, fmt.Errorf("engine: the duration %s is negative", *d.set)
		}
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Processes == nil {
		c.Processes = kernel{c.Proc}
	}
	return c, nil
}
