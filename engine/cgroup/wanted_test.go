package cgroup

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// hostV1 is a Debian host with each controller on its own; hostV1Joined is one that joins cpu and cpuacct.
const (
	hostV1 = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	hostV1Joined = `32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
`
	hostV2 = `26 22 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`
)

func layoutOf(t *testing.T, mounts string, version int) Layout {
	t.Helper()
	l, err := parseLayout(mounts, "/sys/fs/cgroup", version)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func text(items []Item) string {
	var b strings.Builder
	for _, i := range items {
		b.WriteString(i.String() + "\n")
	}
	return b.String()
}

func TestTheWantedStateIsThis(t *testing.T) {
	all := Limits{CPU: 0.5, Memory: 512 << 20, Pids: 100}
	for _, c := range []struct {
		name, mounts string
		version      int
		systemd      bool
		limits       Limits
		want         string
	}{
		{"v1, every limit", hostV1, 1, false, all, `/sys/fs/cgroup/cpu/ecs/
/sys/fs/cgroup/cpu/ecs/t1/
/sys/fs/cgroup/cpu/ecs/t1/cpu.shares = 512
/sys/fs/cgroup/cpu/ecs/t1/cpu.cfs_period_us = 100000
/sys/fs/cgroup/cpu/ecs/t1/cpu.cfs_quota_us = 50000
/sys/fs/cgroup/memory/ecs/
/sys/fs/cgroup/memory/ecs/t1/
/sys/fs/cgroup/memory/ecs/t1/memory.use_hierarchy = 1 where there is such a file
/sys/fs/cgroup/memory/ecs/t1/memory.limit_in_bytes = 536870912
/sys/fs/cgroup/pids/ecs/
/sys/fs/cgroup/pids/ecs/t1/
/sys/fs/cgroup/pids/ecs/t1/pids.max = 100
`},
		{"v1, no cpu of the task: the sum of the containers' shares", hostV1Joined, 1, false, Limits{Shares: 300, Memory: 1 << 30}, `/sys/fs/cgroup/cpu,cpuacct/ecs/
/sys/fs/cgroup/cpu,cpuacct/ecs/t1/
/sys/fs/cgroup/cpu,cpuacct/ecs/t1/cpu.shares = 300
/sys/fs/cgroup/memory/ecs/
/sys/fs/cgroup/memory/ecs/t1/
/sys/fs/cgroup/memory/ecs/t1/memory.use_hierarchy = 1 where there is such a file
/sys/fs/cgroup/memory/ecs/t1/memory.limit_in_bytes = 1073741824
`},
		{"v1, systemd's tree", hostV1Joined, 1, true, Limits{CPU: 2, Period: 20 * time.Millisecond}, `/sys/fs/cgroup/cpu,cpuacct/ecstasks.slice/
/sys/fs/cgroup/cpu,cpuacct/ecstasks.slice/ecstasks-t1.slice/
/sys/fs/cgroup/cpu,cpuacct/ecstasks.slice/ecstasks-t1.slice/cpu.shares = 2048
/sys/fs/cgroup/cpu,cpuacct/ecstasks.slice/ecstasks-t1.slice/cpu.cfs_period_us = 20000
/sys/fs/cgroup/cpu,cpuacct/ecstasks.slice/ecstasks-t1.slice/cpu.cfs_quota_us = 40000
`},
		{"v2, every limit", hostV2, 2, false, all, `/sys/fs/cgroup/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/
/sys/fs/cgroup/ecs/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/t1/
/sys/fs/cgroup/ecs/t1/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/t1/cpu.weight = 20
/sys/fs/cgroup/ecs/t1/cpu.max = 50000 100000
/sys/fs/cgroup/ecs/t1/memory.max = 536870912
/sys/fs/cgroup/ecs/t1/pids.max = 100
`},
		{"v2, no limits: only the weight", hostV2, 2, false, Limits{}, `/sys/fs/cgroup/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/
/sys/fs/cgroup/ecs/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/t1/
/sys/fs/cgroup/ecs/t1/cgroup.subtree_control has +cpu +memory +pids
/sys/fs/cgroup/ecs/t1/cpu.weight = 1
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := layoutOf(t, c.mounts, c.version)
			l.Systemd = c.systemd
			items, err := Wanted(l, "t1", c.limits)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, text(items)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestASliceSaysTheSameToSystemd(t *testing.T) {
	want := `# Made by longshore-agent 8:17
[Unit]
Description=Limits of the ECS task t1

[Slice]
CPUAccounting=yes
CPUWeight=5
CPUQuota=12.5%
CPUQuotaPeriodSec=100000us
MemoryAccounting=yes
MemoryMax=536870912
TasksAccounting=yes
TasksMax=100
`
	if d := cmp.Diff(want, unitOf("t1", "8:17", Limits{CPU: 0.125, Memory: 512 << 20, Pids: 100})); d != "" {
		t.Error(d)
	}
	if got := sliceOf("a-b"); got != "ecstasks-a_b.slice" {
		t.Errorf("a dash would be a step in systemd's tree: %s", got)
	}
}

func TestAControllerThatTheHostLacksIsNamed(t *testing.T) {
	l := layoutOf(t, hostV1Joined, 1)
	if _, err := Wanted(l, "t1", Limits{Pids: 10}); err == nil || !strings.Contains(err.Error(), "pids controller is not mounted beneath /sys/fs/cgroup") {
		t.Error(err)
	}
}

func TestEveryHierarchyIsCleanedAndThoseWithTheMarkLast(t *testing.T) {
	got := layoutOf(t, hostV1, 1).groups("t1")
	want := []string{"/sys/fs/cgroup/cpuacct/ecs/t1", "/sys/fs/cgroup/devices/ecs/t1", "/sys/fs/cgroup/systemd/ecs/t1", "/sys/fs/cgroup/unified/ecs/t1",
		"/sys/fs/cgroup/cpu/ecs/t1", "/sys/fs/cgroup/memory/ecs/t1", "/sys/fs/cgroup/pids/ecs/t1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"/sys/fs/cgroup/ecs/t1"}, layoutOf(t, hostV2, 2).groups("t1")); d != "" {
		t.Error(d)
	}
}

func TestALayoutThatDoesNotFitTheEngineSaysWhy(t *testing.T) {
	for _, c := range []struct {
		mounts, want string
		version      int
	}{
		{hostV2, "no control groups v1, which the engine uses, are mounted at /sys/fs/cgroup (ECS_CGROUP_PATH)", 1},
		{hostV1, "no control groups v2, which the engine uses", 2},
		{"26 22 0:24 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "shows only the control groups beneath /docker/abc", 2},
		{hostV2, "neither that it uses control groups v1 nor v2", 0},
		{"rubbish\n - \n1 2 3 - cgroup2\n", "no control groups v2", 2},
	} {
		if _, err := parseLayout(c.mounts, "/sys/fs/cgroup", c.version); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
}

// Whatever a payload says, the kernel is never asked for what it would refuse, and parents come before their children.
func TestWantedValuesAreWithinTheKernelsBounds(t *testing.T) {
	v1, v2 := layoutOf(t, hostV1, 1), layoutOf(t, hostV2, 2)
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{CPU: rapid.Float64Range(0, 1<<20).Draw(t, "cpu"), Shares: rapid.Int64Range(0, 1<<40).Draw(t, "shares"), Memory: rapid.Int64Range(0, 1<<50).Draw(t, "memory"),
			Pids: rapid.Int64Range(0, 4194304).Draw(t, "pids"), Period: time.Duration(rapid.Int64Range(8, 100).Draw(t, "period")) * time.Millisecond}
		if s := l.share(); s < 2 || s > 262144 {
			t.Fatalf("%d shares", s)
		}
		if w := weight(l.share()); w < 1 || w > 10000 {
			t.Fatalf("weight %d", w)
		}
		if q := l.quota(); q < 1000 {
			t.Fatalf("quota %d µs", q)
		}
		for _, layout := range []Layout{v1, v2} {
			items, err := Wanted(layout, "t1", l)
			if err != nil {
				t.Fatal(err)
			}
			made := map[string]bool{layout.Root: true}
			for _, r := range layout.Roots {
				made[r] = true
			}
			for _, i := range items {
				if parent := i.Path[:strings.LastIndexByte(i.Path, '/')]; !made[parent] {
					t.Fatalf("%s comes before %s", i, parent)
				}
				if i.Value == "" {
					made[i.Path] = true
				}
			}
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add(hostV1, 1)
	f.Add(hostV2, 2)
	f.Fuzz(func(t *testing.T, mounts string, version int) {
		l, err := parseLayout(mounts, "/sys/fs/cgroup", version)
		if err != nil {
			return
		}
		for _, dir := range l.groups("t1") {
			if !strings.HasPrefix(dir, "/sys/fs/cgroup/") {
				t.Errorf("%s is outside", dir)
			}
		}
	})
}
