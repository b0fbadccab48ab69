package query

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func host() *Subject {
	return &Subject{
		Attributes: map[string]string{
			"env": "prod", "gpu": "", "rack": "r7", "slots": "10", "com.example/team": "blue", `a\b`: "x", "zone-1_b": "y",
			"ecs.instance-type": "t3.small", "ecs.os-type": "linux", "ecs.cpu-architecture": "arm64", "ecs.availability-zone": "us-east-1a",
			"quote": `it's`, "space": "Amazon Linux", "at": "me@home:1",
		},
		AgentConnected: true, AgentVersion: "1.44.0", EC2InstanceID: "i-0abc",
		RegisteredAt:      time.Date(2026, 6, 18, 22, 28, 28, 5e8, time.UTC),
		RunningTasksCount: 2,
		TaskGroups:        []string{"service:web", "family:batch"},
	}
}

func TestExpressionsHoldOrNot(t *testing.T) {
	for expr, want := range map[string]bool{
		// attribute, symbols and words, blanks or none
		"attribute:env==prod":                                   true,
		"attribute:env == prod":                                 true,
		"\n attribute:env\t==\r\nprod ":                         true,
		"attribute:env equals prod":                             true,
		"attribute:env=='prod'":                                 true,
		`attribute:env=="prod"`:                                 true,
		"attribute:env==Prod":                                   false,
		"attribute:Env==prod":                                   false,
		"attribute:env!=prod":                                   false,
		"attribute:env not_equals dev":                          true,
		"attribute:env==prod and attribute:rack != r7":          false,
		"attribute:env == prod && attribute:rack==r7":           true,
		"attribute:env==prod&&attribute:rack==r7":               true,
		"attribute:env==dev||attribute:rack==r7":                true,
		"attribute:env exists":                                  true,
		"attribute:gpu exists":                                  true,
		"attribute:gpu==''":                                     true,
		"attribute:gpu !exists":                                 false,
		"attribute:gpu!exists":                                  false,
		"attribute:fpga !exists":                                true,
		"attribute:fpga not_exists":                             true,
		"attribute:com.example/team == blue":                    true,
		`attribute:a\b==x`:                                      true,
		"attribute:zone-1_b==y":                                 true,
		`attribute:quote=="it's"`:                               true,
		"attribute:space=='Amazon Linux'":                       true,
		"attribute:at==me@home:1":                               true,
		"attribute:ecs.availability-zone in [us-east-1a, 'b']":  true,
		"attribute:ecs.availability-zone in[ us-east-1a ,b ]":   true,
		"attribute:ecs.availability-zone !in [us-east-1a]":      false,
		"attribute:ecs.availability-zone!in['us-east-1d']":      true,
		"attribute:ecs.availability-zone not_in ['us-east-1d']": true,
		// what does not exist
		"attribute:none == x": false, "attribute:none != x": true, "attribute:none in [x]": false, "attribute:none not_in [x]": true,
		"attribute:none =~ .*": false, "attribute:none !~ .*": true, "attribute:none > 1": false, "attribute:none <= 1": false,
		// order: as numbers where both are, else as text
		"attribute:slots > 9": true, "attribute:slots greater_than 9": true, "attribute:slots >= 10.0": true, "attribute:slots < 9": false,
		"attribute:slots less_than_equal 10": true, "attribute:slots greater_than_equal 11": false, "attribute:slots less_than 11": true,
		"attribute:rack > r6": true, "attribute:rack < r10": false,
		// regular expressions match whole values
		"attribute:ecs.instance-type =~ t3.*":            true,
		"attribute:ecs.instance-type =~ t3":              false,
		"attribute:ecs.instance-type =~ 3.*":             false,
		"attribute:ecs.instance-type matches t3.small":   true,
		`attribute:ecs.instance-type !~ t[34]g?\..*`:     false,
		`attribute:ecs.instance-type not_matches 't2.*'`: true,
		"attribute:ecs.instance-type =~ 't(2|3).*'":      true,
		"attribute:ecs.instance-type =~ t2.*|t3.*":       true,
		"attribute:ecs.instance-type =~ 'a|t3.small|b'":  true,
		`attribute:ecs.instance-type =~ [a-z]\d\..{5}`:   true,
		// other subjects
		"agentConnected == true": true, "agentConnected==false": false, "agentConnected != true": false, "agentConnected in [true,false]": true, "agentConnected =~ tr.*": true, "agentConnected==TRUE": false,
		"agentVersion >= 1.44.0": true, "agentVersion > 1.9.0": true, "agentVersion < 1.100": true, "agentVersion == 1.44": true, "agentVersion != 1.44.1": true, "agentVersion <= 1.43.99": false, "agentVersion > v1.44.0-rc1": true,
		"ec2InstanceId in ['i-0abc', 'i-0def']": true, "ec2InstanceId == i-0abc": true, "ec2InstanceId !~ i-.*": false,
		"registeredAt > 2026-01-01T00:00:00Z": true, "registeredAt == 2026-06-18T22:28:28": true, "registeredAt == 2026-06-18T22:28:28+00:00": true, "registeredAt == 2026-06-19T00:28:28+02:00": true,
		"registeredAt >= 2026-06-18": true, "registeredAt < 2026-06-19": true, "registeredAt > '2026-06-18T22:28:28Z'": false, "registeredAt != 2026-06-18": true,
		"runningTasksCount > 1": true, "runningTasksCount==2": true, "runningTasksCount less_than 2": false, "runningTasksCount>-1": true, "(runningTasksCount < 3) and (agentConnected == true)": true,
		"task:group == service:web": true, "task:group==family:batch": true, "task:group != service:web": false, "task:group != service:db": true, "not(task:group == service:db)": true,
		"task:group in [service:db, service:web]": true, "task:group =~ service:.*": true, "task:group !~ x.*": true, "task:group exists": true,
		// precedence: not, and, or
		"attribute:env==prod or attribute:env==dev and attribute:env==test":   true,
		"(attribute:env==prod or attribute:env==dev) and attribute:env==test": false,
		"not attribute:env==dev and attribute:env==dev":                       false,
		"not (attribute:env==dev and attribute:env==dev)":                     true,
		"!(attribute:env == dev || attribute:env == test)":                    true,
		"!attribute:env==dev": true, "!!attribute:env==prod": true, "not not not attribute:env==prod": false,
		"(attribute:env==prod)and(attribute:gpu exists)": true, "((((attribute:env==prod))))": true,
		"attribute:env==dev or(not(attribute:gpu !exists))": true,
		// words are arguments where an argument stands
		"attribute:env==and": false, "attribute:env!=or and attribute:env!=not": true,
	} {
		e, err := Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if got := e.Match(host()); got != want {
			t.Errorf("%s: got %v, want %v", expr, got, want)
		}
	}
}

func TestAHostThatSaidNothingMatchesOnlyNegativeTests(t *testing.T) {
	for _, subject := range []string{"attribute:x ==", "ec2InstanceId ==", "agentVersion ==", "agentVersion >", "agentVersion <=", "task:group ==", "registeredAt <", "registeredAt >="} {
		arg := map[bool]string{true: "2018-06-18", false: "1.0"}[strings.HasPrefix(subject, "registered")]
		e, err := Parse(subject + " " + arg)
		if err != nil {
			t.Fatal(err)
		}
		if e.Match(&Subject{}) {
			t.Errorf("%s %s holds for a host that has no such value", subject, arg)
		}
	}
	for _, expr := range []string{"agentVersion != 1.0", "ec2InstanceId != i-1", "task:group !exists", "registeredAt != 2018-06-18"} {
		if e, err := Parse(expr); err != nil || !e.Match(&Subject{AgentVersion: "development"}) {
			t.Errorf("%s does not hold for a host that has no such value (%v)", expr, err)
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	deep := strings.Repeat("(", 60)
	for _, c := range []struct {
		expr   string
		offset int
		text   string
	}{
		{"", 0, "expected a subject such as attribute:<name>, found the end"},
		{"   ", 3, "found the end"},
		{"env==prod", 0, "env is not a subject"},
		{"attribute:==x", 10, `expected the attribute's name, found "="`},
		{"attribute:env", 13, "expected an operator after attribute:env, found the end"},
		{"attribute:env=prod", 13, `found "=": equality is ==`},
		{"attribute:env ===prod", 16, "= may not stand in a bare word"},
		{"attribute:env is prod", 14, "is is not an operator"},
		{"attribute:env !has", 14, "!has is not an operator"},
		{"attribute:env ==", 16, "expected an argument after ==, found the end"},
		{"attribute:env == )", 17, `found ")"`},
		{"attribute:env == 'prod", 17, "this quote is never closed"},
		{"attribute:env == pr'od", 19, "a quote may not stand in a bare word"},
		{"attribute:env == a\x00b", 18, `found "\x00"`},
		{"attribute:env == Amazon Linux", 24, `expected and, or, or the end, found "Linux" (an argument with blanks needs quotes)`},
		{"attribute:env == [a]", 17, "a list needs in or not_in"},
		{"attribute:env in a", 17, "expected [ after in"},
		{"attribute:env in [", 18, "expected an argument after in, found the end"},
		{"attribute:env in []", 18, `found "]"`},
		{"attribute:env in [a", 17, "this [ is never closed"},
		{"attribute:env in [a b]", 20, `expected , or ] in the list, found "b"`},
		{"attribute:env in [a,]", 20, `found "]"`},
		{"(attribute:env exists", 0, "this ( is never closed"},
		{"attribute:env exists)", 20, "this ) was never opened"},
		{"(attribute:env exists x", 22, "expected and, or"},
		{"attribute:env exists and", 24, "expected a subject"},
		{"attribute:env exists or or", 24, "or is not a subject"},
		{"attribute:a exists & attribute:b exists", 19, `found "&"`},
		{"attribute:é exists", 10, `expected the attribute's name, found "é"`},
		{"runningTasksCount == two", 21, `"two" is not a whole number`},
		{"runningTasksCount > 1.5", 20, "is not a whole number"},
		{"runningTasksCount in [1]", 18, "runningTasksCount can't be used with in: it takes == != >= <= > <"},
		{"agentConnected > true", 15, "agentConnected can't be used with >: it takes == != =~ !~ in !in"},
		{"agentConnected exists", 15, "can't be used with exists"},
		{"agentVersion =~ 1.*", 13, "can't be used with =~"},
		{"agentVersion > new", 15, `"new" is not a version`},
		{"registeredAt > 'yesterday'", 16, `"yesterday" is not a date`},
		{"registeredAt > 2018-06-18T22:28:28.5Z", 15, "is not a date"},
		{"registeredAt > 2018-02-30", 15, "is not a date"},
		{"ec2InstanceId < i-1", 14, "can't be used with <"},
		{"task:group > a", 11, "can't be used with >"},
		{"task:name == a", 0, "task:name is not a subject"},
		{"attribute:a =~ (?i)T3.*", 15, "a ( may not stand in a bare word"},
		{"attribute:a == b(c)", 16, "a ( may not stand in a bare word"},
		{"attribute:a =~ '(ab'", 16, "missing closing )"},
		{"attribute:a =~ 'ab(c|[d)'", 21, "missing closing ]"},
		{"attribute:a =~ *", 15, "missing argument to repetition operator"},
		{`attribute:a =~ 'x\p{Foo}'`, 17, `invalid character class range "\\p{Foo}"`},
		{"attribute:a =~ '(a{1000}){1000}'", 18, "invalid repeat count"},
		{deep, 51, "nested deeper than 50"},
		{strings.Repeat("!", 60) + "attribute:a exists", 51, "nested deeper than 50"},
		{"attribute:a == \xff", 15, "not UTF-8"},
		{"attribute:a == " + strings.Repeat("x", 1986), 2000, "has 2001 characters, at most 2000"},
	} {
		_, err := Parse(c.expr)
		var bad *SyntaxError
		if !errors.As(err, &bad) {
			t.Errorf("%q: no syntax error but %v", c.expr, err)
		} else if bad.Offset != c.offset || !strings.Contains(bad.Message, c.text) {
			t.Errorf("%q: got %d %s\nwant %d … %s …", c.expr, bad.Offset, bad.Message, c.offset, c.text)
		}
	}
	if _, err := Parse("attribute:a == '" + strings.Repeat("é", 1983) + "'"); err != nil {
		t.Errorf("2000 characters of two bytes were refused: %v", err)
	}
}

func TestWhatJavaHasAndWeLackIsRefusedByName(t *testing.T) {
	for expr, want := range map[string]struct {
		offset int
		name   string
	}{
		`a(?=b)`: {1, "a look-ahead"}, `(?!b)`: {0, "a negative look-ahead"}, `x(?<=b)`: {1, "a look-behind"}, `(?<!b)`: {0, "a negative look-behind"},
		`(?>a)`: {0, "an atomic group"}, `a*+`: {1, "a possessive quantifier (*+)"}, `a++b`: {1, "(++)"}, `a?+`: {1, "(?+)"}, `a{2}+`: {3, "(}+)"},
		`(a)\1`: {3, `the back reference \1`}, `(?<n>a)\k<n>`: {7, `the back reference \k`}, `a\Z`: {1, `\Z`}, `\h+`: {0, `\h`}, `\R`: {0, `\R`}, `é`: {0, `\u`},
		`[a-z&&[^b]]`: {4, "an intersection of character classes"}, `[a[b]]`: {2, "a character class inside a character class"}, `[]a]`: {1, "an unescaped ]"},
		`(?x)a b`: {2, "the flag (?x)"}, `(?iU:a)`: {3, "the flag (?U)"}, `\cA`: {0, `\c`}, `\X`: {0, `\X`},
	} {
		if expr == `é` {
			expr = `\` + `u00e9`
		}
		_, err := Parse("attribute:a =~ '" + expr + "'")
		var bad *SyntaxError
		if !errors.As(err, &bad) || bad.Offset != 16+want.offset || !strings.Contains(bad.Message, want.name) || !strings.Contains(bad.Message, "not supported") {
			t.Errorf("%s: got %v, want %q at %d", expr, err, want.name, 16+want.offset)
		}
	}
	for expr, value := range map[string]string{
		`(?i)PROD`: "prod", `(?<n>p)rod`: "prod", `p(?:r)od`: "prod", `\Qa++b\E`: "a++b", `a\++`: "a++", `[+*]+?`: "+*", `[^\]]+`: "prod", `\p{L}+`: "prod", `\x70rod`: "prod", `a{1,3}?`: "aa", `p}+`: "p}}", `\d+\w*\s?`: "12ab ",
	} {
		e, err := Parse("attribute:a =~ '" + expr + "'")
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if !e.Match(&Subject{Attributes: map[string]string{"a": value}}) {
			t.Errorf("%s does not match %q", expr, value)
		}
	}
}

func TestTheCaretStandsBelowThePlace(t *testing.T) {
	_, err := Parse("attribute:name == 'é' andd agentConnected == true")
	var bad *SyntaxError
	if !errors.As(err, &bad) {
		t.Fatalf("no syntax error but %v", err)
	}
	want := "attribute:name == 'é' andd agentConnected == true\n" +
		"                      ^\n" + `expected and, or, or the end, found "andd"`
	if got := bad.Caret(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if want := `at character 23: expected and, or, or the end, found "andd"`; bad.Error() != want {
		t.Errorf("got %s, want %s", bad, want)
	}
}
