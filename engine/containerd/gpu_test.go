package containerd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/gpu"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// TestAGPUIsGivenByItsSpecification gives a container what a CDI specification names: a device, a mount, a variable, and a hook that puts
// something into the container's file system before it is its own.
func TestAGPUIsGivenByItsSpecification(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	device, library, hook := filepath.Join(dir, "card"), filepath.Join(dir, "libgpu.so"), filepath.Join(dir, "hook")
	if err := unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil { // as /dev/zero
		t.Fatal(err)
	}
	for file, text := range map[string]string{library: "library\n", hook: "#!/bin/sh\n[ \"$1\" = arg ] && touch " + filepath.Join(dir, "hooked") + "-$KEY\n"} {
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	spec := fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":"test.com/gpu","devices":[{"name":"g0","containerEdits":{"deviceNodes":[{"path":"/dev/card0","hostPath":%q,"permissions":"rw"}]}}],
		"containerEdits":{"env":["GPU=yes"],"mounts":[{"hostPath":%q,"containerPath":"/lib/libgpu.so","options":["ro"]}],
		"hooks":[{"hookName":"createContainer","path":%q,"args":["hook","arg"],"env":["KEY=value","PATH=/bin:/usr/bin"],"timeout":10}]}}`, device, library, hook)
	if err := os.WriteFile(filepath.Join(dir, "test.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	gpus, warnings := gpu.Discover([]string{dir}, true)
	g, found := gpus["g0"]
	if !found || len(warnings) > 0 {
		t.Fatalf("found %v; %q", gpus, warnings)
	}
	id := w.run("head -c 3 /dev/card0 | wc -c; cat /lib/libgpu.so; echo $GPU; "+enginetest.ScriptServe, func(s *engine.Spec) {
		s.HostConfig.Devices, s.Mounts, s.Env, s.Hooks = g.Devices, g.Mounts, g.Env, g.Hooks
	})
	w.until("it to have looked", func() bool { return strings.Contains(w.output(id), "serving") })
	if got := w.output(id); !strings.HasPrefix(got, "3\nlibrary\nyes\n") {
		t.Errorf("it saw %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "hooked-value")); err != nil {
		t.Errorf("the hook has not run: %v", err)
	}
}
