package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Layout is where this host has its control groups.
type Layout struct {
	Version     int
	Root        string            // v2: the mount of the one hierarchy; v1: the directory that holds the mounts
	Controllers map[string]string // v1: where each controller's hierarchy is mounted
	Roots       []string          // every hierarchy's mount, in which the engine may have made groups; sorted, those with limits last
	Systemd     bool              // the tree is systemd's
}

// group is the task's group in a hierarchy.
func (l Layout) group(root, id string) string {
	if l.Systemd {
		return filepath.Join(root, sliceRoot, sliceOf(id))
	}
	return filepath.Join(root, groupRoot, id)
}

// groups are the task's groups in all hierarchies. Those that carry the mark come last, so that a removal which is cut short
// can be found again.
func (l Layout) groups(id string) []string {
	var dirs []string
	for _, root := range l.Roots {
		dirs = append(dirs, l.group(root, id))
	}
	return dirs
}

// parseLayout reads /proc/self/mountinfo (proc_pid_mountinfo(5)). version is that which the engine uses; the mounts must
// show it, and whole.
func parseLayout(mountinfo, root string, version int) (Layout, error) {
	l := Layout{Version: version, Root: filepath.Clean(root), Controllers: map[string]string{}}
	if version != 1 && version != 2 {
		return l, fmt.Errorf("the engine says neither that it uses control groups v1 nor v2 (it says %d)", version)
	}
	limited, found := map[string]bool{}, false
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 6 || len(right) < 3 {
			continue
		}
		part, at, kind, options := left[3], left[4], right[0], strings.Split(right[2], ",")
		if at != l.Root && !strings.HasPrefix(at, l.Root+"/") || kind != "cgroup" && kind != "cgroup2" || slices.Contains(l.Roots, at) {
			continue
		}
		if part != "/" {
			return l, fmt.Errorf("%s shows only the control groups beneath %s, not the host's; the agent must see the host's own /sys/fs/cgroup", at, part)
		}
		if version == 2 && (kind != "cgroup2" || at != l.Root) {
			continue
		}
		l.Roots = append(l.Roots, at)
		found = found || version == 2 || kind == "cgroup"
		for _, o := range options {
			if kind == "cgroup" {
				l.Controllers[o] = at
				limited[at] = limited[at] || o == "cpu" || o == "memory" || o == "pids"
			}
		}
	}
	if !found {
		return l, fmt.Errorf("no control groups v%d, which the engine uses, are mounted at %s (ECS_CGROUP_PATH)", version, l.Root)
	}
	slices.Sort(l.Roots)
	slices.SortStableFunc(l.Roots, func(a, b string) int {
		switch {
		case limited[a] == limited[b]:
			return 0
		case limited[b]:
			return -1
		}
		return 1
	})
	return l, nil
}
