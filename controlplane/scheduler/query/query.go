// Package query is ECS's cluster query language: the expressions of memberOf placement constraints and of the filter of
// ListContainerInstances.
//
//	attribute:env==prod
//	attribute:ecs.instance-type =~ t3.* and not (attribute:rack in [r7, r8] or task:group == service:db)
//	(runningTasksCount < 3) && agentVersion >= 1.44.0
//
// # Grammar
//
//	expr     = and { ("||" | "or") and } .
//	and      = unary { ("&&" | "and") unary } .
//	unary    = ("!" | "not") unary | "(" expr ")" | test .
//	test     = subject ("exists" | "!exists" | "not_exists")
//	         | subject operator argument
//	         | subject ("in" | "!in" | "not_in") "[" argument { "," argument } "]" .
//	operator = "==" | "equals"        | "!=" | "not_equals"          | "=~" | "matches"   | "!~" | "not_matches"
//	         | ">"  | "greater_than"  | ">=" | "greater_than_equal"  | "<"  | "less_than" | "<=" | "less_than_equal" .
//	argument = bare word | "'" text "'" | '"' text '"' .
//
// Blanks around symbols may be left out. Keywords, subjects and values are case-sensitive. Inside quotes nothing is an
// escape: a backslash is itself, and an argument with one kind of quote is written in the other. A bare word ends at a
// blank, a parenthesis, "&&", "||", and inside a list at "," or "]"; so a regular expression with parentheses needs quotes.
// At most [MaxLength] characters, at most [MaxDepth] parentheses and negations inside each other.
//
// # Meaning
//
// Each negative operator is exactly the negation of its positive one. A test of what does not exist (an attribute the
// instance doesn't have, the version of an agent that never said) is false, and therefore its negative form is true:
// `attribute:env != prod` holds for an instance without env.
//
//	attribute:<name>   every operator. The four orders compare as numbers when both sides are decimal numbers, else as text.
//	task:group         true when any task there has such a group: every operator but the four orders.
//	agentConnected     compared as the text true or false: == != in not_in =~ !~
//	ec2InstanceId      == != in not_in =~ !~
//	agentVersion       == != > >= < <=, number by number: 1.9.0 < 1.10.0, and 1.9 == 1.9.0
//	registeredAt       == != > >= < <=, to the second: 2018-06-18T22:28:28+00:00, …28Z, …28 (UTC) or 2018-06-18 (midnight UTC)
//	runningTasksCount  == != > >= < <=
//
// =~ takes a Java regular expression that must match the whole value. It is run by Go's linear-time engine; what Java has
// and that engine lacks (look-around, back references, possessive quantifiers …) is refused by name, at its position.
package query

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxLength is the longest expression, in characters.
const MaxLength = 2000

// MaxDepth is how deep parentheses and negations may be nested.
const MaxDepth = 50

// Subject is what an expression is asked about: one container instance.
type Subject struct {
	// Attributes by name. An attribute may have the empty value; what is not a key does not exist.
	Attributes        map[string]string
	AgentConnected    bool
	AgentVersion      string    // "1.44.0", empty when unknown
	EC2InstanceID     string    // "i-…", empty for a host outside EC2
	RegisteredAt      time.Time // zero when unknown
	RunningTasksCount int
	TaskGroups        []string // groups of the tasks whose desired status is RUNNING there
}

// Expr is a parsed expression. It is immutable and safe for concurrent use.
type Expr struct{ root node }

// Match says whether the expression holds for s.
func (e *Expr) Match(s *Subject) bool { return e.root.match(s) }

// String is the expression in its canonical form: words for and, or and not, symbols for the operators, every argument
// quoted, no parentheses but the needed ones. It parses to the same meaning.
func (e *Expr) String() string {
	var b strings.Builder
	e.root.print(&b)
	return b.String()
}

// SyntaxError says what is wrong with an expression, and where.
type SyntaxError struct {
	Expression string
	Offset     int // in bytes, 0 … len(Expression)
	Message    string
}

// Error is one line: the position (in characters, from 1) and the message.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("at character %d: %s", e.column()+1, e.Message)
}

// Caret is three lines for a terminal: the expression, a caret below the place, and the message.
func (e *SyntaxError) Caret() string {
	line := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == '\t' {
			return ' '
		}
		return r
	}, e.Expression)
	return line + "\n" + strings.Repeat(" ", e.column()) + "^\n" + e.Message
}

func (e *SyntaxError) column() int {
	return utf8.RuneCountInString(e.Expression[:min(e.Offset, len(e.Expression))])
}

// A node is one part of an expression.
type node interface {
	match(*Subject) bool
	print(*strings.Builder)
}

type (
	anyOf []node // or, at least two
	allOf []node // and, at least two, none of them an allOf
	not   struct{ of node }
	test  struct {
		subject string // "attribute:env"
		op      *operator
		args    []string
		holds   func(*Subject) bool // the positive form
	}
)

func (n anyOf) match(s *Subject) bool {
	for _, of := range n {
		if of.match(s) {
			return true
		}
	}
	return false
}

func (n allOf) match(s *Subject) bool {
	for _, of := range n {
		if !of.match(s) {
			return false
		}
	}
	return true
}

func (n not) match(s *Subject) bool   { return !n.of.match(s) }
func (n *test) match(s *Subject) bool { return n.holds(s) != n.op.negative }

func (n anyOf) print(b *strings.Builder) {
	for i, of := range n {
		if i > 0 {
			b.WriteString(" or ")
		}
		of.print(b)
	}
}

func (n allOf) print(b *strings.Builder) {
	for i, of := range n {
		if i > 0 {
			b.WriteString(" and ")
		}
		_, or := of.(anyOf)
		printIn(b, of, or)
	}
}

func (n not) print(b *strings.Builder) {
	b.WriteString("not ")
	switch n.of.(type) {
	case anyOf, allOf:
		printIn(b, n.of, true)
	default:
		n.of.print(b)
	}
}

func (n *test) print(b *strings.Builder) {
	b.WriteString(n.subject)
	b.WriteString(" " + n.op.symbol)
	switch n.op.takes {
	case takesOne:
		b.WriteString(" " + quote(n.args[0]))
	case takesList:
		for i, arg := range n.args {
			b.WriteString([]string{" [", ", "}[min(i, 1)] + quote(arg))
		}
		b.WriteString("]")
	}
}

func printIn(b *strings.Builder, n node, parentheses bool) {
	if parentheses {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	n.print(b)
}

// quote writes an argument. No parsed argument holds both kinds of quote.
func quote(arg string) string {
	if strings.Contains(arg, "'") {
		return `"` + arg + `"`
	}
	return "'" + arg + "'"
}
