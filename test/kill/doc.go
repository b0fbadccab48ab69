// Package kill holds the tests that end the agent, the control plane and the container engine with SIGKILL at every step,
// and those of bad input that only whole binaries can show.
//
// A world is the control plane's binary on loopback, the agent's binary on one simulated host with a Docker engine of its
// own, and between them a proxy that notes what the agent submits and what it is answered. Both binaries are built with
// failpoints. Where to kill is found out, not listed: an undisturbed walk notes every failpoint that it passes. Containers
// are counted from the engine's own events, so that one that came and went is seen too.
//
// KILL_ROUNDS is the number of rounds that kill at random instants, for long runs.
package kill
