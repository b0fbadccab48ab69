package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// MarkName is the file in the state directory that a leave keeps from before the deregistration until nothing is left to do. An
// agent does not start while it is there: it would register again.
const MarkName = "leaving.json"

const maxMark = 64 << 10

// Mark is how far a leave has come.
type Mark struct {
	Cluster      string `json:"cluster"`
	Arn          string `json:"containerInstanceArn"`
	Deregistered bool   `json:"deregistered,omitempty"`
}

// LoadMark reads the mark in a state directory; nil if no leave was begun. One that can't be read is a leave about which nothing
// else is known.
func LoadMark(dir string) *Mark {
	raw, err := durable.Read(filepath.Join(dir, MarkName), maxMark)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	m := &Mark{}
	if err != nil || json.Unmarshal(raw, m) != nil {
		return &Mark{}
	}
	return m
}

func saveMark(dir string, m *Mark) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(dir, MarkName), raw, 0o600)
}

// Part is something on this host that goes with the agent: it says what it removed, and what it left and why. It can be repeated.
type Part struct {
	Name   string
	Remove func(ctx context.Context, say func(string)) error
}

// Leaving is one leave. All fields but those that say so are needed.
type Leaving struct {
	Dir          string // the agent's state
	File, CAFile string // as Joining has them
	// Force ends the tasks without waiting for a drain; Alone leaves without the control plane, which is not reachable any more.
	Force, Alone bool
	// Identity is the cluster and the ARN of this host's container instance; empty if it is none.
	Identity func() (cluster, arn string, err error)
	// Ask asks the agent that runs on this host; a *local.NotRunningError if none does.
	Ask func(ctx context.Context) (*local.Status, error)
	// Call makes a call of the ECS API with the agent's key, and Host asks about an instance.
	Call func(ctx context.Context, operation string, in, out any) error
	Host func(ctx context.Context, cluster, arn string) (*join.HostOutput, error)
	// EndKey has the control plane revoke the key that signs.
	EndKey func(ctx context.Context) error
	// Stop ends the agent with this process id, and keeps it from coming back by itself; pid is 0 when none answers.
	Stop func(ctx context.Context, pid int) (string, error)
	// Parts go when the agent is gone, in order.
	Parts []Part
	// Files are the names, as patterns, of what the agent keeps in Dir. Folders go after them, and only those that are empty by then:
	// what tasks have written into volumes is theirs, and may be on another machine's disk.
	Files, Folders []string
	// Left says what stays on the host, at the end.
	Left func(ctx context.Context) []string
	// Wait bounds the drain, Poll is how often it is looked at.
	Wait, Poll time.Duration
	Now        func() time.Time
	Out        io.Writer

	crash   func(at string) // for tests: what a kill at an instant is
	mark    *Mark           // nil: this host is no container instance
	resumed bool            // the mark was there already
}

// hit is an instant at which a kill is worth testing.
func (l *Leaving) hit(at string) {
	failpoint.Hit("leave/" + at)
	if l.crash != nil {
		l.crash(at)
	}
}

// Run leaves. It can be repeated, also after it was killed: it goes on where it was. The error is a [*Failure], or ctx's.
func (l *Leaving) Run(ctx context.Context) error {
	steps := []step{{"instance", l.instance}, {"drain", l.drain}, {"deregister", l.deregister}, {"agent", l.stop}}
	for _, p := range l.Parts {
		steps = append(steps, step{p.Name, func(ctx context.Context) (string, error) { return l.part(ctx, p) }})
	}
	steps = append(steps, step{"settings", l.settings}, step{"state", l.state}, step{"left", l.left})
	return run(ctx, l.Out, steps, func() bool { return false })
}

// instance finds out what there is to leave.
func (l *Leaving) instance(context.Context) (string, error) {
	cluster, arn, err := l.Identity()
	switch {
	case err != nil:
		return "", err
	case LoadMark(l.Dir) != nil:
		l.mark, l.resumed = LoadMark(l.Dir), true
		return l.mark.Arn + ": going on with a leave that was begun", nil
	case arn == "":
		return "none: this host has not joined, or has left; what may be left of it is taken away", nil
	}
	l.mark = &Mark{Cluster: cluster, Arn: arn}
	return arn, nil
}

// registered says whether the control plane still has to be told.
func (l *Leaving) registered() bool {
	return l.mark != nil && l.mark.Arn != "" && !l.mark.Deregistered && !l.Alone
}

const (
	draining = "DRAINING"
	inactive = "INACTIVE"
)

const alone = "Is the control plane away, or does it not know this host's key any more? Then leave without it: --without-control-plane. It gives the instance up after --instance-lost-after."

// drain has the control plane move the tasks away, daemons last, and waits until none is left.
func (l *Leaving) drain(ctx context.Context) (string, error) {
	if !l.registered() || l.Force {
		return "", nil
	}
	deadline, said := l.Now().Add(l.Wait), ""
	for {
		out, err := l.Host(ctx, l.mark.Cluster, l.mark.Arn)
		switch {
		case err != nil && l.gone(err):
			return "", nil
		case err != nil:
			return "", fails(alone, "%w", err)
		}
		i := out.Instance
		if i == nil || value(i.Status) == inactive {
			return "", nil
		}
		if value(i.Status) != draining {
			status, ids := draining, []string{l.mark.Arn}
			if err := l.Call(ctx, "UpdateContainerInstancesState", &stateInput{Cluster: &l.mark.Cluster, ContainerInstances: ids, Status: &status}, nil); err != nil {
				return "", fails(alone, "%w", err)
			}
			l.hit("draining")
			continue
		}
		if value(i.Tasks) == 0 {
			return "no task is left", nil
		}
		if _, err := l.Ask(ctx); errors.As(err, new(*local.NotRunningError)) {
			return "", fails("Start it, \"systemctl start longshore-agent\", and leave again; or end the tasks as they are with --force.", "%d tasks are left, and no agent runs here that could stop them", value(i.Tasks))
		}
		if why := value(i.StatusReason); why != said {
			said = why
			if _, err := fmt.Fprintf(l.Out, "%-12s %d tasks are left: %s\n", "drain", value(i.Tasks), why); err != nil {
				return "", err
			}
		}
		if !l.Now().Before(deadline) {
			return "", fails("The instance goes on draining: leave again later, or with a longer --wait; or end the tasks as they are with --force.", "after %s %d tasks are left: %s", l.Wait, value(i.Tasks), said)
		}
		if !pause(ctx, l.Poll) {
			return "", ctx.Err()
		}
	}
}

// stateInput is that of UpdateContainerInstancesState, and deregisterInput that of DeregisterContainerInstance, as far as they are
// needed.
type stateInput struct {
	Cluster            *string
	ContainerInstances []string
	Status             *string
}

type deregisterInput struct {
	Cluster, ContainerInstance *string
	Force                      *bool
}

// deregister takes the instance, and its key with it, out of the control plane. The mark goes before, so that no agent registers again.
func (l *Leaving) deregister(ctx context.Context) (string, error) {
	if l.mark == nil {
		return "", nil
	}
	if l.registered() {
		if err := saveMark(l.Dir, l.mark); err != nil {
			return "", err
		}
		l.hit("marked")
		err := l.Call(ctx, "DeregisterContainerInstance", &deregisterInput{&l.mark.Cluster, &l.mark.Arn, &l.Force}, nil)
		if err != nil && !l.gone(err) {
			// What stands between the agent and its tasks goes again: it has them to stop.
			return "", errors.Join(fails("Tasks that came meanwhile are drained if you leave again. "+alone, "%w", err), os.Remove(filepath.Join(l.Dir, MarkName)))
		}
		l.hit("deregistered")
		if err := l.EndKey(ctx); err != nil && !l.gone(err) {
			return "", fails(alone, "revoke this host's key: %w", err)
		}
		l.hit("ended")
	}
	says := "the control plane does not know this host any more, nor its key"
	if l.Alone && !l.mark.Deregistered {
		says = "not done: take it out there with \"aws ecs deregister-container-instance --force\", and revoke its key"
	}
	l.mark.Deregistered = true
	return says, saveMark(l.Dir, l.mark)
}

// gone says that the instance is not there any more, or, of a leave that was killed before it could write that down, its key.
func (l *Leaving) gone(err error) bool {
	var api *agentapi.APIError
	return errors.As(err, &api) && (l.resumed && api.Code == "UnrecognizedClientException" || strings.Contains(api.Message, "referenced container instance was not found"))
}

// stop ends the agent.
func (l *Leaving) stop(ctx context.Context) (string, error) {
	s, err := l.Ask(ctx)
	pid := 0
	if err == nil {
		pid = s.PID
	} else if !errors.As(err, new(*local.NotRunningError)) {
		return "", fails("Stop it, \"systemctl disable --now longshore-agent\", and leave again.", "an agent runs and does not answer: %w", err)
	}
	return l.Stop(ctx, pid)
}

// part removes one part, and says each thing.
func (l *Leaving) part(ctx context.Context, p Part) (string, error) {
	var wrong error
	err := p.Remove(ctx, func(line string) {
		_, e := fmt.Fprintf(l.Out, "%-12s %s\n", p.Name, line)
		wrong = errors.Join(wrong, e)
	})
	l.hit(p.Name)
	return "", errors.Join(err, wrong)
}

// settings takes out of ecs.config what join has written, and the CA.
func (l *Leaving) settings(context.Context) (string, error) {
	text, err := read(l.File)
	if err != nil {
		return "", err
	}
	rest, had := cut(text)
	if !had {
		return "", nil
	}
	if err := os.Remove(l.CAFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	l.hit("settings")
	if strings.TrimSpace(string(rest)) == "" {
		return "removed " + l.File, os.Remove(l.File)
	}
	return "taken out of " + l.File, durable.Write(l.File, rest, 0o600)
}

// state removes what the agent keeps on its disk, the mark last.
func (l *Leaving) state(context.Context) (string, error) {
	removed := 0
	for _, pattern := range append(l.Files, MarkName) {
		names, err := filepath.Glob(filepath.Join(l.Dir, pattern))
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return "", err
			}
			removed++
		}
		l.hit("state")
	}
	for _, name := range l.Folders {
		if err := os.Remove(filepath.Join(l.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return "", err
		}
	}
	switch err := os.Remove(l.Dir); {
	case err == nil:
		return "removed " + l.Dir, nil
	case removed == 0:
		return "", nil
	}
	return fmt.Sprintf("removed from %s, where something else is left", l.Dir), nil
}

// left says what stays.
func (l *Leaving) left(ctx context.Context) (string, error) {
	for _, line := range l.Left(ctx) {
		if _, err := fmt.Fprintf(l.Out, "%-12s %s\n", "left", line); err != nil {
			return "", err
		}
	}
	return "", nil
}
