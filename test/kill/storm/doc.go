// Package storm kills the agent many times a second while fifty tasks are on their way, and shows that none is lost and
// none is doubled.
//
// A world is one host. The agent is a process of its own, the whole agent with all its failpoints (victim), killed with
// SIGKILL and started again. What it must not take with it stays in the test's process: the container engine, the one in
// memory of engine/enginetest behind a socket, and the control plane, which sends payloads over a real web socket until they
// are acknowledged, then never again, and notes what is submitted. The state is a real database on a small file system of
// its own, so that its disk can be full.
//
// A life of the agent ends at the nth pass of a failpoint, each in its turn, or at a random instant. Meanwhile there is
// weather: an engine that hangs, fails, is away or starts again with or without its containers, events that are lost,
// repeated or in disorder, containers that end or vanish, clocks that jump, a full disk, submissions that are refused or
// whose answers are lost, reboots, a state file that is truncated, overwritten, gone or of a newer version. At the end the
// sky clears, and every task must have come to its end as it should.
//
// Everything random about a world is drawn from its seed, but the instants are those of a real machine: the seed of a failed
// world makes the same tasks, weather and kills again, not the same interleaving.
//
// STORM_KILLS is the number of kills (make test-kill ROUNDS=10000), STORM_SEED the first world's seed, STORM_EACH the kills
// in each world, STORM_WORLDS how many worlds there are at the same time, STORM_LOG the level of the agents' logs, and STORM_RACE=1 builds the agent with the race detector.
package storm
