// Package systemd_test holds the units to what systemd's own tools say of them.
package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// units are the services, with the most exposure that they may have (systemd-analyze security, 0 to 10). What the agent has beyond 4.0
// is said in its unit, each with its reason.
var units = map[string]float64{"longshore-agent.service": 5.8, "longshore-control.service": 1.5}

func analyze(t *testing.T, dir string, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("%v; install it with: apt-get install -y systemd", err)
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "SYSTEMD_COLORS=0", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// copied are the units in a folder of their own, with programs that exist here: systemd-analyze looks for them.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob("*.s*")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`/usr/bin/longshore-\w+`).ReplaceAll(text, []byte("/bin/true"))
		if err := os.WriteFile(filepath.Join(dir, f), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSystemdHasNothingToSayAgainstTheUnits(t *testing.T) {
	dir := copied(t)
	for u := range units {
		// It exits with 0 on unknown keys: what it prints counts.
		if out := analyze(t, dir, "verify", "--man=no", "./"+u); strings.TrimSpace(out) != "" {
			t.Errorf("%s:\n%s", u, out)
		}
	}
}

func TestTheUnitsAreNoMoreExposedThanIsSaid(t *testing.T) {
	for u, most := range units {
		out := analyze(t, ".", "security", "--no-pager", "--offline=true", "./"+u)
		found := regexp.MustCompile(`exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatal(out)
		}
		if level, err := strconv.ParseFloat(found[1], 64); err != nil || level > most {
			t.Errorf("%s has an exposure level of %s, and may have %.1f:\n%s", u, found[1], most, out)
		}
	}
}
