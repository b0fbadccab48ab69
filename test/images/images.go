// Package images makes the small real images that tests and the demonstration run, and serves them from a registry of
// its own, so that nothing comes from the internet.
//
// [Build] makes an image in memory: by default one layer with Debian's static busybox and a link for each of its
// applets, shared by all images, and one layer with the files that the [Spec] adds. The same Spec always gives the same
// digest. [Registry] serves images on a loopback port to any engine, with credentials and faults if asked; [Load] puts
// one into a Docker engine without a registry.
package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// busyboxPath is where Debian's package busybox-static puts its only program.
const busyboxPath = "/bin/busybox"

// ErrNoBusybox says what to install.
var ErrNoBusybox = errors.New("no static " + busyboxPath + ": install it with: apt-get install -y busybox-static")

// Spec is an image to build. The zero value is busybox with PATH=/bin and no command.
type Spec struct {
	User        string
	WorkingDir  string
	Entrypoint  []string
	Cmd         []string
	Env         []string // in addition to PATH=/bin
	Volumes     []string
	Labels      map[string]string
	StopSignal  string
	Healthcheck *v1.HealthConfig
	Files       []File
	Scratch     bool // without busybox
}

// File is a file, a directory (Mode has fs.ModeDir) or a symlink (Link is set) of an image. Parent directories are made
// as needed, owned by root with mode 0755.
type File struct {
	Path     string
	Data     string
	Bytes    []byte // instead of Data
	Mode     fs.FileMode
	UID, GID int
	Link     string
}

// Passwd and Group are files that give images users to name: root, app (1000:1000, also in group 2000 "logs") and dog
// (1001, primary group 2000).
var (
	Passwd = File{Path: "/etc/passwd", Data: "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\ndog:x:1001:2000::/:/bin/sh\n"}
	Group  = File{Path: "/etc/group", Data: "root:x:0:\napp:x:1000:\nlogs:x:2000:app\n"}
)

// epoch is the time of everything in an image, so that digests are stable.
var epoch = time.Unix(1700000000, 0).UTC()

// Build makes the image.
func Build(spec Spec) (v1.Image, error) {
	var layers []v1.Layer
	if !spec.Scratch {
		base, err := busyboxLayer()
		if err != nil {
			return nil, err
		}
		layers = append(layers, base)
	}
	if len(spec.Files) > 0 || spec.Scratch {
		own, err := layerOf(spec.Files)
		if err != nil {
			return nil, err
		}
		layers = append(layers, own)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, fmt.Errorf("image layers: %w", err)
	}
	old, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image configuration: %w", err)
	}
	conf := old.DeepCopy()
	conf.OS, conf.Architecture = "linux", runtime.GOARCH
	conf.Created = v1.Time{Time: epoch}
	conf.Config = v1.Config{
		User: spec.User, WorkingDir: spec.WorkingDir, Entrypoint: spec.Entrypoint, Cmd: spec.Cmd,
		Env: append([]string{"PATH=/bin"}, spec.Env...), Labels: spec.Labels, StopSignal: spec.StopSignal,
		Healthcheck: spec.Healthcheck,
	}
	for _, v := range spec.Volumes {
		if conf.Config.Volumes == nil {
			conf.Config.Volumes = map[string]struct{}{}
		}
		conf.Config.Volumes[v] = struct{}{}
	}
	return mutate.ConfigFile(img, conf)
}

var busyboxLayer = sync.OnceValues(func() (v1.Layer, error) {
	program, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNoBusybox, err)
	}
	if bytes.Contains(program, []byte("/ld-linux")) {
		return nil, ErrNoBusybox
	}
	list, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busyboxPath, err)
	}
	files := []File{
		{Path: "/bin/busybox", Bytes: program, Mode: 0o755},
		{Path: "/etc", Mode: fs.ModeDir | 0o755}, {Path: "/proc", Mode: fs.ModeDir | 0o755},
		{Path: "/sys", Mode: fs.ModeDir | 0o755}, {Path: "/dev", Mode: fs.ModeDir | 0o755},
		{Path: "/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
	}
	for name := range strings.FieldsSeq(string(list)) {
		if name != "busybox" {
			files = append(files, File{Path: "/bin/" + name, Link: "busybox"})
		}
	}
	return layerOf(files)
})

// layerOf packs files, and the directories above them, into a layer.
func layerOf(files []File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{"/": true, ".": true}
	for _, f := range files {
		made[path.Clean(f.Path)] = true
	}
	for _, f := range files {
		if err := addParents(w, path.Dir(path.Clean(f.Path)), made); err != nil {
			return nil, err
		}
		if err := add(w, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("image layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithCompressedCaching)
}

func addParents(w *tar.Writer, dir string, made map[string]bool) error {
	var missing []string
	for ; !made[dir]; dir = path.Dir(dir) {
		missing = append(missing, dir)
		made[dir] = true
	}
	slices.Reverse(missing)
	for _, d := range missing {
		if err := add(w, File{Path: d, Mode: fs.ModeDir | 0o755}); err != nil {
			return err
		}
	}
	return nil
}

func add(w *tar.Writer, f File) error {
	data := f.Bytes
	if data == nil {
		data = []byte(f.Data)
	}
	h := &tar.Header{
		Name: strings.TrimPrefix(path.Clean(f.Path), "/"), Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID, ModTime: epoch,
		Typeflag: tar.TypeReg, Size: int64(len(data)), Format: tar.FormatPAX,
	}
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			h.Mode |= value
		}
	}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode, h.Size, data = tar.TypeSymlink, f.Link, 0o777, 0, nil
	case f.Mode.IsDir():
		h.Typeflag, h.Size, data = tar.TypeDir, 0, nil
		h.Name += "/"
	case f.Mode == 0:
		h.Mode = 0o644
	}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("image layer: %s: %w", f.Path, err)
	}
	_, err := w.Write(data)
	return err
}
