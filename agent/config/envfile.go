package config

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxFile bounds a configuration file; a larger one is refused.
const maxFile = 1 << 20

// Assignment is one KEY=VALUE of an environment file.
type Assignment struct {
	Key   string
	Value string
	Line  int // the line on which the key stands, from 1
}

// ParseEnvFile reads an environment file as systemd's EnvironmentFile= does (systemd.exec(5)):
//
//   - one KEY=VALUE a line; empty lines, and lines that begin with '#' or ';', are skipped;
//   - blanks around the key and around an unquoted value are dropped;
//   - a value may be put in single quotes (taken literally) or in double quotes, in which a backslash escapes '"', '\', '`'
//     and '$'; quoted values may span lines;
//   - outside quotes a backslash takes the next character literally, and joins the next line when it ends one;
//   - quotes that don't begin a value are ordinary characters, so that JSON needs none: A=["x","y"].
//
// A later assignment of a key wins; all are returned in order. What can't be read is skipped and told in the warnings,
// one per line, so that a typing error costs one setting and not the whole file.
func ParseEnvFile(data []byte) (assignments []Assignment, warnings []string) {
	p := envParser{line: 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		p.invalid = p.invalid || (r == utf8.RuneError && size == 1) || r == 0
		p.step(data[:size])
		if r == '\n' {
			p.line++
		}
		data = data[size:]
	}
	p.finish()
	return p.out, p.warnings
}

type envState int

const (
	beforeKey envState = iota
	inComment
	inKey
	beforeValue
	inValue
	inValueEscape
	inSingle
	inDouble
	inDoubleEscape
)

type envParser struct {
	state    envState
	line     int // of the character at hand
	keyLine  int
	key, val strings.Builder
	kept     int  // length of val without the blanks that would be dropped at its end
	invalid  bool // the assignment holds a NUL or bytes that aren't UTF-8
	out      []Assignment
	warnings []string
}

func (p *envParser) step(c []byte) {
	ch := c[0]
	newline, blank := ch == '\n', ch == ' ' || ch == '\t' || ch == '\r'
	switch p.state {
	case beforeKey:
		switch {
		case newline || blank:
		case ch == '#' || ch == ';':
			p.state = inComment
		default:
			p.state, p.keyLine = inKey, p.line
			if ch == '=' {
				p.state = beforeValue
				return
			}
			p.key.Write(c)
		}
	case inComment:
		if newline {
			p.reset()
		}
	case inKey:
		switch {
		case newline:
			p.warn("has no '=' and is ignored")
			p.reset()
		case ch == '=':
			p.state = beforeValue
		default:
			p.key.Write(c)
		}
	case beforeValue:
		switch {
		case newline:
			p.push()
		case ch == '\'':
			p.state = inSingle
		case ch == '"':
			p.state = inDouble
		case ch == '\\':
			p.state = inValueEscape
		case blank:
		default:
			p.state = inValue
			p.keep(c)
		}
	case inValue:
		switch {
		case newline:
			p.push()
		case ch == '\\':
			p.state = inValueEscape
		case blank:
			p.val.Write(c)
		default:
			p.keep(c)
		}
	case inValueEscape:
		p.state = inValue
		if !newline {
			p.keep(c)
		}
	case inSingle:
		if ch == '\'' {
			p.state = beforeValue
			return
		}
		p.keep(c)
	case inDouble:
		switch ch {
		case '"':
			p.state = beforeValue
		case '\\':
			p.state = inDoubleEscape
		default:
			p.keep(c)
		}
	case inDoubleEscape:
		p.state = inDouble
		switch {
		case strings.IndexByte("\"\\`$", ch) >= 0:
			p.keep(c)
		case !newline:
			p.keep([]byte{'\\'})
			p.keep(c)
		}
	}
}

// keep appends a character that stays even at the end of the value.
func (p *envParser) keep(c []byte) {
	p.val.Write(c)
	p.kept = p.val.Len()
}

func (p *envParser) finish() {
	switch p.state {
	case beforeValue, inValue, inValueEscape:
		p.push()
	case inKey:
		p.warn("has no '=' and is ignored")
	case inSingle, inDouble, inDoubleEscape:
		p.warn("opens a quote that is never closed and is ignored")
	case beforeKey, inComment:
	}
}

func (p *envParser) push() {
	key := strings.TrimRight(p.key.String(), " \t\r")
	switch {
	case p.invalid:
		p.warn("holds bytes that are not UTF-8, or a NUL, and is ignored")
	case !validKey(key):
		if name, ok := strings.CutPrefix(key, "export "); ok && validKey(strings.TrimSpace(name)) {
			p.warn("begins with \"export\", which this file must not, and is ignored: write " + strings.TrimSpace(name) + "=…")
			break
		}
		p.warn(fmt.Sprintf("has %q before the '=', which is no variable name, and is ignored", truncate(key)))
	default:
		p.out = append(p.out, Assignment{Key: key, Value: p.val.String()[:p.kept], Line: p.keyLine})
	}
	p.reset()
}

func (p *envParser) warn(what string) {
	p.warnings = append(p.warnings, fmt.Sprintf("line %d %s", p.keyLine, what))
}

func (p *envParser) reset() {
	p.state, p.kept, p.invalid = beforeKey, 0, false
	p.key.Reset()
	p.val.Reset()
}

func validKey(key string) bool {
	for i, r := range key {
		letter := r == '_' || (r >= 'A' && r <= 'Z') || (r >= 'a' && r <= 'z')
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return key != ""
}

func truncate(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}
