package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine/firelens"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Where a secret's value comes from, and what gets it (agent protocol §4.2).
const (
	ProviderSSM            = "ssm"
	ProviderSecretsManager = "asm"
	TargetContainer        = "CONTAINER"
	TargetLogDriver        = "LOG_DRIVER"
)

// Secrets fetches what a task's containers get at their creation and no record may hold (agent/secrets implements it).
type Secrets interface {
	// Resolve returns a container's values; those of one task are fetched once. An error is the reason why the task
	// can't run. It returns when ctx ends.
	Resolve(ctx context.Context, task *acs.Task, container string) (Resolved, error)
	// Release forgets what was fetched for a task.
	Release(taskArn string)
}

// Resolved are the values of one container. They go into its [Spec] and nowhere else; formatting shows nothing of them.
type Resolved struct {
	FileEnvironment map[string]string // of environmentFiles: lose against the definition's environment
	Environment     map[string]string // of secrets: win over it
	LogOptions      map[string]string // of the log driver
	RouterConfig    []byte            // of a log router: the file in S3 that it includes; nil: none
}

// String hides the values.
func (Resolved) String() string { return "[secrets]" }

// GoString hides the values.
func (Resolved) GoString() string { return "[secrets]" }

// checkSecrets refuses what can't be fetched by name.
func checkSecrets(p *acs.Container) error {
	for i, s := range p.Secrets {
		switch {
		case s == nil || s.Name == "" || s.ValueFrom == "":
			return fmt.Errorf("secrets[%d] needs a name and a valueFrom", i)
		case s.Provider != ProviderSSM && s.Provider != ProviderSecretsManager:
			return fmt.Errorf("secrets[%d] %s: the provider %q is not supported; ssm and asm are", i, s.Name, s.Provider)
		case s.Target != "" && s.Target != TargetContainer && s.Target != TargetLogDriver:
			return fmt.Errorf("secrets[%d] %s: the target %q is not supported; CONTAINER and LOG_DRIVER are", i, s.Name, s.Target)
		case s.Type == "MOUNT_POINT" || s.ContainerPath != "":
			return fmt.Errorf("secrets[%d] %s: a secret as a file is not supported; use an environment variable", i, s.Name)
		}
	}
	for i, f := range p.EnvironmentFiles {
		switch {
		case f == nil || f.Value == "":
			return fmt.Errorf("environmentFiles[%d] has no value", i)
		case !strings.EqualFold(f.Type, "s3"):
			return fmt.Errorf("environmentFiles[%d]: the type %q is not supported; s3 is", i, f.Type)
		}
	}
	return nil
}

// needsSecrets reports whether the container gets values from elsewhere.
func needsSecrets(c *Container) bool {
	if f := c.payload.FirelensConfiguration; f != nil {
		if _, ok := firelens.InS3(f.Options); ok {
			return true
		}
	}
	return len(c.payload.Secrets)+len(c.payload.EnvironmentFiles) > 0 || c.outputSecrets
}

// fetch gets a container's values from elsewhere and keeps them in memory for its creation.
func (w *worker) fetch(c *Container) deed {
	t, secrets := w.task, w.e.cfg.Secrets
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		if secrets == nil {
			return nil, errors.New("this agent fetches no secrets and no environment files")
		}
		got, err := secrets.Resolve(ctx, t.payload, c.Name)
		if err == nil && c.outputSecrets {
			err = resolveOutputs(ctx, secrets, t, &got)
		}
		if err != nil {
			return nil, err
		}
		w.hidden.learn(&got)
		return func(co *ContainerObserved) { co.Secrets = &got }, nil
	}
}

// withSecrets adds a container's values to its Spec: those of files where the definition has no such variable, those of
// secrets in place of any other. The region that the agent adds by itself gives way to one of a file.
func withSecrets(s *Spec, c *Container, got *Resolved) {
	if got == nil {
		return
	}
	env := map[string]string{}
	maps.Copy(env, got.FileEnvironment)
	region := hasRegion(pairs(env)) && !hasRegion(pairs(c.payload.Environment))
	for _, e := range s.Env {
		name, value, _ := strings.Cut(e, "=")
		if !region || !hasRegion([]string{e}) {
			env[name] = value
		}
	}
	maps.Copy(env, got.Environment)
	s.Env = pairs(env)
	if len(got.LogOptions) == 0 {
		return
	}
	log := acs.LogConfig{}
	if s.HostConfig.LogConfig != nil {
		log = *s.HostConfig.LogConfig
	}
	options := map[string]string{}
	maps.Copy(options, log.Config)
	maps.Copy(options, got.LogOptions)
	log.Config = options
	s.HostConfig.LogConfig = &log
}

// pairs are variables as a Spec has them, sorted.
func pairs(env map[string]string) []string {
	var out []string
	for _, k := range sortedKeys(env) {
		out = append(out, k+"="+env[k])
	}
	return out
}

// hidden takes values out of texts that others wrote, such as the engine's about an option that it does not like. It may
// be used concurrently.
type hidden struct {
	mu     sync.Mutex
	values []string
}

// leastHidden is the length below which a value is so common in texts that taking it out would only spoil them.
const leastHidden = 4

func (h *hidden) learn(r *Resolved) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range []map[string]string{r.Environment, r.LogOptions, r.FileEnvironment} {
		for _, k := range sortedKeys(m) {
			if len(m[k]) >= leastHidden {
				h.values = append(h.values, m[k])
			}
		}
	}
}

func (h *hidden) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values = nil
}

func (h *hidden) text(s string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.values {
		s = strings.ReplaceAll(s, v, "[secret]")
	}
	return s
}

// error is an error without the values in its text, of the same class.
func (h *hidden) error(err error) error {
	if err == nil {
		return nil
	}
	clean := h.text(err.Error())
	if clean == err.Error() {
		return err
	}
	return &redacted{errdefs.Resolve(err), clean}
}

type redacted struct {
	class error
	text  string
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.class }
