package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDoctorLooksAtEverythingElseWhenTheConfigurationNamesNoControlPlane(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers": {"r.example": "absent"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []string
		says string
	}{
		"none":             {nil, "neither ECS_BACKEND_HOST nor AWS_DEFAULT_REGION is set"},
		"an unreadable CA": {[]string{"ECS_BACKEND_HOST=https://127.0.0.1:1", "AWS_CA_BUNDLE=" + dir + "/absent.pem"}, "absent.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t, nil)
			h.env = append(slices.DeleteFunc(h.env, func(v string) bool {
				return strings.HasPrefix(v, "ECS_BACKEND_HOST=") || strings.HasPrefix(v, "AWS_DEFAULT_REGION=")
			}), append(c.env, "DOCKER_CONFIG="+dir, `ECS_ENGINE_AUTH_TYPE=docker`, `ECS_ENGINE_AUTH_DATA={"a.example":{"username":"u","password":"planted"}}`)...)
			r, err := Doctor(t.Context(), h.options())
			if err != nil {
				t.Fatal(err)
			}
			var seen []string
			for _, check := range r.Checks {
				seen = append(seen, fmt.Sprintf("%s %s: %s", check.Verdict, check.Name, check.Says))
			}
			all := strings.Join(seen, "\n")
			for _, want := range []string{"FAIL control plane: there is no way to it: ", c.says, "OK engine: ", "disk", "FAIL registries: docker-credential-absent is not in the agent's PATH", "OK registries: ECS_ENGINE_AUTH_DATA has credentials for a.example"} {
				if !strings.Contains(all, want) {
					t.Errorf("%q is not in\n%s", want, all)
				}
			}
			if strings.Contains(all, "planted") {
				t.Error("a password is shown")
			}
		})
	}
}
