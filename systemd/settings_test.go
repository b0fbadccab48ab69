package systemd_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// setting is what a unit must have: the values of a key in a section, all of them. Where none are given there must be none.
type setting struct {
	unit, section, key string
	values             []string
}

func set(unit, section, key string, values ...string) setting {
	return setting{unit, section, key, values}
}

// settings are what is promised of the units.
var settings = []setting{
	// Ready is who says so; who does not go round any more is ended and started again, always, with waits that grow: the agent's by prepare.
	set("longshore-agent.service", "Service", "Type", "notify"),
	set("longshore-agent.service", "Service", "NotifyAccess", "main"),
	set("longshore-agent.service", "Service", "WatchdogSec", "60s"),
	set("longshore-agent.service", "Service", "Restart", "always"),
	set("longshore-agent.service", "Service", "RestartSec", "1s"),
	set("longshore-agent.service", "Service", "RestartSteps"),
	set("longshore-agent.service", "Service", "RestartPreventExitStatus", "5"),
	set("longshore-agent.service", "Service", "ExecStartPre", "+/usr/bin/longshore-agent prepare"),
	set("longshore-agent.service", "Service", "ExecStart", "/usr/bin/longshore-agent run"),
	set("longshore-agent.service", "Service", "ExecReload", "/bin/kill -HUP $MAINPID"),
	set("longshore-agent.service", "Unit", "StartLimitIntervalSec", "0"),
	// After the engines, and not with them: their end is not the agent's.
	set("longshore-agent.service", "Unit", "After", "network-online.target", "docker.service", "containerd.service", "time-sync.target", "nss-lookup.target", "cloud-final.service", "sysinit.target", "basic.target"),
	set("longshore-agent.service", "Unit", "Wants", "network-online.target", "longshore-drain.service"),
	set("longshore-agent.service", "Unit", "Requires", "sysinit.target"),
	set("longshore-agent.service", "Unit", "Requisite"),
	set("longshore-agent.service", "Unit", "BindsTo"),
	set("longshore-agent.service", "Unit", "PartOf"),
	set("longshore-agent.service", "Unit", "ConditionPathExists", "/etc/ecs/ecs.config"),
	// What it has started outlives it.
	set("longshore-agent.service", "Service", "KillMode", "process"),
	set("longshore-agent.service", "Service", "Delegate", "yes"),
	set("longshore-agent.service", "Service", "TasksMax", "infinity"),
	// It is the last that goes when memory is short.
	set("longshore-agent.service", "Service", "OOMScoreAdjust", "-900"),
	set("longshore-agent.service", "Service", "Slice", "longshore.slice"),
	set("longshore.slice", "Slice", "MemoryMin", "64M"),
	set("longshore.slice", "Slice", "MemoryMax"),
	set("longshore.slice", "Slice", "MemoryHigh"),
	set("longshore-agent.service", "Service", "LoadCredential", "longshore-agent.config"),
	set("longshore-agent.service", "Install", "WantedBy", "multi-user.target"),
	set("longshore-agent.service", "Install", "Alias", "ecs.service"),

	set("longshore-control.service", "Service", "Type", "notify"),
	set("longshore-control.service", "Service", "NotifyAccess", "main"),
	set("longshore-control.service", "Service", "WatchdogSec", "60s"),
	set("longshore-control.service", "Service", "Restart", "always"),
	set("longshore-control.service", "Service", "RestartSec", "2s"),
	set("longshore-control.service", "Service", "RestartSteps", "5"),
	set("longshore-control.service", "Service", "RestartMaxDelaySec", "20s"),
	set("longshore-control.service", "Service", "RestartPreventExitStatus", "2"),
	set("longshore-control.service", "Unit", "StartLimitIntervalSec", "0"),
	set("longshore-control.service", "Unit", "After", "network-online.target", "time-sync.target", "nss-lookup.target"),
	set("longshore-control.service", "Unit", "Requires"),
	set("longshore-control.service", "Unit", "BindsTo"),
	set("longshore-control.service", "Service", "User", "longshore"),
	set("longshore-control.service", "Service", "OOMScoreAdjust", "-500"),
	set("longshore-control.service", "Service", "Slice", "longshore.slice"),
	set("longshore-control.service", "Service", "LoadCredential", "longshore-control.seal-key", "longshore-control.tls-cert", "longshore-control.tls-key"),
	set("longshore-control.service", "Service", "StateDirectory", "longshore"),

	set("longshore-drain.service", "Unit", "After", "longshore-agent.service", "docker.service", "containerd.service", "network-online.target", "nss-lookup.target", "time-sync.target"),
	set("longshore-drain.service", "Unit", "Requires"),
	set("longshore-drain.service", "Unit", "BindsTo"),
	set("longshore-drain.service", "Unit", "PartOf"),
	set("longshore-drain.service", "Service", "ExecStop", "/usr/bin/longshore-agent depart --at-shutdown"),
}

// lists are the keys whose values are words: their order means nothing, and they may be on several lines.
var lists = []string{"After", "Wants", "Requires", "Requisite", "BindsTo", "PartOf"}

// wrong says what a unit's text has otherwise than promised.
func (s setting) wrong(text string) error {
	var section string
	var got []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
		}
		key, v, is := strings.Cut(line, "=")
		switch {
		case !is || section != s.section || key != s.key:
		case slices.Contains(lists, key):
			got = append(got, strings.Fields(v)...)
		default:
			got = append(got, v)
		}
	}
	want := slices.Sorted(slices.Values(s.values))
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s: [%s] %s is %q, not %q", s.unit, s.section, s.key, got, want)
	}
	return nil
}

func unit(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheUnitsHaveWhatIsPromised(t *testing.T) {
	for _, s := range settings {
		if err := s.wrong(unit(t, s.unit)); err != nil {
			t.Error(err)
		}
	}
}

// TestAUnitThatHasItOtherwiseIsFound changes each promised thing in each way: its line is not there, has another value, is there where it must
// not be, or in another section.
func TestAUnitThatHasItOtherwiseIsFound(t *testing.T) {
	for _, s := range settings {
		text := unit(t, s.unit)
		mutants := map[string]string{
			"with one more": strings.Replace(text, "["+s.section+"]\n", "["+s.section+"]\n"+s.key+"=docker.socket\n", 1),
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, s.key+"=") && len(s.values) > 0 {
				mutants["without "+line] = strings.Replace(text, line, "", 1)
				mutants["with another value of "+line] = strings.Replace(text, line, strings.TrimSpace(line)+"0\n", 1)
				mutants["with an inactive "+line] = strings.Replace(text, line, "#"+line, 1)
				mutants["with a misplaced "+line] = strings.Replace(text, line, "", 1) + "[Elsewhere]\n" + line
			}
		}
		if len(s.values) > 0 && len(mutants) < 5 {
			t.Errorf("%s has no line of %s", s.unit, s.key)
		}
		for what, mutant := range mutants {
			if s.wrong(mutant) == nil {
				t.Errorf("%s %s is not found", s.unit, what)
			}
		}
	}
}
