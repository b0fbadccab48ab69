package containerd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// crun is a runtime by its path. It is called as make test-containerd calls it, see testdata/crun.
func crun(t *testing.T) string {
	t.Helper()
	at, err := filepath.Abs("testdata/crun")
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestContainersAreMadeByTheRuntimeThatIsNamed(t *testing.T) {
	w := newWorld(t)
	with := func(runtime string) {
		_ = w.Close()
		w.runtime = runtime
		w.connect()
	}
	with("")
	old := w.run(enginetest.ScriptServe, nil)
	with(crun(t))
	info, err := w.Info(t.Context())
	if err != nil || info.Runtime != "crun" {
		t.Errorf("the runtime is %q, %v", info.Runtime, err)
	}
	id := w.run("echo hello; "+enginetest.ScriptServe, nil)
	w.until("output", func() bool { return strings.Contains(w.output(id), "hello") })
	// crun and runc keep what they know of a container in files of other names.
	for id, file := range map[string]string{old: "state.json", id: "status"} {
		if _, err := os.Stat(filepath.Join("/run/containerd/runc/longshore-test", id, file)); err != nil {
			t.Errorf("container %s was made by another runtime: %v", id, err)
		}
		if st := w.look(id); st.Status != engine.StatusRunning {
			t.Errorf("%+v", st)
		}
	}
	if err := w.Stop(t.Context(), old, 0); err != nil {
		t.Errorf("a container of the runtime before: %v", err)
	}
}

func TestARuntimeIsAProgramOrAShimByName(t *testing.T) {
	for setting, want := range map[string]string{"": "runc io.containerd.runc.v2 ", "io.containerd.kata.v2": "kata io.containerd.kata.v2 ", "/bin/sh": "sh io.containerd.runc.v2 /bin/sh"} {
		if got, err := containerd.OCIRuntime(setting); err != nil || got != want {
			t.Errorf("%q is %q, %v", setting, got, err)
		}
	}
	for _, setting := range []string{"no-such-runtime", "/no/such", "io.containerd.kata"} {
		_, err := containerd.New(containerd.Config{Root: t.TempDir(), OCIRuntime: setting})
		if err == nil || !strings.Contains(err.Error(), "there is no OCI runtime \""+setting+"\"") {
			t.Errorf("%q: %v", setting, err)
		}
	}
}
