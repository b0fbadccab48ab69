// Package cgroup keeps one control group per task, so that a task's limits hold for all its containers together: CPU,
// memory, and the number of processes.
//
// # Model
//
// [Wanted] is pure: from a task's limits and the host's [Layout] to the directories that must be there and the values
// that their files must show. Ensuring compares what is with what is wanted and does only what differs; it is repeated before
// each create and each start, so that a reboot, after which the engine's containers are there and the groups are not,
// needs nothing of its own. Removing is rmdir, deepest first, in every hierarchy, because the engine makes directories
// for its containers in hierarchies that no limit needed.
//
//	driver    group of a task, beneath each hierarchy's root    cgroup parent of its containers
//	cgroupfs  /ecs/<task id>                                    the same
//	systemd   /ecstasks.slice/ecstasks-<task id>.slice          ecstasks-<task id>.slice
//
// With the systemd driver the tree is systemd's: it would undo what others write there. So the limits go into a slice
// unit beneath /run/systemd/system, systemd is asked to start it, and the kernel's files are then read and compared. In both
// cases what counts is what the kernel shows.
//
//	limit          v1                                            v2
//	CPU            cpu.cfs_period_us, cpu.cfs_quota_us           cpu.max
//	its share      cpu.shares: the task's cpu, else the sum      cpu.weight
//	               of the containers'
//	memory         memory.limit_in_bytes                         memory.max
//	processes      pids.max                                      pids.max
//
// # Whose groups
//
// Each directory that is made carries the extended attribute trusted.longshore with the agent's own name in it. [Groups.Sweep]
// looks for that, so that it never touches the groups of another agent on the machine, or of the Amazon ECS agent,
// which uses the same paths. Groups do not outlive a boot, so neither does the question.
//
// # Proof
//
// [Groups.Probe] makes a group with every kind of limit, reads it back and removes it. An agent advertises task limits only
// after that.
package cgroup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// Options configures [New].
type Options struct {
	Root    string        // where the control groups are mounted, ECS_CGROUP_PATH; "/sys/fs/cgroup" if empty
	Driver  string        // the engine's: cgroupfs or systemd
	Version int           // the engine's: 1 or 2
	Period  time.Duration // CPU period, ECS_CGROUP_CPU_PERIOD; 100 ms if zero
	Pids    int64         // processes of each task, ECS_TASK_PIDS_LIMIT; 0: no limit
	Owner   string        // this agent, the same after a restart and another than any other's on the machine; see [OwnerOf]
	// Mounts and Units are where to look for mounts and to put units; "/proc/self/mountinfo" and "/run/systemd/system" if empty.
	Mounts, Units string
}

// Groups implements [engine.TaskGroups]. It is safe for concurrent use.
type Groups struct {
	opt    Options
	layout Layout
}

var _ engine.TaskGroups = (*Groups)(nil)

// OwnerOf names an agent by its state directory, the same at each start. Empty when that can't be looked at.
func OwnerOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// attribute is the extended attribute that holds [Options].Owner.
const attribute = "trusted.longshore"

// New finds out how the host's control groups are laid out. It changes nothing. The error says what about them does not fit
// the engine.
func New(opt Options) (*Groups, error) {
	for _, d := range []struct {
		set   *string
		value string
	}{{&opt.Root, "/sys/fs/cgroup"}, {&opt.Mounts, "/proc/self/mountinfo"}, {&opt.Units, "/run/systemd/system"}} {
		if *d.set == "" {
			*d.set = d.value
		}
	}
	if opt.Period == 0 {
		opt.Period = 100 * time.Millisecond
	}
	if opt.Driver != "cgroupfs" && opt.Driver != "systemd" {
		return nil, fmt.Errorf("the engine's cgroup driver %q is neither cgroupfs nor systemd", opt.Driver)
	}
	mounts, err := os.ReadFile(opt.Mounts)
	if err != nil {
		return nil, fmt.Errorf("which control groups are mounted: %w", err)
	}
	layout, err := parseLayout(string(mounts), opt.Root, opt.Version)
	if err != nil {
		return nil, err
	}
	layout.Systemd = opt.Driver == "systemd"
	return &Groups{opt: opt, layout: layout}, nil
}

// taskID is what a task's id may be made of; it becomes the name of a directory.
var taskID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}$`)

func (g *Groups) limits(l engine.TaskLimits) Limits {
	return Limits{CPU: l.CPU, Shares: l.Shares, Memory: l.Memory, Pids: g.opt.Pids, Period: g.opt.Period}
}

// Ensure makes the task's group and its limits what they must be, and returns the cgroup parent of its containers.
func (g *Groups) Ensure(ctx context.Context, id string, l engine.TaskLimits) (string, error) {
	if !taskID.MatchString(id) {
		return "", fmt.Errorf("the task id %.140q can't name a control group", id)
	}
	limits := g.limits(l)
	wanted, err := Wanted(g.layout, id, limits)
	if err != nil {
		return "", err
	}
	if g.layout.Systemd {
		return sliceOf(id), g.ensureSlice(ctx, id, limits, wanted)
	}
	for try := 1; ; try++ {
		err := g.ensure(wanted)
		if try == 3 || !errors.Is(err, fs.ErrNotExist) { // somebody tidied an empty parent away
			return "/" + groupRoot + "/" + id, err
		}
	}
}

// ensure does what is missing of the wanted state, in its order.
func (g *Groups) ensure(wanted []Item) error {
	for _, w := range wanted {
		if w.Value == "" {
			if err := os.Mkdir(w.Path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return &Error{Path: w.Path, Err: err}
			}
			if w.Task {
				_ = unix.Setxattr(w.Path, attribute, []byte(g.opt.Owner), 0) // without it a sweep leaves the group, no more
			}
			continue
		}
		if err := ensureFile(w); err != nil {
			return err
		}
	}
	return nil
}

// ensureFile writes a file unless it shows what is wanted already, and looks whether it does then.
func ensureFile(w Item) error {
	shown, err := os.ReadFile(w.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && w.Optional:
		return nil
	case err != nil:
		return &Error{Path: w.Path, Value: w.Value, Err: err}
	case w.satisfied(string(shown)):
		return nil
	}
	f, err := os.OpenFile(w.Path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return &Error{Path: w.Path, Value: w.Value, Err: err}
	}
	_, err = f.WriteString(w.Value)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return &Error{Path: w.Path, Value: w.Value, Err: err}
	}
	return check(w)
}

// check compares a file with what is wanted.
func check(w Item) error {
	shown, err := os.ReadFile(w.Path)
	if errors.Is(err, fs.ErrNotExist) && w.Optional {
		return nil
	}
	if err == nil && !w.satisfied(string(shown)) {
		err = fmt.Errorf("the kernel shows %.100q", string(shown))
	}
	if err != nil {
		return &Error{Path: w.Path, Value: w.Value, Err: err}
	}
	return nil
}

// Error is a step that could not be done.
type Error struct {
	Path  string
	Value string // that was wanted; empty for a directory
	Err   error
}

// Error names the file and the value.
func (e *Error) Error() string {
	err := e.Err
	var path *fs.PathError
	if errors.As(err, &path) { // it names the path again
		err = path.Err
	}
	if e.Value == "" {
		return fmt.Sprintf("control group %s can't be made: %v", e.Path, err)
	}
	return fmt.Sprintf("control group file %s can't be set to %q: %v", e.Path, e.Value, err)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Remove removes a task's group from every hierarchy, with the groups of containers that the engine left in it.
func (g *Groups) Remove(ctx context.Context, id string) error {
	if !taskID.MatchString(id) {
		return nil // such a group was never made
	}
	if g.layout.Systemd {
		if err := g.removeSlice(ctx, id); err != nil {
			return err
		}
	}
	for _, dir := range g.layout.groups(id) {
		if err := removeTree(dir); err != nil {
			return fmt.Errorf("control group %s can't be removed: %w", dir, err)
		}
	}
	return nil
}

// removeTree removes a group and the groups in it, deepest first. What is gone already is fine.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) { // a parent is walked before its children
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			if errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("%w: a process is in it%s", err, processes(d))
			}
			return err
		}
	}
	return nil
}

// processes names those in a group, for a message.
func processes(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || len(data) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.60q)", string(data))
}

// Sweep removes the groups with this agent's mark whose tasks are not known. A group that can't be removed does not keep
// the others.
func (g *Groups) Sweep(ctx context.Context, known func(id string) bool) ([]string, error) {
	if g.opt.Owner == "" {
		return nil, nil
	}
	var removed []string
	var errs []error
	for _, id := range g.ours() {
		if known(id) {
			continue
		}
		if err := g.Remove(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, id)
	}
	return removed, errors.Join(errs...)
}

// ours are the ids of the groups with this agent's mark, sorted.
func (g *Groups) ours() []string {
	if g.layout.Systemd {
		return g.ourSlices()
	}
	var ids []string
	for _, root := range g.layout.Roots {
		entries, _ := os.ReadDir(filepath.Join(root, groupRoot))
		for _, e := range entries {
			owner := make([]byte, 256)
			n, err := unix.Lgetxattr(filepath.Join(root, groupRoot, e.Name()), attribute, owner)
			if e.IsDir() && err == nil && string(owner[:n]) == g.opt.Owner {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// containerID is what the engine may call a container; it becomes a part of a path.
var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Killed reads how many processes of a container the kernel has ended because memory ran out, from the container's own group.
// It is known with control groups v1, where the engine's word is not enough, and while the container runs.
func (g *Groups) Killed(id, container string) (int, bool) {
	root := g.layout.Controllers["memory"]
	if g.layout.Version != 1 || root == "" || !taskID.MatchString(id) || !containerID.MatchString(container) {
		return 0, false
	}
	if g.layout.Systemd {
		container = "docker-" + container + ".scope"
	}
	data, err := os.ReadFile(filepath.Join(g.layout.group(root, id), container, "memory.oom_control"))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok { // Linux 4.13
			n, err := strconv.Atoi(strings.TrimSpace(count))
			return n, err == nil
		}
	}
	return 0, false
}

// Probe proves that limits can be set here: it makes a group with every kind of limit that tasks may get, and removes it.
func (g *Groups) Probe(ctx context.Context) error {
	id := "probe_" + rand.Text()
	_, err := g.Ensure(ctx, id, engine.TaskLimits{CPU: 0.5, Memory: 64 << 20})
	if removeErr := g.Remove(ctx, id); err == nil {
		err = removeErr
	}
	return err
}
