package containerd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// possibleCapabilities are those that this process may give away.
var possibleCapabilities = sync.OnceValue(func() []string {
	all, err := cap.Current()
	if err != nil {
		return nil
	}
	return all
})

// kernelHasX32 asks the kernel for the process id in the way of x32.
var kernelHasX32 = sync.OnceValue(func() bool {
	const x32 = 0x40000000 // <asm/unistd.h>, __X32_SYSCALL_BIT
	if runtime.GOARCH != "amd64" {
		return false
	}
	_, _, errno := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0)
	return errno != unix.ENOSYS
})

// initProgram is a program that reaps, as Docker's --init has it; empty if the host has none.
func initProgram() string {
	for _, name := range []string{"docker-init", "tini-static", "tini"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	return ""
}

// devices are the host's devices that a definition names, by their paths in the container.
func devices(rec record) ([]specs.LinuxDevice, error) {
	var all []specs.LinuxDevice
	for _, d := range rec.Spec.HostConfig.Devices {
		s := &oci.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
		if err := oci.WithDevices(d.PathOnHost, cmp.Or(d.PathInContainer, d.PathOnHost), cmp.Or(d.CgroupPermissions, allPermission))(context.Background(), nil, nil, s); err != nil {
			return nil, refuse(errdefs.ErrInvalidArgument, "device %s: %v", d.PathOnHost, err)
		}
		all = append(all, s.Linux.Devices...)
	}
	return all, nil
}

func hostDevices() ([]specs.LinuxDevice, error) {
	s := &oci.Spec{Linux: &specs.Linux{}}
	if err := oci.WithHostDevices(context.Background(), nil, nil, s); err != nil {
		return nil, fmt.Errorf("the host's devices: %w", err)
	}
	return s.Linux.Devices, nil
}

// maxAccounts bounds the lists of users and groups of an image.
const maxAccounts = 1 << 20

// user finds out who the process is: user and group by number or by the image's own lists, and the groups that it is in. An image does not
// change, so it is found out once.
func (r *Runtime) user(ctx context.Context, rec record) (execUser, error) {
	who := cmp.Or(rec.Spec.Config.User, rec.Image.User)
	if known, is := r.images.user(rec.ImageID, who); is {
		return known, nil
	}
	found, err := r.findUser(ctx, rec.ImageID, who)
	if err == nil {
		r.images.remember(rec.ImageID, who, found)
	}
	return found, err
}

func (r *Runtime) findUser(ctx context.Context, image, who string) (execUser, error) {
	read := func(name string) (*bytes.Reader, error) {
		b, err := r.ReadFile(ctx, image, name, maxAccounts)
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			err = nil
		}
		return bytes.NewReader(b), err
	}
	passwd, err := read("/etc/passwd")
	if err != nil {
		return execUser{}, err
	}
	group, err := read("/etc/group")
	if err != nil {
		return execUser{}, err
	}
	u, err := user.GetExecUser(who, nil, passwd, group)
	if err != nil {
		return execUser{}, refuse(errdefs.ErrInvalidArgument, "user %q: %v", who, err)
	}
	found := execUser{UID: uint32(u.Uid), GID: uint32(u.Gid)}
	for _, g := range u.Sgids {
		found.Groups = append(found.Groups, uint32(g))
	}
	return found, nil
}

// filesOf are the files of /etc that are a container's own, by their places.
func (r *Runtime) filesOf(id string) map[string]string {
	at := func(name string) string { return filepath.Join(r.dir(id), name) }
	return map[string]string{"/etc/hosts": at("hosts"), "/etc/hostname": at("hostname"), "/etc/resolv.conf": at("resolv.conf")}
}

// makeFiles makes them, empty, so that they can be mounted; or names those of the container whose network this one joins.
func (r *Runtime) makeFiles(ctx context.Context, b box, f *facts) error {
	if ref, joins := other(networkMode(b.rec.Spec)); joins {
		o, err := r.find(ctx, ref)
		if err != nil {
			return err
		}
		f.Files = r.filesOf(o.ID)
		return nil
	}
	for _, file := range f.Files {
		made, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_ = made.Close()
	}
	return nil
}

// writeFiles fills them.
func (r *Runtime) writeFiles(ctx context.Context, b box, c *Connection) error {
	f := r.input(b.ID, b.rec)
	mode := networkMode(b.rec.Spec)
	var addresses []string
	if c != nil {
		addresses = c.Addresses
	}
	linked, err := r.linked(ctx, b.rec.Spec.Links)
	if err != nil {
		return err
	}
	base := emptyHosts
	if mode == "host" {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil {
			return err
		}
		base = string(own)
	}
	resolv, err := hostResolver(mode == "bridge")
	if err != nil {
		return err
	}
	for at, text := range map[string]string{
		"/etc/hostname": f.Hostname + "\n", "/etc/hosts": hosts(base, f.Hostname, addresses, b.rec.Spec.HostConfig.ExtraHosts, linked),
		"/etc/resolv.conf": resolvConf(resolv, b.rec.Spec.HostConfig.DNS, b.rec.Spec.HostConfig.DNSSearch),
	} {
		if err := os.WriteFile(f.Files[at], []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const emptyHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
ff00::0	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// hosts is a file of hosts(5): what there is, what the definition adds, linked containers, and the container itself.
func hosts(base, hostname string, addresses, extra []string, linked []string) string {
	var out strings.Builder
	out.WriteString(base)
	for _, e := range extra {
		if name, address, ok := strings.Cut(e, ":"); ok {
			fmt.Fprintf(&out, "%s\t%s\n", strings.Trim(address, "[]"), name)
		}
	}
	for _, l := range linked {
		out.WriteString(l + "\n")
	}
	for _, a := range addresses {
		fmt.Fprintf(&out, "%s\t%s\n", a, hostname)
	}
	return out.String()
}

// linked are the lines of hosts for the containers that a definition links to.
func (r *Runtime) linked(ctx context.Context, links []string) ([]string, error) {
	var lines []string
	for _, l := range links {
		name, alias, _ := strings.Cut(l, ":")
		st, err := r.Inspect(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil, refuse(errdefs.ErrInvalidArgument, "the linked container %s does not exist", name)
		}
		if err != nil {
			return nil, err
		}
		for _, a := range st.Addresses {
			lines = append(lines, fmt.Sprintf("%s\t%s %s %s", a, cmp.Or(alias, name), st.ID[:12], st.Name))
		}
	}
	return lines, nil
}

// The file of servers that systemd-resolved asks, for those who can't reach it on the host's loopback interface.
const upstreamResolver = "/run/systemd/resolve/resolv.conf"

// hostResolver is the host's resolv.conf(5), without servers on the loopback interface if the container has another one.
func hostResolver(ownLoopback bool) (string, error) {
	b, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	text := string(b)
	if !ownLoopback {
		return text, nil
	}
	if kept, servers := withoutLoopback(text); servers > 0 {
		return kept, nil
	}
	if up, err := os.ReadFile(upstreamResolver); err == nil {
		text, _ = withoutLoopback(string(up))
		return text, nil
	}
	text, _ = withoutLoopback(text)
	return text, nil
}

func withoutLoopback(text string) (kept string, servers int) {
	var out strings.Builder
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err == nil && a.IsLoopback() {
				continue
			}
			servers++
		}
		out.WriteString(line)
	}
	return out.String(), servers
}

// resolvConf puts the definition's servers and domains in the place of the host's.
func resolvConf(host string, servers, search []string) string {
	var out strings.Builder
	for line := range strings.Lines(host) {
		fields := strings.Fields(line)
		if len(fields) == 0 || len(servers) > 0 && fields[0] == "nameserver" || len(search) > 0 && slices.Contains([]string{"search", "domain"}, fields[0]) {
			continue
		}
		out.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	for _, s := range servers {
		out.WriteString("nameserver " + s + "\n")
	}
	if len(search) > 0 && !(len(search) == 1 && search[0] == ".") {
		out.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	return out.String()
}
