// Command probe runs inside a container and uses a mounted path in every way there is, with real system calls, and prints
// what worked. Entries of a directory whose names were told are tried even where the directory can't be listed.
package main

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Report is what worked on one path.
type Report struct {
	Enter, List, Write, Read, Connect bool
	Entries                           map[string]Report
	Error                             string
}

func main() {
	path := os.Args[1]
	if err := json.NewEncoder(os.Stdout).Encode(try(path, os.Args[2:])); err != nil {
		os.Exit(2)
	}
}

func try(path string, names []string) Report {
	r := Report{Entries: map[string]Report{}}
	info, err := os.Stat(path)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	switch {
	case info.IsDir():
		r.Enter = os.Chdir(path) == nil
		f, err := os.Open(path)
		if err == nil {
			_, err = f.Readdirnames(1)
			f.Close()
		}
		r.List = err == nil || err == io.EOF
		made := filepath.Join(path, ".probe-made")
		if f, err := os.OpenFile(made, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600); err == nil {
			f.Close()
			os.Remove(made)
			r.Write = true
		}
		for _, name := range names {
			r.Entries[name] = try(filepath.Join(path, name), nil)
		}
	case info.Mode()&os.ModeSocket != 0:
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		r.Connect = err == nil
	default:
		r.Read = opens(path, syscall.O_RDONLY)
		r.Write = opens(path, syscall.O_WRONLY)
	}
	return r
}

func opens(path string, flag int) bool {
	fd, err := syscall.Open(path, flag|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err == syscall.ENXIO // a FIFO that nobody reads: allowed, but nobody is there
	}
	syscall.Close(fd)
	return true
}
