package containerd

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/logdriver"
)

// output is where a container's output goes: nowhere, or to a process of longshore-log, which the shim starts and which lives as long as
// the container. Its settings are in a file, so that none of them is among the arguments of a process.
func (r *Runtime) output(b box, c *tasksapi.CreateTaskRequest) error {
	driver, options := logConfig(b.rec)
	c.Terminal = b.rec.Spec.Config.Tty
	if b.rec.Spec.Config.OpenStdin {
		c.Stdin = filepath.Join(r.dir(b.ID), "stdin")
		if err := holdOpen(c.Stdin); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(r.logDir(b.ID), logdriver.StatusFile)); err != nil && !os.IsNotExist(err) {
		return err // what an earlier run lost is not this one's
	}
	if driver != "none" {
		settings := filepath.Join(r.dir(b.ID), "log.json")
		doc, err := json.Marshal(logdriver.Settings{Driver: driver, Options: options, Dir: r.logDir(b.ID), Container: logdriver.Container{
			ContainerID: b.ID, ContainerName: b.rec.Spec.Name, Image: b.rec.Spec.Image, ContainerImageID: b.rec.ImageID, Created: b.CreatedAt,
			Labels: b.rec.labels(), Env: loggedEnv(b, options),
		}})
		if err != nil {
			return err
		}
		if err := os.MkdirAll(r.logDir(b.ID), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(settings, doc, 0o600); err != nil {
			return err
		}
		if r.cfg.LogProgram == "" {
			return refuse(errdefs.ErrFailedPrecondition, "there is no program longshore-log, which log driver %s needs", driver)
		}
		c.Stdout = (&url.URL{Scheme: "binary", Path: r.cfg.LogProgram, RawQuery: url.Values{"settings": {settings}}.Encode()}).String()
		if !c.Terminal {
			c.Stderr = c.Stdout
		}
	}
	return nil
}

// loggedEnv are the variables that the options env and env-regex may choose from; none where nothing chooses, as secrets are among them.
func loggedEnv(b box, options map[string]string) []string {
	if options["env"] == "" && options["env-regex"] == "" {
		return nil
	}
	return b.rec.Spec.Env
}

// logged reports why a container's log process has ended before it was ready. To the shim its end is as good as a ready one: both close the
// pipe; but before it ends, it says why.
func (r *Runtime) logged(b box) error {
	s, err := logdriver.ReadStatus(r.logDir(b.ID))
	if err != nil || s.LastError == "" {
		return err
	}
	driver, _ := logConfig(b.rec)
	return refuse(errdefs.ErrInvalidArgument, "the log driver %s: %s", driver, s.LastError)
}

// logDir is the folder of a container's log process.
func (r *Runtime) logDir(id string) string { return filepath.Join(r.dir(id), "log") }

func logConfig(rec record) (string, map[string]string) {
	if c := rec.Spec.HostConfig.LogConfig; c != nil && c.Type != "" {
		return c.Type, c.Config
	}
	return "json-file", nil
}

// holdOpen makes the pipe of a standard input to which nobody writes, and which does not end.
func holdOpen(path string) error {
	if is, _ := fifo.IsFifo(path); is {
		return nil
	}
	return unix.Mkfifo(path, 0o600)
}

// Logs copies the output that json-file has kept, or the journal has.
func (r *Runtime) Logs(ctx context.Context, ref string, o engine.LogOptions, w io.Writer) error {
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if err != nil {
		return err
	}
	from := logdriver.ReadOptions{Lines: o.Lines, Since: o.Since, Times: o.Times}
	if o.Follow {
		from.Running = func() (bool, error) {
			st, err := r.Inspect(ctx, b.ID) // an end that it shows is written down after the log process has ended
			return st.Status == engine.StatusRunning, ignoreMissing(err)
		}
	}
	switch driver, options := logConfig(b.rec); driver {
	case "json-file":
		return logdriver.Read(ctx, r.logDir(b.ID), from, w)
	case "journald":
		return logdriver.ReadJournal(ctx, b.ID, from, w)
	default:
		return engine.LogsElsewhere(b.rec.Spec.Name, driver, options)
	}
}
