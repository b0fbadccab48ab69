package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/sockets"
)

// engine asks the container engine.
func (j *Joining) engine(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	says, err := j.Engine(ctx)
	if err != nil {
		return "", fails("Is one installed, and does it run? systemctl enable --now docker. Another one is chosen with ECS_ENGINE and DOCKER_HOST in "+j.File+".", "the container engine does not answer: %w", err)
	}
	return says, nil
}

// agent sees that no agent runs here, or that the one that does has joined this control plane already.
func (j *Joining) agent(ctx context.Context) (string, error) {
	if pid, name := otherAgent(j.Proc); pid != "" {
		return "", fails("Two agents can't share an engine. Stop it and keep it from coming back: systemctl disable --now ecs. Its containers stay.", "another container agent runs: %s, process %s", name, pid)
	}
	if j.Leaving() {
		return "", fails("Finish it first: longshore-agent leave", "this host began to leave a control plane")
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	s, err := j.Ask(ctx)
	var absent *local.NotRunningError
	switch {
	case errors.As(err, &absent):
		return "none runs", nil
	case err != nil:
		return "", fails("Stop it first: systemctl stop longshore-agent. Containers stay.", "longshore-agent runs and does not answer: %w", err)
	case !sameURL(s.Connection.Endpoint, j.URL) || s.Cluster != j.Cluster:
		return "", fails("Leave that one first: longshore-agent leave. Or, if it is the same under another address, stop the agent and give --force.",
			"longshore-agent runs here for cluster %s of %s", s.Cluster, s.Connection.Endpoint)
	case s.ContainerInstanceArn == "":
		return "", fails("See why: longshore-agent doctor. To try with this token, stop it first: systemctl stop longshore-agent.", "longshore-agent runs, and has not registered: %s", orNothing(s.Connection.Problem))
	}
	j.done = true
	return "runs, and has joined already as " + s.ContainerInstanceArn, nil
}

// otherAgent is the process of an amazon-ecs-agent or its init, as far as it can be seen from here.
func otherAgent(proc string) (pid, name string) {
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "exe"))
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if name := strings.TrimSuffix(filepath.Base(to), " (deleted)"); name == "amazon-ecs-agent" || name == "amazon-ecs-init" {
			return filepath.Base(filepath.Dir(link)), name
		}
	}
	return "", ""
}

// ports sees that those which the agent listens on are free.
func (j *Joining) ports(context.Context) (string, error) {
	var names []string
	for _, p := range j.Ports {
		if owner := sockets.Listener(j.Proc, p); owner != "" {
			return "", fails(fmt.Sprintf("Stop it, or move it to another port; ss -ltnp 'sport = :%d' names it. Agents of ECS are asked at 51678, so that one is fixed.", p),
				"port %d, which the agent listens on, is taken by %s", p, owner)
		}
		names = append(names, strconv.Itoa(int(p)))
	}
	return strings.Join(names, " and ") + " are free", nil
}

// settings writes the CA and ecs.config.
func (j *Joining) settings(context.Context) (string, error) {
	cluster, arn, err := j.Identity()
	if err != nil {
		return "", err
	}
	if arn != "" && cluster != j.Cluster {
		return "", fails("Leave that cluster first: longshore-agent leave", "this host is a container instance already: %s", arn)
	}
	if arn == "" && j.reach.usedUp {
		return "", &Failure{Step: "key", Err: fmt.Errorf("as many hosts as it was for have joined with the token of the key %s", j.Token.AccessKeyID), Remedy: newToken}
	}
	block := []setting{
		{"ECS_BACKEND_HOST", j.reach.url.String()}, {"ECS_CLUSTER", j.Cluster}, {"AWS_DEFAULT_REGION", j.reach.region},
		{"AWS_ACCESS_KEY_ID", j.Token.AccessKeyID}, {"AWS_SECRET_ACCESS_KEY", j.Token.SecretAccessKey},
	}
	if j.reach.ca != nil {
		block = append(block, setting{"AWS_CA_BUNDLE", j.CAFile})
	}
	if j.Proxy != "" {
		block = append(block, setting{"HTTPS_PROXY", j.Proxy})
	}
	text, err := merge(j.File, block, j.Force)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(j.File), 0o755); err != nil { //nolint:gosec // /etc/ecs is for everybody to look into
		return "", err
	}
	if err := os.Remove(j.Learned); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if j.reach.ca != nil {
		if err := durable.Write(j.CAFile, j.reach.ca, 0o644); err != nil {
			return "", err
		}
	}
	if err := durable.Write(j.File, text, 0o600); err != nil {
		return "", err
	}
	return "written to " + j.File, nil
}

// sameURL compares two URLs of a control plane.
func sameURL(a, b string) bool {
	norm := func(s string) string { return strings.ToLower(strings.TrimRight(s, "/")) }
	return norm(a) == norm(b)
}

// pause waits, and says whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
