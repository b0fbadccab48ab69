package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine/execstream"
)

// container finds a container of a task of this host.
func (q *answers) container(task, name string) (*local.Task, *local.Container, error) {
	t, err := local.Resolve(q.tasks(), task)
	if err != nil {
		return nil, nil, err
	}
	c, err := t.Choose(name)
	if err != nil {
		return nil, nil, err
	}
	return t, c, nil
}

// logs answers with a container's output. Of one that was removed it is what the agent has kept.
func (q *answers) logs(w http.ResponseWriter, r *http.Request) {
	want, err := local.LogsOf(r)
	if err != nil {
		local.Refuse(w, http.StatusBadRequest, err)
		return
	}
	t, c, err := q.container(want.Task, want.Container)
	if err != nil {
		local.Refuse(w, http.StatusNotFound, err)
		return
	}
	local.Stream(w, func(out io.Writer) error {
		switch {
		case c.LastOutput != "":
			_, err := io.WriteString(out, c.LastOutput)
			return err
		case c.RuntimeID == "":
			return fmt.Errorf("container %s of task %s was never made, so it has written nothing; \"longshore-agent explain %s\" says why", c.Name, t.ID, t.ID)
		}
		err := q.a.runtime.Logs(r.Context(), c.RuntimeID, want.LogOptions, out)
		if r.Context().Err() != nil {
			return errors.New("the agent ends; ask again when it runs")
		}
		if errdefs.IsNotFound(err) && t.CleanedUp {
			return fmt.Errorf("container %s of task %s is removed, and the end of its output could not be kept: %w", c.Name, t.ID, err)
		}
		return err
	})
}

// exec runs a process in a container, with a line in the audit log before it begins.
func (q *answers) exec(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // it is answered
	}
	if _, err := execstream.Serve(r.Context(), ws, func(ctx context.Context, s execstream.Start) (int, error) { return q.run(ctx, local.Peer(r), s) }); err != nil {
		q.a.log.Debug("A process in a container came to nothing", zap.Error(err))
	}
}

// run runs one that peer has asked for.
func (q *answers) run(ctx context.Context, peer string, s execstream.Start) (int, error) {
	if q.engine() == nil {
		return 0, fmt.Errorf("the container engine has not answered since the agent's start; \"longshore-agent status\" says more: %w", errdefs.ErrUnavailable)
	}
	t, c, err := q.container(s.Task, s.Container)
	line := audit.Entry{Status: http.StatusOK, Client: peer, Path: "/v1/exec", UserAgent: "longshore-agent exec", Event: audit.ExecuteCommand}
	switch {
	case err == nil && len(s.Args) == 0:
		err = errors.New("name the program that is to run")
	case err == nil && (c.RuntimeID == "" || c.KnownStatus != "RUNNING" || !c.FinishedAt.IsZero()):
		err = fmt.Errorf("container %s of task %s does not run: it is %s", c.Name, t.ID, c.KnownStatus)
	}
	if t != nil {
		line.TaskArn = t.Arn
	}
	if err != nil {
		line.Status = http.StatusBadRequest
	} else { // no more of it: secrets are among arguments
		line.Path += "/" + c.Name + "/" + path.Base(s.Args[0])
	}
	if werr := q.a.audit.Write(line); werr != nil {
		q.a.log.Error("The audit log can't be written", zap.Error(werr))
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	fields := []zap.Field{zap.String("task", t.Arn), zap.String("container", c.Name), zap.String("program", path.Base(s.Args[0])), zap.String("user", s.User), zap.Bool("terminal", s.Terminal), zap.String("client", peer)}
	q.a.log.Info("A process is run in a container for somebody on this host", fields...)
	began := time.Now()
	code, err := q.a.runtime.Exec(ctx, c.RuntimeID, s.Exec)
	q.a.log.Info("A process that was run in a container has ended", append(fields, zap.Int("exitCode", code), zap.Duration("duration", time.Since(began)), zap.Error(err))...)
	return code, err
}
