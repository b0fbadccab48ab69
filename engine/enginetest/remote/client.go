package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/execstream"
)

// Client is an engine behind a unix socket. All methods may be called concurrently.
type Client struct {
	http      *http.Client
	transport *http.Transport
}

var _ Runtime = (*Client)(nil)

// Dial returns the engine that a [Handler] serves on a unix socket. Nothing is asked of it yet.
func Dial(socket string) *Client {
	t := &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	return &Client{&http.Client{Transport: t}, t}
}

// Close lets go of the connections.
func (c *Client) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// do makes a call; each (may be nil) gets what comes before the result, and its error ends the call.
func (c *Client) do(ctx context.Context, method string, in call, result any, each func(reply) error) error {
	err := c.exchange(ctx, method, in, result, each)
	var answered *failure
	if err != nil && ctx.Err() != nil && !errors.As(err, &answered) {
		return ctx.Err()
	}
	return err
}

func (c *Client) exchange(ctx context.Context, method string, in call, result any, each func(reply) error) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", method, err, errdefs.ErrInvalidArgument)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/"+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", method, err, errdefs.ErrUnavailable)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: the engine answers %s: %w", method, res.Status, errdefs.ErrUnavailable)
	}
	for in := json.NewDecoder(res.Body); ; {
		var r reply
		if err := in.Decode(&r); err != nil {
			return fmt.Errorf("%s: the answer broke off: %w: %w", method, err, errdefs.ErrUnavailable)
		}
		switch {
		case r.Done && r.Error != nil:
			return r.Error
		case r.Done && result != nil:
			_, _ = io.Copy(io.Discard, res.Body) // its end, so that the connection is used again
			return json.Unmarshal(r.Result, result)
		case r.Done:
			_, _ = io.Copy(io.Discard, res.Body)
			return nil
		case each != nil:
			if err := each(r); err != nil {
				return err
			}
		}
	}
}

// Info asks the engine about itself.
func (c *Client) Info(ctx context.Context) (i engine.Info, err error) {
	return i, c.do(ctx, "Info", call{}, &i, nil)
}

// List returns the containers that are ours.
func (c *Client) List(ctx context.Context) (all []engine.State, err error) {
	return all, c.do(ctx, "List", call{}, &all, nil)
}

// Inspect returns one container.
func (c *Client) Inspect(ctx context.Context, id string) (st engine.State, err error) {
	return st, c.do(ctx, "Inspect", call{ID: id}, &st, nil)
}

// Create makes a container.
func (c *Client) Create(ctx context.Context, spec engine.Spec) (id string, err error) {
	return id, c.do(ctx, "Create", call{Spec: &spec}, &id, nil)
}

// Start starts a created container.
func (c *Client) Start(ctx context.Context, id string) error {
	return c.do(ctx, "Start", call{ID: id}, nil, nil)
}

// Restart starts an ended container once more.
func (c *Client) Restart(ctx context.Context, id string) error {
	return c.do(ctx, "Restart", call{ID: id}, nil, nil)
}

// Stop ends a container's process.
func (c *Client) Stop(ctx context.Context, id string, grace time.Duration) error {
	return c.do(ctx, "Stop", call{ID: id, Grace: grace}, nil, nil)
}

// Remove removes a container.
func (c *Client) Remove(ctx context.Context, id string) error {
	return c.do(ctx, "Remove", call{ID: id}, nil, nil)
}

// Logs copies a container's output.
func (c *Client) Logs(ctx context.Context, id string, o engine.LogOptions, w io.Writer) error {
	return c.do(ctx, "Logs", call{ID: id, Logs: &o}, nil, func(r reply) error {
		_, err := w.Write(r.Data)
		return err
	})
}

// Exec runs a process in a container.
func (c *Client) Exec(ctx context.Context, id string, e engine.Exec) (int, error) {
	ws, _, err := websocket.Dial(ctx, "http://engine/Exec", &websocket.DialOptions{HTTPClient: c.http}) //nolint:bodyclose // the connection is the socket's
	if err != nil {
		if e.Stdin != nil {
			_ = e.Stdin.Close()
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, fmt.Errorf("Exec: %w: %w", err, errdefs.ErrUnavailable)
	}
	return execstream.Run(ctx, ws, execstream.Start{Container: id, Exec: e})
}

// Events follows the events of our containers.
func (c *Client) Events(ctx context.Context, ready func(), f func(engine.Event)) error {
	err := c.do(ctx, "Events", call{}, nil, func(r reply) error {
		if r.Ready && ready != nil {
			ready()
		}
		if r.Event != nil {
			f(*r.Event)
		}
		return nil
	})
	if ctx.Err() == context.Canceled {
		return nil
	}
	return err
}

// Image returns a local image.
func (c *Client) Image(ctx context.Context, ref string) (img engine.Image, err error) {
	return img, c.do(ctx, "Image", call{ID: ref}, &img, nil)
}

// Images lists the local images.
func (c *Client) Images(ctx context.Context) (all []engine.Image, err error) {
	return all, c.do(ctx, "Images", call{}, &all, nil)
}

// Pull pulls an image.
func (c *Client) Pull(ctx context.Context, ref string, auth *engine.RegistryAuth, progress func(engine.Progress)) (img engine.Image, err error) {
	return img, c.do(ctx, "Pull", call{ID: ref, Auth: auth}, &img, func(r reply) error {
		if r.Progress != nil && progress != nil {
			progress(*r.Progress)
		}
		return nil
	})
}

// RemoveImage removes a reference to an image.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.do(ctx, "RemoveImage", call{ID: ref}, nil, nil)
}

// ReadFile reads a file of an image.
func (c *Client) ReadFile(ctx context.Context, imageID, path string, limit int64) (data []byte, err error) {
	return data, c.do(ctx, "ReadFile", call{ID: imageID, Path: path, Count: limit}, &data, nil)
}

// Stat describes a path of an image.
func (c *Client) Stat(ctx context.Context, imageID, path string) (info engine.FileInfo, err error) {
	return info, c.do(ctx, "Stat", call{ID: imageID, Path: path}, &info, nil)
}

// Import makes an image of an archive.
func (c *Client) Import(ctx context.Context, ref string, root io.Reader, config engine.ImageConfig) (img engine.Image, err error) {
	data, err := io.ReadAll(io.LimitReader(root, limit))
	if err != nil {
		return img, err
	}
	return img, c.do(ctx, "Import", call{ID: ref, Data: data, Config: &config}, &img, nil)
}

// CreateVolume makes a volume.
func (c *Client) CreateVolume(ctx context.Context, v engine.EngineVolume) error {
	return c.do(ctx, "CreateVolume", call{Volume: &v}, nil, nil)
}

// InspectVolume returns a volume.
func (c *Client) InspectVolume(ctx context.Context, name string) (v engine.EngineVolume, err error) {
	return v, c.do(ctx, "InspectVolume", call{ID: name}, &v, nil)
}

// RemoveVolume removes a volume.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.do(ctx, "RemoveVolume", call{ID: name}, nil, nil)
}
