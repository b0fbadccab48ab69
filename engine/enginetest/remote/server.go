package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/execstream"
)

// Options are a server's.
type Options struct {
	// Late says of a call that begins whether it is carried out although its caller leaves meanwhile. nil: none is.
	Late func(method string) bool
	// Left, if set, is told of each call that came to its end after its caller had left; id is the container's as it was named.
	Left func(method, id string)
}

// Handler serves an engine. It may be called concurrently, as the engine may.
func Handler(r Runtime, o Options) http.Handler { return &server{r, o} }

type server struct {
	Runtime
	opt Options
}

// answers is the stream of an answer; one goroutine uses it at a time.
type answers struct {
	enc   *json.Encoder
	flush func() error
}

func (a *answers) send(r reply) error {
	if err := a.enc.Encode(r); err != nil {
		return err
	}
	return a.flush()
}

// Write sends output.
func (a *answers) Write(p []byte) (int, error) {
	if err := a.send(reply{Data: p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ServeHTTP carries out one call.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/Exec" {
		s.serveExec(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit)) // to its end: from then on the server sees a caller that leaves
	var c call
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	method, ctx := strings.TrimPrefix(r.URL.Path, "/"), r.Context()
	if s.opt.Late != nil && method != "Events" && s.opt.Late(method) {
		ctx = context.WithoutCancel(ctx)
	}
	out := &answers{json.NewEncoder(w), http.NewResponseController(w).Flush}
	result, err := s.do(ctx, method, &c, out)
	if r.Context().Err() != nil && s.opt.Left != nil {
		s.opt.Left(method, c.ID)
	}
	last := reply{Done: true, Error: failureOf(err)}
	if err == nil && result != nil {
		if last.Result, err = json.Marshal(result); err != nil {
			last.Error = failureOf(err)
		}
	}
	_ = out.send(last) // to a caller that has left nothing can be said
}

// serveExec carries out the one call whose caller says more while it lasts.
func (s *server) serveExec(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	_, _ = execstream.Serve(r.Context(), ws, func(ctx context.Context, x execstream.Start) (int, error) { return s.Exec(ctx, x.Container, x.Exec) })
}

func (s *server) do(ctx context.Context, method string, c *call, out *answers) (any, error) {
	switch method {
	case "Info":
		return s.Info(ctx)
	case "List":
		return s.List(ctx)
	case "Inspect":
		return s.Inspect(ctx, c.ID)
	case "Create":
		if c.Spec == nil {
			return nil, fmt.Errorf("a create without a Spec: %w", errdefs.ErrInvalidArgument)
		}
		return s.Create(ctx, *c.Spec)
	case "Start":
		return nil, s.Start(ctx, c.ID)
	case "Restart":
		return nil, s.Restart(ctx, c.ID)
	case "Stop":
		return nil, s.Stop(ctx, c.ID, c.Grace)
	case "Remove":
		return nil, s.Remove(ctx, c.ID)
	case "Logs":
		if c.Logs == nil {
			c.Logs = &engine.LogOptions{}
		}
		return nil, s.Logs(ctx, c.ID, *c.Logs, out)
	case "Events":
		return nil, s.Events(ctx, func() { _ = out.send(reply{Ready: true}) }, func(e engine.Event) { _ = out.send(reply{Event: &e}) })
	}
	return s.doImage(ctx, method, c, out)
}

func (s *server) doImage(ctx context.Context, method string, c *call, out *answers) (any, error) {
	switch method {
	case "Image":
		return s.Image(ctx, c.ID)
	case "Images":
		return s.Images(ctx)
	case "Pull":
		return s.Pull(ctx, c.ID, c.Auth, func(p engine.Progress) { _ = out.send(reply{Progress: &p}) })
	case "RemoveImage":
		return nil, s.RemoveImage(ctx, c.ID)
	case "ReadFile":
		return s.ReadFile(ctx, c.ID, c.Path, c.Count)
	case "Stat":
		return s.Stat(ctx, c.ID, c.Path)
	case "Import":
		var config engine.ImageConfig
		if c.Config != nil {
			config = *c.Config
		}
		return s.Import(ctx, c.ID, bytes.NewReader(c.Data), config)
	case "CreateVolume":
		if c.Volume == nil {
			return nil, fmt.Errorf("no volume is given: %w", errdefs.ErrInvalidArgument)
		}
		return nil, s.CreateVolume(ctx, *c.Volume)
	case "InspectVolume":
		return s.InspectVolume(ctx, c.ID)
	case "RemoveVolume":
		return nil, s.RemoveVolume(ctx, c.ID)
	}
	return nil, fmt.Errorf("%q is no method of an engine: %w", method, errdefs.ErrNotImplemented)
}
