package netns

import (
	"context"

	"go.uber.org/zap"
)

// Keeper keeps the networks of many tasks as they should be. Each task has a goroutine, which looks when something of it is changed,
// when the kernel tells of something that concerns it, and every so often without that; so looks at one task follow each
// other and those at different ones don't wait for each other.
type Keeper struct {
	Host Host
	Log  *zap.Logger
	// Looked is called after each look that changed something or whose outcome differs from the last one's, and after the first
	// that follows a Want: changed is what it made right, and err is nil when all is as it should be now. It is called from the
	// task's goroutine, and must not call back.
	Looked func(id string, changed []string, err error)
}

// Keep runs until ctx ends; what is on the host then stays.
func (k *Keeper) Keep(ctx context.Context) error {
	panic("skeleton")
}

// Want says what the network of t.ID should be from now on, and has it looked at once. It does not wait. It may be called before
// [Keeper.Keep].
func (k *Keeper) Want(t Task) {
	panic("skeleton")
}

// Forget ends the looking after a task, and returns when the last look has ended: nothing of it is made after that.
func (k *Keeper) Forget(id string) {
	panic("skeleton")
}
