//go:build vm

package cgroup

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
)

// These are for a machine of their own with control groups v2, systemd as PID 1, and Docker with its systemd driver and an
// image bb:1 that has busybox. make test-vm makes one and runs them there. The other tests of this package need v1.

func TestOnAWholeMachineWithControlGroupsV2(t *testing.T) {
	for _, driver := range []string{"cgroupfs", "systemd"} {
		t.Run(driver, func(t *testing.T) {
			g, err := New(Options{Driver: driver, Version: 2, Pids: 40, Owner: "vm test"})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := "test" + rand.Text()
			defer func() {
				if err := g.Remove(t.Context(), id); err != nil {
					t.Error(err)
				}
				if left, _ := filepath.Glob("/sys/fs/cgroup/*/*" + id + "*"); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				if units, _ := filepath.Glob("/run/systemd/system/*" + id + "*"); len(units) > 0 {
					t.Errorf("left behind: %v", units)
				}
			}()
			var parent string
			for range 2 { // again changes nothing
				if parent, err = g.Ensure(t.Context(), id, engine.TaskLimits{CPU: 0.25, Memory: 64 << 20}); err != nil {
					t.Fatal(err)
				}
			}
			dir := g.layout.group(g.layout.Root, id)
			values := map[string]string{"cpu.max": "25000 100000", "memory.max": "67108864", "pids.max": "40"}
			for name, want := range values {
				if got, _ := os.ReadFile(filepath.Join(dir, name)); strings.TrimSpace(string(got)) != want {
					t.Errorf("%s shows %q, not %q", name, got, want)
				}
			}
			if driver == "systemd" { // the engine of the machine has this driver
				run := func(args ...string) (string, error) {
					out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
					return string(out), err
				}
				name := "vmtest" + id
				defer func() { _, _ = run("rm", "-f", name, name+"hog", name+"bomb") }()
				if out, err := run("run", "-d", "--network", "none", "--name", name, "--cgroup-parent", parent, "bb:1", "sleep", "1000"); err != nil {
					t.Fatalf("%v %s", err, out)
				}
				if inside, _ := filepath.Glob(filepath.Join(dir, "docker-*.scope")); len(inside) != 1 {
					t.Errorf("the container is not in its task's group: %v", inside)
				}
				for name, want := range values { // systemd did not undo them
					if got, _ := os.ReadFile(filepath.Join(dir, name)); strings.TrimSpace(string(got)) != want {
						t.Errorf("with a container in it %s shows %q, not %q", name, got, want)
					}
				}
				if out, err := run("run", "--network", "none", "--name", name+"hog", "--cgroup-parent", parent, "bb:1", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"); err == nil {
					t.Errorf("the hog lived: %s", out)
				}
				if out, err := run("inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", name+"hog"); strings.TrimSpace(out) != "true 137" {
					t.Errorf("the hog: %v %s", err, out)
				}
				if out, _ := run("inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", name); strings.TrimSpace(out) != "false true" {
					t.Errorf("its neighbour: %s", out)
				}
				if out, err := run("run", "--network", "none", "--name", name+"bomb", "--cgroup-parent", parent, "bb:1", "sh", "-c", "while :; do sleep 1000 & done"); err == nil || !strings.Contains(out, "fork") {
					t.Errorf("the bomb: %v %s", err, out)
				}
				if out, err := run("rm", "-f", name, name+"hog", name+"bomb"); err != nil {
					t.Errorf("%v %s", err, out)
				}
			}
		})
	}
}

func TestASweepOnAWholeMachineFindsItsOwnSlices(t *testing.T) {
	g, err := New(Options{Driver: "systemd", Version: 2, Owner: "vm sweep"})
	if err != nil {
		t.Fatal(err)
	}
	id := "sweep" + rand.Text()
	if _, err := g.Ensure(t.Context(), id, engine.TaskLimits{Memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	removed, err := g.Sweep(t.Context(), func(string) bool { return false })
	if err != nil || len(removed) != 1 || removed[0] != id {
		t.Errorf("%v %v", removed, err)
	}
}
