package local

import (
	"fmt"
	"io"
)

// LogLevel is what is logged: crit, error, warn, info, debug or none. POST /v1/log-level sets both to one, until the agent reads its configuration again;
// GET asks.
type LogLevel struct {
	File    string `json:"file"`
	Journal string `json:"journal"`
}

// Print writes it for people.
func (l *LogLevel) Print(out io.Writer) error {
	_, err := fmt.Fprintf(out, "file     %s\njournal  %s\n", l.File, l.Journal)
	return err
}
