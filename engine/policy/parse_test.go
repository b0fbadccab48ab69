package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const shared = `# this host is shared
allow privileged for image registry.example.com/infra/* # by us
deny  privileged

deny	capability CAP_SYS_ADMIN sys_ptrace
allow host-path /var/log /srv/*/logs ro for family log-* for image registry.example.com/logs:1
deny  host-path /
warn  registry
`

func parsed(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("/etc/ecs/policy", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPolicyReadsAsItIsWritten(t *testing.T) {
	want := []Rule{
		{Line: 2, Text: "allow privileged for image registry.example.com/infra/*", Effect: Allow, Class: Privileged, Images: []string{"registry.example.com/infra/*"}},
		{Line: 3, Text: "deny privileged", Effect: Deny, Class: Privileged},
		{Line: 5, Text: "deny capability CAP_SYS_ADMIN sys_ptrace", Effect: Deny, Class: Capability, Patterns: []string{"SYS_ADMIN", "SYS_PTRACE"}},
		{Line: 6, Text: "allow host-path /var/log /srv/*/logs ro for family log-* for image registry.example.com/logs:1", Effect: Allow, Class: HostPath,
			Patterns: []string{"/var/log", "/srv/*/logs"}, Mode: "ro", Families: []string{"log-*"}, Images: []string{"registry.example.com/logs:1"}},
		{Line: 7, Text: "deny host-path /", Effect: Deny, Class: HostPath, Patterns: []string{"/"}},
		{Line: 8, Text: "warn registry", Effect: Warn, Class: Registry},
	}
	if d := cmp.Diff(want, parsed(t, shared).Rules); d != "" {
		t.Error(d)
	}
}

func TestAMistakeIsNamedWithFileLineAndTheNearestWord(t *testing.T) {
	for line, want := range map[string]string{
		"denny privileged":                `a rule begins with one of allow, warn, deny, not "denny"; did you mean "deny"?`,
		"deny priviledged":                `not "priviledged"; did you mean "privileged"?`,
		"refuse everything":               `a rule begins with one of allow, warn, deny, not "refuse"`,
		"deny":                            "deny what? It is followed by one of privileged, host-pid",
		"deny capability SYS_ADMN":        `did you mean "SYS_ADMIN"?`,
		"deny privileged always":          `privileged has no patterns; "always" is not understood`,
		"deny host-path etc":              `the host path "etc" is not absolute`,
		"deny host-path /etc/../usr":      `is to be written as "/usr"`,
		"deny host-path /etc ro rw":       "ro and rw are given more than once",
		"deny host-path /etc/[":           `the pattern "/etc/[" can't be read: syntax error in pattern`,
		"deny registry https://a.example": `without "https://"`,
		"deny privileged for":             `"for" is followed by one of family, image`,
		"deny privileged for famly a":     `did you mean "family"?`,
		"deny privileged for family":      "for which family? At least one pattern follows it",
		"deny privileged for family [":    "can't be read",
		"deny \x00":                       "bytes that are no text",
		"deny \xff":                       "bytes that are no text",
	} {
		_, err := Parse("/etc/ecs/policy", []byte("# one\n"+line+"\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "/etc/ecs/policy:2: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

func TestAllMistakesAreToldAtOnceUpToABound(t *testing.T) {
	_, err := Parse("p", []byte("x\ndeny privileged\ny\n"))
	if err == nil || !strings.Contains(err.Error(), "p:1: ") || !strings.Contains(err.Error(), "p:3: ") {
		t.Error(err)
	}
	_, err = Parse("p", []byte(strings.Repeat("x\n", 1000)))
	if err == nil || strings.Count(err.Error(), "\n") != maxErrors-1 {
		t.Error(err)
	}
	if _, err := Parse("p", make([]byte, maxSize+1)); err == nil || !strings.Contains(err.Error(), "1048576 bytes") {
		t.Error(err)
	}
}

func TestAttributesSayWhatIsDeniedAsAWholeAndWhatInPart(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                {},
		"deny privileged": {"privileged": "deny"},
		"allow privileged for family a\ndeny privileged": {"privileged": "restricted"},
		"allow privileged\ndeny privileged":              {},
		"deny host-path /etc":                            {"host-path": "restricted"},
		"deny host-path /":                               {"host-path": "deny"},
		"warn registry\ndeny registry":                   {"registry": "warn"},
		"deny capability ALL\nwarn docker-sock":          {"capability": "deny", "docker-sock": "warn"},
		"allow registry a.example\ndeny registry *":      {"registry": "restricted"},
	} {
		p := parsed(t, text)
		full := map[string]string{"longshore.policy": p.Digest}
		for class, value := range want {
			full["longshore.policy."+class] = value
		}
		if d := cmp.Diff(full, p.Attributes()); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
}

// The examples that operators copy are policies.
func TestTheDocumentedExamplesAreUnderstood(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(doc), "### The host's own policy")
	_, after, _ = strings.Cut(after, "```\n")
	example, _, _ := strings.Cut(after, "```")
	if p := parsed(t, example); len(p.Rules) < 5 {
		t.Errorf("%d rules in %q", len(p.Rules), example)
	}
	source, err := os.ReadFile("policy.go")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ = strings.Cut(string(source), "//\t# this host")
	_, after, _ = strings.Cut(after, "\n")
	example, _, _ = strings.Cut(after, "//\n")
	if p := parsed(t, strings.ReplaceAll(example, "//\t", "")); len(p.Rules) < 5 {
		t.Errorf("%d rules in %q", len(p.Rules), example)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(shared))
	f.Add([]byte("deny host-path /a?b/[x] rw for image *@sha256:* # x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p", data)
		if err != nil {
			return
		}
		var again strings.Builder
		for _, r := range p.Rules {
			fmt.Fprintln(&again, r.Text)
		}
		q, err := Parse("p", []byte(again.String()))
		if err != nil || len(q.Rules) != len(p.Rules) {
			t.Fatalf("the rules of %q don't read again: %v", data, err)
		}
		p.Evaluate(everything, flat{})
		p.Attributes()
	})
}
