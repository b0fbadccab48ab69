package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/agent/local"
)

// cleans runs clean-instance on this host.
func (h *testHost) cleans(out io.Writer, change func(*CleanOptions)) error {
	h.t.Helper()
	h.env = append(h.env, "ECS_AUDIT_LOGFILE="+filepath.Join(h.dir, "audit.log"))
	opt := CleanOptions{Options: h.options(), Out: out}
	if change != nil {
		change(&opt)
	}
	return CleanInstance(h.t.Context(), opt)
}

// files are those below the state directory.
func (h *testHost) files() (names []string) {
	h.t.Helper()
	if err := filepath.WalkDir(h.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, h.dir+"/"))
		}
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return names
}

func TestTwoMachinesFromOneCleanedImageAreTwoInstances(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := h.cleans(io.Discard, nil); err == nil || !strings.Contains(err.Error(), "an agent runs, process ") || !strings.Contains(err.Error(), "systemctl stop longshore-agent.service") {
		t.Errorf("with an agent that runs: %v", err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	if err := os.WriteFile(filepath.Join(h.dir, "agent.log-2026-01-01T00-00-00.000"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(h.dir, imagesName)
	if err := os.WriteFile(kept, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}

	var out bytes.Buffer
	if err := h.cleans(&out, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.files(); !slices.Equal(got, []string{"ecs.config", imagesName}) {
		t.Errorf("left: %q", got)
	}
	if states, err := h.engine.List(t.Context()); err != nil || len(states) != 0 {
		t.Errorf("containers: %v %v", states, err)
	}
	if _, err := h.engine.Image(t.Context(), "web:1"); err != nil {
		t.Errorf("the image: %v", err)
	}
	for _, line := range []string{"removed 1 of tasks", "removed " + filepath.Join(h.dir, "identity.json"), "removed " + filepath.Join(h.dir, "agent.log"), "left: " + filepath.Join(h.dir, "ecs.config"), "--machine-id empties it"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("it does not say %q:\n%s", line, out.String())
		}
	}
	out.Reset()
	if err := h.cleans(&out, func(o *CleanOptions) { o.Settings, o.MachineID = true, true }); err != nil {
		t.Fatal(err)
	}
	if got := h.files(); !slices.Equal(got, []string{imagesName}) {
		t.Errorf("left: %q, and said:\n%s", got, out.String())
	}
	if id, err := os.ReadFile(filepath.Join(h.root, "etc/machine-id")); err != nil || len(id) != 0 {
		t.Errorf("the machine id: %q %v", id, err)
	}
	out.Reset()
	if err := h.cleans(&out, func(o *CleanOptions) { o.Settings = true }); err != nil || out.String() != "removed "+filepath.Join(h.dir, "ecs.config")+"\n" { // which options() has written
		t.Errorf("again: %v\n%s", err, out.String())
	}

	other := newTestHost(t, c) // the image, started twice
	other.root = hostRoot(t, map[string]string{"etc/machine-id": "ffffffffffffffffffffffffffffffff\n"})
	h.root = hostRoot(t, nil)
	leave = h.start()
	c.expect("register <nil> as " + second)
	leaveOther := other.start()
	c.expect("register <nil> as " + strings.TrimSuffix(second, "2") + "3")
	if err := errors.Join(leave(), leaveOther()); err != nil {
		t.Fatal(err)
	}
}

// cutOff takes so many writes.
type cutOff struct{ left int }

func (w *cutOff) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestACleaningThatWasEndedAnywhereIsGoneOnWithAndNoAgentStartsInBetween(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	for n := range 8 {
		leave := h.start()
		c.expect("connected " + first[:len(first)-1] + string(rune('1'+n)))
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		err := h.cleans(&cutOff{n}, nil)
		if err == nil && n < 4 {
			t.Fatalf("after %d lines it was not ended", n)
		}
		if err != nil {
			if err := h.run(); err == nil || !strings.Contains(err.Error(), "finish that with") || !errors.As(err, new(*TerminalError)) {
				t.Errorf("after %d lines: %v", n, err)
			}
		}
		if err := h.cleans(io.Discard, nil); err != nil {
			t.Fatal(err)
		}
		if got := h.files(); slices.ContainsFunc(got, func(f string) bool { return f != "ecs.config" && f != imagesName && f != pulledName }) {
			t.Errorf("after %d lines and a second time: %q", n, got)
		}
	}
}

func TestContainersThatCanNotBeRemovedAreSaidAndDisowned(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	h.engine.Down()
	if err := h.cleans(io.Discard, nil); err == nil || !strings.Contains(err.Error(), "--without-engine") {
		t.Errorf("%v", err)
	}
	if err := h.cleans(io.Discard, func(o *CleanOptions) { o.WithoutEngine = true }); err != nil {
		t.Fatal(err)
	}
	h.engine.Up()
	if states, err := h.engine.List(t.Context()); err != nil || len(states) != 1 || h.engine.Stop(t.Context(), states[0].ID, 0) != nil {
		t.Fatal(states, err)
	}
	leave = h.start()
	got := c.expect("register <nil> as "+second, "connected "+second)
	h.untilLogged("it came with this machine's image")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if got = append(got, c.quiet()...); slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, task1) }) {
		t.Errorf("%q", got)
	}
}

// written is the error of writing a text.
func written(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func TestPreloadedImagesAreThereBeforeTheHostRegistersAndStay(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	dir := filepath.Join(h.dir, "images")
	h.env = append(h.env, "ECS_IMAGE_PRELOAD_DIR="+dir)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range map[string]string{"c.json": "{}", "manifest.json": `[{"Config":"c.json","RepoTags":["preloaded:1"],"Layers":[]}]`} {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o600}), written(w, text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "a.tar"), archive.Bytes(), 0o600), os.WriteFile(filepath.Join(dir, "b.tar"), []byte("damaged"), 0o600)); err != nil {
		t.Fatal(err)
	}
	h.engine.Hang("Load")
	leave := h.start()
	h.untilLogged("The container engine answers")
	if got := c.quiet(); len(got) > 0 {
		t.Errorf("it registered before its images were there: %q", got)
	}
	h.engine.Heal("Load")
	c.expect("connected " + first)
	if _, err := h.engine.Image(t.Context(), "preloaded:1"); err != nil {
		t.Error(err)
	}
	var s local.Status
	if err := (local.Client{Dir: h.dir}).Call(t.Context(), http.MethodGet, "/v1/status", nil, &s); err != nil {
		t.Fatal(err)
	}
	if p := s.Preloaded; p == nil || !p.Done || p.Files != 1 || p.Images != 1 || len(p.Failed) != 1 {
		t.Errorf("%+v", s.Preloaded)
	}
	var text bytes.Buffer
	if err := s.Print(&text); err != nil || !strings.Contains(text.String(), "1 images of 1 archives in "+dir) || !strings.Contains(text.String(), "NOT "+filepath.Join(dir, "b.tar")) {
		t.Errorf("%v\n%s", err, text.String())
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if err := h.cleans(io.Discard, nil); err != nil {
		t.Fatal(err)
	}
	if got := h.files(); !slices.Contains(got, preloadedName) || !slices.Contains(got, "images/a.tar") {
		t.Errorf("clean-instance has removed it: %q", got)
	}
}
