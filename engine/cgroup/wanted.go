package cgroup

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// groupRoot is the group that holds the tasks' groups, as in Amazon ECS.
const groupRoot = "ecs"

// Limits are what a task's control group holds it to; a member that is zero limits nothing.
type Limits struct {
	CPU    float64       // vCPUs
	Shares int64         // CPU shares where there is no CPU
	Memory int64         // bytes
	Pids   int64         // processes and threads
	Period time.Duration // over which CPU counts; 100 ms if zero
}

// Bounds of the kernel (kernel/sched/core.c, Documentation/admin-guide/cgroup-v2.rst).
const (
	leastQuota  = 1000 // µs
	leastShares = 2
	mostShares  = 262144
	vCPUShares  = 1024
)

// Item is one thing that must be so: a directory that is there, or a file that shows a value.
type Item struct {
	Path     string
	Value    string // empty: Path is a directory
	Task     bool   // the directory is the task's own
	Optional bool   // some kernels don't have the file, and then need no value
	Words    bool   // the file must show every word of Value; one is written as +word
}

// String is the item as tests and the log show it.
func (i Item) String() string {
	switch {
	case i.Value == "":
		return i.Path + "/"
	case i.Words:
		return i.Path + " has " + i.Value
	case i.Optional:
		return i.Path + " = " + i.Value + " where there is such a file"
	}
	return i.Path + " = " + i.Value
}

// satisfied compares what a file shows with what is wanted.
func (i Item) satisfied(shown string) bool {
	if !i.Words {
		return strings.TrimSpace(shown) == i.Value
	}
	have := strings.Fields(shown)
	return !slices.ContainsFunc(strings.Fields(i.Value), func(w string) bool { return !slices.Contains(have, strings.TrimPrefix(w, "+")) })
}

// Wanted is the state that control groups must have for a task: directories before their files, parents before children. It
// is pure. The error says which controller the host lacks.
func Wanted(l Layout, id string, limits Limits) ([]Item, error) {
	if l.Version == 2 {
		return wantedV2(l, id, limits)
	}
	return wantedV1(l, id, limits)
}

func wantedV1(l Layout, id string, limits Limits) ([]Item, error) {
	var items []Item
	made := map[string]bool{} // cpu and cpuacct are often one hierarchy
	for _, c := range []struct {
		controller string
		files      []Item
	}{{"cpu", limits.cpuV1()}, {"memory", limits.memoryV1()}, {"pids", limits.pids()}} {
		if len(c.files) == 0 {
			continue
		}
		root, ok := l.Controllers[c.controller]
		if !ok {
			return nil, fmt.Errorf("the kernel's %s controller is not mounted beneath %s, and a limit needs it", c.controller, l.Root)
		}
		dir := l.group(root, id)
		if !made[dir] {
			made[dir] = true
			items = append(items, Item{Path: filepath.Dir(dir)}, Item{Path: dir, Task: true})
		}
		for _, f := range c.files {
			f.Path = filepath.Join(dir, f.Path)
			items = append(items, f)
		}
	}
	return items, nil
}

func wantedV2(l Layout, id string, limits Limits) ([]Item, error) {
	const controllers = "+cpu +memory +pids"
	dir := l.group(l.Root, id)
	parent := filepath.Dir(dir)
	enabled := func(dir string) Item {
		return Item{Path: filepath.Join(dir, "cgroup.subtree_control"), Value: controllers, Words: true}
	}
	items := []Item{enabled(l.Root), {Path: parent}, enabled(parent), {Path: dir, Task: true}, enabled(dir)}
	for _, f := range slices.Concat(limits.cpuV2(), limits.memoryV2(), limits.pids()) {
		f.Path = filepath.Join(dir, f.Path)
		items = append(items, f)
	}
	return items, nil
}

func (l Limits) cpuV1() []Item {
	items := []Item{{Path: "cpu.shares", Value: strconv.FormatInt(l.share(), 10)}}
	if l.CPU > 0 {
		items = append(items, Item{Path: "cpu.cfs_period_us", Value: strconv.FormatInt(l.period(), 10)}, Item{Path: "cpu.cfs_quota_us", Value: strconv.FormatInt(l.quota(), 10)})
	}
	return items
}

func (l Limits) cpuV2() []Item {
	items := []Item{{Path: "cpu.weight", Value: strconv.FormatInt(weight(l.share()), 10)}}
	if l.CPU > 0 {
		items = append(items, Item{Path: "cpu.max", Value: fmt.Sprintf("%d %d", l.quota(), l.period())})
	}
	return items
}

// memoryV1 counts children in, which kernels before 5.11 do only when told.
func (l Limits) memoryV1() []Item {
	if l.Memory == 0 {
		return nil
	}
	return []Item{{Path: "memory.use_hierarchy", Value: "1", Optional: true}, {Path: "memory.limit_in_bytes", Value: strconv.FormatInt(l.Memory, 10)}}
}

func (l Limits) memoryV2() []Item {
	if l.Memory == 0 {
		return nil
	}
	return []Item{{Path: "memory.max", Value: strconv.FormatInt(l.Memory, 10)}}
}

func (l Limits) pids() []Item {
	if l.Pids == 0 {
		return nil
	}
	return []Item{{Path: "pids.max", Value: strconv.FormatInt(l.Pids, 10)}}
}

// period is in µs.
func (l Limits) period() int64 {
	if l.Period == 0 {
		return 100_000
	}
	return l.Period.Microseconds()
}

// quota is the CPU time per period in µs.
func (l Limits) quota() int64 {
	return max(int64(math.Round(l.CPU*float64(l.period()))), leastQuota)
}

// share is the task's weight among tasks.
func (l Limits) share() int64 {
	shares := l.Shares
	if l.CPU > 0 {
		shares = int64(l.CPU * vCPUShares)
	}
	return min(max(shares, leastShares), mostShares)
}

// weight is the v2 weight, 1 to 10000, of v1's shares, as container runtimes convert them.
func weight(shares int64) int64 { return 1 + (shares-leastShares)*9999/(mostShares-leastShares) }
