package docker

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/longshore-project/longshore/engine"
)

// Logs copies output that the engine has kept: two requests. Of a driver that sends it elsewhere the engine has a copy of its own, from
// Docker 20.10 on and unless the option cache-disabled is set.
func (r *Runtime) Logs(ctx context.Context, name string, o engine.LogOptions, w io.Writer) error {
	c, err := r.inspect(ctx, name)
	if err != nil {
		return err
	}
	var kept container.LogConfig
	if c.HostConfig != nil {
		kept = c.HostConfig.LogConfig
	}
	elsewhere := func() error { return engine.LogsElsewhere(strings.TrimPrefix(c.Name, "/"), kept.Type, kept.Config) }
	if kept.Type == "none" {
		return elsewhere()
	}
	opts := container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "all", Follow: o.Follow, Timestamps: o.Times, Since: since(o.Since)}
	if o.Lines > 0 {
		opts.Tail = strconv.Itoa(o.Lines)
	}
	body, err := r.link.api(ctx).ContainerLogs(ctx, c.ID, opts)
	if err != nil {
		err = classify(ctx, err)
		if strings.Contains(err.Error(), "does not support reading") {
			return elsewhere()
		}
		return err
	}
	defer func() { _ = body.Close() }()
	if c.Config.Tty {
		_, err = io.Copy(w, body)
	} else {
		_, err = stdcopy.StdCopy(w, w, body)
	}
	return classify(ctx, err)
}

// LogLosses returns nothing: Docker does not tell what its drivers lose. It makes Runtime an engine.LogWatcher.
func (r *Runtime) LogLosses(context.Context) ([]engine.LogLoss, error) { return nil, nil }

// since is a time as the engine reads it: seconds and nanoseconds since 1970.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}
