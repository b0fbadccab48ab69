// Package query is ECS's cluster query language: the expressions of memberOf placement constraints and of the filter of
// ListContainerInstances.
package query

import "time"

// Subject is what an expression is asked about: one container instance.
type Subject struct {
	// Attributes by name. An attribute may have the empty value; what is not a key does not exist.
	Attributes        map[string]string
	AgentConnected    bool
	AgentVersion      string // "1.44.0", empty when unknown
	EC2InstanceID     string // "i-…", empty for a host outside EC2
	RegisteredAt      time.Time
	RunningTasksCount int
	TaskGroups        []string // groups of the tasks whose desired status is RUNNING there
}

// Expr is a parsed expression. It is immutable and safe for concurrent use.
type Expr struct{}

// SyntaxError says what is wrong with an expression, and where.
type SyntaxError struct {
	Expression string
	Offset     int // in bytes, 0 … len(Expression)
	Message    string
}

// Error is one line.
func (e *SyntaxError) Error() string { return e.Message }

// Parse parses an expression. The error is a *SyntaxError.
func Parse(expr string) (*Expr, error) { panic("skeleton") }

// Match says whether the expression holds for s.
func (e *Expr) Match(s *Subject) bool { panic("skeleton") }
