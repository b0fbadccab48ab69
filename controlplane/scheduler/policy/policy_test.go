package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tags(pairs ...string) (out []types.Tag) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, types.Tag{Key: aws.String(pairs[i]), Value: aws.String(pairs[i+1])})
	}
	return out
}

func TestOnlyKnownTagsWithKnownValuesAreWritten(t *testing.T) {
	for _, c := range []struct{ key, value, refused string }{
		{"team", "anything", ""},
		{DaemonGate, "90s", ""}, {DaemonGate, "off", ""}, {DaemonReserve, "off", ""}, {MakeRoom, "true", ""}, {LostHost, "keep", ""},
		{DrainStandalone, "stop", ""}, {DrainStandalone, "10m", ""}, {DrainDeadline, "1h", ""}, {DrainAtDeadline, "abandon", ""},
		{DaemonGate, "-1s", "a positive duration such as 90s"}, {DaemonGate, "", "it may be off"}, {DaemonReserve, "5m", "it may be on, off"},
		{"longshore:gate", "5m", "longshore:daemon-gate, longshore:daemon-reserve"},
	} {
		err := Check(c.key, c.value)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s=%s: %v, want %q", c.key, c.value, err, c.refused)
		}
	}
}

func TestATagOnWhatItIsNotForIsRefused(t *testing.T) {
	for _, c := range []struct {
		key     string
		on      On
		refused string
	}{
		{"team", OnInstance, ""}, {DaemonGate, OnCluster, ""}, {DaemonGate, OnDaemon, ""}, {DaemonSurge, OnDaemon, ""}, {LostHost, OnReplica, ""}, {DrainDeadline, OnInstance, ""},
		{DaemonSurge, OnReplica, "the tag longshore:daemon-surge does nothing for services of the scheduling strategy REPLICA; it is for services of the scheduling strategy DAEMON"},
		{MakeRoom, OnReplica, "does nothing for services of the scheduling strategy REPLICA"}, {LostHost, OnDaemon, "it is for clusters, services of the scheduling strategy REPLICA"},
		{PrepareImages, OnDaemon, "does nothing for services of the scheduling strategy DAEMON"}, {DrainDeadline, OnReplica, "it is for clusters, container instances"},
		{DaemonReserve, OnInstance, "does nothing for container instances; it is for clusters"}, {DaemonSurge, OnCluster, "does nothing for clusters"},
	} {
		err := Misplaced(tags("name", "x", c.key, "true"), c.on)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s on %d: %v, want %q", c.key, c.on, err, c.refused)
		}
	}
}

func TestTheNearestTagDecidesAndBadOnesDoNot(t *testing.T) {
	for name, c := range map[string]struct {
		cluster, service []types.Tag
		want             time.Duration
	}{
		"nobody says":                         {nil, nil, 2 * time.Minute},
		"the service says":                    {tags(DaemonGate, "1m"), tags(DaemonGate, "5s"), 5 * time.Second},
		"the cluster says":                    {tags(DaemonGate, "1m"), nil, time.Minute},
		"the service is out":                  {nil, tags(DaemonGate, "off"), 0},
		"the cluster has none":                {tags(DaemonGate, "off"), tags(DaemonGate, "5s"), 0},
		"a value that slipped through":        {tags(DaemonGate, "1m"), tags(DaemonGate, "soon"), time.Minute},
		"a key of somebody else is not asked": {nil, tags("daemon-gate", "5s"), 2 * time.Minute},
	} {
		if got := Gate(c.cluster, c.service); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if d := Draining(nil, nil); d != (Drain{Standalone: -1}) {
		t.Errorf("a drain without tags waits for ever, as on ECS; got %+v", d)
	}
	if d := Draining(tags(DrainStandalone, "stop", DrainDeadline, "1h"), tags(DrainStandalone, "10m", DrainAtDeadline, "abandon")); d != (Drain{10 * time.Minute, time.Hour, true}) {
		t.Errorf("got %+v", d)
	}
	if !Reserves(nil) || Reserves(tags(DaemonReserve, "off")) || MakesRoom(nil) || !MakesRoom(tags(MakeRoom, "true")) {
		t.Error("room is kept unless that is off, and made only on request")
	}
	if LostAfter(tags(LostHost, "5m"), tags(LostHost, "keep")) != 0 || LostAfter(tags(LostHost, "5m"), nil) != 5*time.Minute {
		t.Error("a service that keeps its tasks overrides its cluster")
	}
}
