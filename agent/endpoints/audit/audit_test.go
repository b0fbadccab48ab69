package audit

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestALineIsECSsAndAClientCanNotForgeOne(t *testing.T) {
	var b buffer
	arn := ""
	l := New(&b, func() (string, string) { return "prod", arn })
	l.now = func() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.FixedZone("x", 3600)) }
	for _, e := range []Entry{
		{Status: 200, Client: "172.17.0.2:40000", Path: "/v2/credentials", UserAgent: "aws-sdk-go/2", TaskArn: "arn:task", Event: GetCredentials},
		{Status: 400, Client: "172.17.0.2:40000", Path: "/v2/credentials", UserAgent: "x\" y\n2026 200 forged", Event: GetCredentialsInvalidRole},
		{Status: 429, Client: "172.17.0.2:1", Path: "/v4", UserAgent: strings.Repeat("é", 200)},
	} {
		if err := l.Write(e); err != nil {
			t.Fatal(err)
		}
		arn = "arn:instance"
	}
	lines := strings.Split(b.String(), "\n")
	for i, want := range []string{
		`2026-11-20T11:00:00Z 200 172.17.0.2:40000 "/v2/credentials" "aws-sdk-go/2" arn:task GetCredentials 2 prod -`,
		`2026-11-20T11:00:00Z 400 172.17.0.2:40000 "/v2/credentials" "x\" y\n2026 200 forged" - GetCredentialsInvalidRoleType 2 prod arn:instance`,
		`2026-11-20T11:00:00Z 429 172.17.0.2:1 "/v4" "` + strings.Repeat(`\u00e9`, 128) + `" - - 2 prod arn:instance`, "",
	} {
		if lines[i] != want {
			t.Errorf("line %d is\n%s, not\n%s", i, lines[i], want)
		}
	}
	if err := (*Log)(nil).Write(Entry{}); err != nil || (*Log)(nil).Close() != nil {
		t.Error("no log is an error")
	}
}
