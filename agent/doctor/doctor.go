// Package doctor looks at what an agent needs of its host, and says of each thing whether it is well and how to mend it. It
// changes nothing, and needs no agent that runs: what only a running one can tell is asked over the local socket, and the
// rest is looked at anew.
//
//	doctor.go   the report
//	host.go     disks, permissions, clock
//	kernel.go   what the kernel offers
//	registry.go where registry credentials come from
//	network.go  what tasks' own networks hang on
//	control.go  the way to the control plane, step by step: name, TCP, TLS, clock, signature
package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache"
)

// Verdict is what is thought of a thing.
type Verdict string

// The verdicts. With one Fail the host does not do its work, or will not for long.
const (
	OK   Verdict = "OK"
	Warn Verdict = "WARN"
	Fail Verdict = "FAIL"
)

// Check is one thing that was looked at.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Says    string  `json:"says"`
	Mend    string  `json:"mend,omitempty"` // how to, unless it is well
}

// Report is all of them.
type Report struct {
	At     time.Time `json:"at"`
	Checks []Check   `json:"checks"`
	OK     int       `json:"ok"`
	Warned int       `json:"warned"`
	Failed int       `json:"failed"`
}

// ErrFailed says that something is not well.
var ErrFailed = errors.New("something is not well; see the lines with FAIL")

// Patient is the host, and how to look at it.
type Patient struct {
	Config   *config.Config
	File     string   // the environment file
	Warnings []string // of the configuration
	Root     string   // of the host's file systems for /proc, /sys and /etc; "/" but in tests
	// Ask asks the running agent for its status; a *local.NotRunningError if there is none.
	Ask func(ctx context.Context) (*local.Status, error)
	// Engine asks the container engine about itself.
	Engine func(ctx context.Context) (engine.Info, error)
	// Registries looks at where registry credentials come from; path, unless empty, is the PATH of the agent that runs. May be nil.
	Registries func(ctx context.Context, path string) []imagecache.Finding
	// Endpoint is the URL of the ECS API, TLS and Proxy are how the agent reaches it. Astray is why there is no way to it, nil if
	// there is one.
	Endpoint string
	Astray   error
	TLS      *tls.Config
	Proxy    func(*http.Request) (*url.URL, error)
	// Sign makes a signed call that changes nothing, once.
	Sign func(ctx context.Context) error
	// Introspection and Credentials are the addresses at which they are served.
	Introspection, Credentials string
	Now                        func() time.Time
}

// most bounds the whole look; each step has its own, shorter, bound.
const most = time.Minute

// examination is a report that grows.
type examination struct {
	*Patient
	*Report
	status *local.Status // nil: no agent runs
}

// Examine looks at everything. It always has a report.
func (p *Patient) Examine(ctx context.Context) *Report {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	e := &examination{Patient: p, Report: &Report{At: p.Now().UTC()}}
	e.configuration()
	e.agent(ctx)
	root := e.engine(ctx)
	e.disks(root)
	e.permissions()
	e.predecessor()
	e.kernel()
	e.taskNetworks()
	e.registries(ctx)
	e.control(ctx)
	e.localAddresses(ctx)
	for _, c := range e.Checks {
		switch c.Verdict {
		case OK:
			e.Report.OK++
		case Warn:
			e.Warned++
		default:
			e.Failed++
		}
	}
	return e.Report
}

func (e *examination) add(v Verdict, name, mend, format string, args ...any) {
	if v == OK {
		mend = ""
	}
	e.Checks = append(e.Checks, Check{Name: name, Verdict: v, Says: fmt.Sprintf(format, args...), Mend: mend})
}

// configuration says what the configuration's reader warned of.
func (e *examination) configuration() {
	if len(e.Warnings) == 0 {
		e.add(OK, "configuration", "", "%s and the environment are understood", e.File)
	}
	for _, w := range e.Warnings {
		e.add(Warn, "configuration", "Correct the setting in "+e.File+"; \"longshore-agent settings\" lists all.", "%s", w)
	}
}

// agent asks the running agent.
func (e *examination) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := e.Ask(ctx)
	var absent *local.NotRunningError
	switch {
	case errors.As(err, &absent):
		e.add(Fail, "agent", "Start it: systemctl start longshore-agent. If it does not stay, journalctl -u longshore-agent says why.", "%v; what follows was looked at without it", absent)
		return
	case err != nil:
		e.add(Fail, "agent", "Restart it: systemctl restart longshore-agent. Containers stay.", "it does not answer: %v", err)
		return
	}
	e.status = s
	e.add(OK, "agent", "", "%s (%s) runs since %s, pid %d", s.Version, s.Hash, s.StartedAt.Format(time.RFC3339), s.PID)
	switch {
	case s.Connection.Connected:
		e.add(OK, "session", "", "connected with the control plane since %s as %s", s.Connection.Since.Format(time.RFC3339), s.ContainerInstanceArn)
	default:
		e.add(Fail, "session", "The steps to the control plane below say where it ends.", "not connected with the control plane%s", because(s.Connection.Problem))
	}
	if s.Health.OK {
		e.add(OK, "health", "", "the instance is healthy")
	}
	for _, r := range s.Health.Reasons {
		e.add(Fail, "health", "See the lines below; it heals by itself when the cause is gone.", "the instance is IMPAIRED since %s: %s", s.Health.Since.Format(time.RFC3339), r)
	}
	if n := s.UnsentChanges; n > 0 {
		e.add(Warn, "reports", "They are sent when the control plane can be reached.", "%d state changes of tasks are not accepted by the control plane yet", n)
	}
}

// engine asks the container engine, and returns where it keeps its data.
func (e *examination) engine(ctx context.Context) (root string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begun := e.Now()
	info, err := e.Engine(ctx)
	if err != nil {
		e.add(Fail, "engine", "Is it running? systemctl status docker; its address is DOCKER_HOST in "+e.File+".", "%s: %v", e.Config.DockerEndpoint, err)
		return ""
	}
	e.add(OK, "engine", "", "%s %s, API %s, at %s, answers in %s", info.Name, info.Version, info.APIVersion, e.Config.DockerEndpoint, e.Now().Sub(begun).Round(time.Millisecond))
	if info.Name == "docker" && !info.LiveRestore {
		e.add(Warn, "live restore", `Put "live-restore": true into /etc/docker/daemon.json and reload it: then containers outlive an engine that is restarted or replaced.`, "a restart of the engine ends every container")
	}
	return info.Root
}

// Print prints a report for people.
func (r *Report) Print(w io.Writer) error {
	for _, c := range r.Checks {
		if _, err := fmt.Fprintf(w, "%-4s  %-14s  %s\n", c.Verdict, c.Name, oneLine(c.Says)); err != nil {
			return err
		}
		if c.Mend != "" {
			if _, err := fmt.Fprintf(w, "      %-14s  → %s\n", "", c.Mend); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d OK, %d WARN, %d FAIL\n", r.OK, r.Warned, r.Failed)
	return err
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
