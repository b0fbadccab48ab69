package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnEnvironmentFileIsReadAsSystemdReadsIt(t *testing.T) {
	cases := []struct {
		name, in string
		want     []Assignment
		warnings []string
	}{
		{name: "plain", in: "A=b\nC=d", want: []Assignment{{"A", "b", 1}, {"C", "d", 2}}},
		{name: "comments and empty lines", in: "# x=y\n\n;z=1\n  # indented\nA=b\n", want: []Assignment{{"A", "b", 5}}},
		{name: "blanks around key and value", in: "  A =  b c \t\n", want: []Assignment{{"A", "b c", 1}}},
		{name: "json without quotes", in: `ECS_AVAILABLE_LOGGING_DRIVERS=["json-file","awslogs"]` + "\n", want: []Assignment{{"ECS_AVAILABLE_LOGGING_DRIVERS", `["json-file","awslogs"]`, 1}}},
		{name: "json in single quotes", in: `A='{"env":"prod"}'` + "\n", want: []Assignment{{"A", `{"env":"prod"}`, 1}}},
		{name: "json in double quotes", in: `A="{\"env\":\"a\\b\"}"` + "\n", want: []Assignment{{"A", `{"env":"a\b"}`, 1}}},
		{name: "other escapes in double quotes stay", in: `A="\n\$x"` + "\n", want: []Assignment{{"A", `\n$x`, 1}}},
		{name: "quoted values keep their blanks", in: "A=' b '\n", want: []Assignment{{"A", " b ", 1}}},
		{name: "a line is joined to the next", in: "A=b\\\nc\nD=e\n", want: []Assignment{{"A", "bc", 1}, {"D", "e", 3}}},
		{name: "a quoted value spans lines", in: "A=\"b\nc\"\nD=e\n", want: []Assignment{{"A", "b\nc", 1}, {"D", "e", 3}}},
		{name: "an equals sign in the value", in: "A=b=c\n", want: []Assignment{{"A", "b=c", 1}}},
		{name: "a hash in the value", in: "A=b#c\n", want: []Assignment{{"A", "b#c", 1}}},
		{name: "windows line ends", in: "A=b\r\nC=d\r\n", want: []Assignment{{"A", "b", 1}, {"C", "d", 2}}},
		{name: "empty value", in: "A=\nB=''\n", want: []Assignment{{"A", "", 1}, {"B", "", 2}}},
		{name: "a later one comes later", in: "A=1\nA=2", want: []Assignment{{"A", "1", 1}, {"A", "2", 2}}},
		{name: "no equals sign", in: "A\nB=c\n", want: []Assignment{{"B", "c", 2}}, warnings: []string{"line 1 has no '=' and is ignored"}},
		{name: "export", in: "export A=b\n", warnings: []string{`line 1 begins with "export", which this file must not, and is ignored: write A=…`}},
		{name: "bad name", in: "1A=b\n=x\n", warnings: []string{`line 1 has "1A" before the '=', which is no variable name, and is ignored`, `line 2 has "" before the '=', which is no variable name, and is ignored`}},
		{name: "open quote", in: "A='b\nC=d\n", warnings: []string{"line 1 opens a quote that is never closed and is ignored"}},
		{name: "not utf-8", in: "A=\xff\nB=c\n", want: []Assignment{{"B", "c", 2}}, warnings: []string{"line 1 holds bytes that are not UTF-8, or a NUL, and is ignored"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, warnings := ParseEnvFile([]byte(c.in))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("assignments (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.warnings, warnings); d != "" {
				t.Errorf("warnings (-want +got):\n%s", d)
			}
		})
	}
}

func FuzzEnvFile(f *testing.F) {
	for _, s := range []string{"A=b\n", "A='x'\nB=\"y\\\"\"\n", "# c\nA=b\\\nc", "export A=1", "A=\xff", "A=['\x00']"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, _ := ParseEnvFile(data)
		for _, a := range out {
			if !validKey(a.Key) {
				t.Fatalf("key %q is no variable name", a.Key)
			}
			if a.Line < 1 || a.Line > strings.Count(string(data), "\n")+1 {
				t.Fatalf("line %d is not in the file", a.Line)
			}
			// What is read can be written in single quotes and read back the same.
			if strings.ContainsRune(a.Value, '\'') {
				continue
			}
			again, warnings := ParseEnvFile([]byte(a.Key + "='" + a.Value + "'\n"))
			if len(warnings) != 0 || len(again) != 1 || again[0].Value != a.Value {
				t.Fatalf("%q read back as %v %v", a.Value, again, warnings)
			}
		}
	})
}
