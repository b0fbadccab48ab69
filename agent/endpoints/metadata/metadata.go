// Package metadata tells containers what they and their tasks are: the task metadata endpoints of versions 2, 3 and 4 behind
// http://169.254.170.2, and the container metadata file.
//
//	/v2/metadata[/<container id>], /v2/metadataWithTags, /v2/stats[/<container id>]     the caller's task, by its address
//	/v3/<id>, /task, /taskWithTags, /stats, /task/stats, /associations/<type>[/<name>]  the container with that id, and its task
//	/v4/<id> and the same                                                               with more members
//
// Where they are is in each container's environment (environment.go); what the answers look like is in shapes.go; the file is
// in file.go. Everything is read from the engine when it is asked for, statistics from the kernel. Nothing is kept but the
// tags, for a moment, which the control plane has.
//
// An id is unguessable and given to one container, so that it alone says who may ask, as in ECS: a process that a container
// has started elsewhere finds its metadata too. No secret is in the answers.
//
// Errors are a bare JSON string. Their status is 400 in version 2; 500 for metadata and 400 for the rest in version 3; in
// version 4 it is 404 for an unknown id and 500 for what can't be had, and 400 for associations.
// Source: agent-protocol section 8.3.
package metadata

import (
	"context"
	"encoding/json"
	"net/http"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
)

// Config configures [Server]. All fields are required but those of the place and Tags.
type Config struct {
	Tasks func() []engine.TaskStatus
	// Find is the container with an id; ids.IDs has it.
	Find func(id string, tasks []engine.TaskStatus) (*engine.TaskStatus, *engine.ContainerStatus)
	// Known is what Find found for an id before, and Task one task: they spare the look at all. Either may be nil.
	Known func(id string) (taskArn, container string, ok bool)
	Task  func(arn string) (engine.TaskStatus, bool)
	// Caller is the ARN of the task that a request comes from.
	Caller func(r *http.Request) (taskArn string, err error)
	// Stats are a running container's now; nil if it can't be measured.
	Stats func(runtimeID string) *stats.Docker
	// Tags are those of a task or a container instance; nil: the answers have none.
	Tags func(ctx context.Context, arn string) (map[string]string, error)
	// Instance is the cluster and the container instance's ARN.
	Instance func() (cluster, arn string)
	Place    func() Place // nil: it is not told
	Log      *zap.Logger
}

// Place is where the host is, as far as it is known.
type Place struct {
	Zone, ZoneID, VPC string
}

// Server answers.
type Server struct {
	cfg  Config
	tags tagCache
}

// New makes a Server.
func New(cfg Config) *Server {
	if cfg.Place == nil {
		cfg.Place = func() Place { return Place{} }
	}
	return &Server{cfg: cfg}
}

// Register adds the paths to a server, in the patterns of http.ServeMux.
func (s *Server) Register(handle func(pattern string, h http.Handler)) {
	add := func(pattern string, f func(r *http.Request) (any, *failure)) {
		handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, f) }))
	}
	for _, slash := range []string{"", "/{$}"} {
		add("/v2/metadata"+slash, s.byAddress(false))
		add("/v2/metadataWithTags"+slash, s.byAddress(true))
		add("/v2/stats"+slash, s.statsByAddress)
	}
	add("/v2/metadata/{container...}", s.containerByAddress)
	add("/v2/stats/{container...}", s.containerStatsByAddress)
	for _, v := range []version{v3, v4} {
		add(v.path(""), s.container(v))
		add(v.path("/task"), s.task(v, false))
		add(v.path("/taskWithTags"), s.task(v, true))
		add(v.path("/stats"), s.containerStats(v))
		add(v.path("/task/stats"), s.taskStats(v))
		add(v.path("/associations/{type}"), s.associations(v))
		add(v.path("/associations/{type}/{$}"), s.association(v))
		add(v.path("/associations/{type}/{name...}"), s.association(v))
	}
}

// version is one that is asked for by id.
type version struct {
	name, title                   string
	unknown, failed, statsUnknown int // statuses
}

var (
	v3 = version{name: "v3", title: "V3", unknown: http.StatusInternalServerError, failed: http.StatusBadRequest, statsUnknown: http.StatusBadRequest}
	v4 = version{name: "v4", title: "V4", unknown: http.StatusNotFound, failed: http.StatusInternalServerError, statsUnknown: http.StatusNotFound}
)

func (v version) path(rest string) string { return "/" + v.name + "/{id}" + rest }

// failure is an answer that is an error.
type failure struct {
	status int
	text   string
}

// answer writes what f gives as JSON.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, f func(r *http.Request) (any, *failure)) {
	out, fail := f(r)
	status := http.StatusOK
	if fail != nil {
		out, status = fail.text, fail.status
		s.cfg.Log.Debug("A request for metadata was refused", zap.Int("status", fail.status), zap.String("reason", fail.text), zap.String("from", r.RemoteAddr))
	}
	data, ok := out.(json.RawMessage)
	if !ok {
		var err error
		if data, err = json.Marshal(out); err != nil {
			s.cfg.Log.Error("Metadata could not be written", zap.Error(err))
			data, status = json.RawMessage(`"the metadata could not be written"`), http.StatusInternalServerError
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// find is the container with the id in the path, if it was made already.
func (s *Server) find(r *http.Request) (*engine.TaskStatus, *engine.ContainerStatus) {
	if t, c, known := s.known(r.PathValue("id")); known {
		return t, c
	}
	t, c := s.cfg.Find(r.PathValue("id"), s.cfg.Tasks())
	if c == nil || c.RuntimeID == "" {
		return nil, nil
	}
	return t, c
}

// known is the container with an id that was asked for before; none if it, or its task, is there no longer.
func (s *Server) known(id string) (*engine.TaskStatus, *engine.ContainerStatus, bool) {
	if s.cfg.Known == nil || s.cfg.Task == nil {
		return nil, nil, false
	}
	arn, name, ok := s.cfg.Known(id)
	if !ok {
		return nil, nil, false
	}
	t, ok := s.cfg.Task(arn)
	if !ok {
		return nil, nil, true
	}
	for i := range t.Containers {
		if c := &t.Containers[i]; c.Name == name && c.RuntimeID != "" {
			return &t, c, true
		}
	}
	return nil, nil, true
}

func unknownID(v version, what string, status int, r *http.Request) *failure {
	return &failure{status, v.title + " " + what + " handler: unable to find the container of the endpoint id " + clip(r.PathValue("id"))}
}

func clip(text string) string {
	if len(text) > 100 {
		return text[:100] + "…"
	}
	return text
}

func (s *Server) container(v version) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "container metadata", v.unknown, r)
		}
		return s.shapeContainer(t, c, v.name == "v4"), nil
	}
}

func (s *Server) task(v version, tags bool) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "task metadata", v.unknown, r)
		}
		out := s.shapeTask(t, v.name == "v4")
		if tags {
			s.addTags(r.Context(), out, v.name == "v4")
		}
		return out, nil
	}
}

func (s *Server) containerStats(v version) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		_, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "container stats", v.statsUnknown, r)
		}
		return s.statsOf(c, v)
	}
}

// statsOf are a container's statistics; those of one that does not run can't be had.
func (s *Server) statsOf(c *engine.ContainerStatus, v version) (any, *failure) {
	out := s.cfg.Stats(c.RuntimeID)
	if out == nil && c.Known != "RUNNING" {
		return nil, &failure{v.failed, "Unable to get container stats for: " + c.RuntimeID}
	}
	return rated(out, v), nil
}

// rated are statistics as a version has them.
func rated(d *stats.Docker, v version) *stats.Docker {
	if d != nil && v.name != "v4" {
		d.NetworkRates = nil
	}
	return d
}

func (s *Server) taskStats(v version) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "task stats", v.statsUnknown, r)
		}
		return s.statsOfTask(t, v), nil
	}
}

// statsOfTask are those of all its containers, null for those that can't be measured.
func (s *Server) statsOfTask(t *engine.TaskStatus, v version) map[string]*stats.Docker {
	out := map[string]*stats.Docker{}
	for i := range t.Containers {
		if id := t.Containers[i].RuntimeID; id != "" {
			out[id] = rated(s.cfg.Stats(id), v)
		}
	}
	return out
}

func (s *Server) associations(v version) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "container associations", http.StatusBadRequest, r)
		}
		out := struct{ Associations []string }{[]string{}}
		if t.Payload != nil {
			for _, a := range t.Payload.Associations {
				if a != nil && a.Type == r.PathValue("type") && contains(a.Containers, c.Name) {
					out.Associations = append(out.Associations, a.Name)
				}
			}
		}
		return out, nil
	}
}

func (s *Server) association(v version) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, c := s.find(r)
		if c == nil {
			return nil, unknownID(v, "container association", http.StatusBadRequest, r)
		}
		if t.Payload != nil {
			for _, a := range t.Payload.Associations {
				if a != nil && a.Type == r.PathValue("type") && a.Name == r.PathValue("name") && contains(a.Containers, c.Name) {
					return json.RawMessage(a.Content.Value), nil // JSON by its own sender's word
				}
			}
		}
		return nil, &failure{http.StatusBadRequest, "Unable to write container association response: the container has no association " + clip(r.PathValue("name")) + " of the type " + clip(r.PathValue("type"))}
	}
}

func contains(list []string, name string) bool {
	for _, l := range list {
		if l == name {
			return true
		}
	}
	return false
}

// calling is the task that the request comes from.
func (s *Server) calling(r *http.Request) (*engine.TaskStatus, *failure) {
	arn, err := s.cfg.Caller(r)
	if err != nil {
		return nil, &failure{http.StatusBadRequest, "Unable to get task arn from request: " + err.Error()}
	}
	tasks := s.cfg.Tasks()
	for i := range tasks {
		if tasks[i].Arn == arn {
			return &tasks[i], nil
		}
	}
	return nil, &failure{http.StatusBadRequest, "Unable to generate metadata for task: '" + arn + "'"}
}

func (s *Server) byAddress(tags bool) func(r *http.Request) (any, *failure) {
	return func(r *http.Request) (any, *failure) {
		t, fail := s.calling(r)
		if fail != nil {
			return nil, fail
		}
		out := s.shapeTask(t, false)
		if tags {
			s.addTags(r.Context(), out, false)
		}
		return out, nil
	}
}

// own is the container of the caller's task with the id in the path.
func (s *Server) own(r *http.Request, what string) (*engine.TaskStatus, *engine.ContainerStatus, *failure) {
	t, fail := s.calling(r)
	if fail != nil {
		return nil, nil, fail
	}
	for i := range t.Containers {
		if c := &t.Containers[i]; c.RuntimeID != "" && c.RuntimeID == r.PathValue("container") {
			return t, c, nil
		}
	}
	return nil, nil, &failure{http.StatusBadRequest, what + clip(r.PathValue("container"))}
}

func (s *Server) containerByAddress(r *http.Request) (any, *failure) {
	t, c, fail := s.own(r, "Unable to generate metadata for container ")
	if fail != nil {
		return nil, fail
	}
	return s.shapeContainer(t, c, false), nil
}

func (s *Server) statsByAddress(r *http.Request) (any, *failure) {
	t, fail := s.calling(r)
	if fail != nil {
		return nil, fail
	}
	return s.statsOfTask(t, v3), nil
}

func (s *Server) containerStatsByAddress(r *http.Request) (any, *failure) {
	_, c, fail := s.own(r, "Unable to get container stats for: ")
	if fail != nil {
		return nil, fail
	}
	return s.statsOf(c, v3)
}
