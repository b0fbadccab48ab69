package query

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// compileRegexp compiles a Java regular expression that must match a whole value.
func compileRegexp(expr string) (*regexp.Regexp, error) {
	if at, what := javaOnly(expr); what != "" {
		return nil, &badArgument{offset: at, message: "the regular expression uses " + what + ", which is not supported"}
	}
	// Parsed alone first, so that an error is about the expression and not about what is put around it.
	_, err := syntax.Parse(expr, syntax.Perl)
	if err == nil {
		var re *regexp.Regexp
		if re, err = regexp.Compile(`\A(?:` + expr + `)\z`); err == nil {
			return re, nil
		}
	}
	var bad *syntax.Error
	if !errors.As(err, &bad) {
		return nil, &badArgument{message: fmt.Sprintf("the regular expression is wrong: %v", err)}
	}
	message := fmt.Sprintf("the regular expression is wrong: %s", bad.Code)
	if bad.Expr != "" && bad.Expr != expr {
		message += fmt.Sprintf(" %q", bad.Expr)
	}
	return nil, &badArgument{offset: max(strings.Index(expr, bad.Expr), 0), message: message}
}

// javaGroups are the openings of groups that Java has and we lack.
var javaGroups = []struct{ opening, name string }{
	{"(?=", "a look-ahead (?=…)"},
	{"(?!", "a negative look-ahead (?!…)"},
	{"(?<=", "a look-behind (?<=…)"},
	{"(?<!", "a negative look-behind (?<!…)"},
	{"(?>", "an atomic group (?>…)"},
}

// javaEscapes are the escapes that Java has and we lack, or to which we would give another meaning.
var javaEscapes = map[byte]string{
	'k': `the back reference \k<…>`,
	'G': `\G (the end of the last match)`,
	'Z': `\Z (the end but for a line break): use \z`,
	'h': `\h (horizontal blanks)`, 'H': `\H (no horizontal blanks)`,
	'v': `\v (vertical blanks)`, 'V': `\V (no vertical blanks)`,
	'R': `\R (any line break)`,
	'X': `\X (a grapheme)`,
	'N': `\N{…} (a named character)`,
	'c': `\c (a control character): use \x`,
	'e': `\e (escape): use \x1b`,
	'u': `\u (a character by number): use \x{…}`,
}

var repetition = regexp.MustCompile(`\{[0-9]+(,[0-9]*)?\}$`)

// javaOnly finds the first construct that Java knows and Go's engine lacks or reads differently.
func javaOnly(expr string) (offset int, what string) {
	class := 0          // offset of the [ we are in, plus 1
	quantified := false // the item before was a quantifier
	for i := 0; i < len(expr); i++ {
		rest, after := expr[i:], quantified
		quantified = false
		switch c := expr[i]; {
		case c == '\\' && i+1 < len(expr):
			e := expr[i+1]
			if e == 'Q' {
				end := strings.Index(rest, `\E`)
				if end < 0 {
					return 0, ""
				}
				i += end + 1
				continue
			}
			if name, ok := javaEscapes[e]; ok {
				return i, name
			}
			if e >= '1' && e <= '9' {
				return i, fmt.Sprintf(`the back reference \%c`, e)
			}
			i++
		case class > 0:
			switch {
			case c == '[':
				return i, "a character class inside a character class"
			case strings.HasPrefix(rest, "&&"):
				return i, "an intersection of character classes (&&)"
			case c == ']' && i > class: // a ] that comes first is an error in Java and an ordinary character here
				class = 0
			}
		case c == '[':
			class = i + 1
			if strings.HasPrefix(rest, "[^") {
				i++
				class++
			}
			if i+1 < len(expr) && expr[i+1] == ']' {
				return i + 1, "an unescaped ] at the start of a character class"
			}
		case c == '(':
			for _, g := range javaGroups {
				if strings.HasPrefix(rest, g.opening) {
					return i, g.name
				}
			}
			if at, flag := javaFlag(rest); flag != 0 {
				return i + at, fmt.Sprintf("the flag (?%c)", flag)
			}
		case c == '*' || c == '?' || c == '+':
			if c == '+' && after {
				return i - 1, fmt.Sprintf("a possessive quantifier (%s)", expr[i-1:i+1])
			}
			quantified = !after // in a*? the ? makes the quantifier lazy
		case c == '}':
			quantified = repetition.MatchString(expr[:i+1])
		}
	}
	return 0, ""
}

// javaFlag finds in "(?flags)" or "(?flags:" a flag that we lack; U has another meaning here.
func javaFlag(group string) (offset int, flag byte) {
	if !strings.HasPrefix(group, "(?") {
		return 0, 0
	}
	for i := 2; i < len(group); i++ {
		switch c := group[i]; c {
		case 'd', 'u', 'x', 'U':
			return i, c
		case 'i', 'm', 's', '-':
		default:
			return 0, 0
		}
	}
	return 0, 0
}
