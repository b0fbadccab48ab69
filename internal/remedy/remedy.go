// Package remedy says what the messages of Longshore mean and what to do about them, once for all who tell it: the error line of the
// agent's log, explain on the host, explain of the control plane, and docs/debugging.md, which is generated.
//
// A message is known by a part of it. It comes from an engine, a registry, a kernel or from us; what they say differs from
// version to version, so that a part is short, and says what is meant in as many of them as can be.
package remedy

import (
	"fmt"
	"strings"
)

// Remedy is what is known about a message.
type Remedy struct {
	Means string `json:"means"` // the cause in words
	Do    string `json:"do"`    // what to do about it
}

// Of finds the remedy of a message, the most telling one. Without any it says where to look.
func Of(text string) Remedy {
	if r, ok := Known(text); ok {
		return r
	}
	return Remedy{Do: "Nothing is known about this message: see the task's timeline (longshore-agent explain TASK), and the lines with its id in /var/log/ecs/ecs-agent.log."}
}

// Known is Of, and false for a message that is not known.
func Known(text string) (Remedy, bool) {
	low := strings.ToLower(text)
	if low == "" {
		return Remedy{}, false
	}
	for i := range table {
		for _, part := range table[i].parts {
			if strings.Contains(low, part) {
				return table[i].Remedy, true
			}
		}
	}
	return Remedy{}, false
}

// Exited is the message about an essential container that ended by itself.
func Exited(container string, code int) string {
	return fmt.Sprintf("essential container %s ended by itself with exit code %d", container, code)
}

// entry is a remedy with the parts of messages that it is for, in lower case.
type entry struct {
	parts []string
	Remedy
}

func on(means, do string, parts ...string) entry { return entry{parts, Remedy{means, do}} }
