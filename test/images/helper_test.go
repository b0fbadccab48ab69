package images_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/test/images"
)

// credentialHelper puts docker-credential-test into a PATH of its own, and a config.json that names it for a registry. It answers
// with the password in the file that is returned.
func credentialHelper(t *testing.T) (config *imagecache.DockerConfig, name func(registry string), password string) {
	t.Helper()
	dir := t.TempDir()
	password = filepath.Join(dir, "password")
	script := fmt.Sprintf("#!/bin/sh\nread -r reg\nread -r p < %s\necho \"{\\\"ServerURL\\\":\\\"$reg\\\",\\\"Username\\\":\\\"me\\\",\\\"Secret\\\":\\\"$p\\\"}\"\n", password)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.json")
	return imagecache.NewDockerConfig(file, []string{"PATH=" + dir}), func(registry string) {
		write(t, file, fmt.Sprintf(`{"credHelpers": {%q: "test"}}`, registry))
	}, password
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Error(err)
	}
}

func TestDockerPullsWithWhatACredentialHelperAnswersAndAsksItAgainWhenThatIsRefused(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	config, name, password := credentialHelper(t)
	c, registry, _, _ := real(t, imagecache.Config{DockerConfig: config, Behaviour: imagecache.Always, Inactivity: 2 * time.Second, Log: zap.New(core)}) // the engine tries a refused layer again for long
	// The second has more layers than an engine fetches at once: some come after the change.
	first, second := many(t, registry, 3), many(t, registry, 8)
	registry.RequireAuth("me", "planted-first")
	write(t, password, "planted-first\n")
	_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: first})
	if err == nil || !strings.Contains(err.Error(), "no credentials for it are configured") {
		t.Fatalf("without a file: %v", err)
	}
	name(registry.Addr) // as docker login does while the agent runs
	_, release, err := c.Ensure(t.Context(), imagecache.Request{Ref: first})
	if err != nil {
		t.Fatal(err)
	}
	release()
	var blobs atomic.Int32
	registry.Fault(func(_ http.ResponseWriter, req *http.Request) bool {
		if images.Kind(req) == "blobs" && req.Method == http.MethodGet && blobs.Add(1) == 2 { // between two layers
			write(t, password, "planted-second\n")
			registry.RequireAuth("me", "planted-second")
		}
		return false
	})
	var notes []string
	_, release, err = c.Ensure(t.Context(), imagecache.Request{Ref: second, Note: func(n string) { notes = append(notes, n) }})
	if err != nil {
		t.Fatal(err)
	}
	release()
	registry.Fault(nil)
	registry.RequireAuth("me", "another")
	_, _, err = c.Ensure(t.Context(), imagecache.Request{Ref: second})
	if err == nil || !strings.Contains(err.Error(), "check the credentials that docker-credential-test has for "+registry.Addr) {
		t.Errorf("a dead credential: %v", err)
	}
	text := strings.Join(notes, "\n") + fmt.Sprint(err)
	for _, l := range logs.All() {
		text += fmt.Sprint(l.Message, l.ContextMap())
	}
	if strings.Contains(text, "planted") || !strings.Contains(text, "refused the credentials; they were fetched anew") {
		t.Error(text)
	}
}
