package imagecache

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestALookAtDockersFileCallsItsHelpersAndShowsNoSecret(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("me:planted-auth"))
	h := newDockerHome(t, fmt.Sprintf(`{"auths": {"a.example": {"auth": %q}, "b.example": {"auth": 5}},
		"credHelpers": {"one.example": "good", "two.example": "mute", "three.example": "absent", "four.example": "refuses", "five.example": "good"}, "credsStore": "all"}`, auth), map[string]string{
		"good": `echo '{"https://one.example": "planted-user"}'`, "mute": "/bin/sleep 1000", "refuses": "echo not implemented; exit 1", "all": "echo planted-by-the-helper {; exit 1",
	})
	h.helpers.deadline = time.Second
	if err := os.Chmod(h.path, 0o644); err != nil { //nolint:gosec // that is the fault
		t.Fatal(err)
	}
	got := map[string]Finding{}
	var all string
	for _, f := range h.Examine(t.Context()) {
		got[f.Source+map[bool]string{true: " dead"}[f.Dead]] = f
		all += fmt.Sprintf("%+v\n", f)
	}
	for source, says := range map[string]string{
		h.path:                          "has credentials for a.example, and names docker-credential-all, docker-credential-",
		h.path + " dead":                "has credentials for b.example that can't be read",
		"docker-credential-good":        "answers, in ",
		"docker-credential-refuses":     `asked for a list it failed (exit status 1), saying "not implemented"`,
		"docker-credential-all":         "asked for a list it failed (exit status 1)",
		"docker-credential-mute dead":   "did not answer within 1s and was killed; pulls of its registries fail",
		"docker-credential-absent dead": "is not in the agent's PATH",
	} {
		if f, ok := got[source]; !ok || !strings.Contains(f.Says, says) {
			t.Errorf("%s: %+v, want %s", source, f, says)
		}
	}
	if len(got) != 7 || strings.Contains(all, "planted") || got[h.path].Mend != "chmod 600 "+h.path || got["docker-credential-mute dead"].Mend == "" {
		t.Error(all)
	}
	for _, call := range h.calls() {
		if !strings.HasPrefix(call, "list ") {
			t.Errorf("a helper was called with %q", call)
		}
	}
}

func TestALookAtSourcesThatAreNotThereOrBroken(t *testing.T) {
	var none *DockerConfig
	var empty *Keyring
	if none.Examine(t.Context()) != nil || empty.Examine() != nil {
		t.Error("what is not there has something to say")
	}
	absent := NewDockerConfig(filepath.Join(t.TempDir(), "config.json"), nil).Examine(t.Context())
	if len(absent) != 1 || absent[0].Dead || !strings.Contains(absent[0].Says, "is not there") {
		t.Errorf("%+v", absent)
	}
	broken := newDockerHome(t, `{"auths": planted`, nil).Examine(t.Context())
	if len(broken) != 1 || !broken[0].Dead || !strings.Contains(broken[0].Says, "not JSON from byte") || strings.Contains(broken[0].Says, "planted") {
		t.Errorf("%+v", broken)
	}
	keyring, err := ParseKeyring("docker", `{"r.example": {"username": "u", "password": "planted"}, "https://index.docker.io/v1/": {"username": "u", "password": "planted"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := keyring.Examine(); len(got) != 1 || got[0].Says != "has credentials for docker.io, r.example" && got[0].Says != "has credentials for r.example, docker.io" {
		t.Errorf("%+v", got)
	}
}
