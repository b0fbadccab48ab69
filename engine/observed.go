package engine

import (
	"time"
)

// Observed is what is known of a task's surroundings at one instant. It is never guessed: every field was answered by
// the container engine, the image cache, the volume check or the ledger.
type Observed struct {
	Engine     EngineObserved
	Grant      Grant
	Containers map[string]*ContainerObserved // by container name; an absent entry is a zero one
	// PullStartedAt and PullStoppedAt span the pulls of the task's images; zero if nothing was pulled.
	PullStartedAt, PullStoppedAt time.Time
	Urgent                       bool // the disk is short, and what is left of the task goes before its time
	Strays                       int  // processes with the task's label that are none of its containers
	Unsent                       bool // state changes of the task wait for acceptance, as far as is known
	Network                      NetworkObserved
}

// EngineObserved is whether the container engine answers.
type EngineObserved struct {
	Available bool
	Cause     string    // why it is not
	LookedAt  time.Time // when the last look at all containers that succeeded began; zero: there was none yet
	Away      Outage    // the last time in which it did not answer
	SharedOOM bool      // it tells each container of a task when one of them has lost a process for want of memory
}

// GrantState is where a task stands with the ledger.
type GrantState int

// The states of a [Grant].
const (
	GrantNone    GrantState = iota // not asked for
	GrantWaiting                   // the host lacks something now; Reason says what
	GrantHeld                      // the task's needs are reserved
	GrantNever                     // the host will never have it; Reason says what
)

// Grant is what admission says about a task.
type Grant struct {
	State  GrantState
	Reason string
}

// Verb is what an [Action] does.
type Verb string

// The verbs. All but Admit, Cleanup and Cancel are calls that may take long; a container has at most one of them at work.
const (
	VerbAdmit  Verb = "admit"         // ask the ledger for the task's needs
	VerbPull   Verb = "pull"          // have the image local
	VerbCheck  Verb = "check-volumes" // make missing sources, check the user against them, look for foreign listeners
	VerbFetch  Verb = "fetch-secrets" // get what the container's definition only names: secrets, files of variables
	VerbCreate Verb = "create"
	VerbStart  Verb = "start"
	VerbLook   Verb = "look" // inspect
	VerbStop   Verb = "stop"
	VerbNet    Verb = "network"  // say what the namespace that the container owns is to be
	VerbKill   Verb = "kill"     // end a container whose stop the engine did not answer
	VerbLogs   Verb = "keep-log" // read the end of the output, before the container is removed
	VerbRemove Verb = "remove"
	// VerbDiscard removes a container that can't run any more, so that it can be made again.
	VerbDiscard Verb = "discard"
	VerbCancel  Verb = "cancel" // end a pull or a check that nobody wants any more
	VerbUnsent  Verb = "unsent" // ask whether state changes of the task are still unsent
	VerbForget  Verb = "forget" // delete the record: the task's life is over
)

// ContainerObserved is what is known of one container.
type ContainerObserved struct {
	State     *State    // as last inspected; nil: none was seen
	Absent    bool      // the engine said that there is none, after the last order that could have made one
	Stale     bool      // something changed since: look again
	Busy      Verb      // what is at work for it
	Image     *Image    // the image it will be made from
	Checked   bool      // VerbCheck succeeded
	Secrets   *Resolved // what VerbFetch got; forgotten once the container is made
	Log       *LogTail  // VerbLogs succeeded
	Removed   bool      // VerbRemove succeeded
	Ordered   bool      // VerbStop was ordered
	OrderedAt time.Time // … for the first time, by this life of the agent
	Seen      bool      // the kernel has shown the process of State
	Gone      bool      // … and has it no longer, while the engine goes on showing it
	Victim    Victim    // whose process it was when memory ran out, as far as the kernel could be asked
	Lacks     error     // what the host lacks for now to create it; nil: nothing
	Failures  map[Verb]Failure
	// LacksSince is when it began to lack that.
	LacksSince time.Time
}

// Failure is the last failure of a verb; it is forgotten when the verb succeeds.
type Failure struct {
	Err   error
	Count int // in a row
	At    time.Time
}

var unknownContainer = &ContainerObserved{}

func (o *Observed) of(name string) *ContainerObserved {
	if c := o.Containers[name]; c != nil {
		return c
	}
	return unknownContainer
}

// exists reports whether the engine shows a container.
func (c *ContainerObserved) exists() bool { return c.State != nil && !c.Absent }

// alive reports whether a process of the container may exist.
func (c *ContainerObserved) alive() bool {
	return c.exists() && c.State.Status == StatusRunning && !c.Gone
}

// noteProcess notes whether the kernel shows the process of a new State: what is known of the one before does not hold for another process.
func (c *ContainerObserved) noteProcess(st *State, seen bool) {
	same := c.State != nil && c.State.ID == st.ID && c.State.Pid == st.Pid && c.State.StartedAt.Equal(st.StartedAt)
	c.Seen = seen || same && c.Seen
	c.Gone = same && c.Gone && !seen && st.Status == StatusRunning
}

// ended reports whether the engine shows a process that has come to its end.
func (c *ContainerObserved) ended() bool {
	return c.exists() && (c.State.Status == StatusExited || c.State.Status == StatusDead)
}
