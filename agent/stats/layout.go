package stats

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The controllers whose files are read.
const (
	cpu     = "cpu"
	cpuacct = "cpuacct"
	memory  = "memory"
	block   = "blkio"
	pids    = "pids"
)

// mountPoint is where a hierarchy is, and what part of it: root is "/" but inside containers.
type mountPoint struct{ path, root string }

// layout is where the host's control groups are. On a hybrid host a controller is in the hierarchy of v1 that has it, else
// in that of v2.
type layout struct {
	v1 map[string]mountPoint
	v2 mountPoint // path is empty when there is none
}

// parseLayout reads /proc/self/mountinfo. Mounts that are not beneath root, the directory where the host's control groups
// are mounted, are somebody else's.
func parseLayout(mountinfo []byte, root string) layout {
	l := layout{v1: map[string]mountPoint{}}
	for line := range bytes.Lines(mountinfo) {
		f := strings.Fields(string(line))
		dash := -1
		for i := range f {
			if f[i] == "-" {
				dash = i
				break
			}
		}
		if dash < 6 || len(f) < dash+4 {
			continue
		}
		m := mountPoint{path: unescape(f[4]), root: unescape(f[3])}
		if m.path != root && !strings.HasPrefix(m.path, strings.TrimSuffix(root, "/")+"/") {
			continue
		}
		switch f[dash+1] {
		case "cgroup2":
			if l.v2.path == "" || m.path == root {
				l.v2 = m
			}
		case "cgroup":
			for option := range strings.SplitSeq(f[dash+3], ",") {
				switch option {
				case cpu, cpuacct, memory, block, pids:
					l.v1[option] = m
				}
			}
		}
	}
	return l
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// group is a directory of a controller's files.
type group struct {
	dir string
	v2  bool
}

func (g group) file(name string) string { return g.dir + "/" + name }

// groups are a container's, by controller; parents are those that they lie in, where that is one of a task's own.
type groups struct {
	of      map[string]group
	parents map[string]group
}

// find reads /proc/<pid>/cgroup and finds the groups of the container with this id. A process whose groups don't have the
// container's id in their path is not of that container: the pid was given to another one.
func (l layout) find(procCgroup []byte, id string) (groups, error) {
	out := groups{of: map[string]group{}, parents: map[string]group{}}
	for line := range bytes.Lines(procCgroup) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		own, ok := upTo(f[2], id)
		if !ok {
			continue
		}
		if f[1] == "" {
			for _, controller := range []string{cpu, cpuacct, memory, block, pids} {
				if _, has := l.v1[controller]; !has && l.v2.path != "" {
					out.put(controller, l.v2, own, true)
				}
			}
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			if m, has := l.v1[controller]; has {
				out.put(controller, m, own, false)
			}
		}
	}
	if len(out.of) == 0 {
		return out, fmt.Errorf("no control group of the process is container %.12s's", id)
	}
	return out, nil
}

func (g groups) put(controller string, m mountPoint, path string, v2 bool) {
	rel := path
	if m.root != "/" {
		var ok bool
		if rel, ok = strings.CutPrefix(path, m.root); !ok {
			return
		}
	}
	dir := filepath.Join(m.path, rel)
	g.of[controller] = group{dir, v2}
	if parent := filepath.Dir(rel); strings.HasPrefix(parent, "/ecs/") || strings.Contains(parent, "/ecstasks-") {
		g.parents[controller] = group{filepath.Dir(dir), v2}
	}
}

// upTo cuts a path after the element that has the id in it: a process may have made groups of its own beneath.
func upTo(path, id string) (string, bool) {
	if id == "" || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/..") {
		return "", false
	}
	at := strings.LastIndex(path, id)
	if at < 0 {
		return "", false
	}
	if end := strings.IndexByte(path[at:], '/'); end >= 0 {
		path = path[:at+end]
	}
	return path, true
}
