// Package join makes a host a container instance of a control plane, and takes it out again.
//
//	join.go      the steps of "longshore-agent join", in order, and how one fails
//	reach.go     the way to the control plane: name, port, certificate against the token's pin, clock, key and cluster
//	onhost.go    this host: the engine, another agent, its ports
//	settings.go  the block of lines in ecs.config that join writes and leave takes out
//	leave.go     the steps of "longshore-agent leave"
//
// A step looks, or does one thing, and says what it found. One that fails is a [*Failure]: which step, what is wrong and what to
// do about it; nothing after it is done, and all before it can be done again. Before the step "settings" nothing is changed, and
// whatever was done by a join that failed or was killed is found and used by the next.
//
// The package knows no engine and no agent: how to look is handed in.
package join

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/protocol/join"
)

// Failure is a step that did not succeed.
type Failure struct {
	Step   string // a word: name, port, certificate …
	Err    error  // what is wrong
	Remedy string // what to do
}

// Error has the step, what is wrong and what to do.
func (f *Failure) Error() string { return fmt.Sprintf("%s: %v\n  → %s", f.Step, f.Err, f.Remedy) }

// Unwrap is what is wrong.
func (f *Failure) Unwrap() error { return f.Err }

// fails makes a Failure; its step is filled in by who runs it.
func fails(remedy, format string, args ...any) error {
	return &Failure{Err: fmt.Errorf(format, args...), Remedy: remedy}
}

// Joining is one join. Fields without a comment that says otherwise are needed.
type Joining struct {
	URL     string // of the control plane
	Token   join.Token
	Cluster string
	// Proxy is the URL of a proxy for HTTPS; empty: that of the environment, if any.
	Proxy string
	// CA is in place of the token's pin: certificates, PEM, of who signed that of a reverse proxy. May be empty.
	CA []byte

	File   string // ecs.config
	CAFile string // where the CA is put
	Force  bool   // write over another control plane's settings

	// Engine asks the container engine who it is.
	Engine func(ctx context.Context) (string, error)
	// Ask asks the agent that runs on this host; a *local.NotRunningError if none does.
	Ask func(ctx context.Context) (*local.Status, error)
	// Identity is the cluster and the ARN of the container instance that this host is already; empty if it is none.
	Identity func() (cluster, arn string, err error)
	// Learned is the file of what the control plane before said is to be trusted. It goes: from a join on the token says that.
	Learned string
	// Leaving says whether a leave was begun here and not finished.
	Leaving func() bool
	// Ports are those that the agent will listen on; Proc is /proc.
	Ports []uint16
	Proc  string
	// Start starts the agent, and returns how in words; nil: it is not started.
	Start func(ctx context.Context) (string, error)
	// Later says that Start has the agent started some time after this: it is not waited for.
	Later bool
	// Host asks the control plane about this host's instance, with the key that the agent uses; it is called after Start.
	Host func(ctx context.Context, arn string) (*join.HostOutput, error)
	// Wait bounds the wait for the agent and its daemons, Poll is how often they are looked at.
	Wait, Poll time.Duration
	Now        func() time.Time
	Out        io.Writer // a line for each step

	reach   way
	started bool
	done    bool // there is nothing more to do
}

// way is what is learned on the way to the control plane.
type way struct {
	url    *url.URL
	trust  *tls.Config // nil without TLS
	proxy  func(*http.Request) (*url.URL, error)
	ca     []byte // PEM, to be written; nil: the system's are enough
	offset time.Duration
	region string
	usedUp bool // no more hosts may register with the token
}

// step is one thing to do; it returns what it found in words, empty for nothing worth a line.
type step struct {
	name string
	do   func(ctx context.Context) (string, error)
}

// Run joins. It can be repeated: a host that has joined already is told so. The error is a [*Failure], or ctx's.
func (j *Joining) Run(ctx context.Context) error {
	steps := []step{
		{"URL", j.address}, {"name", j.name}, {"port", j.port}, {"certificate", j.certificate}, {"clock", j.clock}, {"key", j.key},
		{"engine", j.engine}, {"agent", j.agent}, {"ports", j.ports}, {"settings", j.settings}, {"start", j.start}, {"daemons", j.daemons},
	}
	return run(ctx, j.Out, steps, func() bool { return j.done })
}

// run does steps in order, until one fails or done says that the rest is of no use.
func run(ctx context.Context, out io.Writer, steps []step, done func() bool) error {
	for _, s := range steps {
		says, err := s.do(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var failure *Failure
		switch {
		case errors.As(err, &failure):
			if failure.Step == "" {
				failure.Step = s.name
			}
			return failure
		case err != nil:
			return &Failure{Step: s.name, Err: err, Remedy: "Mend it and run the same command again: what is done is not done twice."}
		}
		if says != "" {
			if _, err := fmt.Fprintf(out, "%-12s %s\n", s.name, says); err != nil {
				return err
			}
		}
		if done() {
			return nil
		}
	}
	return nil
}

// NotStarted says, after Run, that it did not get as far as starting the agent.
func (j *Joining) NotStarted() bool { return !j.started }

// start starts the agent.
func (j *Joining) start(ctx context.Context) (string, error) {
	j.started = j.Start != nil
	if !j.started {
		j.done = true
		return "not started: start it with \"systemctl start longshore-agent\", or \"longshore-agent run\"", nil
	}
	j.started, j.done = !j.Later, j.Later
	return j.Start(ctx)
}

// daemons waits until the agent is connected and every daemon that belongs here runs.
func (j *Joining) daemons(ctx context.Context) (string, error) {
	deadline := j.Now().Add(j.Wait)
	tick := time.NewTicker(j.Poll)
	defer tick.Stop()
	for {
		here, why, err := j.look(ctx)
		if err == nil && why == "" {
			return here, nil
		}
		if err != nil {
			why = err.Error()
		}
		if !j.Now().Before(deadline) {
			return "", fails("The host has joined, and goes on by itself. \"longshore-agent status\", \"tasks\" and \"explain TASK\" say what it waits for, \"longshore-agent doctor\" what is not well.",
				"after %s still not: %s", j.Wait, why)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}

// look is one look at the agent and the daemons; why is what is not there yet.
func (j *Joining) look(ctx context.Context) (here, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	s, err := j.Ask(ctx)
	switch {
	case err != nil:
		return "", "", err
	case s.ContainerInstanceArn == "":
		return "", "the agent has not registered: " + orNothing(s.Connection.Problem), nil
	case !s.Connection.Connected:
		return "", "the agent is not connected: " + orNothing(s.Connection.Problem), nil
	}
	out, err := j.Host(ctx, s.ContainerInstanceArn)
	if err != nil {
		return "", "", err
	}
	if out.Instance == nil {
		return "", "the control plane does not know " + s.ContainerInstanceArn, nil
	}
	for _, d := range out.Instance.Daemons {
		if !value(d.Ready) {
			return "", fmt.Sprintf("the daemon of service %s is %s", value(d.Service), value(d.State)), nil
		}
	}
	return fmt.Sprintf("%s is connected, and its %d daemons run", s.ContainerInstanceArn, len(out.Instance.Daemons)), "", nil
}

func orNothing(s string) string {
	if s == "" {
		return "it says nothing about why"
	}
	return s
}

// value is what a pointer points at, or the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
