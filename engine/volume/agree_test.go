package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/test/images"
)

// report is what testdata/probe prints.
type report struct {
	Enter, List, Write, Read, Connect bool
	Entries                           map[string]report
	Error                             string
}

// usable is the rule of the package comment, applied to what really worked.
func (r report) usable() bool {
	if r.Read || r.Connect || r.Enter && (r.List || r.Write) {
		return true
	}
	for _, e := range r.Entries {
		if r.Enter && e.usable() {
			return true
		}
	}
	return false
}

// agreement is one case: a host path, a mount and a user. The check and a real container must come to the same conclusion.
type agreement struct {
	name     string
	make     func(h host) // makes the source at h.src
	user     string
	add      []string
	drop     []string
	readOnly bool
	target   string   // default /mnt/data
	outer    bool     // h.outer is mounted at /outer too
	entries  []string // names to try inside
	create   bool     // Options.CreateAsUser
	refused  string   // part of the refusal; empty: it must be usable
	warned   string   // part of a warning that must be there
	device   bool     // the source is a device node
	oddWrite bool     // Write is not what the check's warning is about
}

// host makes files below a directory of the test.
type host struct {
	t     *testing.T
	dir   string
	src   string
	outer string
}

func (h host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h host) own(path string, mode uint32, uid, gid int) {
	h.t.Helper()
	h.must(os.Lchown(path, uid, gid))
	h.must(unix.Chmod(path, mode))
}

func dir(mode uint32, uid, gid int) func(host) {
	return func(h host) { h.must(os.MkdirAll(h.src, 0o755)); h.own(h.src, mode, uid, gid) }
}

func file(mode uint32, uid, gid int) func(host) {
	return func(h host) { h.must(os.WriteFile(h.src, []byte("content\n"), 0o600)); h.own(h.src, mode, uid, gid) }
}

// with adds an entry to the source directory.
func with(outer func(host), name string, inner func(host)) func(host) {
	return func(h host) {
		outer(h)
		in := h
		in.src = filepath.Join(h.src, name)
		inner(in)
	}
}

func acl(base func(host), spec ...string) func(host) {
	return func(h host) {
		base(h)
		out, err := exec.Command("setfacl", append(spec, h.src)...).CombinedOutput()
		if err != nil {
			h.t.Fatalf("setfacl (apt-get install -y acl): %v: %s", err, out)
		}
	}
}

func socket(mode uint32, uid, gid int) func(host) {
	return func(h host) {
		l, err := net.Listen("unix", h.src)
		h.must(err)
		h.t.Cleanup(func() { l.Close() })
		h.own(h.src, mode, uid, gid)
	}
}

func node(kind, mode uint32, dev int) func(host) {
	return func(h host) { h.must(unix.Mknod(h.src, kind|0o600, dev)); h.own(h.src, mode, 0, 0) }
}

func symlink(target string) func(host) {
	return func(h host) { h.must(os.Symlink(target, h.src)) }
}

func both(fs ...func(host)) func(host) {
	return func(h host) {
		for _, f := range fs {
			f(h)
		}
	}
}

// readOnlyFileSystem mounts a read-only tmpfs at the source.
func readOnlyFileSystem(h host) {
	h.must(os.MkdirAll(h.src, 0o755))
	h.must(unix.Mount("tmpfs", h.src, "tmpfs", 0, "mode=0777,size=64k"))
	h.t.Cleanup(func() { _ = unix.Unmount(h.src, unix.MNT_DETACH) })
	h.must(unix.Mount("", h.src, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}

var agreements = []agreement{
	{name: "root uses any directory", make: dir(0o755, 0, 0)},
	{name: "root with the default capabilities uses a stranger's private directory", make: dir(0o700, 1000, 1000)},
	{name: "a user reads a public directory of root and is warned that it can't write", make: dir(0o755, 0, 0), user: "1000", warned: "may not write"},
	{name: "a user is refused a private directory of root", make: dir(0o700, 0, 0), user: "1000", refused: "no x"},
	{name: "a user owns its private directory", make: dir(0o700, 1000, 1000), user: "1000"},
	{name: "a named user owns its private directory", make: dir(0o700, 1000, 1000), user: "app"},
	{name: "a directory that can only be entered and is empty is of no use", make: dir(0o711, 0, 0), user: "1000", refused: "neither read nor write"},
	{name: "a directory that can only be entered is used by name", make: with(dir(0o711, 0, 0), "public", file(0o644, 0, 0)), user: "1000", entries: []string{"public"}, warned: "only by name"},
	{name: "a directory that can only be entered and has nothing for the user is of no use", make: with(dir(0o711, 0, 0), "secret", file(0o600, 0, 0)), user: "1000", entries: []string{"secret"}, refused: "nothing in it"},
	{name: "a drop box can be written but not listed", make: dir(0o733, 0, 0), user: "1000"},
	{name: "a drop box is of no use read-only", make: dir(0o733, 0, 0), user: "1000", readOnly: true, refused: "no r"},
	{name: "a directory that can be listed but not entered is of no use", make: dir(0o744, 0, 0), user: "1000", refused: "no x"},
	{name: "a supplementary group of a named user opens a directory", make: dir(0o770, 0, 2000), user: "app"},
	{name: "a number that passwd knows gets the supplementary groups too", make: dir(0o770, 0, 2000), user: "1000"},
	{name: "an explicit group leaves the supplementary groups out", make: dir(0o770, 0, 2000), user: "1000:1000", refused: "no x"},
	{name: "an explicit group opens a directory", make: dir(0o770, 0, 2000), user: "4242:2000"},
	{name: "a number that passwd does not know has group 0", make: dir(0o770, 0, 0), user: "4242"},
	{name: "the owner's bits count for the owner even where others have more", make: dir(0o077, 1000, 1000), user: "1000", refused: "no x"},
	{name: "a sticky public directory can be written", make: dir(0o1777, 0, 0), user: "1000"},
	{name: "a read-only mount of a writable directory is read", make: dir(0o777, 0, 0), user: "1000", readOnly: true},
	{name: "root without CAP_DAC_OVERRIDE is an ordinary user", make: dir(0o700, 1000, 1000), drop: []string{"DAC_OVERRIDE"}, refused: "no x"},
	{name: "root without any capability is an ordinary user", make: file(0o600, 1000, 1000), drop: []string{"ALL"}, refused: "no r"},
	{name: "CAP_DAC_OVERRIDE alone is enough for root", make: dir(0o700, 1000, 1000), drop: []string{"ALL"}, add: []string{"DAC_OVERRIDE"}},
	{name: "CAP_DAC_READ_SEARCH reads but does not write", make: dir(0o700, 1000, 1000), drop: []string{"ALL"}, add: []string{"DAC_READ_SEARCH"}, warned: "may not write"},
	{name: "added capabilities do not help another user", make: dir(0o700, 0, 0), user: "1000", add: []string{"DAC_OVERRIDE"}, refused: "no x"},
	{name: "an ACL lets a user in", make: acl(dir(0o700, 0, 0), "-m", "u:1000:rwx"), user: "1000"},
	{name: "an ACL keeps a user out", make: acl(dir(0o755, 0, 0), "-m", "u:1000:---"), user: "1000", refused: "has an ACL"},
	{name: "an ACL's mask takes the write right away", make: acl(dir(0o700, 0, 0), "-m", "u:1000:rwx,m::rx"), user: "1000", warned: "may not write"},
	{name: "an ACL of a group lets its members in", make: acl(dir(0o700, 0, 0), "-m", "g:2000:rwx"), user: "app"},
	{name: "a public file is read", make: file(0o644, 0, 0), user: "1000", warned: "may not write it"},
	{name: "a private file of root is refused", make: file(0o600, 0, 0), user: "1000", refused: "may not read the file"},
	{name: "a private file of the user is read and written", make: file(0o600, 1000, 1000), user: "1000"},
	{name: "a file that can only be written is refused", make: file(0o222, 0, 0), user: "1000", refused: "no r", oddWrite: true},
	{name: "root reads a file without any bit", make: file(0, 1000, 1000)},
	{name: "a socket that the user may not write can't be connected to", make: socket(0o755, 0, 0), user: "1000", refused: "may not connect"},
	{name: "a public socket is connected to", make: socket(0o777, 0, 0), user: "1000"},
	{name: "a socket of a supplementary group is connected to", make: socket(0o660, 0, 2000), user: "app"},
	{name: "a socket is connected to through a read-only mount", make: socket(0o666, 0, 0), user: "1000", readOnly: true},
	{name: "a private FIFO is refused", make: node(unix.S_IFIFO, 0o600, 0), user: "1000", refused: "neither read nor write"},
	{name: "a public FIFO is used", make: node(unix.S_IFIFO, 0o666, 0), user: "1000"},
	{name: "a private device is refused", make: node(unix.S_IFCHR, 0o600, int(unix.Mkdev(1, 3))), user: "1000", device: true, refused: "neither read nor write"},
	{name: "a public device is used", make: node(unix.S_IFCHR, 0o666, int(unix.Mkdev(1, 3))), user: "1000", device: true},
	{name: "a file that can't be read is named", make: with(dir(0o755, 0, 0), "secret", file(0o600, 0, 0)), user: "1000", entries: []string{"secret"}, warned: "secret (file of 0:0 with mode 0600)"},
	{name: "a directory that can't be entered is named", make: with(dir(0o755, 0, 0), "inner", dir(0o700, 0, 0)), user: "1000", entries: []string{"inner"}, warned: "inner (directory of 0:0 with mode 0700)"},
	{name: "a symlink that leaves the mount is named", make: with(dir(0o755, 1000, 1000), "away", symlink("../../etc/shadow")), user: "1000", warned: "away -> ../../etc/shadow"},
	{name: "a source that is a symlink counts as what it leads to", make: func(h host) {
		real := h
		real.src += "-real"
		dir(0o700, 0, 0)(real)
		symlink(real.src)(h)
	}, user: "1000", refused: "no x"},
	{name: "directories above the source on the host do not count", make: both(dir(0o755, 1000, 1000), func(h host) { h.own(h.dir, 0o700, 0, 0) }), user: "1000"},
	{name: "a read-only file system is not writable", make: readOnlyFileSystem, user: "1000", warned: "may not write"},
	{name: "a missing source is made for root", make: func(host) {}, user: "1000", warned: "did not exist"},
	{name: "a missing source is made for the user where that is wanted", make: func(host) {}, user: "1000", create: true, warned: "did not exist"},
	{name: "a missing source is made with what is missing above it", make: func(host) {}, warned: "did not exist"},
	{name: "a private directory of the image above the container path stops a user", make: dir(0o777, 0, 0), user: "1000", target: "/private/data", refused: "/private in the image"},
	{name: "a private directory of the image does not stop root", make: dir(0o777, 0, 0), target: "/private/data"},
	{name: "a user's own private directory of the image does not stop it", make: dir(0o777, 0, 0), user: "1000", target: "/home/app/data"},
	{name: "a user's private directory of the image stops root without capabilities", make: dir(0o777, 0, 0), drop: []string{"ALL"}, target: "/home/app/data", refused: "/home/app in the image"},
	{name: "a symlink of the image above the container path is followed", make: dir(0o777, 0, 0), user: "1000", target: "/alias/data", refused: "/private in the image"},
	{name: "directories above the container path that the image lacks are made for everybody", make: dir(0o777, 0, 0), user: "1000", target: "/new/deep/data"},
	{name: "another mount above the container path stops a user", make: both(dir(0o777, 0, 0), func(h host) { o := h; o.src = h.outer; dir(0o700, 0, 0)(o) }), user: "1000", outer: true, target: "/outer/data", refused: "no x"},
	{name: "another mount above the container path lets a user through", make: both(dir(0o777, 0, 0), func(h host) { o := h; o.src = h.outer; dir(0o755, 0, 0)(o) }), user: "1000", outer: true, target: "/outer/data"},
}

func TestTheCheckAndARealContainerAgree(t *testing.T) {
	if len(agreements) < 30 {
		t.Fatalf("%d cases", len(agreements))
	}
	cli := images.DockerClient(t)
	probe := buildProbe(t)
	const ref = "longshore-volume-probe:test"
	images.MustLoad(t, cli, ref, images.Spec{Files: []images.File{
		images.Passwd, images.Group,
		{Path: "/probe", Bytes: probe, Mode: 0o755},
		{Path: "/private", Mode: fs.ModeDir | 0o700},
		{Path: "/home/app", Mode: fs.ModeDir | 0o700, UID: 1000, GID: 1000},
		{Path: "/alias", Link: "private"},
	}})
	rt, err := docker.New(docker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close() })
	img, err := rt.Image(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range agreements {
		t.Run(a.name, func(t *testing.T) { a.run(t, cli, rt, img) })
	}
}

func (a agreement) run(t *testing.T, cli *client.Client, rt engine.Runtime, img engine.Image) {
	dir := t.TempDir()
	h := host{t: t, dir: filepath.Join(dir, "host"), outer: filepath.Join(dir, "host", "outer")}
	h.src = filepath.Join(h.dir, "src")
	h.must(os.MkdirAll(h.dir, 0o755))
	a.make(h)
	if a.target == "" {
		a.target = "/mnt/data"
	}
	mounts := []engine.Mount{{Type: "bind", Source: h.src, Target: a.target, ReadOnly: a.readOnly}}
	if a.outer {
		mounts = append(mounts, engine.Mount{Type: "bind", Source: h.outer, Target: "/outer"})
	}
	c := New(Options{CreateAsUser: a.create})
	got := c.Check(t.Context(), engine.VolumeRequest{ImageID: img.ID, User: a.user, Mounts: mounts, CapAdd: a.add, CapDrop: a.drop, Files: rt})
	seen := a.inContainer(t, cli, mounts)

	if refused := got.Refusal != ""; refused == seen.usable() {
		t.Errorf("the check says refused=%v (%s), the container says %+v", refused, got.Refusal, seen)
	}
	if !strings.Contains(got.Refusal, a.refused) || (got.Refusal != "") != (a.refused != "") {
		t.Errorf("refusal %q, want one with %q", got.Refusal, a.refused)
	}
	if got.Refusal != "" && !strings.Contains(got.Refusal, h.src) && !a.outer {
		t.Errorf("the refusal does not name the path: %s", got.Refusal)
	}
	all := strings.Join(got.Warnings, "\n")
	if !strings.Contains(all, a.warned) {
		t.Errorf("warnings %q, want one with %q", all, a.warned)
	}
	regular := seen.Connect == false && !a.device && !a.oddWrite
	if got.Refusal == "" && !a.readOnly && regular && (seen.Enter || seen.Read) {
		warned := slices.ContainsFunc(got.Warnings, func(w string) bool {
			return strings.Contains(w, "host volume "+h.src+" ") && strings.Contains(w, "may not write")
		})
		if warned == seen.Write && !strings.Contains(all, "only by name") {
			t.Errorf("the container could write: %v; warnings: %s", seen.Write, all)
		}
	}
}

// inContainer runs the probe in a container with the mounts.
func (a agreement) inContainer(t *testing.T, cli *client.Client, mounts []engine.Mount) report {
	ctx := t.Context()
	conf := &container.Config{Image: "longshore-volume-probe:test", User: a.user, Cmd: append([]string{"/probe", a.target}, a.entries...), NetworkDisabled: true, Labels: map[string]string{"longshore-test": "volume"}}
	hostConf := &container.HostConfig{CapAdd: a.add, CapDrop: a.drop, NetworkMode: "host"}
	for _, m := range mounts {
		bind := m.Source + ":" + m.Target
		if m.ReadOnly {
			bind += ":ro"
		}
		hostConf.Binds = append(hostConf.Binds, bind)
	}
	created, err := cli.ContainerCreate(ctx, conf, hostConf, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cli.ContainerRemove(context.WithoutCancel(ctx), created.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
	wait, failed := cli.ContainerWait(ctx, created.ID, container.WaitConditionNextExit)
	if err := cli.ContainerStart(ctx, created.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-wait:
	case err := <-failed:
		t.Fatal(err)
	}
	logs, err := cli.ContainerLogs(ctx, created.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, logs); err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("the probe printed %q and %q: %v", stdout.String(), stderr.String(), err)
	}
	return r
}

func buildProbe(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", out, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v: %s", err, b)
	}
	bin, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}
