package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine/policy"
)

// PolicyCheck is the dry run of a host policy: what it would say about the containers that run now.
type PolicyCheck struct {
	Config config.Options
	File   string // of the policy; the configured one if empty
	All    bool   // every container of the engine, not only those of tasks
}

// ErrDenied says that something that runs would be denied.
var ErrDenied = errors.New("the policy denies something that runs now; it would not start again")

// Run writes what is wrong with the policy, or what it says about each running container, to w. It changes nothing. The error
// is [ErrDenied] if something would be denied.
func (c PolicyCheck) Run(ctx context.Context, w io.Writer) error {
	cfg, _, err := config.Load(c.Config)
	if err != nil {
		return fmt.Errorf("the configuration: %w", err)
	}
	if c.File == "" {
		c.File = cfg.HostPolicyFile
	}
	guard := policy.NewGuard(policy.Options{File: c.File, Sockets: sockets(engineAddress(cfg))})
	p, err := guard.Load()
	switch {
	case err != nil:
		return fmt.Errorf("the policy can't be used, and lets no new task run:\n%w", err)
	case p == nil:
		_, err := fmt.Fprintf(w, "There is no policy: %s does not exist. Everything is allowed.\n", c.File)
		return err
	}
	runtime, err := openEngine(cfg, nil, zap.NewNop())
	if err != nil {
		return err
	}
	defer func() { _ = runtime.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	running, err := runtime.Asked(ctx, c.All)
	if err != nil {
		return fmt.Errorf("which containers run: %w", err)
	}
	denied, warned := 0, 0
	for _, r := range running {
		worst := policy.Allow
		for _, d := range guard.Check(p, r.Task) {
			worst = max(worst, d.Effect)
			if _, err := fmt.Fprintf(w, "%-5s %s: %s\n", d.Effect, r.Name, d.Reason(c.File)); err != nil {
				return err
			}
		}
		switch worst {
		case policy.Deny:
			denied++
		case policy.Warn:
			warned++
		}
	}
	if _, err := fmt.Fprintf(w, "%s: %d rules, digest %s. %d containers run; %d would be denied, %d warned about.\n", c.File, len(p.Rules), p.Digest, len(running), denied, warned); err != nil {
		return err
	}
	if denied > 0 {
		return ErrDenied
	}
	return nil
}
