package doctor

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/longshore-project/longshore/agent/dropin/dropintest"
)

func TestAnAmazonECSAgentIsSeenWhetherItRunsOrRan(t *testing.T) {
	check := func(p *Patient) *Check {
		r := p.Examine(t.Context())
		i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == "amazon-ecs-agent" })
		if i < 0 {
			return nil
		}
		return &r.Checks[i]
	}
	p := well(t)
	if c := check(p); c != nil {
		t.Errorf("it was never here: %+v", c)
	}
	path := dropintest.Write(t, p.Config.DataDir, "c", "arn:aws:ecs:us-west-2:123456789012:container-instance/c/i")
	if c := check(p); c == nil || c.Verdict != OK || !strings.Contains(c.Says, "1.105.1") || !strings.Contains(c.Says, "taken over") {
		t.Errorf("%+v", c)
	}
	p.Config.Predecessor = "leave"
	if c := check(p); c == nil || c.Verdict != OK || !strings.Contains(c.Says, "left alone") {
		t.Errorf("%+v", c)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if c := check(p); c == nil || c.Verdict != Fail || !strings.Contains(c.Mend, "systemctl disable --now ecs") {
		t.Errorf("%+v", c)
	}
}
