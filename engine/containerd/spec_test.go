package containerd_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/protocol/acs"
)

var allCaps = []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT"}

func compose(t *testing.T, change func(s *engine.Spec, f *containerd.Facts)) *specs.Spec {
	t.Helper()
	spec := engine.Spec{Name: "n", Labels: map[string]string{engine.LabelTaskArn: "a"}, EntryPoint: []string{"/app"}, CPUShares: 512, Memory: 64 << 20}
	f := containerd.Facts{ID: strings.Repeat("ab", 32), Hostname: "abababababab", Capabilities: allCaps, Init: "/usr/bin/tini", Network: "/run/netns/x",
		Files: map[string]string{"/etc/hosts": "/d/hosts"}, Volumes: map[string]string{"v": "/d/v/_data"}}
	if change != nil {
		change(&spec, &f)
	}
	got, err := containerd.Compose(spec, engine.ImageConfig{Env: []string{"PATH=/bin", "A=image"}, WorkingDir: "/work", Command: []string{"serve"}}, f)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mountAt(s *specs.Spec, at string) string {
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == at })
	if i < 0 {
		return ""
	}
	m := s.Mounts[i]
	return fmt.Sprintf("%s %s %s", m.Type, m.Source, strings.Join(m.Options, ","))
}

func namespacesOf(s *specs.Spec) string {
	var all []string
	for _, n := range s.Linux.Namespaces {
		all = append(all, strings.TrimRight(string(n.Type)+"="+n.Path, "="))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestWhatADefinitionSaysIsInTheOCIConfiguration(t *testing.T) {
	yes := true
	swappiness := int64(7)
	for what, c := range map[string]struct {
		change func(s *engine.Spec, f *containerd.Facts)
		got    func(s *specs.Spec) string
		want   string
	}{
		"entry point of the definition, without the image's command": {nil, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Args) }, "[/app]"},
		"the image's command where nothing is said":                  {func(s *engine.Spec, _ *containerd.Facts) { s.EntryPoint = nil }, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Args) }, "[serve]"},
		"a reaper":    {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.Init = &yes }, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Args, mountAt(s, "/sbin/docker-init")) }, "[/sbin/docker-init -- /app]bind /usr/bin/tini rbind,rprivate,ro"},
		"environment": {func(s *engine.Spec, _ *containerd.Facts) { s.Env = []string{"A=mine", "B=2"} }, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Env) }, "[PATH=/bin HOSTNAME=abababababab A=mine B=2]"},
		"terminal": {func(s *engine.Spec, _ *containerd.Facts) { s.Config.Tty = true }, func(s *specs.Spec) string {
			return fmt.Sprint(s.Process.Terminal, slices.Contains(s.Process.Env, "TERM=xterm"))
		}, "true true"},
		"working directory": {func(s *engine.Spec, _ *containerd.Facts) { s.Config.WorkingDir = "/w" }, func(s *specs.Spec) string { return s.Process.Cwd }, "/w"},
		"user": {func(_ *engine.Spec, f *containerd.Facts) {
			f.User = containerd.ExecUser{UID: 7, GID: 8, Groups: []uint32{9}}
		}, func(s *specs.Spec) string {
			return fmt.Sprint(s.Process.User.UID, s.Process.User.GID, s.Process.User.AdditionalGids)
		}, "7 8 [9]"},
		"read-only root": {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.ReadonlyRootfs = true }, func(s *specs.Spec) string { return fmt.Sprint(s.Root.Readonly) }, "true"},
		"own namespaces": {nil, namespacesOf, "ipc mount network=/run/netns/x pid uts"},
		"the host's namespaces": {func(s *engine.Spec, f *containerd.Facts) {
			s.NetworkMode, s.HostConfig.PidMode, s.HostConfig.IpcMode, f.Network = "host", "host", "host", ""
		}, namespacesOf, "mount"},
		"another's namespaces":             {func(_ *engine.Spec, f *containerd.Facts) { f.PID, f.IPC = "/proc/1/ns/pid", "/proc/1/ns/ipc" }, namespacesOf, "ipc=/proc/1/ns/ipc mount network=/run/netns/x pid=/proc/1/ns/pid uts"},
		"control group v2":                 {func(_ *engine.Spec, f *containerd.Facts) { f.CgroupV2 = true }, namespacesOf, "cgroup ipc mount network=/run/netns/x pid uts"},
		"default capabilities we may give": {nil, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Capabilities.Bounding) }, "[CAP_CHOWN CAP_KILL CAP_NET_RAW CAP_SETUID CAP_SYS_CHROOT]"},
		"capabilities added and dropped": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.CapAdd, s.HostConfig.CapDrop = []string{"NET_ADMIN"}, []string{"KILL"}
		}, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Capabilities.Bounding) }, "[CAP_CHOWN CAP_NET_ADMIN CAP_NET_RAW CAP_SETUID CAP_SYS_CHROOT]"},
		"all added": {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.CapAdd = []string{"ALL"} }, func(s *specs.Spec) string { return fmt.Sprint(len(s.Process.Capabilities.Bounding)) }, fmt.Sprint(len(allCaps))},
		"all dropped but one": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.CapAdd, s.HostConfig.CapDrop = []string{"NET_RAW"}, []string{"all"}
		}, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Capabilities.Bounding) }, "[CAP_NET_RAW]"},
		"privileged": {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.Privileged = true }, func(s *specs.Spec) string {
			return fmt.Sprint(len(s.Process.Capabilities.Bounding), s.Linux.Seccomp == nil, s.Linux.MaskedPaths, s.Linux.Resources.Devices[0].Allow, strings.Contains(mountAt(s, "/sys"), "ro"))
		}, fmt.Sprint(len(allCaps), true, []string(nil), true, false)},
		"no system calls that the kernel lacks": {nil, func(s *specs.Spec) string {
			return fmt.Sprint(slices.Contains(s.Linux.Seccomp.Architectures, specs.ArchX32))
		}, "false"},
		"and all that it has": {func(_ *engine.Spec, f *containerd.Facts) { f.X32 = true }, func(s *specs.Spec) string {
			return fmt.Sprint(slices.Contains(s.Linux.Seccomp.Architectures, specs.ArchX32), goruntime.GOARCH == "amd64")
		}, fmt.Sprint(goruntime.GOARCH == "amd64", goruntime.GOARCH == "amd64")},
		"the default seccomp profile": {nil, func(s *specs.Spec) string { return fmt.Sprint(s.Linux.Seccomp.DefaultAction) }, "SCMP_ACT_ERRNO"},
		"security options": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.SecurityOpt = []string{"no-new-privileges", "seccomp=unconfined", "apparmor:mine"}
		}, func(s *specs.Spec) string {
			return fmt.Sprint(s.Process.NoNewPrivileges, s.Linux.Seccomp == nil, s.Process.ApparmorProfile)
		}, "true truemine"},
		"cpu and memory": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.MemoryReservation, s.HostConfig.MemorySwappiness = 5<<20, &swappiness
		}, func(s *specs.Spec) string {
			m := s.Linux.Resources.Memory
			return fmt.Sprint(*s.Linux.Resources.CPU.Shares, *m.Limit>>20, *m.Swap>>20, *m.Reservation>>20, *m.Swappiness)
		}, "512 64 128 5 7"},
		"the fewest CPU shares":    {func(s *engine.Spec, _ *containerd.Facts) { s.CPUShares = 0 }, func(s *specs.Spec) string { return fmt.Sprint(*s.Linux.Resources.CPU.Shares) }, "2"},
		"the task's control group": {func(s *engine.Spec, _ *containerd.Facts) { s.CgroupParent = "/ecs/t1" }, func(s *specs.Spec) string { return s.Linux.CgroupsPath[:8] }, "/ecs/t1/"},
		"ulimits": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.Ulimits = []acs.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}
		}, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Rlimits) }, "[{RLIMIT_NOFILE 20 10}]"},
		"no limit of its own": {nil, func(s *specs.Spec) string { return fmt.Sprint(s.Process.Rlimits) }, "[]"},
		"sysctls": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.Sysctls = map[string]string{"net.core.somaxconn": "7"}
		}, func(s *specs.Spec) string { return fmt.Sprint(s.Linux.Sysctl) }, "map[net.core.somaxconn:7]"},
		"shared memory":           {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.ShmSize = 1 << 20 }, func(s *specs.Spec) string { return mountAt(s, "/dev/shm") }, "tmpfs shm nosuid,noexec,nodev,mode=1777,size=1048576"},
		"another's shared memory": {func(_ *engine.Spec, f *containerd.Facts) { f.Shm = "/d/shm" }, func(s *specs.Spec) string { return mountAt(s, "/dev/shm") }, "bind /d/shm rbind,rprivate"},
		"no shared memory":        {func(s *engine.Spec, _ *containerd.Facts) { s.HostConfig.IpcMode = "none" }, func(s *specs.Spec) string { return mountAt(s, "/dev/shm") }, ""},
		"tmpfs": {func(s *engine.Spec, _ *containerd.Facts) {
			s.HostConfig.Tmpfs = map[string]string{"/t": "size=1m,exec"}
		}, func(s *specs.Spec) string { return mountAt(s, "/t") }, "tmpfs tmpfs nosuid,nodev,size=1m"},
		"a host path, read-only": {func(s *engine.Spec, _ *containerd.Facts) {
			s.Mounts = []engine.Mount{{Type: "bind", Source: "/h", Target: "/c", ReadOnly: true}}
		}, func(s *specs.Spec) string { return mountAt(s, "/c") }, "bind /h rbind,rprivate,ro"},
		"a volume": {func(s *engine.Spec, _ *containerd.Facts) {
			s.Mounts = []engine.Mount{{Type: "volume", Source: "v", Target: "/c"}}
		}, func(s *specs.Spec) string { return mountAt(s, "/c") }, "bind /d/v/_data rbind,rprivate"},
		"a mount in a mount": {func(s *engine.Spec, _ *containerd.Facts) {
			s.Mounts = []engine.Mount{{Type: "tmpfs", Target: "/a/b"}, {Type: "tmpfs", Target: "/a"}}
		}, func(s *specs.Spec) string {
			n := len(s.Mounts)
			return s.Mounts[n-3].Destination + s.Mounts[n-2].Destination + s.Mounts[n-1].Destination
		}, "/a/a/b/etc/hosts"},
		"the definition's own file": {func(s *engine.Spec, _ *containerd.Facts) {
			s.Mounts = []engine.Mount{{Type: "bind", Source: "/mine", Target: "/etc/hosts"}}
		}, func(s *specs.Spec) string { return mountAt(s, "/etc/hosts") }, "bind /mine rbind,rprivate"},
		"host name": {nil, func(s *specs.Spec) string { return s.Hostname }, "abababababab"},
	} {
		if got := c.got(compose(t, c.change)); got != c.want {
			t.Errorf("%s: got %q, want %q", what, got, c.want)
		}
	}
}

func TestTheAppArmorProfileIsOne(t *testing.T) {
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Fatal("there is no apparmor_parser; install it: apt-get install -y --no-install-recommends apparmor")
	}
	if err := containerd.CompileAppArmor(); err != nil {
		t.Error(err)
	}
	const name = "longshore-default"
	with := func(options ...string) string {
		return compose(t, func(s *engine.Spec, f *containerd.Facts) { f.AppArmor, s.HostConfig.SecurityOpt = name, options }).Process.ApparmorProfile
	}
	if a, b, c := with(), with("apparmor=unconfined"), with("apparmor:other"); a != name || b != "" || c != "other" {
		t.Errorf("the profile is %q, or %q where none is wanted, or %q where the definition names one", a, b, c)
	}
}

func TestWhatCanNotBeDoneIsRefusedByName(t *testing.T) {
	for want, s := range map[string]engine.Spec{
		"no command":                      {},
		`"label:disable": SELinux`:        {EntryPoint: []string{"x"}, HostConfig: acs.HostConfig{SecurityOpt: []string{"label:disable"}}},
		`"systempaths=unconfined" is not`: {EntryPoint: []string{"x"}, HostConfig: acs.HostConfig{SecurityOpt: []string{"systempaths=unconfined"}}},
	} {
		_, err := containerd.Compose(s, engine.ImageConfig{}, containerd.Facts{ID: strings.Repeat("a", 64)})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestTheFilesOfEtc(t *testing.T) {
	if got := containerd.Hosts("127.0.0.1\tlocalhost\n", "web", []string{"10.0.0.2", "fd00::2"}, []string{"db:10.0.0.9", "six:[fd00::9]"}, []string{"10.0.0.3\tapi"}); got !=
		"127.0.0.1\tlocalhost\n10.0.0.9\tdb\nfd00::9\tsix\n10.0.0.3\tapi\n10.0.0.2\tweb\nfd00::2\tweb\n" {
		t.Errorf("hosts: %q", got)
	}
	const host = "nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch example.com\noptions edns0\n"
	if got, n := containerd.WithoutLoopback(host); n != 1 || strings.Contains(got, "127.") {
		t.Errorf("%d servers: %q", n, got)
	}
	for want, in := range map[string][2][]string{
		"options edns0\nnameserver 1.2.3.4\nsearch a b\n":                                 {{"1.2.3.4"}, {"a", "b"}},
		"nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch example.com\noptions edns0\n": {},
		"nameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0\n":                     {nil, {"."}},
	} {
		if got := containerd.ResolvConf(host, in[0], in[1]); got != want {
			t.Errorf("%v: %q, want %q", in, got, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"created":"2026-01-01T00:00:00Z","config":{"User":"app","Healthcheck":{"Test":["CMD","x"]},"Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:aa"]}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, blob []byte) {
		c, err := containerd.ParseConfig(blob)
		if err != nil {
			return
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	})
}
