// Package caller finds out which container of which task a request to the agent comes from.
//
// # Model
//
// What a container is told (its credentials, its metadata) must not be told to another one, nor to a process of the host, nor
// to another machine, whatever they know. An unguessable id in a URL says what is asked for; the [Finder] says who asks, from
// what the kernel knows of the connection and not from what the caller sends:
//
//	the socket is in the network of one task (awsvpc)  that task
//	the peer's address is a running container's        that container
//	the peer's socket is one of the host's own         its inode (sock_diag(7)) → the process that holds it (/proc/PID/fd)
//	                                                   → the container whose control group the process is in
//	                                                   → or the container engine: the process that listens on its socket
//	                                                   → or the log process of one container (logprocess.go)
//	anything else                                      refused, with what was found
//
// A host's own socket is that of a container in the host network mode, of the engine, or of any other process; its address
// says nothing, so the process is looked for. A control group's path is compared with that of the container's first process,
// as anybody may make a group with a name of their choice. Sockets in other network namespaces are not the host's own, so a
// container on a bridge is always found by its address.
//
// The tasks are read from the engine's last look. A container that was started or given another address a moment ago may not be in it
// yet: before a caller is refused, the containers that it could be are inspected.
package caller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/longshore-project/longshore/engine"
)

// Caller is who asks.
type Caller struct {
	TaskArn   string
	Container string // its name in the task definition; empty where only the task is known
	RuntimeID string // its id on the engine
	// Engine: not a container but the engine, which asks for its log driver. The container engine itself has its containers' drivers in it, and the
	// other fields are empty then; the log process of one container names that one.
	Engine bool
	// Pid is the process of a host's own socket; 0 for a container on a bridge.
	Pid int
}

// Refused says why a request is answered to nobody. The text is for the caller and for the log, and has no secret in it.
type Refused struct {
	Reason string
}

func (r *Refused) Error() string { return r.Reason }

func refuse(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

type taskKey struct{}

// OfTask marks what comes through a socket in the network of one task.
func OfTask(ctx context.Context, taskArn string) context.Context {
	return context.WithValue(ctx, taskKey{}, taskArn)
}

// TaskOf is the task in whose network the socket is; empty: it is the host's.
func TaskOf(ctx context.Context) string {
	arn, _ := ctx.Value(taskKey{}).(string)
	return arn
}

// Config configures a [Finder].
type Config struct {
	// Tasks are the engine's, as it looked last.
	Tasks func() []engine.TaskStatus
	// Inspect looks at one container now, by id or name; engine.Runtime has it. May be nil: nothing is looked at again.
	Inspect func(ctx context.Context, id string) (engine.State, error)
	// EngineSocket is the path of the unix socket that the container engine listens on; empty: the engine is no caller.
	EngineSocket string
	// LogProcesses are callers in the engine's place.
	LogProcesses LogProcesses
	// Proc is where the host's processes are; "/proc" if empty.
	Proc string
	// Cgroups is where the host's control groups are mounted; "/sys/fs/cgroup" if empty.
	Cgroups string
}

const (
	lookTimeout = 2 * time.Second // for the containers that are inspected before a caller is refused
	maxLooks    = 16
)

// Finder finds callers. It is safe for concurrent use.
type Finder struct {
	cfg     Config
	sockets func(local, remote netip.AddrPort) (inode uint32, err error)
}

// New makes a Finder.
func New(c Config) *Finder {
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	if c.Cgroups == "" {
		c.Cgroups = "/sys/fs/cgroup"
	}
	return &Finder{cfg: c, sockets: ownSocket}
}

// Find says who asks. The error is a [*Refused] if it is no container of a task on this host, nor the engine.
func (f *Finder) Find(r *http.Request) (Caller, error) { return f.find(r, "") }

// Is says who asks, who must be a container of one task. The error is a [*Refused] for everybody else, the engine included.
func (f *Finder) Is(r *http.Request, taskArn string) (Caller, error) {
	c, err := f.find(r, taskArn)
	switch {
	case err != nil:
		return c, err
	case c.Engine:
		return c, refuse("the caller is the container engine (process %d), and this is for the containers of %s only", c.Pid, taskArn)
	case c.TaskArn != taskArn:
		who := "a container"
		if c.Container != "" {
			who = "the container " + c.Container
		}
		return c, refuse("the caller at %s is %s of another task, %s, and this is for the containers of %s only", r.RemoteAddr, who, c.TaskArn, taskArn)
	}
	return c, nil
}

// member is a container that may be the caller.
type member struct {
	task, name    string
	id, engineRef string // engineRef is its id, or its name while it has none
	addresses     []string
	pid           int
	started       time.Time
}

func (m *member) caller(pid int) Caller {
	return Caller{TaskArn: m.task, Container: m.name, RuntimeID: m.id, Pid: pid}
}

// members are the containers that have a process, or are about to.
func (f *Finder) members() []member {
	var all []member
	tasks := f.cfg.Tasks()
	for i := range tasks {
		for j := range tasks[i].Containers {
			c := &tasks[i].Containers[j]
			if c.Known == "STOPPED" || c.Removed || c.RuntimeID == "" && c.RuntimeName == "" {
				continue
			}
			m := member{task: tasks[i].Arn, name: c.Name, id: c.RuntimeID, engineRef: c.RuntimeID, addresses: c.Addresses, pid: c.Pid, started: c.StartedAt}
			if m.engineRef == "" {
				m.engineRef = c.RuntimeName
			}
			all = append(all, m)
		}
	}
	return all
}

// find finds the caller. want is the task that it should be of, or empty: its containers are looked at again when the
// caller seems to be somebody else.
func (f *Finder) find(r *http.Request, want string) (Caller, error) {
	if task := TaskOf(r.Context()); task != "" {
		return Caller{TaskArn: task}, nil
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return Caller{}, refuse("the caller's address %q can't be read", r.RemoteAddr)
	}
	local, err := localAddress(r)
	if err != nil {
		return Caller{}, err
	}
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	all := f.members()
	if m := at(all, remote.Addr(), want); m != nil && (want == "" || m.task == want) {
		return m.caller(0), nil
	}
	inode, err := f.sockets(local, remote)
	if err != nil {
		return Caller{}, refuse("the caller at %s can't be told from others: %v", remote, err)
	}
	if inode != 0 {
		return f.process(r.Context(), all, remote, inode, want)
	}
	if m := at(f.again(r.Context(), all, want), remote.Addr(), want); m != nil {
		return m.caller(0), nil
	}
	return Caller{}, refuse("the caller's address %s is that of no running container of a task on this host", remote.Addr())
}

// localAddress is the address that the caller has connected to.
func localAddress(r *http.Request) (netip.AddrPort, error) {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}, errors.New("the request did not come over TCP")
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// at is the container with an address. Of several, which there are only for moments, it is one of the wanted task, else the one that was
// started last.
func at(all []member, address netip.Addr, want string) *member {
	var found *member
	text := address.String()
	for i := range all {
		m := &all[i]
		if !slices.Contains(m.addresses, text) {
			continue
		}
		if found == nil || m.task == want && found.task != want || (m.task == want) == (found.task == want) && m.started.After(found.started) {
			found = m
		}
	}
	return found
}

// again is all with a fresh look at those that may have changed: what has no process yet, and the wanted task's.
func (f *Finder) again(ctx context.Context, all []member, want string) []member {
	if f.cfg.Inspect == nil {
		return all
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	fresh, looks := slices.Clone(all), 0
	for i := range fresh {
		m := &fresh[i]
		if m.task != want && m.pid != 0 || looks == maxLooks {
			continue
		}
		looks++
		st, err := f.cfg.Inspect(ctx, m.engineRef)
		if err != nil || st.Status != engine.StatusRunning {
			m.addresses, m.pid = nil, 0
			continue
		}
		m.id, m.addresses, m.pid, m.started = st.ID, st.Addresses, st.Pid, st.StartedAt
	}
	return fresh
}
