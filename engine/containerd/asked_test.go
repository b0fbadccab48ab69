package containerd

import (
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestWhatAContainerHasOfTheHostIsToldToItsPolicy(t *testing.T) {
	got := asked(box{Container: containers.Container{ID: "id"}, rec: record{Spec: engine.Spec{
		Name: "ecs-web-1-main", Image: "web:1", NetworkMode: "host", Labels: map[string]string{engine.LabelContainerName: "main", engine.LabelFamily: "web"},
		Mounts:     []engine.Mount{{Type: "bind", Source: "/etc", Target: "/in", ReadOnly: true}, {Type: "volume", Source: "v", Target: "/v"}},
		HostConfig: acs.HostConfig{Privileged: true, PidMode: "host", CapAdd: []string{"SYS_TIME"}, Devices: []acs.DeviceMapping{{PathOnHost: "/dev/fuse"}}},
	}}})
	want := engine.Asked{ID: "id", Name: "ecs-web-1-main", Task: engine.PolicyTask{Family: "web", Containers: []engine.PolicyContainer{{Name: "main", Image: "web:1", Privileged: true, HostPID: true, HostNetwork: true,
		CapAdd: []string{"SYS_TIME"}, Paths: []engine.PolicyPath{{Path: "/etc", ReadOnly: true}, {Path: "/dev/fuse", Device: true}}}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatAStrangersContainerHasIsReadFromItsConfiguration(t *testing.T) {
	spec, err := base("stranger")
	if err != nil {
		t.Fatal(err)
	}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}}
	spec.Process.Capabilities.Bounding = append(spec.Process.Capabilities.Bounding, "CAP_SYS_TIME")
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse"}}
	spec.Mounts = append(spec.Mounts, bind("/etc", "/in", true))
	kept, err := typeurl.MarshalAny(spec)
	if err != nil {
		t.Fatal(err)
	}
	got := askedByStranger(containers.Container{ID: "theirs", Image: "x", Spec: kept})
	want := engine.Asked{ID: "theirs", Name: "theirs", Task: engine.PolicyTask{Containers: []engine.PolicyContainer{{Name: "theirs", Image: "x", HostNetwork: true, CapAdd: []string{"CAP_SYS_TIME"},
		Paths: []engine.PolicyPath{{Path: "/etc", ReadOnly: true}, {Path: "/dev/fuse", Device: true}}}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	spec.Linux.MaskedPaths, spec.Linux.Seccomp = nil, nil
	if kept, err = typeurl.MarshalAny(spec); err != nil {
		t.Fatal(err)
	}
	if !askedByStranger(containers.Container{Spec: kept}).Task.Containers[0].Privileged {
		t.Error("one from whom nothing is kept is as good as privileged")
	}
}
