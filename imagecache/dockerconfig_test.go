package imagecache

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// dockerHome is a file of Docker's and a PATH of helpers, each a shell script; "$reg" is the registry that it is asked about, and
// each call is a line in the file calls.
type dockerHome struct {
	*DockerConfig
	dir string
}

func newDockerHome(t *testing.T, config string, scripts map[string]string) *dockerHome {
	t.Helper()
	dir := t.TempDir()
	for name, script := range scripts {
		text := fmt.Sprintf("#!/bin/sh\nread -r reg\necho \"$1 $reg $(/usr/bin/env | /usr/bin/grep -c planted)\" >> %s/calls\n%s\n", dir, script)
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(text), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	h := &dockerHome{NewDockerConfig(filepath.Join(dir, "config.json"), []string{"PATH=" + dir}), dir}
	h.write(t, config)
	return h
}

func (h *dockerHome) write(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *dockerHome) calls() []string {
	data, _ := os.ReadFile(filepath.Join(h.dir, "calls"))
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

const answers = `echo "{\"ServerURL\":\"$reg\",\"Username\":\"u\",\"Secret\":\"planted-for $reg\"}"`

func TestDockersFileNamesCredentialsAndHelpers(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", "planted")
	auth := base64.StdEncoding.EncodeToString([]byte("me:planted-auth"))
	h := newDockerHome(t, fmt.Sprintf(`{"auths": {"a.example": {"auth": %q}, "store.example": {"auth": %q}, "b.example": {"auth": 5}, "c.example": {}},
		"credHelpers": {"one.example:5000": "one", "tokens.example": "tokens"}, "credsStore": "all"}`, auth, auth), map[string]string{
		"one": answers, "tokens": `echo '{"Username":"<token>","Secret":"planted-token"}'`,
		"all": `case "$reg" in *a.example|*b.example|*c.example) echo credentials not found in native keychain; exit 1;; esac; ` + answers,
	})
	for repository, want := range map[string]string{
		"one.example:5000/team/app": "u|planted-for one.example:5000||docker-credential-one", "tokens.example/x": "||planted-token|docker-credential-tokens",
		"docker.io/library/app": "u|planted-for https://index.docker.io/v1/||docker-credential-all", "store.example/x": "u|planted-for store.example||docker-credential-all",
		"a.example/x": "me|planted-auth||" + h.path, "c.example/x": "",
	} {
		c, err := h.find(t.Context(), repository, nil)
		got := ""
		if c != nil {
			got = strings.Join([]string{c.Username, c.Password, c.IdentityToken, c.Source}, "|")
		}
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", repository, got, err, want)
		}
	}
	if _, err := h.find(t.Context(), "b.example/x", nil); !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "b.example") {
		t.Error(err)
	}
	for _, call := range h.calls() {
		if !strings.HasPrefix(call, "get ") || !strings.HasSuffix(call, " 0") {
			t.Errorf("a helper was called with %q, or sees the agent's secrets", call)
		}
	}
	if c, err := NewDockerConfig("/nonexistent/config.json", nil).find(t.Context(), "a.example/x", nil); c != nil || err != nil {
		t.Error(c, err)
	}
}

func TestAHelpersAnswerIsKeptUntilItIsRefusedOrTheFileChanges(t *testing.T) {
	h := newDockerHome(t, `{"credsStore": "all"}`, map[string]string{"all": answers, "other": `echo '{"Username":"v","Secret":"planted"}'`})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if c, err := h.find(t.Context(), "r.example/x", nil); err != nil || c.Username != "u" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c, _ := h.find(t.Context(), "r.example/y", nil)
	if n := len(h.calls()); n != 1 {
		t.Errorf("the helper was asked %d times", n)
	}
	if _, err := h.find(t.Context(), "r.example/x", c); err != nil || len(h.calls()) != 2 {
		t.Errorf("%v; asked %d times after a refusal", err, len(h.calls()))
	}
	h.write(t, `{"credsStore": "other"}`)
	if c, err := h.find(t.Context(), "r.example/x", nil); err != nil || c.Username != "v" {
		t.Error(err)
	}
}

func TestAHelperThatHangsCostsAllWhoWaitOneDeadline(t *testing.T) {
	h := newDockerHome(t, `{"credHelpers": {"r.example": "slow"}}`, map[string]string{"slow": fmt.Sprintf(`/bin/sleep 1000 & echo $! > %s/child; wait`, "$(/usr/bin/dirname $0)")})
	h.helpers.deadline = 4 * time.Second
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.find(ctx, "r.example/x", nil); err != context.Canceled { //nolint:errorlint // the very value
		t.Error(err)
	}
	for range 5 {
		wg.Go(func() {
			_, err := h.find(t.Context(), "r.example/x", nil)
			for _, part := range []string{"r.example", "docker-credential-slow", "within 4s", "try: echo r.example | docker-credential-slow get", h.path} {
				if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), part) {
					t.Errorf("%v does not say %s", err, part)
				}
			}
		})
	}
	wg.Wait()
	if n := len(h.calls()); n != 1 {
		t.Errorf("the helper was asked %d times", n)
	}
	data, err := os.ReadFile(filepath.Join(h.dir, "child"))
	var pid int
	if _, serr := fmt.Sscan(string(data), &pid); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(state), ") Z ") || strings.Contains(string(state), ") X ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("what the helper had started runs on: %s", state)
		}
	}
}

func TestABadHelperIsNamedAndShowsNoSecret(t *testing.T) {
	for script, want := range map[string]string{
		`echo no agent runs; exit 3`:                               `failed (exit status 3), saying "no agent runs"`,
		`echo '{"Username":"u","Secret":"planted"'; exit 1`:        "failed (exit status 1);",
		`echo '{"Username":"u","Secret":"planted"'`:                "did not answer {",
		`echo '{"Username":"","Secret":"planted"}'`:                "without a user",
		`/usr/bin/head -c 100000 /dev/zero | /usr/bin/tr '\0' ' '`: "more than 65536 bytes",
	} {
		h := newDockerHome(t, `{"credsStore": "bad"}`, map[string]string{"bad": script})
		_, err := h.find(t.Context(), "r.example/x", nil)
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v, want %s", script, err, want)
		}
	}
	for config, want := range map[string]string{
		`{"credsStore": "../evil"}`: "is not run", `{"credsStore": "absent"}`: "is not in the agent's PATH", `{"credsStore"`: "not JSON from byte", `{"auths": {"r": "planted"}, "credsStore": 5}`: "must be an object",
		`{"auths": {"r.example": {"auth": "planted"}}}`: "user:password", strings.Repeat(" ", 1<<20) + "{}": "more than",
	} {
		_, err := newDockerHome(t, config, nil).find(t.Context(), "r.example/x", nil)
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%.50s: %v, want %s", config, err, want)
		}
	}
}

func FuzzParseDockerConfig(f *testing.F) {
	for _, s := range []string{`{"auths": {"https://r/v1/": {"auth": "dTpw"}, "x": 5}}`, `{"credHelpers": {"r": "h", "": "g"}, "credsStore": "s"}`, `[`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseDockerConfig(data)
		if (file == nil) == (err == nil) {
			t.Errorf("got %v and %v", file, err)
		}
		if file != nil {
			_ = file.helper("docker.io/library/app")
		}
	})
}

func FuzzHelperAnswer(f *testing.F) {
	for _, s := range []string{`{"ServerURL":"r","Username":"u","Secret":"s"}`, `{"Username":"<token>","Secret":"s"}`, `{}`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseHelperAnswer(data)
		if c != nil && (err != nil || c.Password == "" && c.IdentityToken == "") {
			t.Errorf("got credentials and %v", err)
		}
	})
}
