package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func mounting(volume string) func(*acs.Container) {
	return func(c *acs.Container) {
		c.MountPoints = append(c.MountPoints, &acs.MountPoint{SourceVolume: volume, ContainerPath: "/" + volume})
	}
}

func dockerVolume(name, scope string, autoprovision bool) *acs.Volume {
	return &acs.Volume{Name: name, Type: "docker", DockerVolumeConfiguration: &acs.DockerVolumeConfiguration{
		Scope: scope, Autoprovision: autoprovision, Driver: "local", DriverOpts: map[string]string{"o": "p"}, Labels: map[string]string{"a": "b"}}}
}

func TestATasksVolumesComeAndGoWithItAndSharedOnesStay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", mounting("own"), mounting("all"), mounting("nfs")))
		a.Volumes = []*acs.Volume{dockerVolume("own", "task", false), dockerVolume("all", "shared", true),
			{Name: "nfs", Type: "efs", EFSVolumeConfiguration: &acs.EFSVolumeConfiguration{FileSystemID: "fs-1", RootDirectory: "/x"}}}
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		names := w.fake.Volumes()
		if len(names) != 3 || names[0] != "all" || !strings.HasPrefix(names[1], "ecs-demo-1-nfs-") || !strings.HasPrefix(names[2], "ecs-demo-1-own-") {
			t.Fatalf("the engine has the volumes %q", names)
		}
		v, err := w.fake.InspectVolume(t.Context(), names[1])
		if err != nil || v.Options["device"] != ":/x" || !strings.HasPrefix(v.Options["o"], "addr=fs-1.efs.eu-west-1.amazonaws.com,nfsvers=4.1,") {
			t.Errorf("%v, %+v", err, v)
		}
		spec, _ := w.fake.Spec(w.id(a, "app"))
		if want := (engine.Mount{Type: "volume", Source: names[2], Target: "/own"}); spec.Mounts[0] != want {
			t.Errorf("got %+v, want %+v", spec.Mounts, want)
		}
		w.accept(stopOf(a))
		w.settled()
		w.disk.accept()
		pass(5 * time.Hour)
		if left := w.fake.Volumes(); !slices.Equal(left, []string{"all"}) {
			t.Errorf("after the clean-up the engine has %q", left)
		}
	}, func(c *engine.Config) { c.Host.Region = "eu-west-1" })
}

func TestASharedVolumeThatIsMissingOrAnotherEndsTheTask(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, c := range []struct{ id, volume, want string }{
			{"a", "absent", "CannotCreateVolumeError: volume absent: the shared volume absent does not exist on this host, and autoprovision is off; create it, or set autoprovision"},
			{"b", "other", "CannotCreateVolumeError: volume other: the shared volume other exists with driver options map[o:else], and the task wants map[o:p]; ECS_SHARED_VOLUME_MATCH_FULL_CONFIG asks for equal ones"},
		} {
			if err := w.fake.CreateVolume(t.Context(), engine.EngineVolume{Name: "other", Options: map[string]string{"o": "else"}}); err != nil {
				t.Fatal(err)
			}
			a := task(c.id, container("app", mounting(c.volume)))
			a.Volumes = []*acs.Volume{dockerVolume(c.volume, "shared", false)}
			w.accept(a)
			w.settled()
			if last := w.disk.last(a.Arn); last.Status != "STOPPED" || reasonOf(last, "app") != c.want {
				t.Errorf("%s: %q\nwant %q", last.Status, reasonOf(last, "app"), c.want)
			}
		}
	}, func(c *engine.Config) { c.Host.MatchSharedVolumes = true })
}

func TestARangeOfPortsGetsABlockOfHostPortsAndIsReportedAsOne(t *testing.T) {
	ranged := func(c *acs.Container) {
		c.PortMappings = append(c.PortMappings, &acs.PortMapping{ContainerPortRange: "8000-8003"}, &acs.PortMapping{ContainerPort: 80})
	}
	inBubble(t, func(t *testing.T, w *world) {
		a, b, c := task("a", container("app", ranged)), task("b", container("app", ranged)), task("c", container("app", ranged))
		w.accept(a)
		w.settled()
		w.accept(b)
		w.settled()
		seen := map[int32]bool{}
		for _, x := range []*acs.Task{a, b} {
			spec, _ := w.fake.Spec(w.id(x, "app"))
			for i, p := range spec.Ports {
				if seen[p.Host] || p.Host < 5000 || p.Host > 5010 || i > 1 && p.Host != spec.Ports[i-1].Host+1 {
					t.Errorf("ports %+v", spec.Ports)
				}
				seen[p.Host] = true
			}
			bindings := w.disk.last(x.Arn).Containers[0].NetworkBindings
			if !slices.ContainsFunc(bindings, func(n engine.NetworkBinding) bool {
				return n.ContainerPortRange == "8000-8003" && len(n.HostPortRange) == len("5000-5003") && n.HostPort == 0
			}) || len(bindings) != 2 {
				t.Errorf("reported as %+v", bindings)
			}
		}
		w.accept(c)
		w.settled()
		if r := reasonOf(w.disk.last(c.Arn), "app"); !strings.Contains(r, "no 4 free tcp ports in a row from 5000 to 5010 (ECS_DYNAMIC_HOST_PORT_RANGE) for the container ports 8000-8003") {
			t.Errorf("%q", r)
		}
	}, func(c *engine.Config) { c.Host.DynamicPorts = [2]int32{5000, 5010} })
}

const pause = "~internal~ecs~pause~namespace"

func TestATaskWithItsOwnNamespacesHasAPauseContainerThatNobodyHearsOf(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential))
		a.PidMode, a.IpcMode = "task", "task"
		w.accept(a)
		w.settled()
		holder, _ := w.fake.Container(a.Arn, pause)
		spec, _ := w.fake.Spec(w.id(a, "app"))
		if want := "container:" + holder.Name; spec.HostConfig.PidMode != want || spec.HostConfig.IpcMode != want {
			t.Errorf("the container joins %q and %q, want %q", spec.HostConfig.PidMode, spec.HostConfig.IpcMode, want)
		}
		if held, _ := w.fake.Spec(holder.ID); held.HostConfig.IpcMode != "shareable" || held.HostConfig.PidMode != "" {
			t.Errorf("the pause container has %+v", held.HostConfig)
		}
		if len(w.disk.last(a.Arn).Containers) != 2 || len(w.status(a.Arn).Containers) != 2 {
			t.Error("the pause container is shown")
		}
		w.disk.records = map[string][]byte{} // the state file is lost
		w.restart()
		w.settled()
		if !w.running(a, pause) || !w.running(a, "app") || w.fake.Peak(a.Arn, pause) != 1 {
			t.Error("the restart did not leave the containers alone")
		}
		w.accept(a)
		w.fake.Exit(w.id(a, "app"), 3)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || exitOf(last, "app") != 3 || w.running(a, pause) {
			t.Errorf("%+v", last)
		}
	})
}

func TestATaskWithoutEssentialContainersEndsWithTheLastOfThemAndItsPause(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, After: time.Second}})
		a := task("a", container("app", notEssential))
		a.PidMode = "task"
		w.accept(a)
		pass(5 * time.Second)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || w.running(a, pause) {
			t.Errorf("%+v", last)
		}
	})
}

func TestAGPUIsGivenToOneContainerOfOneTaskAtATime(t *testing.T) {
	gpu := engine.GPU{Devices: []acs.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/gpu", CgroupPermissions: "rw"}},
		Mounts: []engine.Mount{{Type: "bind", Source: "/lib", Target: "/driver", ReadOnly: true}}, Env: []string{"NVIDIA_VISIBLE_DEVICES=void", "X=1"}}
	pinned := func(id, gpu string) *acs.Task {
		a := task(id, container("app"), container("other"))
		a.Associations = []*acs.Association{{Name: gpu, Type: "gpu", Containers: []string{"app"}}}
		return a
	}
	inBubble(t, func(t *testing.T, w *world) {
		a, b := pinned("a", "g1"), pinned("b", "g1")
		w.accept(a)
		w.settled()
		w.accept(b)
		w.settled()
		app, _ := w.fake.Spec(w.id(a, "app"))
		other, _ := w.fake.Spec(w.id(a, "other"))
		if !slices.Equal(app.HostConfig.Devices, gpu.Devices) || !slices.Equal(app.Mounts, gpu.Mounts) || !slices.Equal(app.Env[:2], []string{"X=1", "NVIDIA_VISIBLE_DEVICES=g1"}) || len(other.HostConfig.Devices) > 0 {
			t.Errorf("app has %+v %+v %q, other %+v", app.HostConfig.Devices, app.Mounts, app.Env, other.HostConfig.Devices)
		}
		if waits := strings.Join(w.status(b.Arn).Waits, "\n"); !strings.Contains(waits, "GPU g1 is held by "+a.Arn) {
			t.Errorf("the second task waits for %q", waits)
		}
		w.accept(stopOf(a))
		w.settled()
		if !w.running(b, "app") {
			t.Error("the second task did not get the GPU")
		}
		var refused *engine.UnrecognizedTaskError
		if err := w.engine.Accept(t.Context(), pinned("c", "g2")); !errors.As(err, &refused) || !strings.Contains(err.Error(), `this host has no GPU "g2"`) {
			t.Errorf("%v", err)
		}
	}, func(c *engine.Config) { c.Host.GPUs = map[string]engine.GPU{"g1": gpu} })
}
