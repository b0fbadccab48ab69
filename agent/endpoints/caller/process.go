package caller

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process finds the caller behind one of the host's own sockets.
func (f *Finder) process(ctx context.Context, all []member, remote netip.AddrPort, inode uint32, want string) (Caller, error) {
	link := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	if c, ok := f.among(all, link, want); ok {
		return c, nil
	}
	pid := f.holder(link)
	if pid == 0 {
		return Caller{}, refuse("the process that asks from %s is gone", remote)
	}
	if m := f.memberOf(all, pid); m != nil {
		return m.caller(pid), nil
	}
	if f.isEngine(pid) {
		return Caller{Engine: true, Pid: pid}, nil
	}
	fresh := f.again(ctx, all, want)
	if m := f.memberOf(fresh, pid); m != nil {
		return m.caller(pid), nil
	}
	if m, is := f.logProcess(fresh, pid); is {
		c := m.caller(pid)
		c.Engine = true
		return c, nil
	}
	return Caller{}, refuse("the process %d (%s) is in no container of a task on this host", pid, f.comm(pid))
}

// among looks for the holder of a socket among the processes of the containers, those of the wanted task first: that is
// much less than all processes of the host.
func (f *Finder) among(all []member, link, want string) (Caller, bool) {
	for _, wanted := range []bool{true, false} {
		for i := range all {
			m := &all[i]
			if m.pid == 0 || len(m.addresses) > 0 || (m.task == want) != wanted {
				continue
			}
			for _, pid := range f.processesOf(m) {
				if f.holds(pid, link) {
					return m.caller(pid), true
				}
			}
		}
	}
	return Caller{}, false
}

// groupsOf are the control groups of a process, by hierarchy as /proc/PID/cgroup names it.
func (f *Finder) groupsOf(pid int) map[string]string {
	data, err := os.ReadFile(filepath.Join(f.cfg.Proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil
	}
	groups := map[string]string{}
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) == 3 {
			groups[parts[1]] = parts[2]
		}
	}
	return groups
}

// groupOf is the control group that a container has for itself: the one with its id in its name.
func (f *Finder) groupOf(m *member) (hierarchy, group string) {
	if m.pid == 0 || m.id == "" {
		return "", ""
	}
	for h, g := range f.groupsOf(m.pid) {
		if strings.Contains(g, m.id) && (group == "" || h < hierarchy) {
			hierarchy, group = h, g
		}
	}
	return hierarchy, group
}

// processesOf are the processes in a container's control group and in those beneath it.
func (f *Finder) processesOf(m *member) []int {
	hierarchy, group := f.groupOf(m)
	if group == "" {
		return nil
	}
	mount := strings.TrimPrefix(hierarchy, "name=")
	if mount == "" { // version 2, alone or beside version 1
		mount = "unified"
		if _, err := os.Stat(filepath.Join(f.cfg.Cgroups, mount)); err != nil {
			mount = ""
		}
	}
	var pids []int
	_ = filepath.WalkDir(filepath.Join(f.cfg.Cgroups, mount, group), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil // what goes away meanwhile has no process
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for field := range bytes.FieldsSeq(data) {
			if pid, err := strconv.Atoi(string(field)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// memberOf is the container in whose control group a process is.
func (f *Finder) memberOf(all []member, pid int) *member {
	groups := f.groupsOf(pid)
	for i := range all {
		hierarchy, group := f.groupOf(&all[i])
		if group == "" {
			continue
		}
		if g := groups[hierarchy]; g == group || strings.HasPrefix(g, group+"/") {
			return &all[i]
		}
	}
	return nil
}

// holds says whether a process has a file open.
func (f *Finder) holds(pid int, link string) bool {
	dir := filepath.Join(f.cfg.Proc, strconv.Itoa(pid), "fd")
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && to == link {
			return true
		}
	}
	return false
}

// holder is a process of the host that has a file open, 0 for none.
func (f *Finder) holder(link string) int {
	d, err := os.Open(f.cfg.Proc)
	if err != nil {
		return 0
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && f.holds(pid, link) {
			return pid
		}
	}
	return 0
}

// isEngine says whether a process is the one that listens on the engine's socket. Who can hold that socket can make the
// engine do anything already.
func (f *Finder) isEngine(pid int) bool {
	if f.cfg.EngineSocket == "" {
		return false
	}
	for _, inode := range f.listening(f.cfg.EngineSocket) {
		if f.holds(pid, "socket:["+inode+"]") {
			return true
		}
	}
	return false
}

// listening are the inodes of the sockets that listen at a path, from /proc/net/unix (proc_net_unix(5)):
// Num RefCount Protocol Flags Type St Inode Path.
func (f *Finder) listening(path string) []string {
	const accepts = "00010000" // __SO_ACCEPTCON
	data, err := os.ReadFile(filepath.Join(f.cfg.Proc, "net", "unix"))
	if err != nil {
		return nil
	}
	want := resolved(path)
	var inodes []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && fields[3] == accepts && filepath.IsAbs(fields[7]) && resolved(fields[7]) == want {
			inodes = append(inodes, fields[6])
		}
	}
	return inodes
}

// resolved is a path without symlinks.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return filepath.Clean(path)
}

// comm is a process's name.
func (f *Finder) comm(pid int) string {
	data, err := os.ReadFile(filepath.Join(f.cfg.Proc, strconv.Itoa(pid), "comm"))
	if err != nil {
		return "gone"
	}
	return fmt.Sprintf("%.32q", strings.TrimSpace(string(data)))
}
