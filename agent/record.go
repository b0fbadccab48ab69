package agent

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
)

// record is what a control plane is told of this host's tasks that does not know them.
type record struct{ a *Agent }

// Tasks are all tasks on record; complete once the engine was looked at.
func (r record) Tasks() (tasks []engine.TaskStatus, complete bool) {
	select {
	case <-r.a.engine.Ready():
		complete = true
	default:
	}
	return slices.Concat(r.a.engine.Tasks(), r.a.engine.Past()), complete
}

// Unsent says whether state changes of a task wait to be submitted.
func (r record) Unsent(taskArn string) (bool, error) { return r.a.state.Unsent(taskArn) }

// registerAgainAfter is the shortest time between two registrations because the control plane does not know this instance.
const registerAgainAfter = 10 * time.Second

// unknown is told that the control plane does not know this instance, because its records were lost or restored. It is
// registered again, under its ARN.
func (a *Agent) unknown() error {
	if time.Since(a.registered) < registerAgainAfter {
		return nil
	}
	a.log.Warn("The control plane does not know this container instance; registering again, under the same ARN; containers stay as they are", zap.String("instance", *a.arn.Load()))
	return errRegisterAnew
}
