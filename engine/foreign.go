package engine

import "context"

// ForeignContainers is a Runtime that shows and removes containers which are not ours and do not run. Where it is missing
// none is ever removed.
type ForeignContainers interface {
	// Foreign lists containers in the states created, exited and dead that carry no label of ours or of ECS, the oldest first,
	// at most most of them: one call, and one for each.
	Foreign(ctx context.Context, most int) ([]State, error)
	// RemoveForeign removes one of them, with its anonymous volumes, if it still is what was seen: FailedPrecondition if it runs,
	// or ran since. Removing what no longer exists does nothing.
	RemoveForeign(ctx context.Context, seen State) error
}
