package query

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What follows an operator.
type takes uint8

const (
	takesNothing takes = iota
	takesOne
	takesList
)

// A relation is the positive meaning of an operator.
type relation uint8

const (
	exists relation = iota
	equals
	matches
	in
	greater
	greaterEqual
	less
	lessEqual
)

type operator struct {
	symbol   string
	word     string
	relation relation
	negative bool
	takes    takes
}

// operators in an order in which the first symbol that fits is the right one.
var operators = []*operator{
	{"==", "equals", equals, false, takesOne},
	{"!=", "not_equals", equals, true, takesOne},
	{"=~", "matches", matches, false, takesOne},
	{"!~", "not_matches", matches, true, takesOne},
	{">=", "greater_than_equal", greaterEqual, false, takesOne},
	{"<=", "less_than_equal", lessEqual, false, takesOne},
	{">", "greater_than", greater, false, takesOne},
	{"<", "less_than", less, false, takesOne},
	{"exists", "exists", exists, false, takesNothing},
	{"!exists", "not_exists", exists, true, takesNothing},
	{"in", "in", in, false, takesList},
	{"!in", "not_in", in, true, takesList},
}

// Parse parses an expression. The error is a *SyntaxError.
func Parse(expr string) (*Expr, error) {
	if !utf8.ValidString(expr) {
		offset := 0
		for offset < len(expr) {
			r, n := utf8.DecodeRuneInString(expr[offset:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			offset += n
		}
		return nil, &SyntaxError{expr, offset, "this byte is not UTF-8"}
	}
	if n := utf8.RuneCountInString(expr); n > MaxLength {
		return nil, &SyntaxError{expr, len(string([]rune(expr)[:MaxLength])), fmt.Sprintf("the expression has %d characters, at most %d are allowed", n, MaxLength)}
	}
	return parse(expr)
}

func parse(expr string) (*Expr, error) {
	p := &parser{text: expr}
	root, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.blanks(); p.pos < len(p.text) {
		return nil, p.afterTest()
	}
	return &Expr{root}, nil
}

type parser struct {
	text string
	pos  int
	bare int // where the bare word of the last test ended, 0 if it had none
}

func (p *parser) fail(offset int, format string, args ...any) error {
	return &SyntaxError{p.text, offset, fmt.Sprintf(format, args...)}
}

func (p *parser) or(depth int) (node, error)  { return list[anyOf](p, depth, "||", "or", p.and) }
func (p *parser) and(depth int) (node, error) { return list[allOf](p, depth, "&&", "and", p.unary) }

// list parses operands with one connective between them. An operand that is such a list itself becomes a part of it.
func list[L interface {
	~[]node
	node
}](p *parser, depth int, symbol, word string, operand func(int) (node, error)) (node, error) {
	var nodes L
	for {
		n, err := operand(depth)
		if err != nil {
			return nil, err
		}
		if same, ok := n.(L); ok {
			nodes = append(nodes, same...)
		} else {
			nodes = append(nodes, n)
		}
		if !p.symbol(symbol) && !p.word(word) {
			break
		}
	}
	if len(nodes) == 1 {
		return nodes[0], nil
	}
	return nodes, nil
}

func (p *parser) unary(depth int) (node, error) {
	p.blanks()
	start := p.pos
	if depth > MaxDepth {
		return nil, p.fail(start, "parentheses and negations are nested deeper than %d", MaxDepth)
	}
	if p.symbol("!") || p.word("not") {
		of, err := p.unary(depth + 1)
		if err != nil {
			return nil, err
		}
		return not{of}, nil
	}
	if !p.symbol("(") {
		return p.test()
	}
	inner, err := p.or(depth + 1)
	if err != nil {
		return nil, err
	}
	if p.symbol(")") {
		return inner, nil
	}
	if p.pos == len(p.text) {
		return nil, p.fail(start, "this ( is never closed")
	}
	return nil, p.afterTest()
}

// afterTest is the error for something else than a connective after a complete test.
func (p *parser) afterTest() error {
	if p.text[p.pos] == ')' {
		return p.fail(p.pos, "this ) was never opened")
	}
	hint := ""
	if p.bare > 0 {
		hint = " (an argument with blanks needs quotes)"
	}
	return p.fail(p.pos, "expected and, or, or the end, found %s%s", p.found(), hint)
}

func (p *parser) test() (node, error) {
	start := p.pos
	subject := p.run(func(c byte) bool { return isWord(c) || strings.IndexByte(`:./\-@`, c) >= 0 })
	if subject == "" {
		return nil, p.fail(start, "expected a subject such as attribute:<name>, found %s", p.found())
	}
	if subject == "attribute:" {
		return nil, p.fail(p.pos, "expected the attribute's name, found %s", p.found())
	}
	kind, err := kindOf(subject)
	if err != nil {
		return nil, p.fail(start, "%v", err)
	}
	p.blanks()
	at := p.pos
	op, err := p.operator(subject)
	if err != nil {
		return nil, err
	}
	if !kind.allows(op.relation) {
		return nil, p.fail(at, "%s can't be used with %s: it takes %s", subject, op.symbol, kind.operators())
	}
	p.bare = 0
	args, err := p.arguments(op)
	if err != nil {
		return nil, err
	}
	holds, err := kind.compile(subject, op.relation, args)
	if err != nil {
		bad := &badArgument{message: err.Error()}
		errors.As(err, &bad)
		return nil, p.fail(args[0].offset+bad.offset, "%s", bad.message)
	}
	texts := make([]string, len(args))
	for i, a := range args {
		texts[i] = a.text
	}
	return &test{subject, op, texts, holds}, nil
}

func (p *parser) operator(subject string) (*operator, error) {
	start := p.pos
	negated := strings.HasPrefix(p.text[p.pos:], "!") && p.pos+1 < len(p.text) && isWord(p.text[p.pos+1])
	if negated {
		p.pos++
	}
	if word := p.run(isWord); word != "" {
		if negated {
			word = "!" + word
		}
		for _, op := range operators {
			if word == op.word || word == op.symbol {
				return op, nil
			}
		}
		return nil, p.fail(start, "%s is not an operator", word)
	}
	for _, op := range operators {
		if strings.HasPrefix(p.text[p.pos:], op.symbol) {
			p.pos += len(op.symbol)
			return op, nil
		}
	}
	hint := ""
	if strings.HasPrefix(p.text[p.pos:], "=") {
		hint = ": equality is =="
	}
	return nil, p.fail(start, "expected an operator after %s, found %s%s", subject, p.found(), hint)
}

// An argument with the offset of its text in the expression.
type argument struct {
	text   string
	offset int
}

func (p *parser) arguments(op *operator) ([]argument, error) {
	switch op.takes {
	case takesNothing:
		return nil, nil
	case takesOne:
		p.blanks()
		if op.relation != matches && strings.HasPrefix(p.text[p.pos:], "[") {
			return nil, p.fail(p.pos, "%s takes one argument: a list needs in or not_in", op.symbol)
		}
		a, err := p.argument(op, false)
		return []argument{a}, err
	}
	p.blanks()
	start := p.pos
	if !p.symbol("[") {
		return nil, p.fail(start, "expected [ after %s, found %s", op.word, p.found())
	}
	var args []argument
	for {
		a, err := p.argument(op, true)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
		if p.symbol("]") {
			p.bare = 0
			return args, nil
		}
		if !p.symbol(",") {
			if p.pos == len(p.text) {
				return nil, p.fail(start, "this [ is never closed")
			}
			return nil, p.fail(p.pos, "expected , or ] in the list, found %s", p.found())
		}
	}
}

func (p *parser) argument(op *operator, list bool) (argument, error) {
	p.blanks()
	start := p.pos
	if p.pos < len(p.text) && (p.text[p.pos] == '\'' || p.text[p.pos] == '"') {
		end := strings.IndexByte(p.text[start+1:], p.text[start])
		if end < 0 {
			return argument{}, p.fail(start, "this quote is never closed")
		}
		p.pos = start + 1 + end + 1
		return argument{p.text[start+1 : start+1+end], start + 1}, nil
	}
	for p.pos < len(p.text) {
		rest := p.text[p.pos:]
		c := rest[0]
		if isBlank(c) || c == '(' || c == ')' || strings.HasPrefix(rest, "&&") || strings.HasPrefix(rest, "||") || list && (c == ',' || c == ']') {
			break
		}
		switch {
		case c == '\'' || c == '"':
			return argument{}, p.fail(p.pos, "a quote may not stand in a bare word: put quotes of the other kind around the argument")
		case c < 0x20 || c == 0x7f:
			return argument{}, p.fail(p.pos, "expected an argument, found %s", p.found())
		case op.relation != matches && strings.IndexByte("=<>!", c) >= 0:
			return argument{}, p.fail(p.pos, "%c may not stand in a bare word: put quotes around the argument", c)
		}
		p.pos++
	}
	if p.pos < len(p.text) && p.text[p.pos] == '(' {
		return argument{}, p.fail(p.pos, "a ( may not stand in a bare word: put quotes around the argument")
	}
	if p.pos == start {
		return argument{}, p.fail(start, "expected an argument after %s, found %s", op.symbol, p.found())
	}
	p.bare = p.pos
	return argument{p.text[start:p.pos], start}, nil
}

func (p *parser) blanks() { p.run(isBlank) }

func (p *parser) run(of func(byte) bool) string {
	start := p.pos
	for p.pos < len(p.text) && of(p.text[p.pos]) {
		p.pos++
	}
	return p.text[start:p.pos]
}

// symbol takes s if it comes next.
func (p *parser) symbol(s string) bool {
	p.blanks()
	if !strings.HasPrefix(p.text[p.pos:], s) {
		return false
	}
	p.pos += len(s)
	return true
}

// word takes w if it is the whole next word.
func (p *parser) word(w string) bool {
	p.blanks()
	rest := p.text[p.pos:]
	if !strings.HasPrefix(rest, w) || len(rest) > len(w) && (isWord(rest[len(w)]) || rest[len(w)] == ':') {
		return false
	}
	p.pos += len(w)
	return true
}

// found describes what comes next, for messages.
func (p *parser) found() string {
	if p.pos == len(p.text) {
		return "the end"
	}
	word := p.text[p.pos:]
	if i := strings.IndexFunc(word, func(r rune) bool { return r > 0x7f || !isWord(byte(r)) }); i > 0 {
		word = word[:i]
	} else if i == 0 {
		_, n := utf8.DecodeRuneInString(word)
		word = word[:n]
	}
	return fmt.Sprintf("%q", word)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}
