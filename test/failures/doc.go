// Package failures is the catalogue of what goes wrong: for each failure how it comes about, what an operator sees of it, and where.
// Its tests cause each of them for real, with a real engine, registries, hosts and control plane, and hold the catalogue to what
// is then seen. docs/debugging.md is generated from it, and what a message means and what to do about it is internal/remedy's, so that
// the log, explain on the host, explain of the control plane and the documentation say the same.
//
// A message stands in the catalogue with "…" for what differs from time to time.
package failures

import "strings"

// Failure is an entry of the catalogue.
type Failure struct {
	Name     string // category and a word, by which the tests know how to cause it
	Category string
	Caused   string // how it comes about, in words
	// Teller is whose log has the one error line, and whose explain tells about it.
	Teller Teller
	// Stopped is the task's stoppedReason; empty for a task that runs on, or waits, and for what befalls a host.
	Stopped string
	// Text is what went wrong, as the error line and explain have it: the reason of the container where there is one. Empty: as Stopped.
	Text string
	// Contained is Text on a host with containerd, where that says it otherwise.
	Contained string
	Step      string // at which it is noticed
	ExitCode  int    // of the container; 0: none, or of no interest
	// Shown is where else a failure of a host is seen: in the health of "status", in a line of "doctor".
	Shown string
}

// Teller is a program that tells about a failure.
type Teller string

// The tellers.
const (
	Agent        Teller = "agent"
	ControlPlane Teller = "control plane"
)

// Message is what the error line says.
func (f *Failure) Message() string {
	if f.Text != "" {
		return f.Text
	}
	return f.Stopped
}

// Matches reports whether a message is one that a pattern of the catalogue describes.
func Matches(pattern, message string) bool {
	parts := strings.Split(pattern, "…")
	rest, ok := strings.CutPrefix(message, parts[0])
	if !ok {
		return false
	}
	if len(parts) == 1 {
		return rest == ""
	}
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
