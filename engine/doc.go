// Package engine makes the host's containers match the tasks that the control plane wants: the pure plan of a task, one
// worker per task around it, and [Runtime], the contract with a container engine.
//
// # The model
//
// What is desired ([Task], parsed once from its payload; only desiredStatus moves, and only forward) and what is observed
// ([Observed]: the engine's answers, images, checks, the grant of the ledger) are different types. Between them stands the
// [TaskRecord], the few facts that must survive a crash. A worker does nothing but turn:
//
//	mail, results ──► settle ──► plan ──► intend ──► report ──► save ──► order
//	                    │          │                   │          │        └ actions in goroutines of their own, with deadlines;
//	                    │          │                   │          │          each hands back a result, and the worker turns again
//	                    │          │                   │          └ record and state changes in one durable transaction
//	                    │          │                   └ what the control plane must learn: PENDING, RUNNING, STOPPED
//	                    │          └ what may be done now, or what is waited for and why
//	                    └ what has become certain: ran, failed, ended for good
//
// settle, plan and report are pure and level-triggered: called again with the same they change nothing, so that it does
// not matter how often a worker turns, nor whether an event was lost, repeated or late.
//
// # What survives a crash
//
// Three things are durable before what follows from them happens: the accepted task before its payload is acknowledged, the
// [StartIntent] before a container is started, and a status before it is reported. Creating needs no record: the name of a
// container is a hash of task ARN, container and attempt, and the engine knows whether it is there. From this follows what
// an absent container means: without an intent it was never started and may be made; with one it has run, or was about
// to, and is lost. A container that is there is taken as it is, whoever the agent was when it was made.
//
// If the records themselves are lost, tasks are rebuilt from the labels of their containers. Such a task runs on, is
// stopped and reported like any other, but nothing is made for it before the control plane has sent its payload again.
//
// Each start is on record with the boot of the host in which it was ordered, which tells a reboot from a restart of the agent:
// boot.go. Containers with our labels that no task has are found by every look and handled by policy: orphans.go.
//
// # What is left of a stopped task
//
// Its containers stay for the clean-up wait and the task's own part of the jitter, and go one at a time; when the disk is
// short the oldest go sooner, but not the last of each family. The end of a container's output is on record before it is
// removed. The record outlives the containers, the last few of each family: past.go.
//
// # One look for all
//
// The observer lists the engine's containers once per interval, whenever the event stream stands anew, and whenever a call
// got no answer, and hands each worker its part. A list and an event decide nothing; they make a worker inspect what
// differs. An engine that does not answer impairs the engine's health; tasks wait for it, and what its absence has made
// fail is tried again.
//
// A single call can stay without an answer while the engine answers all others. None is only waited for: what it was to bring about
// is looked for beside it, and what it was to end is asked of the kernel and, at last, ended by it: ending.go. Such a call impairs
// the engine's health by name. Creates, starts and removals take turns (lane.go), and one without an answer gives its turn up.
//
// # Reservations
//
// The ledger holds cpu, memory and host ports for each task from its admission until none of its processes is left, which
// only the engine can tell. A task waits only for what it lacks itself.
//
// # Limits and policy
//
// A task is judged by the host's [Policy] before anything is done for it, and again before each container is made; what
// runs is not judged again. Its control group ([TaskGroups]) is ensured before each create and each start, and removed before the
// record, which is what finds it again after a crash.
//
// # Goroutines
//
// [Engine.Run] owns the observer's two goroutines and the workers; a worker owns its actions. All end with Run's context,
// which is the life of the process and not that of any task: leaving touches no container.
package engine
