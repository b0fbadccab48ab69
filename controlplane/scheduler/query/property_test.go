package query

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	names    = rapid.SampledFrom([]string{"env", "rack", "n", "com.example/team"})
	values   = rapid.SampledFrom([]string{"", "prod", "dev", "1", "10", "9", "1.0", "r7", "it's", `a"b`, "and", "a b", "(x)", "a,b]"})
	versions = rapid.SampledFrom([]string{"1.9.0", "1.10.0", "1.10", "2", "1.10.0-rc1"})
	dates    = rapid.SampledFrom([]string{"2018-06-18", "2018-06-18T22:28:28Z", "2018-06-18T22:28:28", "2018-06-19T00:28:28+02:00"})
	counts   = rapid.SampledFrom([]string{"0", "1", "2", "-1"})
	regexps  = rapid.SampledFrom([]string{".*", "p.*", "[0-9]+", "(prod|dev)", "r[67]", ""})
	groups   = rapid.SampledFrom([]string{"service:web", "service:db", "family:x"})
)

// aTest draws a test in a random spelling.
func aTest(t *rapid.T) string {
	subject := rapid.SampledFrom([]string{"attribute:", "agentConnected", "agentVersion", "ec2InstanceId", "registeredAt", "runningTasksCount", "task:group"}).Draw(t, "subject")
	arguments := map[string]*rapid.Generator[string]{"attribute:": values, "agentVersion": versions, "registeredAt": dates, "runningTasksCount": counts, "task:group": groups,
		"agentConnected": rapid.SampledFrom([]string{"true", "false"}), "ec2InstanceId": rapid.SampledFrom([]string{"i-1", "i-2"})}[subject]
	if subject == "attribute:" {
		subject += names.Draw(t, "name")
	}
	k, err := kindOf(subject)
	if err != nil {
		t.Fatal(err)
	}
	op := rapid.SampledFrom(operators).Filter(func(op *operator) bool { return k.allows(op.relation) }).Draw(t, "operator")
	spelling := rapid.SampledFrom([]string{op.symbol, op.word}).Draw(t, "spelling")
	switch {
	case op.takes == takesNothing:
		return subject + " " + spelling
	case op.takes == takesList:
		var list []string
		for range rapid.IntRange(1, 3).Draw(t, "length") {
			list = append(list, quote(arguments.Draw(t, "element")))
		}
		return subject + " " + spelling + "[" + strings.Join(list, ",") + "]"
	case op.relation == matches:
		return subject + " " + spelling + " " + quote(regexps.Draw(t, "regexp"))
	}
	return subject + " " + spelling + " " + quote(arguments.Draw(t, "argument"))
}

// anExpression draws an expression.
func anExpression(t *rapid.T, depth int) string {
	shape := rapid.IntRange(0, 5).Draw(t, "shape")
	if depth == 0 || shape < 2 {
		return aTest(t)
	}
	a := anExpression(t, depth-1)
	switch shape {
	case 2:
		return "(" + a + ")"
	case 3:
		return rapid.SampledFrom([]string{"! (", "not("}).Draw(t, "not") + a + ")"
	case 4:
		return a + rapid.SampledFrom([]string{" and ", "&&"}).Draw(t, "and") + anExpression(t, depth-1)
	}
	return a + rapid.SampledFrom([]string{" or ", "||"}).Draw(t, "or") + anExpression(t, depth-1)
}

func aSubject(t *rapid.T) *Subject {
	s := &Subject{
		Attributes:        rapid.MapOfN(names, values, 0, 4).Draw(t, "attributes"),
		AgentConnected:    rapid.Bool().Draw(t, "connected"),
		AgentVersion:      rapid.OneOf(versions, rapid.Just("")).Draw(t, "version"),
		EC2InstanceID:     rapid.SampledFrom([]string{"", "i-1", "i-2"}).Draw(t, "ec2"),
		RunningTasksCount: rapid.IntRange(0, 3).Draw(t, "count"),
		TaskGroups:        rapid.SliceOfN(groups, 0, 2).Draw(t, "groups"),
	}
	if rapid.Bool().Draw(t, "registered") {
		s.RegisteredAt = time.Date(2018, 6, 18, 22, 28, 27+rapid.IntRange(0, 2).Draw(t, "second"), 0, time.UTC)
	}
	return s
}

func must(t *rapid.T, expr string) *Expr {
	e, err := parse(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return e
}

func same(t *rapid.T, law, a, b string) {
	x, y := must(t, a), must(t, b)
	for range 5 {
		if s := aSubject(t); x.Match(s) != y.Match(s) {
			t.Fatalf("%s: %s is %v, %s is %v for %+v", law, a, x.Match(s), b, y.Match(s), s)
		}
	}
}

func TestPrintingAndParsingKeepsTheMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		expr := anExpression(t, 4)
		printed := must(t, expr).String()
		same(t, "printed", expr, printed)
		if again := must(t, printed).String(); again != printed {
			t.Fatalf("%s prints as %s, and that as %s", expr, printed, again)
		}
	})
}

func TestTheLawsOfLogicHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := "("+anExpression(t, 2)+")", "("+anExpression(t, 2)+")", "("+anExpression(t, 2)+")"
		same(t, "De Morgan", "not("+a+" and "+b+")", "not"+a+" or not"+b)
		same(t, "De Morgan", "!("+a+"||"+b+")", "!"+a+"&&!"+b)
		same(t, "double negation", "not not"+a, a)
		same(t, "and binds before or", a+" or "+b+" and "+c, a+" or ("+b+" and "+c+")")
		same(t, "not binds before and", "not "+a+" and "+b, "(not "+a+") and "+b)
		same(t, "commutativity", a+" and "+b, b+" and "+a)
		same(t, "distributivity", a+" and ("+b+" or "+c+")", a+" and "+b+" or "+a+" and "+c)
	})
}

func TestANegativeOperatorIsTheNegation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := must(t, aTest(t)).root.(*test)
		for _, op := range operators {
			if op.relation == e.op.relation && op.negative != e.op.negative {
				other := *e
				other.op = op
				same(t, "negation", (&Expr{e}).String(), "not "+(&Expr{&other}).String())
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"attribute:env==prod", "attribute:gpu !exists and not(task:group == service:db)", `attribute:ecs.instance-type !~ t[34]g?\..*`,
		"attribute:z in [a, 'b', \"c\"] || (runningTasksCount < 3)", "agentVersion >= 1.44.0 && registeredAt > 2026-01-01T00:00:00Z", "((((", "!!!!", "a =~ '(?i)[a&&b]*+'",
	} {
		f.Add(seed)
	}
	s := host()
	f.Fuzz(func(t *testing.T, expr string) {
		e, err := Parse(expr)
		if err != nil {
			var bad *SyntaxError
			if !errors.As(err, &bad) || bad.Offset < 0 || bad.Offset > len(expr) || bad.Message == "" {
				t.Fatalf("%q: %v", expr, err)
			}
			_, _ = bad.Error(), bad.Caret()
			return
		}
		printed := e.String()
		again, err := parse(printed)
		if err != nil {
			t.Fatalf("%q prints as %q, which does not parse: %v", expr, printed, err)
		}
		if again.String() != printed || again.Match(s) != e.Match(s) {
			t.Fatalf("%q prints as %q, which means something else", expr, printed)
		}
	})
}
