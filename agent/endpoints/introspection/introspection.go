// Package introspection is what the agent tells about itself over HTTP on port 51678, to the host's own processes and to its
// containers ([Reach]): an agent of a monitoring service that runs as a container asks at its gateway's address.
//
//	/                          the commands there are
//	/v1/metadata               cluster, container instance and version
//	/v1/tasks                  all tasks; ?taskarn=<arn> or ?dockerid=<id or its beginning> for one
//	/v1/tasks/stopped          stopped tasks, those whose containers are removed included: exit codes, reasons, the end of the output;
//	                           for the host's own processes only
//	/license                   the licence
//
// Source: agent-protocol section 8.1. Everything is read-only and read from the engine when asked.
package introspection

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Port is where introspection listens.
const Port = 51678

// Engine is what introspection reads; *engine.Engine is one.
type Engine interface {
	Tasks() []engine.TaskStatus
}

// Config configures [Introspection].
type Config struct {
	Engine  Engine
	Log     *zap.Logger
	Version string // "Longshore Agent - v0.1.0 (1234567)"
	License string
	// Instance returns the cluster and the container instance's ARN, which is empty before the registration.
	Instance func() (cluster, arn string)
}

// Listen takes one address for introspection, in place of a [Reach]. A taken one is an error that says so.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		port := Port
		if at, perr := netip.ParseAddrPort(address); perr == nil {
			port = int(at.Port())
		}
		return nil, taken(err, "the introspection address "+address, port)
	}
	return l, nil
}

// Serve serves introspection on a listener until ctx ends.
func Serve(ctx context.Context, l net.Listener, c Config) error {
	server := &http.Server{
		Handler: c.handler(), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(c.Log.With(zap.String("source", "introspection"))),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve introspection on %s: %w", l.Addr(), err)
}

func (c Config) handler() http.Handler {
	mux := http.NewServeMux()
	commands := struct{ AvailableCommands []string }{[]string{"/v1/metadata", "/v1/tasks", "/license"}}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, commands) })
	mux.HandleFunc("GET /v1/metadata", c.metadata)
	mux.HandleFunc("GET /v1/tasks", c.tasks)
	mux.HandleFunc("GET /v1/tasks/stopped", c.stopped)
	mux.HandleFunc("GET /license", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(c.License))
	})
	return mux
}

func (c Config) metadata(w http.ResponseWriter, _ *http.Request) {
	cluster, arn := c.Instance()
	out := struct {
		Cluster              string
		ContainerInstanceArn *string
		Version              string
	}{cluster, nil, c.Version}
	if arn != "" {
		out.ContainerInstanceArn = &arn
	}
	answer(w, http.StatusOK, out)
}

func (c Config) tasks(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	arn, id := query.Get("taskarn"), query.Get("dockerid")
	switch {
	case arn != "" && id != "":
		http.Error(w, "give taskarn or dockerid, not both", http.StatusBadRequest)
		return
	case arn == "" && id == "":
		out := struct{ Tasks []task }{[]task{}}
		for _, t := range c.Engine.Tasks() {
			out.Tasks = append(out.Tasks, shape(t))
		}
		answer(w, http.StatusOK, out)
		return
	}
	var found []task
	for _, t := range c.Engine.Tasks() {
		if (arn != "" && t.Arn == arn) || (id != "" && hasContainer(t, id)) {
			found = append(found, shape(t))
		}
	}
	switch len(found) {
	case 0:
		answer(w, http.StatusNotFound, task{Containers: []container{}})
	case 1:
		answer(w, http.StatusOK, found[0])
	default:
		http.Error(w, "more than one task has a container whose id begins with "+id, http.StatusBadRequest)
	}
}

// Past is an Engine that remembers tasks whose containers are removed.
type Past interface {
	Past() []engine.TaskStatus
}

// stoppedTask is a task that has ended, for people; it is no part of the agent protocol.
type stoppedTask struct {
	Arn        string
	Family     string
	Version    string
	Reason     string `json:",omitempty"`
	StoppedAt  time.Time
	Containers []stoppedContainer
	Timeline   []engine.Step
}

type stoppedContainer struct {
	Name       string
	DockerID   string `json:"DockerId,omitempty"`
	Image      string
	ExitCode   *int            `json:",omitempty"`
	Reason     string          `json:",omitempty"`
	StartedAt  *time.Time      `json:",omitempty"`
	FinishedAt *time.Time      `json:",omitempty"`
	Log        *engine.LogTail `json:",omitempty"`
}

// stopped is for the host's own processes: the end of a task's output is not for every other task.
func (c Config) stopped(w http.ResponseWriter, r *http.Request) {
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err != nil || !from.Addr().Unmap().IsLoopback() {
		http.Error(w, "stopped tasks are told at 127.0.0.1 only", http.StatusForbidden)
		return
	}
	out := struct{ Tasks []stoppedTask }{[]stoppedTask{}}
	tasks := c.Engine.Tasks()
	if p, ok := c.Engine.(Past); ok {
		tasks = append(tasks, p.Past()...)
	}
	for i := range tasks {
		t := &tasks[i]
		if t.StoppedAt.IsZero() {
			continue
		}
		s := stoppedTask{Arn: t.Arn, Family: t.Family, Version: t.Version, Reason: t.Reason, StoppedAt: t.StoppedAt, Timeline: t.Timeline}
		for _, c := range t.Containers {
			s.Containers = append(s.Containers, stoppedContainer{Name: c.Name, DockerID: c.RuntimeID, Image: c.Image, ExitCode: c.ExitCode, Reason: c.Reason,
				StartedAt: moment(c.StartedAt), FinishedAt: moment(c.FinishedAt), Log: c.Log})
		}
		out.Tasks = append(out.Tasks, s)
	}
	answer(w, http.StatusOK, out)
}

func hasContainer(t engine.TaskStatus, id string) bool {
	for i := range t.Containers {
		if t.Containers[i].RuntimeID != "" && strings.HasPrefix(t.Containers[i].RuntimeID, id) {
			return true
		}
	}
	return false
}

func answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// The shapes of the answers, in the protocol's names.
type task struct {
	Arn           string
	DesiredStatus string `json:",omitempty"`
	KnownStatus   string
	Family        string
	Version       string
	Containers    []container
}

type container struct {
	DockerID     string `json:"DockerId"`
	DockerName   string
	Name         string
	Image        string
	ImageID      string
	CreatedAt    *time.Time `json:",omitempty"`
	StartedAt    *time.Time `json:",omitempty"`
	Ports        []port     `json:",omitempty"`
	Networks     []network  `json:",omitempty"`
	Volumes      []volume   `json:",omitempty"`
	RestartCount *int       `json:",omitempty"`
}

type port struct {
	ContainerPort int32
	Protocol      string
	HostPort      int32  `json:",omitempty"`
	HostIP        string `json:"HostIp,omitempty"`
}

type network struct {
	NetworkMode   string   `json:",omitempty"`
	IPv4Addresses []string `json:",omitempty"`
	IPv6Addresses []string `json:",omitempty"`
}

type volume struct {
	DockerName  string `json:",omitempty"`
	Source      string `json:",omitempty"`
	Destination string `json:",omitempty"`
}

// shape is a task as introspection shows it.
func shape(t engine.TaskStatus) task {
	out := task{Arn: t.Arn, DesiredStatus: backend(t.Desired), KnownStatus: backend(t.Known), Family: t.Family, Version: t.Version, Containers: []container{}}
	if out.KnownStatus == "STOPPED" && out.DesiredStatus != "STOPPED" || out.KnownStatus == "RUNNING" && out.DesiredStatus == "PENDING" || t.Desired == "" {
		out.DesiredStatus = "" // it is behind what is known
	}
	for i := range t.Containers {
		if c := &t.Containers[i]; c.RuntimeID != "" { // one that was never made has nothing to show
			out.Containers = append(out.Containers, shapeContainer(t, c))
		}
	}
	return out
}

// backend is a status in the control plane's words, of which there are three.
func backend(status string) string {
	if status == "RUNNING" || status == "STOPPED" {
		return status
	}
	return "PENDING"
}

func shapeContainer(t engine.TaskStatus, c *engine.ContainerStatus) container {
	out := container{
		DockerID: c.RuntimeID, DockerName: c.RuntimeName, Name: c.Name, Image: c.Image, ImageID: c.ImageID,
		CreatedAt: moment(c.CreatedAt), StartedAt: moment(c.StartedAt), Volumes: volumes(c),
	}
	p := definition(t, c.Name)
	for _, published := range c.Bindings {
		for _, b := range published.Ports() {
			out.Ports = append(out.Ports, port{ContainerPort: b.ContainerPort, Protocol: b.Protocol, HostPort: b.HostPort, HostIP: b.BindIP})
		}
	}
	if p != nil && len(c.Bindings) == 0 {
		for _, m := range p.PortMappings {
			if m != nil && m.ContainerPort != 0 {
				out.Ports = append(out.Ports, port{ContainerPort: int32(m.ContainerPort), Protocol: cmp.Or(m.Protocol, "tcp"), HostPort: int32(m.HostPort)})
			}
		}
	}
	n := network{}
	if t.Payload != nil {
		n.NetworkMode = t.Payload.NetworkMode
	}
	for _, a := range c.Addresses {
		if strings.Contains(a, ":") {
			n.IPv6Addresses = append(n.IPv6Addresses, a)
		} else {
			n.IPv4Addresses = append(n.IPv4Addresses, a)
		}
	}
	if n.NetworkMode != "" || len(c.Addresses) > 0 {
		out.Networks = []network{n}
	}
	if p != nil && p.RestartPolicy != nil && p.RestartPolicy.Enabled {
		out.RestartCount = &c.Restarts
	}
	return out
}

func definition(t engine.TaskStatus, name string) *acs.Container {
	if t.Payload == nil {
		return nil
	}
	for _, p := range t.Payload.Containers {
		if p != nil && p.Name == name {
			return p
		}
	}
	return nil
}

// volumes are what a container mounts, as the engine shows it.
func volumes(c *engine.ContainerStatus) []volume {
	var out []volume
	for _, m := range c.Mounts {
		v := volume{Source: m.Source, Destination: m.Target}
		if m.Type == "volume" {
			v.DockerName, v.Source = m.Source, m.Path
		}
		out = append(out, v)
	}
	return out
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
