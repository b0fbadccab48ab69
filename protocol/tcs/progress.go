package tcs

// ProgressHeader is the header, with any value, by which a control plane says in its answer to the handshake of the web
// socket that it takes [LongshoreProgress]. Amazon ECS does not send it, and never gets the message.
const ProgressHeader = "Longshore-Progress"

// The bounds of a [LongshoreProgress]. The sender cuts, the receiver drops what is above them.
const (
	MaxProgressTasks = 200  // in one message; a period may have several
	MaxProgressLines = 10   // waits, and steps, of one task
	MaxProgressText  = 1024 // bytes of one text
)

// LongshoreProgress is a message of our own: what the tasks of an instance wait for that have not come where they are to be.
// The messages of a period have Fin set on the last one; a task of the instance that was in none of them waits for nothing.
// It is not acknowledged and not sent again: the next change or period says it anew.
type LongshoreProgress struct {
	Timestamp *Time           `json:"timestamp,omitempty"`
	Tasks     []*TaskProgress `json:"tasks,omitempty"`
	Fin       bool            `json:"fin"`
}

// TaskProgress is one task.
type TaskProgress struct {
	TaskArn string      `json:"taskArn"`
	Waits   []string    `json:"waits,omitempty"` // what it waits for, and why
	Steps   []*TaskStep `json:"steps,omitempty"` // at work now, and then the last ones that failed
}

// TaskStep is a step of a task's timeline. End is nil while it runs.
type TaskStep struct {
	Container string `json:"container,omitempty"` // empty: the task as a whole
	Name      string `json:"name"`                // pull, create, start …
	Start     *Time  `json:"start,omitempty"`
	End       *Time  `json:"end,omitempty"`
	Outcome   string `json:"outcome,omitempty"` // failed or warning; empty while it runs
	Detail    string `json:"detail,omitempty"`
}
