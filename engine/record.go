package engine

// TaskRecord is skeleton: the engine's owner defines it.
type TaskRecord struct{}
