package imagecache

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCredentialsAreFoundByTheLongestRegistry(t *testing.T) {
	auth := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	docker := `{"https://index.docker.io/v1/": {"username": "hub", "password": "p", "email": "e"}, "r.example:5000": {"username": "host", "password": "p"},
		"https://r.example:5000/team": {"username": "team", "password": "p"}, "R2.example/v2/": {"username": "two", "password": "p"}}`
	dockercfg := fmt.Sprintf(`{"index.docker.io/v1/": {"auth": %q, "email": "e"}, "r.example:5000": {"auth": %q}, "r.example:5000/team": {"auth": %q}, "r2.example": {"auth": %q}}`,
		auth("hub:p"), auth("host:p"), auth("team:p"), auth("two:p"))
	for kind, data := range map[string]string{"docker": docker, "dockercfg": dockercfg} {
		for _, data := range []string{data, `{"auths": ` + data + `, "credsStore": "x"}`} {
			if kind == "docker" && strings.HasPrefix(data, `{"auths`) {
				continue
			}
			k, err := ParseKeyring(kind, data)
			if err != nil {
				t.Fatal(err)
			}
			for ref, want := range map[string]string{
				"app:1": "hub", "org/app": "hub", "docker.io/org/app@sha256:" + strings.Repeat("0", 64): "hub", "r.example:5000/app": "host",
				"r.example:5000/team/app": "team", "r.example:5000/teams/app": "host", "r.example/app": "", "r2.example/app": "two", "evil.r2.example/app": "",
			} {
				n, err := parse(ref)
				if err != nil {
					t.Fatal(err)
				}
				got := ""
				if c := k.find(n.repository); c != nil {
					got = c.Username
				}
				if got != want {
					t.Errorf("%s: %s has the credentials of %q, want %q", kind, ref, got, want)
				}
			}
		}
	}
}

func TestBadCredentialsAreRefusedWithoutShowingThem(t *testing.T) {
	for _, c := range []struct{ kind, data, part string }{
		{"", `{"r": {"username": "secret"}}`, "ECS_ENGINE_AUTH_TYPE is not"},
		{"docker", "", "ECS_ENGINE_AUTH_DATA is not set"},
		{"token", `{"r": "secret"}`, "must be docker or dockercfg"},
		{"docker", `{"r": {"username": secret}}`, "not JSON from byte"},
		{"docker", `{"r": {"username": 5}}`, "not an object of registries"},
		{"docker", `["secret"]`, "not an object of registries"},
		{"docker", `null`, "not an object of registries"},
		{"docker", `{"r": {"password": "secret"}}`, "neither a username nor an auth"},
		{"dockercfg", `{"r": {"auth": "secret"}}`, "user:password"},
		{"dockercfg", `{"r": {"auth": "c2VjcmV0"}}`, "user:password"},
		{"docker", `{"https://": {"username": "secret"}}`, "empty registry"},
		{"docker", strings.Repeat(" ", 2<<20) + "{}", "more than"},
	} {
		_, err := ParseKeyring(c.kind, c.data)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.part) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s %.40s: got %v, want %q", c.kind, c.data, err, c.part)
		}
	}
	if k, err := ParseKeyring("", ""); k != nil || err != nil {
		t.Errorf("no credentials: %v, %v", k, err)
	}
	if k, err := ParseKeyring("dockercfg", `{"auths": {"r.example": {}}}`); err != nil || k.find("r.example/app") != nil {
		t.Errorf("an entry that a credential store has emptied: %v, %v", k, err)
	}
}

func TestMarshalledCredentialsShowNothing(t *testing.T) {
	text, err := json.Marshal(map[string]any{"c": Credentials{Username: "secret", Password: "secret"}, "p": &Credentials{Password: "secret"}})
	if err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("got %s, %v", text, err)
	}
}

func FuzzParseKeyring(f *testing.F) {
	for _, s := range []string{`{"r": {"username": "u", "password": "p"}}`, `{"auths": {"https://r/v1/": {"auth": "dTpw"}}}`, `{"": {}}`, `[`, `{"a": null}`} {
		f.Add("docker", s)
		f.Add("dockercfg", s)
	}
	f.Fuzz(func(t *testing.T, kind, data string) {
		k, err := ParseKeyring(kind, data)
		if err != nil {
			if k != nil || !errdefs.IsInvalidArgument(err) {
				t.Errorf("got %v and %v", k, err)
			}
			return
		}
		_ = k.find("docker.io/library/app")
	})
}
