package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/agent/config"
)

// command runs a command line.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err, nil)
	return code, out.String(), err.String()
}

func TestTheFlagsOfTheAmazonECSAgentWorkAsCommands(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"-version"}, {"--version"}} {
		if code, out, _ := command(t, args...); code != 0 || !strings.HasPrefix(out, "Longshore Agent - v"+release()+" (") {
			t.Errorf("%v: %d %q", args, code, out)
		}
	}
	if code, out, _ := command(t, "-license"); code != 0 || !strings.Contains(out, "Apache License") {
		t.Errorf("%d %q", code, out)
	}
}

func TestSettingsListsEverySetting(t *testing.T) {
	code, out, _ := command(t, "settings")
	if code != 0 {
		t.Fatal(code)
	}
	for i := range config.Knobs {
		if !strings.Contains(out, config.Knobs[i].Name+"\n") {
			t.Errorf("%s is missing", config.Knobs[i].Name)
		}
	}
}

func TestACommandLineThatIsWrongExitsWithOneAndSaysWhy(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"run", "more"}, {"run", "--nonsense"}, {"run", "--config", "/does/not/exist"}} {
		code, _, stderr := command(t, args...)
		want := 1
		if args[len(args)-1] == "/does/not/exist" {
			want = 5
		}
		if code != want || !strings.HasPrefix(stderr, "longshore-agent: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d %q", args, code, stderr)
		}
	}
}

func TestAConfigurationThatMustNotBeGuessedExitsWithFive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ecs.config")
	if err := os.WriteFile(file, []byte("ECS_INSTANCE_ATTRIBUTES={\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := command(t, "run", "--config", file)
	if code != 5 || !strings.Contains(stderr, "ECS_INSTANCE_ATTRIBUTES") {
		t.Errorf("%d %q", code, stderr)
	}
}

func TestTheHealthCheckFollowsTheAgentsAnswer(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	if err := healthcheck(t.Context(), server.URL); err != nil {
		t.Error(err)
	}
	status = http.StatusInternalServerError
	if err := healthcheck(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "500") {
		t.Error(err)
	}
	server.Close()
	if err := healthcheck(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

// The agent runs on every host; what it links is paid for on each.
func TestTheBinaryIsLight(t *testing.T) {
	const most = 24 << 20
	name := filepath.Join(t.TempDir(), "longshore-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", name, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if info, err := os.Stat(name); err != nil || info.Size() > most {
		t.Errorf("the binary has %d bytes, more than %d: %v", info.Size(), most, err)
	}
}
