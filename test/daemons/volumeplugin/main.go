// Command volumeplugin stands in for a volume plugin of Docker in the tests, by the protocol of its documentation: it takes
// any options, gives each volume a directory below its own, and writes what it is asked to a file, one JSON object a line.
//
//	volumeplugin SOCKET DIRECTORY LOG
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

type plugin struct {
	dir string
	log io.Writer
	mu  sync.Mutex
	has map[string]bool
}

type request struct {
	Call string
	Name string
	Opts map[string]string `json:",omitempty"`
}

func (p *plugin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := request{}
	_ = json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&q)
	q.Call = filepath.Base(r.URL.Path)
	if q.Call != "/" && q.Name != "" {
		_ = json.NewEncoder(p.log).Encode(q)
	}
	place := filepath.Join(p.dir, filepath.Base(q.Name))
	volume := map[string]any{"Name": q.Name, "Mountpoint": place}
	answer := map[string]any{"Err": ""}
	switch q.Call {
	case "Plugin.Activate":
		answer = map[string]any{"Implements": []string{"VolumeDriver"}}
	case "VolumeDriver.Create":
		p.has[q.Name] = true
	case "VolumeDriver.Mount", "VolumeDriver.Path":
		if err := os.MkdirAll(place, 0o755); err != nil {
			answer["Err"] = err.Error()
		}
		answer["Mountpoint"] = place
	case "VolumeDriver.Get":
		if !p.has[q.Name] {
			answer["Err"] = "no such volume"
		}
		answer["Volume"] = volume
	case "VolumeDriver.List":
		var all []any
		for name := range p.has {
			all = append(all, map[string]any{"Name": name, "Mountpoint": filepath.Join(p.dir, name)})
		}
		answer["Volumes"] = all
	case "VolumeDriver.Capabilities":
		answer = map[string]any{"Capabilities": map[string]string{"Scope": "local"}}
	case "VolumeDriver.Remove":
		delete(p.has, q.Name)
	}
	w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.2+json")
	_ = json.NewEncoder(w).Encode(answer)
}

func run(socket, dir, log string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return http.Serve(l, &plugin{dir: dir, log: out, has: map[string]bool{}}) //nolint:gosec // a test's own socket
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: volumeplugin SOCKET DIRECTORY LOG")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "volumeplugin:", run(os.Args[1], os.Args[2], os.Args[3]))
	os.Exit(1)
}
