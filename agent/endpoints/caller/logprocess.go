package caller

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LogProcesses says how the log processes of an engine are known that leaves containers' output to us.
type LogProcesses struct {
	// Program is the path of longshore-log, without symlinks; empty: there are none.
	Program string
	// Containers is the folder in which each container has one with its id for a name, where the settings of its log process are.
	Containers string
}

// logProcess finds the container whose log process a process is. Each of these can't be had by a process of a container or of a user: it is
// root's, of the host's own file system (so that its program is the one that the path names) and runs our program, with the
// settings of that container. A program that was replaced since is called "deleted" by the kernel, and still ours.
func (f *Finder) logProcess(all []member, pid int) (*member, bool) {
	p := f.cfg.LogProcesses
	at := filepath.Join(f.cfg.Proc, strconv.Itoa(pid))
	if p.Program == "" || !f.isRoots(at) || !f.inHostsFiles(at) {
		return nil, false
	}
	program, err := os.Readlink(filepath.Join(at, "exe"))
	if err != nil || strings.TrimSuffix(program, " (deleted)") != p.Program {
		return nil, false
	}
	line, err := os.ReadFile(filepath.Join(at, "cmdline"))
	if err != nil {
		return nil, false
	}
	args := bytes.Split(bytes.TrimSuffix(line, []byte{0}), []byte{0})
	if len(args) != 3 || string(args[1]) != "settings" {
		return nil, false
	}
	folder := filepath.Dir(string(args[2]))
	if filepath.Dir(folder) != p.Containers {
		return nil, false
	}
	for i := range all {
		if all[i].id == filepath.Base(folder) {
			return &all[i], true
		}
	}
	return nil, false
}

// isRoots reports whether a process is root's in every way (real, effective, saved, file system), as the line Uid of proc_pid_status(5) says.
func (f *Finder) isRoots(at string) bool {
	status, err := os.ReadFile(filepath.Join(at, "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if ids, found := strings.CutPrefix(line, "Uid:"); found {
			return strings.Join(strings.Fields(ids), " ") == "0 0 0 0"
		}
	}
	return false
}

// inHostsFiles reports whether a process sees the host's files: those of this process, or of the host's first.
func (f *Finder) inHostsFiles(at string) bool {
	its, err := os.Readlink(filepath.Join(at, "ns", "mnt"))
	if err != nil {
		return false
	}
	for _, host := range []string{"self", "1"} {
		if ns, err := os.Readlink(filepath.Join(f.cfg.Proc, host, "ns", "mnt")); err == nil && ns == its {
			return true
		}
	}
	return false
}
