package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Prepare is what a room of the agent adds to a container that is about to be created: variables that say where the
// agent's own endpoints are, options of its log driver, a mount. It gets the task as it was accepted, without credentials, and
// changes the Spec, whose maps may be shared (replace them, don't write to them). It is called right before each create, after everything that the
// definition says is in the Spec, and never for containers that exist or that are the engine's own; it may be called again for the same container, and for several at
// once. It does no I/O that can wait. An error fails the create, and its text is for the user.
type Prepare func(t *acs.Task, container string, s *Spec) error

// LogsByExecutionRole is the logsAuthStrategy of a container whose awslogs driver has its task's execution role.
const LogsByExecutionRole = "ExecutionRole"

// AddEnv puts variables into the Spec in place of those of the same names.
func (s *Spec) AddEnv(variables ...string) {
	env := slices.DeleteFunc(slices.Clone(s.Env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.ContainsFunc(variables, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	})
	s.Env = append(env, variables...)
}

// prepare lets the agent's rooms add to a Spec.
func (e *Engine) prepare(t *Task, c *Container, s *Spec) error {
	if c.internal() {
		return nil
	}
	for _, add := range e.cfg.Prepare {
		if err := add(t.payload, c.Name, s); err != nil {
			return fmt.Errorf("CannotCreateContainerError: %w", err)
		}
	}
	return nil
}
