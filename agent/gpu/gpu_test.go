package gpu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

const vendor = `cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  env: ["NVIDIA_VISIBLE_DEVICES=void"]
  deviceNodes: [{path: /dev/nvidiactl}]
  mounts: [{hostPath: /usr/lib/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, bind]}]
  hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook, args: [nvidia-cdi-hook, update-ldcache], timeout: 5}]
devices:
- name: "0"
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- name: GPU-1
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}]}
- name: all
  containerEdits: {deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia1}]}
`

func TestAGPUIsWhatItsSpecificationSays(t *testing.T) {
	gpus, err := Parse([]byte(vendor))
	if err != nil {
		t.Error(err)
	}
	want := map[string]engine.GPU{"GPU-1": {
		Devices: []acs.DeviceMapping{{PathOnHost: "/dev/nvidiactl", PathInContainer: "/dev/nvidiactl", CgroupPermissions: "rw"}, {PathOnHost: "/dev/nvidia0", PathInContainer: "/dev/nvidia0", CgroupPermissions: "rw"}},
		Mounts:  []engine.Mount{{Type: "bind", Source: "/usr/lib/libcuda.so.1", Target: "/usr/lib/libcuda.so.1", ReadOnly: true}},
		Env:     []string{"NVIDIA_VISIBLE_DEVICES=void"},
		Hooks:   []engine.Hook{{Point: "createContainer", Path: "/usr/bin/nvidia-cdi-hook", Args: []string{"nvidia-cdi-hook", "update-ldcache"}, Timeout: 5}},
	}}
	if d := cmp.Diff(want, gpus); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestWhatIsNoSpecificationOfGPUsIsLeftOutAndNamed(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": vendor, "b.json": `{"kind":"vendor.com/net","devices":[{"name":"x","containerEdits":{"deviceNodes":[{"path":"/dev/x"}]}}]}`,
		"c.json": `{"kind":`, "e.yml": "kind: v/gpu\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: /dev/x}], hooks: [{hookName: later, path: /x}]}}]", "d.yml": "kind: v/gpu\ndevices: [{name: x, containerEdits: {deviceNodes: [{path: dev}]}}]", "e.txt": vendor,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gpus, warnings := Discover([]string{filepath.Join(dir, "none"), dir}, false)
	text := strings.Join(warnings, "\n")
	if len(gpus["GPU-1"].Hooks) > 0 || !strings.Contains(text, "a.yaml: its hooks are not run") {
		t.Errorf("with an engine that has no hooks there are %v; warnings:\n%s", gpus["GPU-1"].Hooks, text)
	}
	if with, more := Discover([]string{dir}, true); len(with["GPU-1"].Hooks) != 1 || len(more) != len(warnings)-1 {
		t.Errorf("with one that has them: %v, %q", with["GPU-1"].Hooks, more)
	}
	if len(gpus) != 1 || len(warnings) != 4 || !strings.Contains(text, "c.json is left out") || !strings.Contains(text, `d.yml is left out: device x: the device node "dev"`) ||
		!strings.Contains(text, `e.yml is left out: device x: the hook "/x" at "later" is none`) {
		t.Errorf("%d GPUs, warnings:\n%s", len(gpus), text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(vendor))
	f.Add([]byte(`{"kind":"v/gpu","devices":[{"name":"a","containerEdits":{"deviceNodes":[{"path":"/a"}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		gpus, err := Parse(data)
		for id, g := range gpus {
			if err != nil || id == "" || len(g.Devices) == 0 {
				t.Errorf("%q: %+v, %v", id, g, err)
			}
		}
	})
}
