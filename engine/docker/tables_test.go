package docker_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/protocol/acs"
)

// speaking listens on a socket, answers each connection's first bytes with answer and closes it.
func speaking(t *testing.T, answer string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "speaking")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1<<16))
			_, _ = c.Write([]byte(answer))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return l.Addr().String()
}

// logDir is a directory of the host that user 1000 may write, with a log in it.
func logDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "app.log"), []byte("first line\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	return dir
}

func collected(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "collected", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	return text.String()
}

func spec(change func(*engine.Spec)) engine.Spec {
	s := engine.Spec{Name: "n", Image: "i", Labels: map[string]string{engine.LabelTaskArn: "arn"}}
	change(&s)
	return s
}

func TestEverySettingReachesTheEngine(t *testing.T) {
	yes, swappiness := true, int64(7)
	for name, c := range map[string]struct {
		change func(*engine.Spec)
		got    func(*container.Config, *container.HostConfig) any
		want   any
	}{
		"cpu shares":             {func(s *engine.Spec) { s.CPUShares = 512 }, func(_ *container.Config, h *container.HostConfig) any { return h.CPUShares }, int64(512)},
		"no cpu shares are two":  {func(*engine.Spec) {}, func(_ *container.Config, h *container.HostConfig) any { return h.CPUShares }, int64(2)},
		"memory":                 {func(s *engine.Spec) { s.Memory = 1 << 30 }, func(_ *container.Config, h *container.HostConfig) any { return h.Memory }, int64(1 << 30)},
		"memory below the floor": {func(s *engine.Spec) { s.Memory = 4 << 20 }, func(_ *container.Config, h *container.HostConfig) any { return h.Memory }, int64(6 << 20)},
		"no memory limit":        {func(*engine.Spec) {}, func(_ *container.Config, h *container.HostConfig) any { return h.Memory }, int64(0)},
		"reservation":            {func(s *engine.Spec) { s.HostConfig.MemoryReservation = 9 }, func(_ *container.Config, h *container.HostConfig) any { return h.MemoryReservation }, int64(9)},
		"swap": {func(s *engine.Spec) { s.HostConfig.MemorySwap, s.HostConfig.MemorySwappiness = -1, &swappiness }, func(_ *container.Config, h *container.HostConfig) any {
			return []int64{h.MemorySwap, *h.MemorySwappiness}
		}, []int64{-1, 7}},
		"privileged":     {func(s *engine.Spec) { s.HostConfig.Privileged = true }, func(_ *container.Config, h *container.HostConfig) any { return h.Privileged }, true},
		"read-only root": {func(s *engine.Spec) { s.HostConfig.ReadonlyRootfs = true }, func(_ *container.Config, h *container.HostConfig) any { return h.ReadonlyRootfs }, true},
		"capabilities":   {func(s *engine.Spec) { s.HostConfig.CapAdd, s.HostConfig.CapDrop = []string{"A"}, []string{"B"} }, func(_ *container.Config, h *container.HostConfig) any { return []string{h.CapAdd[0], h.CapDrop[0]} }, []string{"A", "B"}},
		"init":           {func(s *engine.Spec) { s.HostConfig.Init = &yes }, func(_ *container.Config, h *container.HostConfig) any { return *h.Init }, true},
		"shm and tmpfs":  {func(s *engine.Spec) { s.HostConfig.ShmSize, s.HostConfig.Tmpfs = 5, map[string]string{"/t": "size=1m"} }, func(_ *container.Config, h *container.HostConfig) any { return []any{h.ShmSize, h.Tmpfs} }, []any{int64(5), map[string]string{"/t": "size=1m"}}},
		"sysctls":        {func(s *engine.Spec) { s.HostConfig.Sysctls = map[string]string{"a": "b"} }, func(_ *container.Config, h *container.HostConfig) any { return h.Sysctls }, map[string]string{"a": "b"}},
		"name resolution": {func(s *engine.Spec) {
			s.HostConfig.DNS, s.HostConfig.DNSSearch, s.HostConfig.ExtraHosts = []string{"1"}, []string{"2"}, []string{"3"}
		}, func(_ *container.Config, h *container.HostConfig) any {
			return []string{h.DNS[0], h.DNSSearch[0], h.ExtraHosts[0]}
		}, []string{"1", "2", "3"}},
		"security options": {func(s *engine.Spec) { s.HostConfig.SecurityOpt = []string{"x"} }, func(_ *container.Config, h *container.HostConfig) any { return h.SecurityOpt }, []string{"x"}},
		"namespaces":       {func(s *engine.Spec) { s.HostConfig.PidMode, s.HostConfig.IpcMode = "host", "host" }, func(_ *container.Config, h *container.HostConfig) any { return string(h.PidMode) + string(h.IpcMode) }, "hosthost"},
		"devices":          {func(s *engine.Spec) { s.HostConfig.Devices = []acs.DeviceMapping{{PathOnHost: "/dev/x"}} }, func(_ *container.Config, h *container.HostConfig) any { return h.Devices }, []container.DeviceMapping{{PathOnHost: "/dev/x", PathInContainer: "/dev/x", CgroupPermissions: "rwm"}}},
		"ulimits":          {func(s *engine.Spec) { s.HostConfig.Ulimits = []acs.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}} }, func(_ *container.Config, h *container.HostConfig) any { return *h.Ulimits[0] }, container.Ulimit{Name: "nofile", Soft: 1, Hard: 2}},
		"log configuration": {func(s *engine.Spec) {
			s.HostConfig.LogConfig = &acs.LogConfig{Type: "gelf", Config: map[string]string{"a": "b"}}
		}, func(_ *container.Config, h *container.HostConfig) any { return h.LogConfig }, container.LogConfig{Type: "gelf", Config: map[string]string{"a": "b"}}},
		"links and volumes from": {func(s *engine.Spec) { s.Links, s.VolumesFrom = []string{"a:b"}, []string{"c:ro"} }, func(_ *container.Config, h *container.HostConfig) any { return []string{h.Links[0], h.VolumesFrom[0]} }, []string{"a:b", "c:ro"}},
		"cgroup parent":          {func(s *engine.Spec) { s.CgroupParent = "/ecs/x" }, func(_ *container.Config, h *container.HostConfig) any { return h.CgroupParent }, "/ecs/x"},
		"the engine never restarts": {func(*engine.Spec) {}, func(_ *container.Config, h *container.HostConfig) any {
			return fmt.Sprint(h.RestartPolicy.Name, h.AutoRemove)
		}, "nofalse"},
		"process": {func(s *engine.Spec) {
			s.Config = acs.ContainerConfig{User: "u", WorkingDir: "/w", Hostname: "h", OpenStdin: true, Tty: true, StopSignal: "S", NetworkDisabled: true}
		}, func(c *container.Config, _ *container.HostConfig) any {
			return []any{c.User, c.WorkingDir, c.Hostname, c.OpenStdin, c.Tty, c.StopSignal, c.NetworkDisabled}
		}, []any{"u", "/w", "h", true, true, "S", true}},
		"health check": {func(s *engine.Spec) {
			s.Config.Healthcheck = &acs.HealthConfig{Test: []string{"CMD", "x"}, Interval: 1, Timeout: 2, StartPeriod: 3, Retries: 4}
		}, func(c *container.Config, _ *container.HostConfig) any { return *c.Healthcheck }, container.HealthConfig{Test: []string{"CMD", "x"}, Interval: 1, Timeout: 2, StartPeriod: 3, Retries: 4}},
		"mounts": {func(s *engine.Spec) {
			s.Mounts = []engine.Mount{
				{Type: "bind", Source: "/a", Target: "/b"}, {Type: "bind", Source: "/c", Target: "/d", ReadOnly: true}, {Type: "volume", Source: "v", Target: "/e", ReadOnly: true},
			}
		}, func(_ *container.Config, h *container.HostConfig) any { return h.Binds }, []string{"/a:/b", "/c:/d:ro", "v:/e:ro"}},
		"mounts that a bind can't say": {func(s *engine.Spec) {
			s.Mounts = []engine.Mount{{Type: "bind", Source: "/a:b", Target: "/c", ReadOnly: true}, {Type: "volume", Target: "/d"}}
		}, func(_ *container.Config, h *container.HostConfig) any { return h.Mounts }, []mount.Mount{{Type: "bind", Source: "/a:b", Target: "/c", ReadOnly: true}, {Type: "volume", Target: "/d"}}},
		"ports without a network of its own": {func(s *engine.Spec) {
			s.NetworkMode, s.Ports = "host", []engine.Port{{Container: 1}}
		}, func(c *container.Config, h *container.HostConfig) any {
			return len(c.ExposedPorts) + len(h.PortBindings)
		}, 0},
	} {
		conf, host, err := docker.Translate(spec(c.change))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(c.want, c.got(conf, host)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWhatCannotBeTranslatedIsRefused(t *testing.T) {
	for name, m := range map[string]engine.Mount{
		"relative source": {Type: "bind", Source: "a", Target: "/b"}, "no source": {Type: "bind", Target: "/b"},
		"relative target": {Type: "volume", Source: "v", Target: "b"}, "unknown type": {Type: "npipe", Source: "/a", Target: "/b"},
	} {
		if _, _, err := docker.Translate(spec(func(s *engine.Spec) { s.Mounts = []engine.Mount{m} })); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrorsHaveOneClassAndTheEnginesWords(t *testing.T) {
	for text, want := range map[string]error{
		"Error response from daemon: driver failed programming external connectivity on endpoint x: Bind for 0.0.0.0:80 failed: port is already allocated": errdefs.ErrResourceExhausted,
		"Error response from daemon: listen tcp4 0.0.0.0:80: bind: address already in use":                                                                 errdefs.ErrResourceExhausted,
		"Error response from daemon: write /var/lib/docker/x: no space left on device":                                                                     errdefs.ErrResourceExhausted,
		"Error response from daemon: unable to find user ghost: no matching entries in passwd file":                                                        errdefs.ErrInvalidArgument,
		"Error response from daemon: No such image: x:1":                                                                                                   errdefs.ErrNotFound,
		"Error response from daemon: client version 1.24 is too old. Minimum supported API version is 1.40, please upgrade your client":                    errdefs.ErrUnavailable,
		"Error response from daemon: something else":                                                                                                       errdefs.ErrInternal,
	} {
		err := docker.Classify(t.Context(), errors.New(text))
		if !errors.Is(err, want) || err.Error() != text {
			t.Errorf("%s: got %v", text, err)
		}
	}
	for text, want := range map[string]error{
		"pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied": errdefs.ErrPermissionDenied,
		"unauthorized: authentication required":                                                              errdefs.ErrUnauthenticated,
		"Get \"https://x/v2/\": no basic auth credentials":                                                   errdefs.ErrUnauthenticated,
		`Error response from daemon: unknown: {"errors":[{"code":"NAME_UNKNOWN","message":"Unknown name"}]}`: errdefs.ErrNotFound,
		"manifest for x:1 not found: manifest unknown: manifest unknown":                                     errdefs.ErrNotFound,
		"no matching manifest for linux/amd64 in the manifest list entries":                                  errdefs.ErrNotFound,
		"toomanyrequests: You have reached your pull rate limit":                                             errdefs.ErrResourceExhausted,
		"failed to register layer: write /x: no space left on device":                                        errdefs.ErrResourceExhausted,
		"Get \"https://x/v2/\": dial tcp: lookup x on 1.1.1.1:53: no such host":                              errdefs.ErrUnavailable,
		"Get \"https://x/v2/\": http: server gave HTTP response to HTTPS client":                             errdefs.ErrUnavailable,
		"Get \"https://x/v2/\": x509: certificate signed by unknown authority":                               errdefs.ErrUnavailable,
		"Get \"https://x/v2/\": net/http: request canceled (Client.Timeout exceeded while awaiting headers)": errdefs.ErrUnavailable,
		"unexpected EOF": errdefs.ErrUnavailable,
	} {
		if err := docker.ClassifyPull(t.Context(), errors.New(text)); !errors.Is(err, want) || err.Error() != text {
			t.Errorf("%s: got %v, want %v", text, err, want)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := docker.Classify(ended, errors.New("connection refused")); !errdefs.IsCanceled(err) {
		t.Errorf("after the end of its context: %v", err)
	}
}

func TestRemappedUsersAreReadFromTheEnginesRoot(t *testing.T) {
	on := []string{"name=seccomp,profile=default", "name=userns"}
	if u := docker.UserNS(on, "/var/lib/docker/165536.231072"); u == nil || u.UIDFirst != 165536 || u.GIDFirst != 231072 || u.UIDSize == 0 || u.GIDSize == 0 {
		t.Errorf("got %+v", u)
	}
	if u := docker.UserNS(on[:1], "/var/lib/docker"); u != nil {
		t.Errorf("without remapping: %+v", u)
	}
	if u := docker.UserNS(on, "/var/lib/docker"); u != nil {
		t.Errorf("an unknown root: %+v", u)
	}
}

func TestOldAPIVersionsAreListedEvenIfTheEngineDroppedThem(t *testing.T) {
	if v := docker.APIVersions("1.20"); !cmp.Equal(v, []string{"1.17", "1.18", "1.19", "1.20"}) {
		t.Errorf("got %v", v)
	}
	if v := docker.APIVersions("nonsense"); len(v) != 0 {
		t.Errorf("got %v", v)
	}
}
