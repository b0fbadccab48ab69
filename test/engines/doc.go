// Package engines proves the agent's Docker half on a current engine, and through the replacement of an old one: the
// conformance suite with and without the image store; dockerd replaced under 20 tasks, with live-restore and without; an
// engine that refuses the agent's API version.
//
// The engine is built from source (build.sh, some minutes of CPU the first time) into the user's cache directory, so that
// these tests have a target of their own, make test-engines, and the build tag engines. Old engines are Debian's. All of
// them run in test hosts' namespaces, never in the machine's own.
package engines
