// Package e2e holds the end-to-end tests: both binaries as a person runs them, several simulated hosts with real Docker
// engines, a real registry, the real aws CLI.
//
// A [Lab] is one such world. Its control plane and registry run in the machine's own network namespace on loopback; hosts
// reach them at their LAN's address. What the aws CLI would send anywhere else than to the control plane goes to a proxy that
// counts it, and a test with a count above zero fails.
package e2e
