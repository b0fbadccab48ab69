package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// A host that shuts down or reboots stops its tasks in order. Two ask for it, in whatever order they come: systemd-logind, which this agent
// has wait while the whole system still runs, and longshore-drain.service when it is stopped with the system, which needs no logind. See
// docs/decisions/0019-how-a-host-goes-down.md.

// logindAgain is the wait before logind is tried again that was heard once.
const logindAgain = time.Minute

// watchShutdowns has shutdowns wait for this host's tasks, where logind is there to be asked.
func (a *Agent) watchShutdowns(ctx context.Context) error {
	if a.opt.Logind == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	for said := false; ; said = true {
		l, err := a.opt.Logind()
		if err == nil {
			err = a.heed(ctx, l)
			l.Close()
			said = false
		}
		if errors.Is(err, ErrReload) || ctx.Err() != nil {
			return err
		}
		if !said {
			a.log.Info("Shutdowns are not delayed by systemd-logind; tasks are stopped in order by longshore-drain.service", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(logindAgain):
		}
	}
}

// heed waits for shutdowns until logind can't be heard any more or one was called off.
func (a *Agent) heed(ctx context.Context, l depart.Logind) error {
	lock, err := l.Hold()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case going, ok := <-l.Going():
			switch {
			case !ok:
				return errors.New("the connection has ended")
			case going:
				if err := a.shutDown(ctx, "systemd-logind says that the host shuts down"); err != nil && ctx.Err() == nil {
					a.log.Error("The host shuts down, and not everything on it has stopped", zap.Error(err))
				}
				_ = lock.Close()
			case a.departure.Leaves() != nil:
				a.log.Warn("The shutdown was called off: this host stays, and the agent starts over")
				a.departure.Stay()
				return ErrReload
			}
		}
	}
}

// shutDown leaves in order, in the time that is set for it.
func (a *Agent) shutDown(ctx context.Context, why string) error {
	notify("STATUS=The host shuts down: stopping its tasks, daemons last")
	return a.departure.Depart(ctx, depart.Notice{Kind: depart.Shutdown, Deadline: time.Now().Add(a.cfg.ShutdownTimeout), Why: why})
}

// depart answers POST /v1/depart when that is done.
func (q *answers) depart(w http.ResponseWriter, r *http.Request) {
	if q.engine() == nil {
		http.Error(w, "the agent has not looked at its containers yet", http.StatusServiceUnavailable)
		return
	}
	var out local.Departed
	if err := q.a.shutDown(r.Context(), "longshore-agent depart was called"); err != nil {
		out.Problem = err.Error()
	}
	local.Answer(w, out)
}

// comeBack makes this host ACTIVE again that made itself DRAINING and is back, and is done then.
func (a *Agent) comeBack(ctx context.Context, api session.API) error {
	name := filepath.Join(a.cfg.DataDir, departureName)
	for ctx.Err() == nil {
		done, err := a.backAgain(ctx, api, name)
		if done {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("This host is back and can't be made ACTIVE; it is tried again", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
	return ctx.Err()
}

// backAgain makes one attempt.
func (a *Agent) backAgain(ctx context.Context, api session.API, name string) (done bool, err error) {
	data, err := durable.Read(name, 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	var was selfDrained
	if err == nil {
		err = json.Unmarshal(data, &was)
	}
	if err != nil {
		a.log.Error("The note about how this host left can't be read; it stays DRAINING if it is: make it ACTIVE with UpdateContainerInstancesState", zap.String("path", name), zap.Error(err))
		return true, nil
	}
	if was.Boot == a.host.BootID && was.Kind != depart.Shutdown || a.departure.Leaves() != nil { // the machine is about to be taken away still
		return true, nil
	}
	if err := a.setStatus(ctx, api, agentapi.ContainerInstanceStatusActive); err != nil {
		return false, err
	}
	if err := os.Remove(name); err != nil {
		return false, fmt.Errorf("forget how this host left: %w", err)
	}
	a.log.Info("This host is back and ACTIVE again", zap.String("left", was.Why))
	return true, nil
}
