package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/longshore-project/longshore/agent/config"
)

func TestAgentsThatDieOneAfterTheOtherAreStartedEverMoreSlowly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "starts.json")
	synctest.Test(t, func(t *testing.T) {
		s := &starts{file: file, now: time.Now}
		start := func() time.Duration {
			began := time.Now()
			if err := s.begin(t.Context(), func(string) {}); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		for i, want := range []time.Duration{0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60} {
			if got := start(); got != want*time.Second {
				t.Errorf("start %d waited %s, not %ds", i+1, got, want)
			}
		}
		<-time.After(startsWindow)
		if got := start(); got != 0 {
			t.Errorf("after %s of peace it waited %s", startsWindow, got)
		}
		for range quickStarts {
			start()
		}
		s.end()
		if got := start(); got != 0 {
			t.Errorf("after an agent that left in order it waited %s", got)
		}
		if err := os.WriteFile(file, []byte("{broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := start(); got != 0 {
			t.Errorf("with a file that can't be read it waited %s", got)
		}
	})
}

func TestTheHostIsPreparedAndNothingThatIsRightIsChanged(t *testing.T) {
	root, file := t.TempDir(), filepath.Join(t.TempDir(), "ecs.config")
	if err := os.WriteFile(file, []byte("ECS_LOGLEVEL=loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "var/log/ecs"), 0o750); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var said []string
		if err := Prepare(t.Context(), Options{Root: root, Config: config.Options{Environ: []string{"PATH=/nowhere"}, File: file}}, func(line string) { said = append(said, line) }); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(said, "\n"); !strings.Contains(all, "ECS_LOGLEVEL") || !strings.Contains(all, "cgroups: ") {
			t.Errorf("it said %q", all)
		}
	}
	for path, want := range map[string]os.FileMode{"etc/ecs": 0o755, "var/lib/ecs/data": 0o700, "var/log/ecs": 0o750, "run/longshore": 0o755} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info, err)
		}
	}
}
