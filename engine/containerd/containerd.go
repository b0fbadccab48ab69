// Package containerd is the engine.Runtime over containerd, without dockerd, nerdctl or CNI beside it.
//
// # Model
//
// One [Runtime] speaks to one containerd, 1.6 or newer, in a namespace of its own. What Docker's daemon does beyond containerd is done
// here, and only here:
//
//	containerd.go  New, Info, Close, the connection
//	container.go   List, Inspect, Create, Remove, and how a container is found by its name
//	start.go       Start, Restart, Stop
//	oci.go         which OCI runtime makes containers
//	apparmor.go    the AppArmor profile of containers
//	host.go        what a process gets of the host, made and taken away: namespaces, its place on the bridge, shared memory
//	run.go         what is remembered of a container's process: one small file, written before and after it runs
//	keep.go        what must be done though nobody asks: ends are written down and their shims released
//	shim.go        how processes end while containerd is away: its shims know
//	group.go       what the kernel knows of a container: its processes, whether it had too little memory
//	health.go      health checks, by programs run in containers
//	spec.go        engine.Spec → the OCI runtime's configuration; pure
//	etc.go         what a container gets of its own: users, devices, hosts, hostname and resolv.conf
//	image.go       Image, Images, RemoveImage, Import
//	pull.go        Pull
//	files.go       ReadFile, Stat
//	volume.go      named and anonymous volumes
//	output.go      where output goes, and Logs
//	exec.go        Exec
//	events.go      Events
//	foreign.go     containers of the namespace that somebody else made
//	errors.go      containerd's errors → classes of errdefs
//
// A container is a containerd container with labels for its name and task; everything else about it, the whole Spec, is in an extension
// of its record, so it survives whatever happens to this process. A process is a containerd task. containerd forgets how a task
// ended when the task is deleted, and keeps a shim in memory until then, so an end is written into the run file first and the task
// deleted at once. Whoever looks asks for the tasks first and reads the run file then: so an end is seen in one of them.
//
// Shims are the parents of containers, and outlive containerd and this process.
package containerd

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/logdriver"
)

// Config configures a [Runtime].
type Config struct {
	// Address is containerd's socket. Default /run/containerd/containerd.sock.
	Address string
	// Namespace is containerd's word for whose containers and images something is. Default longshore.
	Namespace string
	// Root is the folder for what containerd has no place for: run files, volumes, output. It must be on a disk.
	Root string
	// Snapshotter is which of containerd's keeps file systems. Default overlayfs.
	Snapshotter string
	// OCIRuntime is what makes containers: a program that speaks runc's command line, a path or a name in PATH (crun, youki), or
	// a shim of containerd's by its name (io.containerd.kata.v2, io.containerd.runsc.v1). Default: runc.
	OCIRuntime string
	// CertsDir says how registries are reached, as containerd's own folder of that kind does. Default /etc/containerd/certs.d.
	CertsDir string
	// LogProgram is the path of longshore-log, which takes a container's output where it goes.
	LogProgram string
	// Networks makes the networks of containers in the bridge mode; nil: that mode is refused.
	Networks Networks
	// Looks makes a Runtime for questions, beside the one that keeps the containers: it makes no folder, writes no ends down and checks no health.
	Looks bool
	// Log may be nil.
	Log *zap.Logger
}

// Networks is what the engine needs of the host's networking (netns, wired by agent). Calls may be repeated.
type Networks interface {
	// File is the file of a container's network namespace, whether it is there or not.
	File(id string) string
	// Make makes the namespace, with nothing in it.
	Make(id string) error
	// Connect puts the namespace of a container on the host's bridge, with the container's ports published. ResourceExhausted: a host
	// port is taken.
	Connect(ctx context.Context, id, task string, ports []engine.Port) (Connection, error)
	// Disconnect takes all of it away.
	Disconnect(ctx context.Context, id string) error
}

// Connection is a container on the bridge.
type Connection struct {
	Addresses []string
	Ports     []engine.Binding
}

// Runtime is a containerd. Its zero value is not usable: see New.
type Runtime struct {
	cfg    Config
	oci    ociRuntime
	client *client.Client
	log    *zap.Logger
	known  known
	shims  shims
	names  names
	health publisher
	images imageFacts
	// leaving is held, for reading, while a container is taken off the bridge.
	leaving sync.RWMutex
	began   time.Time
	armor   sync.Once
	armored string // the AppArmor profile of containers
	end     context.CancelFunc
	work    sync.WaitGroup
}

var (
	_ engine.Runtime      = (*Runtime)(nil)
	_ engine.Restarter    = (*Runtime)(nil)
	_ engine.VolumeKeeper = (*Runtime)(nil)
	_ engine.Importer     = (*Runtime)(nil)
	_ engine.ImageUser    = (*Runtime)(nil)
)

// New returns a Runtime. containerd may be down; Info tells. Close ends what New began.
func New(cfg Config) (*Runtime, error) {
	if cfg.Address == "" {
		cfg.Address = "/run/containerd/containerd.sock"
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "longshore"
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	if cfg.CertsDir == "" {
		cfg.CertsDir = "/etc/containerd/certs.d"
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if !filepath.IsAbs(cfg.Root) {
		return nil, fmt.Errorf("containerd: the root %q is not an absolute path", cfg.Root)
	}
	runtime, err := newOCIRuntime(cfg.OCIRuntime)
	if err != nil {
		return nil, fmt.Errorf("containerd: %w", err)
	}
	folders := []string{cfg.Root, filepath.Join(cfg.Root, "containers"), filepath.Join(cfg.Root, "volumes")}
	if cfg.Looks {
		folders = nil
	}
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("containerd: %w", err)
		}
	}
	c, err := client.New(cfg.Address, client.WithDefaultNamespace(cfg.Namespace), client.WithExtraDialOpts([]grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: 5 * time.Second}),
		// The client's own dialer waits for a socket that is not there; who calls us wants to know.
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", cfg.Address)
		}),
	}))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", cfg.Address, err)
	}
	ctx, end := context.WithCancel(context.Background())
	r := &Runtime{cfg: cfg, oci: runtime, client: c, log: cfg.Log, began: time.Now(), end: end}
	r.images.init()
	if !cfg.Looks {
		r.work.Go(func() { r.keep(r.ns(ctx)) })
	}
	return r, nil
}

// Close ends the Runtime's own work and the connection. Containers go on; their health is not checked any more.
func (r *Runtime) Close() error {
	r.end()
	r.work.Wait()
	return r.client.Close()
}

// ns is the context with the namespace.
func (r *Runtime) ns(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.cfg.Namespace)
}

// Info asks for containerd's version.
func (r *Runtime) Info(ctx context.Context) (engine.Info, error) {
	ctx = r.ns(ctx)
	v, err := r.client.Version(ctx)
	if err != nil {
		return engine.Info{}, classify(ctx, err)
	}
	cgroups := 1
	if unified() {
		cgroups = 2
	}
	info := engine.Info{
		Name: "containerd", Version: v.Version, APIVersion: apiVersion, APIVersions: apiVersions(), Root: r.cfg.Root,
		CgroupVersion: cgroups, CgroupDriver: "cgroupfs", LogDrivers: logdriver.Drivers(), LogDriver: "json-file",
		VolumeDrivers: []string{"local"}, SecurityOpts: []string{"name=seccomp,profile=default"}, LiveRestore: true,
		Runtime: r.oci.name,
	}
	if r.appArmor() != "" {
		info.SecurityOpts = append(info.SecurityOpts, "name=apparmor")
	}
	return info, nil
}

// Reach reports whether containerd answers, and not just an earlier connection.
func (r *Runtime) Reach(ctx context.Context) error {
	ctx = r.ns(ctx)
	if _, err := r.client.Version(ctx); err != nil {
		return classify(ctx, err)
	}
	return nil
}

// apiVersion is the version of Docker's API that has all that a Spec can say. Task definitions ask for such versions by name, and mean what
// they bring.
const apiVersion = "1.44"

func apiVersions() (all []string) {
	for m := 17; m <= 44; m++ {
		all = append(all, "1."+strconv.Itoa(m))
	}
	return all
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// refuse is an error of a class with a text of its own.
func refuse(class error, format string, args ...any) error {
	return &classed{class: class, text: fmt.Sprintf(format, args...)}
}

type classed struct {
	class error
	text  string
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

func noContainer(id string) error {
	return refuse(errdefs.ErrNotFound, "no such container: %s", id)
}
