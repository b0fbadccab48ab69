// Package ecsagent is a simulated amazon-ecs-agent on a simulated machine, for tests of the control plane. The unmodified
// agent can't be had where tests run; this package stands for it, and it is as particular as the real one is: a control
// plane that it can join, the real one can join.
//
// It is written from a description of the protocol and of observed traffic alone. It imports nothing of this module, so
// that no mistake of protocol/ can be made twice. Its web sockets are another library's than the control plane's.
//
// # Model
//
//	Machine   what outlives an agent's process: the containers, the disk, and the journal of all that happened
//	Agent     one process on it: registers, keeps the two sockets, runs the tasks, reports
//	Script    what a container does on this machine: its image's digest, its exit, its refusal to be pulled
//
// Tests read the journal ([Machine.Until]), which has every call, frame and decision in order. What the real agent would
// choke on, and what it would silently lose, is a fault: [Machine.Faults] must be empty at the end of a test. A fault that
// crashes the real agent ends the process here too, with exit code 2.
//
// # Left out
//
// Interfaces of the instance (trunks), EBS attachments, agent updates beyond their refusal, and the in-container endpoints: the
// control plane has none of them. Time is scaled by [Timers]; their zero values are the real agent's.
package ecsagent
