package query

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A kind of subject: the operators it takes, and how a test of it is made.
type kind struct {
	takes   []relation
	compile func(subject string, r relation, args []argument) (func(*Subject) bool, error)
}

func (k *kind) allows(r relation) bool { return slices.Contains(k.takes, r) }

func (k *kind) operators() string {
	var symbols []string
	for _, op := range operators {
		if k.allows(op.relation) {
			symbols = append(symbols, op.symbol)
		}
	}
	return strings.Join(symbols, " ")
}

// badArgument says that the argument of a test is wrong, and where in it.
type badArgument struct {
	offset  int
	message string
}

func (b *badArgument) Error() string { return b.message }

var (
	textual = []relation{equals, matches, in}
	ordered = []relation{equals, greater, greaterEqual, less, lessEqual}

	attributeKind = &kind{append([]relation{exists, matches, in}, ordered...), compileAttribute}

	kinds = map[string]*kind{
		"task:group":        {append([]relation{exists}, textual...), compileGroup},
		"agentConnected":    {textual, text(func(s *Subject) (string, bool) { return strconv.FormatBool(s.AgentConnected), true })},
		"ec2InstanceId":     {textual, text(func(s *Subject) (string, bool) { return s.EC2InstanceID, s.EC2InstanceID != "" })},
		"agentVersion":      {ordered, compileVersion},
		"registeredAt":      {ordered, compileDate},
		"runningTasksCount": {ordered, compileCount},
	}
)

func kindOf(subject string) (*kind, error) {
	if strings.HasPrefix(subject, "attribute:") {
		return attributeKind, nil
	}
	if k := kinds[subject]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%s is not a subject: there are agentConnected, agentVersion, attribute:<name>, ec2InstanceId, registeredAt, runningTasksCount and task:group", subject)
}

// compileText makes a predicate over one text value.
func compileText(r relation, args []argument) (func(string) bool, error) {
	switch r {
	case exists:
		return func(string) bool { return true }, nil
	case equals:
		return func(v string) bool { return v == args[0].text }, nil
	case in:
		return func(v string) bool { return slices.ContainsFunc(args, func(a argument) bool { return a.text == v }) }, nil
	case matches:
		re, err := compileRegexp(args[0].text)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	}
	return func(v string) bool { return holds(r, compareText(v, args[0].text)) }, nil
}

// text makes the compile function of a subject that has one text or none.
func text(of func(*Subject) (string, bool)) func(string, relation, []argument) (func(*Subject) bool, error) {
	return func(_ string, r relation, args []argument) (func(*Subject) bool, error) {
		ok, err := compileText(r, args)
		return func(s *Subject) bool {
			v, there := of(s)
			return there && ok(v)
		}, err
	}
}

func compileAttribute(subject string, r relation, args []argument) (func(*Subject) bool, error) {
	name := strings.TrimPrefix(subject, "attribute:")
	return text(func(s *Subject) (string, bool) { v, ok := s.Attributes[name]; return v, ok })(subject, r, args)
}

func compileGroup(_ string, r relation, args []argument) (func(*Subject) bool, error) {
	ok, err := compileText(r, args)
	return func(s *Subject) bool { return slices.ContainsFunc(s.TaskGroups, ok) }, err
}

func compileVersion(_ string, r relation, args []argument) (func(*Subject) bool, error) {
	want, ok := parseVersion(args[0].text)
	if !ok {
		return nil, &badArgument{message: fmt.Sprintf("%q is not a version such as 1.44.0", args[0].text)}
	}
	return func(s *Subject) bool {
		have, ok := parseVersion(s.AgentVersion)
		return ok && holds(r, have.compare(want))
	}, nil
}

// dateForms are the documented ones; Z07:00 reads both Z and +00:00.
var dateForms = []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05", "2006-01-02"}

func compileDate(_ string, r relation, args []argument) (func(*Subject) bool, error) {
	for _, form := range dateForms {
		// Parse accepts a fraction of a second in every form, which none of them has.
		want, err := time.Parse(form, args[0].text)
		if err != nil || want.Nanosecond() != 0 {
			continue
		}
		return func(s *Subject) bool {
			return !s.RegisteredAt.IsZero() && holds(r, s.RegisteredAt.Truncate(time.Second).Compare(want))
		}, nil
	}
	return nil, &badArgument{message: fmt.Sprintf("%q is not a date such as 2018-06-18T22:28:28+00:00, 2018-06-18T22:28:28Z, 2018-06-18T22:28:28 or 2018-06-18", args[0].text)}
}

func compileCount(_ string, r relation, args []argument) (func(*Subject) bool, error) {
	want, err := strconv.ParseInt(args[0].text, 10, 64)
	if err != nil {
		return nil, &badArgument{message: fmt.Sprintf("%q is not a whole number", args[0].text)}
	}
	return func(s *Subject) bool { return holds(r, cmp.Compare(int64(s.RunningTasksCount), want)) }, nil
}

// holds says whether the relation holds for the outcome of a comparison.
func holds(r relation, c int) bool {
	switch r {
	case equals:
		return c == 0
	case greater:
		return c > 0
	case greaterEqual:
		return c >= 0
	case less:
		return c < 0
	case lessEqual:
		return c <= 0
	}
	return false
}

var decimal = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?$`)

// compareText compares two decimal numbers as numbers and everything else as text.
func compareText(a, b string) int {
	if decimal.MatchString(a) && decimal.MatchString(b) {
		x, errX := strconv.ParseFloat(a, 64)
		y, errY := strconv.ParseFloat(b, 64)
		if errX == nil && errY == nil {
			return cmp.Compare(x, y)
		}
	}
	return cmp.Compare(a, b)
}

// A version is numbers and what follows the first hyphen: 1.44.0-rc1 comes before 1.44.0. A leading v and what follows a
// plus sign say nothing.
type version struct {
	numbers []uint64
	pre     string
}

func parseVersion(s string) (v version, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "+")
	s, v.pre, _ = strings.Cut(s, "-")
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 64)
		if err != nil {
			return version{}, false
		}
		v.numbers = append(v.numbers, n)
	}
	for len(v.numbers) > 0 && v.numbers[len(v.numbers)-1] == 0 {
		v.numbers = v.numbers[:len(v.numbers)-1]
	}
	return v, true
}

func (v version) compare(w version) int {
	if c := slices.Compare(v.numbers, w.numbers); c != 0 {
		return c
	}
	if (v.pre == "") != (w.pre == "") {
		return cmp.Compare(len(w.pre), len(v.pre))
	}
	return cmp.Compare(v.pre, w.pre)
}
