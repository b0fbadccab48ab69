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
	out, err := tryAnalyze(t, dir, args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// tryAnalyze is what systemd-analyze says.
func tryAnalyze(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("%v; install it with: apt-get install -y systemd", err)
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "SYSTEMD_COLORS=0", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
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
	for _, u := range []string{"longshore-agent.service", "longshore-control.service", "longshore-drain.service"} {
		// It exits with 0 on unknown keys: what it prints counts, but for those that are later than Debian 12's systemd.
		out := regexp.MustCompile(`(?m)^.*Unknown key '(RestartSteps|RestartMaxDelaySec)' in section \[Service\], ignoring\.\n?`).ReplaceAllString(analyze(t, dir, "verify", "--man=no", "./"+u), "")
		if strings.TrimSpace(out) != "" {
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

func TestTheAgentIsOrderedAfterCloudInitWithoutACycle(t *testing.T) {
	dir := copied(t)
	for name, text := range map[string]string{ // as Debian's cloud-init 22.4 and systemd have them, as far as order goes
		"cloud-final.service": "[Unit]\nAfter=network-online.target multi-user.target\n[Service]\nType=oneshot\nExecStart=/bin/true\n",
		"cloud-init.target":   "[Unit]\nAfter=multi-user.target\nWants=cloud-final.service\n",
		"multi-user.target":   "[Unit]\nRequires=basic.target\nAfter=basic.target\nWants=longshore-agent.service cloud-init.target\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() (string, error) {
		return tryAnalyze(t, dir, "verify", "--man=no", "./multi-user.target", "./cloud-init.target", "./cloud-final.service", "./longshore-agent.service")
	}
	if out, err := verify(); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%v: %s", err, out)
	}
	file := filepath.Join(dir, "longshore-agent.service")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, regexp.MustCompile(`(?m)^DefaultDependencies=no$`).ReplaceAll(text, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil && !strings.Contains(out, "ordering cycle") {
		t.Errorf("with the default dependencies there would be a cycle, and systemd-analyze does not see it: %q", out)
	}
}
