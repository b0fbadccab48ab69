package engine

import (
	"io"
	"syscall"
	"time"
)

// LogOptions says which part of a container's output is wanted. The zero value is all there is.
type LogOptions struct {
	Lines  int       // the last lines; 0 or less: all
	Since  time.Time // only what was written then or later; zero: whenever
	Follow bool      // also what comes from now on, until the process has ended
	Times  bool      // each line begins with the time at which it came (RFC 3339, to the nanosecond, UTC) and a blank
}

// Exec is a further process in a running container: the program, and where its input comes from and its output goes.
type Exec struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"`  // KEY=value, in addition to the container's
	User string   `json:"user,omitempty"` // user[:group], by name or number; empty: the container's
	Dir  string   `json:"dir,omitempty"`  // an absolute path in the container; empty: the container's working directory

	Terminal bool         `json:"terminal,omitempty"` // the process has a terminal; all its output is on Stdout then
	Size     TerminalSize `json:"size,omitzero"`      // the terminal's at first, or soon after the start; zero: the engine's choice

	// Stdin is nil where there is none. Runtime.Exec closes it when the process has ended, or could not be started, so that whoever
	// reads it goes on.
	Stdin          io.ReadCloser `json:"-"`
	Stdout, Stderr io.Writer     `json:"-"` // nil: dropped
	// Resize and Signals are for a process that runs; nil: there are none. A signal that comes when it is gone is nobody's.
	Resize  <-chan TerminalSize   `json:"-"`
	Signals <-chan syscall.Signal `json:"-"`
}

// TerminalSize is in characters.
type TerminalSize struct {
	Width, Height uint16
}
