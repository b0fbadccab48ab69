package containerd

import (
	"cmp"
	"context"
	"maps"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// facts are what a container's configuration needs beside its record. Those below the line are known when it starts; before, an
// empty one is the container's own.
type facts struct {
	ID       string
	Hostname string
	CgroupV2 bool
	// Capabilities are those that this process may give away; others are left out.
	Capabilities []string
	AppArmor     string // the profile; empty: none
	X32          bool   // the kernel has x86-64's system calls with short pointers
	Init         string // the program that is process 1 where the definition asks for one

	User       execUser
	Network    string            // the file of the network namespace
	PID, IPC   string            // likewise
	Shm        string            // what is mounted at /dev/shm
	Files      map[string]string // by mount point: hosts, hostname, resolv.conf
	Volumes    map[string]string // by name: the folder of a named volume
	Devices    []specs.LinuxDevice
	Privileged []specs.LinuxDevice // all of the host's
}

// execUser is who a process is.
type execUser struct {
	UID, GID uint32
	Groups   []uint32
}

const (
	initPath      = "/sbin/docker-init"
	defaultPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	minCPUShares  = 2
	defaultShm    = 64 << 20
	allPermission = "rwm"
)

// compose turns a container's record into the OCI runtime's configuration (OCI runtime specification, config.md and config-linux.md),
// with Docker's defaults. What the payload's documents say wins over what we build, as in Amazon ECS.
func compose(rec record, f facts) (*specs.Spec, error) {
	s, err := base(f.ID)
	if err != nil {
		return nil, err
	}
	doc, host := rec.Spec.Config, rec.Spec.HostConfig
	if s.Process.Args, err = args(rec, f); err != nil {
		return nil, err
	}
	s.Process.Env = environment(rec, f)
	s.Process.Cwd = cmp.Or(doc.WorkingDir, rec.Image.WorkingDir, "/")
	s.Process.Terminal = doc.Tty
	s.Process.User = specs.User{UID: f.User.UID, GID: f.User.GID, AdditionalGids: f.User.Groups}
	s.Root.Readonly = host.ReadonlyRootfs
	if !sharesUTS(rec) {
		s.Hostname = f.Hostname
	}
	for _, u := range host.Ulimits {
		s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	setNamespaces(s, rec, f)
	if err := setRights(s, rec, f); err != nil {
		return nil, err
	}
	setResources(s, rec, f)
	setMounts(s, rec, f)
	s.Linux.Sysctl = maps.Clone(host.Sysctls)
	return s, setHooks(s, rec)
}

// setHooks adds the programs that are run at points of the container's life.
func setHooks(s *specs.Spec, rec record) error {
	if len(rec.Spec.Hooks) == 0 {
		return nil
	}
	s.Hooks = &specs.Hooks{}
	at := map[string]*[]specs.Hook{
		"prestart": &s.Hooks.Prestart, "createRuntime": &s.Hooks.CreateRuntime, "createContainer": &s.Hooks.CreateContainer, //nolint:staticcheck // CDI has prestart
		"startContainer": &s.Hooks.StartContainer, "poststart": &s.Hooks.Poststart, "poststop": &s.Hooks.Poststop,
	}
	for _, h := range rec.Spec.Hooks {
		list, known := at[h.Point]
		if !known {
			return refuse(errdefs.ErrInvalidArgument, "the hook %s is for %q, which is no point of a container's life", h.Path, h.Point)
		}
		hook := specs.Hook{Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout > 0 {
			hook.Timeout = &h.Timeout
		}
		*list = append(*list, hook)
	}
	return nil
}

// base is containerd's own default, without what Docker's lacks.
func base(id string) (*specs.Spec, error) {
	ctx := namespaces.WithNamespace(context.Background(), "longshore")
	s, err := oci.GenerateSpecWithPlatform(ctx, nil, "linux/"+runtime.GOARCH, &containers.Container{ID: id})
	if err != nil {
		return nil, err
	}
	s.Process.NoNewPrivileges, s.Process.Rlimits = false, nil
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/run" })
	s.Version = "1.0.2" // the oldest runtime that is supported knows no newer one, and nothing newer is used
	return s, nil
}

func args(rec record, f facts) ([]string, error) {
	entry, command := rec.Spec.EntryPoint, rec.Spec.Command
	if len(entry) == 0 {
		entry = rec.Image.EntryPoint
		if len(command) == 0 {
			command = rec.Image.Command
		}
	}
	all := slices.Concat(entry, command)
	if len(all) == 0 {
		return nil, refuse(errdefs.ErrInvalidArgument, "no command: neither the container definition nor the image has one")
	}
	if wantsInit(rec) {
		all = slices.Concat([]string{initPath, "--"}, all)
	}
	return all, nil
}

func wantsInit(rec record) bool { return rec.Spec.HostConfig.Init != nil && *rec.Spec.HostConfig.Init }

// environment is the image's with the definition's in its place, and what a shell expects.
func environment(rec record, f facts) []string {
	env := []string{defaultPath, "HOSTNAME=" + f.Hostname}
	if rec.Spec.Config.Tty {
		env = append(env, "TERM=xterm")
	}
	for _, kv := range slices.Concat(rec.Image.Env, rec.Spec.Env) {
		key, _, _ := strings.Cut(kv, "=")
		if i := slices.IndexFunc(env, func(have string) bool { return strings.HasPrefix(have, key+"=") }); i >= 0 {
			env[i] = kv
		} else {
			env = append(env, kv)
		}
	}
	return env
}

// other is the container that a mode of the form container:<name or id> names.
func other(mode string) (string, bool) { return strings.CutPrefix(mode, "container:") }

func sharesUTS(rec record) bool { return networkMode(rec.Spec) == "host" }

func setNamespaces(s *specs.Spec, rec record, f facts) {
	host := rec.Spec.HostConfig
	var all []specs.LinuxNamespace
	add := func(kind specs.LinuxNamespaceType, isHost bool, file string) {
		if !isHost {
			all = append(all, specs.LinuxNamespace{Type: kind, Path: file})
		}
	}
	add(specs.MountNamespace, false, "")
	add(specs.NetworkNamespace, networkMode(rec.Spec) == "host", f.Network)
	add(specs.UTSNamespace, sharesUTS(rec), "")
	add(specs.PIDNamespace, host.PidMode == "host", f.PID)
	add(specs.IPCNamespace, host.IpcMode == "host", f.IPC)
	if f.CgroupV2 && !host.Privileged {
		add(specs.CgroupNamespace, false, "")
	}
	s.Linux.Namespaces = all
}

// setRights sets capabilities, seccomp, AppArmor, devices, and what of /proc and /sys is hidden.
func setRights(s *specs.Spec, rec record, f facts) error {
	host := rec.Spec.HostConfig
	caps, err := capabilities(s.Process.Capabilities.Bounding, host.CapAdd, host.CapDrop, host.Privileged, f.Capabilities)
	if err != nil {
		return err
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Linux.Devices = slices.Clone(f.Devices)
	for _, d := range f.Devices {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: permissions(rec, d.Path)})
	}
	unconfined, profile := false, f.AppArmor
	for _, o := range host.SecurityOpt {
		key, value, _ := cutAny(o, "=:")
		switch {
		case key == "no-new-privileges" && value != "false":
			s.Process.NoNewPrivileges = true
		case key == "seccomp" && value == "unconfined":
			unconfined = true
		case key == "apparmor":
			profile = value
		case key == "label":
			return refuse(errdefs.ErrInvalidArgument, "security option %q: SELinux is not supported with containerd", o)
		default:
			return refuse(errdefs.ErrInvalidArgument, "security option %q is not supported with containerd", o)
		}
	}
	if host.Privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: allPermission}}
		s.Linux.Devices = append(slices.Clone(f.Privileged), f.Devices...)
		return nil
	}
	if profile != "unconfined" {
		s.Process.ApparmorProfile = profile
	}
	if !unconfined {
		s.Linux.Seccomp = filter(s, f)
	}
	return nil
}

// filter is the default seccomp profile. The runtime compiles it for each architecture at each start, which takes a tenth of the start for
// x32: a kernel that has no such calls needs no rules for them. Whoever makes one all the same is ended, and not told that there is none.
func filter(s *specs.Spec, f facts) *specs.LinuxSeccomp {
	profile := seccomp.DefaultProfile(s)
	if !f.X32 {
		profile.Architectures = slices.DeleteFunc(profile.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	}
	return profile
}

func cutAny(s, separators string) (string, string, bool) {
	if i := strings.IndexAny(s, separators); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return s, "", false
}

// permissions are those of the device with a path in the container.
func permissions(rec record, at string) string {
	for _, d := range rec.Spec.HostConfig.Devices {
		if cmp.Or(d.PathInContainer, d.PathOnHost) == at || strings.HasPrefix(at, cmp.Or(d.PathInContainer, d.PathOnHost)+"/") {
			return cmp.Or(d.CgroupPermissions, allPermission)
		}
	}
	return allPermission
}

// capabilities are Docker's default with some added and some dropped, of those that can be given.
func capabilities(defaults, add, drop []string, privileged bool, possible []string) ([]string, error) {
	all := func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, "ALL") })
	}
	caps := defaults
	switch {
	case privileged || all(add):
		caps = possible
	case all(drop):
		caps = nil
	}
	name := func(n string) string {
		n = strings.ToUpper(n)
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		return n
	}
	caps = slices.Clone(caps)
	for _, n := range add {
		if c := name(n); c != "CAP_ALL" && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	for _, n := range drop {
		if c := name(n); c != "CAP_ALL" && !privileged {
			caps = slices.DeleteFunc(caps, func(have string) bool { return have == c })
		}
	}
	slices.Sort(caps)
	return slices.DeleteFunc(caps, func(c string) bool { return len(possible) > 0 && !slices.Contains(possible, c) }), nil
}

func setResources(s *specs.Spec, rec record, f facts) {
	host, res := rec.Spec.HostConfig, s.Linux.Resources
	shares := uint64(max(rec.Spec.CPUShares, minCPUShares))
	res.CPU = &specs.LinuxCPU{Shares: &shares}
	res.Memory = &specs.LinuxMemory{}
	if rec.Spec.Memory > 0 {
		limit := rec.Spec.Memory
		swap := 2 * limit // Docker's default: as much swap as memory
		if host.MemorySwap != 0 {
			swap = host.MemorySwap
		}
		res.Memory.Limit, res.Memory.Swap = &limit, &swap
	}
	if host.MemoryReservation > 0 {
		res.Memory.Reservation = &host.MemoryReservation
	}
	if host.MemorySwappiness != nil && *host.MemorySwappiness >= 0 && !f.CgroupV2 {
		swappiness := uint64(*host.MemorySwappiness)
		res.Memory.Swappiness = &swappiness
	}
	s.Linux.CgroupsPath = cgroupOf(rec, f.ID)
}

// cgroupOf is a container's control group.
func cgroupOf(rec record, id string) string {
	return path.Join(cmp.Or(rec.Spec.CgroupParent, "/longshore"), id)
}

// setMounts puts the mounts in order: those on which others lie come first.
func setMounts(s *specs.Spec, rec record, f facts) {
	host := rec.Spec.HostConfig
	cgroup := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev", "relatime"}}
	s.Mounts = append(s.Mounts, cgroup)
	if host.Privileged {
		for i := range s.Mounts {
			if s.Mounts[i].Type == "sysfs" || s.Mounts[i].Type == "cgroup" {
				s.Mounts[i].Options = slices.DeleteFunc(slices.Clone(s.Mounts[i].Options), func(o string) bool { return o == "ro" })
			}
		}
	}
	own := map[string]specs.Mount{}
	put := func(m specs.Mount) { own[path.Clean(m.Destination)] = m }
	switch {
	case f.Shm != "":
		put(bind(f.Shm, "/dev/shm", false))
	case host.IpcMode == "none":
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	case host.ShmSize > 0:
		put(specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(host.ShmSize, 10)}})
	}
	for at, file := range f.Files {
		put(bind(file, at, false))
	}
	for at, name := range rec.Anonymous {
		put(bind(f.Volumes[name], at, false))
	}
	for at, options := range host.Tmpfs {
		put(tmpfs(at, options))
	}
	for _, m := range rec.Spec.Mounts {
		switch m.Type {
		case "tmpfs":
			put(tmpfs(m.Target, map[bool]string{true: "ro"}[m.ReadOnly]))
		case "bind":
			put(bind(m.Source, m.Target, m.ReadOnly))
		case "volume":
			put(bind(f.Volumes[m.Source], m.Target, m.ReadOnly))
		}
	}
	if wantsInit(rec) {
		put(bind(f.Init, initPath, true))
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { _, replaced := own[m.Destination]; return replaced })
	for _, at := range slices.SortedFunc(maps.Keys(own), func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), cmp.Compare(a, b))
	}) {
		s.Mounts = append(s.Mounts, own[at])
	}
}

func bind(source, target string, readOnly bool) specs.Mount {
	m := specs.Mount{Destination: filepath.Clean(target), Type: "bind", Source: source, Options: []string{"rbind", "rprivate"}}
	if readOnly {
		m.Options = append(m.Options, "ro")
	}
	return m
}

func tmpfs(target, options string) specs.Mount {
	m := specs.Mount{Destination: filepath.Clean(target), Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev"}}
	for _, o := range strings.Split(options, ",") {
		switch o {
		case "":
		case "exec", "suid", "dev":
			m.Options = slices.DeleteFunc(m.Options, func(have string) bool { return have == "no"+o })
		default:
			m.Options = append(m.Options, o)
		}
	}
	return m
}

// checks is the health check of a container; nil if it has none.
func checks(rec record) *healthCheck {
	h := rec.Spec.Config.Healthcheck
	if h == nil || len(h.Test) == 0 {
		h = rec.Image.Healthcheck
	}
	return newHealthCheck(h)
}
