package daemons_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/images"
)

// TestVolumesOfAPluginAndAnEFSFileSystemByAmazonsPlugin has the host's engine ask a volume plugin that stands in for Amazon's.
func TestVolumesOfAPluginAndAnEFSFileSystemByAmazonsPlugin(t *testing.T) {
	const name = "amazon-ecs-volume-plugin"
	dir := t.TempDir()
	program, log := filepath.Join(dir, "volumeplugin"), filepath.Join(dir, "log")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./volumeplugin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v: %s", err, out)
	}
	s := &stage{e2e.NewLab(t, "dplug", 96, 1), t}
	start := fmt.Sprintf("exec %s /run/docker/plugins/%s.sock /run/volumes %s >/dev/null 2>&1 </dev/null", program, name, log)
	if out, err := s.OnHost(1, "setsid", "-f", "sh", "-c", start).CombinedOutput(); err != nil {
		t.Fatalf("starting the plugin: %v: %s", err, out)
	}
	s.Until(30*time.Second, "the plugin is there", func() error {
		return s.OnHost(1, "test", "-S", "/run/docker/plugins/"+name+".sock").Run()
	})
	s.begin(`ECS_VOLUME_PLUGIN_CAPABILITIES=["efsAuth"]`, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s")
	image := s.Push("writer:1", images.Spec{})
	s.register(`{"family":"vol","volumes":[
		{"name":"file-system","efsVolumeConfiguration":{"fileSystemId":"fs-0123abcd","transitEncryption":"ENABLED","transitEncryptionPort":2999,"authorizationConfig":{"accessPointId":"fsap-0123abcd"}}},
		{"name":"of-plugin","dockerVolumeConfiguration":{"scope":"task","driver":"` + name + `","driverOpts":{"colour":"blue"}}}],
		"containerDefinitions":[{"name":"app","image":"` + image + `","memory":16,"command":["sh","-c","echo from the task >/fs/file; echo too >/plugin/file; trap 'exit 0' TERM; while :; do sleep 1; done"],
		 "mountPoints":[{"sourceVolume":"file-system","containerPath":"/fs"},{"sourceVolume":"of-plugin","containerPath":"/plugin"}]}]}`)
	task := s.run("vol")
	asked := func(parts ...string) error {
		data, err := os.ReadFile(log)
		for line := range strings.Lines(string(data)) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("the plugin was not asked %q, but\n%s", parts, data))
	}
	for _, want := range [][]string{
		{`"VolumeDriver.Create"`, `"device":"fs-0123abcd:/"`, `"o":"tls,tlsport=2999,accesspoint=fsap-0123abcd"`, `"type":"efs"`}, {`"VolumeDriver.Mount"`, "ecs-vol-1-file-system-"},
		{`"VolumeDriver.Create"`, `"colour":"blue"`}, {`"VolumeDriver.Mount"`, "ecs-vol-1-of-plugin-"},
	} {
		if err := asked(want...); err != nil {
			t.Error(err)
		}
	}
	s.Until(30*time.Second, "what the task wrote is where the plugin keeps it", func() error {
		out, err := s.OnHost(1, "sh", "-c", "cat /run/volumes/*/file").CombinedOutput()
		if err != nil || string(out) != "from the task\ntoo\n" {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	s.Do("ecs", "stop-task", "--cluster", cluster, "--task", task.TaskArn)
	for _, volume := range []string{"file-system", "of-plugin"} {
		s.Until(60*time.Second, "the volume goes with the task", func() error { return asked(`"VolumeDriver.Remove"`, "ecs-vol-1-"+volume) })
	}
}
