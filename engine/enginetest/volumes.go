package enginetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

var (
	_ engine.VolumeKeeper = (*Fake)(nil)
	_ engine.Importer     = (*Fake)(nil)
	_ engine.Loader       = (*Fake)(nil)
)

// keep makes a volume unless there is one of the name. The mutex is held.
func (f *Fake) keep(v engine.EngineVolume) {
	if v.Driver == "" {
		v.Driver = "local"
	}
	if _, there := f.volumes[v.Name]; !there {
		f.volumes[v.Name] = engine.EngineVolume{Name: v.Name, Driver: v.Driver, Options: maps.Clone(v.Options), Labels: maps.Clone(v.Labels)}
	}
}

// CreateVolume makes a named volume of a driver that Info lists.
func (f *Fake) CreateVolume(ctx context.Context, v engine.EngineVolume) error {
	if err := f.enter(ctx, "CreateVolume", v.Name); err != nil {
		return err
	}
	defer f.mu.Unlock()
	driver := v.Driver
	if driver == "" {
		driver = "local"
	}
	have, there := f.volumes[v.Name]
	switch {
	case v.Name == "" || strings.ContainsAny(v.Name, "/: "):
		return fmt.Errorf("%q is no name of a volume: %w", v.Name, errdefs.ErrInvalidArgument)
	case there && have.Driver != driver:
		return fmt.Errorf("volume %s exists with driver %s: %w", v.Name, have.Driver, errdefs.ErrAlreadyExists)
	case !slices.Contains(f.info.VolumeDrivers, driver):
		return fmt.Errorf("there is no volume driver %s: %w", driver, errdefs.ErrInvalidArgument)
	}
	f.keep(v)
	return nil
}

// InspectVolume returns a named volume.
func (f *Fake) InspectVolume(ctx context.Context, name string) (engine.EngineVolume, error) {
	if err := f.enter(ctx, "InspectVolume", name); err != nil {
		return engine.EngineVolume{}, err
	}
	defer f.mu.Unlock()
	v, there := f.volumes[name]
	if !there {
		return v, fmt.Errorf("no such volume: %s: %w", name, errdefs.ErrNotFound)
	}
	v.Options, v.Labels = maps.Clone(v.Options), maps.Clone(v.Labels)
	return v, nil
}

// RemoveVolume removes a named volume; it makes Fake an engine.VolumeRemover.
func (f *Fake) RemoveVolume(ctx context.Context, name string) error {
	if err := f.enter(ctx, "RemoveVolume", name); err != nil {
		return err
	}
	defer f.mu.Unlock()
	for _, c := range f.containers {
		for _, m := range c.spec.Mounts {
			if m.Type == "volume" && m.Source == name {
				return fmt.Errorf("volume %s is in use by container %s: %w", name, c.state.Name, errdefs.ErrFailedPrecondition)
			}
		}
	}
	delete(f.volumes, name)
	return nil
}

// Import makes a local image; the Fake keeps its configuration and size, and no files.
func (f *Fake) Import(ctx context.Context, ref string, root io.Reader, config engine.ImageConfig) (engine.Image, error) {
	archive, err := io.ReadAll(root)
	if err != nil {
		return engine.Image{}, err
	}
	if err := f.enter(ctx, "Import", ref); err != nil {
		return engine.Image{}, err
	}
	defer f.mu.Unlock()
	return f.store(&FakeImage{Ref: ref, Config: config, Size: int64(len(archive))}, ref).show(), nil
}

// Load makes the images of an archive local; of them the Fake keeps the names, and an id made of the configuration.
func (f *Fake) Load(ctx context.Context, archive io.Reader) error {
	var images []struct {
		Config   string
		RepoTags []string
	}
	files := map[string][]byte{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return err
		}
	}
	if err := f.enter(ctx, "Load", ""); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if err := json.Unmarshal(files["manifest.json"], &images); err != nil {
		return fmt.Errorf("manifest.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, i := range images {
		for _, ref := range i.RepoTags {
			f.store(&FakeImage{Ref: ref, Size: int64(len(files[i.Config]))}, ref)
		}
	}
	return nil
}

// volumeTests hold for Runtimes that can do what engine.VolumeRemover and engine.VolumeKeeper say.
func volumeTests(t *testing.T, s *suite) {
	r, can := s.Runtime.(engine.VolumeRemover)
	if !can {
		return
	}
	spec := s.spec(ScriptServe)
	volume := spec.Name + "-volume"
	spec.Mounts = []engine.Mount{{Type: "volume", Source: volume, Target: "/data"}}
	id := s.create(t, spec)
	t.Cleanup(func() { ok(t, "clean-up", r.RemoveVolume(context.WithoutCancel(t.Context()), volume)) })
	mounts := s.inspect(t, id).Mounts
	want := spec.Mounts[0]
	if len(mounts) == 1 && filepath.IsAbs(mounts[0].Path) {
		want.Path = mounts[0].Path
	}
	if len(mounts) != 1 || mounts[0] != want || want.Path == "" {
		t.Errorf("the state shows the mounts %+v", mounts)
	}
	class(t, "remove while in use", r.RemoveVolume(s.ctx(t), volume), errdefs.IsFailedPrecondition, "FailedPrecondition")
	ok(t, "remove container", s.Runtime.Remove(s.ctx(t), id))
	ok(t, "remove", r.RemoveVolume(s.ctx(t), volume))
	ok(t, "remove again", r.RemoveVolume(s.ctx(t), volume))
	if k, can := s.Runtime.(engine.VolumeKeeper); can {
		keptVolumeTests(t, s, k, volume)
	}
}

func keptVolumeTests(t *testing.T, s *suite, k engine.VolumeKeeper, name string) {
	_, err := k.InspectVolume(s.ctx(t), name)
	class(t, "inspect of none", err, errdefs.IsNotFound, "NotFound")
	want := engine.EngineVolume{Name: name, Options: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, Labels: map[string]string{"a": "b"}}
	together(4, func(int) { ok(t, "create", k.CreateVolume(s.ctx(t), want)) })
	got, err := k.InspectVolume(s.ctx(t), name)
	if err != nil || got.Name != name || got.Driver != "local" || !maps.Equal(got.Options, want.Options) || !maps.Equal(got.Labels, want.Labels) {
		t.Errorf("inspected: %v, %+v, want %+v", err, got, want)
	}
	ok(t, "create again with other labels", k.CreateVolume(s.ctx(t), engine.EngineVolume{Name: name, Driver: "local", Options: want.Options, Labels: map[string]string{"c": "d"}}))
	if got, err := k.InspectVolume(s.ctx(t), name); err != nil || !maps.Equal(got.Labels, want.Labels) {
		t.Errorf("a second create changed it: %v, %+v", err, got)
	}
	spec := s.spec(ScriptServe)
	spec.Mounts = []engine.Mount{{Type: "volume", Source: name, Target: "/data"}}
	id := s.start(t, spec)
	class(t, "remove while in use", k.RemoveVolume(s.ctx(t), name), errdefs.IsFailedPrecondition, "FailedPrecondition")
	ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, 0))
	ok(t, "remove container", s.Runtime.Remove(s.ctx(t), id))
	ok(t, "remove", k.RemoveVolume(s.ctx(t), name))
	class(t, "create without a name", k.CreateVolume(s.ctx(t), engine.EngineVolume{}), errdefs.IsInvalidArgument, "InvalidArgument")
	class(t, "create with a bad name", k.CreateVolume(s.ctx(t), engine.EngineVolume{Name: "a/b"}), errdefs.IsInvalidArgument, "InvalidArgument")
	class(t, "create with no such driver", k.CreateVolume(s.ctx(t), engine.EngineVolume{Name: name, Driver: "longshore-none"}), errdefs.IsInvalidArgument, "InvalidArgument")
}

// importTests hold for Runtimes that can do what engine.Importer says.
func importTests(t *testing.T, s *suite) {
	r, can := s.Runtime.(engine.Importer)
	if !can {
		return
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	ok(t, "archive", w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: 4, Typeflag: tar.TypeReg}))
	_, err := w.Write([]byte("data"))
	ok(t, "archive", err)
	ok(t, "archive", w.Close())
	ref := strings.ToLower(s.spec("").Name) + ":1"
	config := engine.ImageConfig{EntryPoint: []string{"/file", "x"}, Command: []string{"y"}}
	t.Cleanup(func() { ok(t, "clean-up", s.Runtime.RemoveImage(context.WithoutCancel(t.Context()), ref)) })
	img, err := r.Import(s.ctx(t), ref, bytes.NewReader(archive.Bytes()), config)
	if err != nil || img.ID == "" || !slices.Contains(img.Names, ref) {
		t.Fatalf("imported: %v, %+v", err, img)
	}
	if local, err := s.Runtime.Image(s.ctx(t), ref); err != nil || local.ID != img.ID || !slices.Equal(local.Config.EntryPoint, config.EntryPoint) ||
		!slices.Equal(local.Config.Command, config.Command) {
		t.Errorf("locally: %v, %+v", err, local)
	}
}

// loadTests hold for Runtimes that can do what engine.Loader says.
func loadTests(t *testing.T, s *suite) {
	r, can := s.Runtime.(engine.Loader)
	if !can {
		return
	}
	ref := strings.ToLower(s.spec("").Name) + ":loaded"
	t.Cleanup(func() { ok(t, "clean-up", s.Runtime.RemoveImage(context.WithoutCancel(t.Context()), ref)) })
	ok(t, "load", r.Load(s.ctx(t), bytes.NewReader(savedImage(t, ref))))
	img, err := s.Runtime.Image(s.ctx(t), ref)
	if err != nil || img.ID == "" || !slices.Contains(img.Names, ref) {
		t.Fatalf("loaded: %v, %+v", err, img)
	}
	ok(t, "load again", r.Load(s.ctx(t), bytes.NewReader(savedImage(t, ref))))
	if again, err := s.Runtime.Image(s.ctx(t), ref); err != nil || again.ID != img.ID {
		t.Errorf("loaded again: %v, %+v, was %s", err, again, img.ID)
	}
	if err := r.Load(s.ctx(t), strings.NewReader(strings.Repeat("no archive", 1000))); err == nil {
		t.Error("what is no archive was taken")
	}
}

// savedImage is an image with one file, as docker save writes it.
func savedImage(t *testing.T, ref string) []byte {
	t.Helper()
	pack := func(files ...any) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for i := 0; i < len(files); i += 2 {
			data, _ := files[i+1].([]byte)
			ok(t, "archive", w.WriteHeader(&tar.Header{Name: fmt.Sprint(files[i]), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}))
			_, err := w.Write(data)
			ok(t, "archive", err)
		}
		ok(t, "archive", w.Close())
		return out.Bytes()
	}
	layer := pack("file", []byte("data"))
	config := fmt.Appendf(nil, `{"architecture":%q,"os":"linux","config":{"Cmd":["/file"]},"rootfs":{"type":"layers","diff_ids":["sha256:%x"]}}`, runtime.GOARCH, sha256.Sum256(layer))
	return pack("layer.tar", layer, "config.json", config, "manifest.json", fmt.Appendf(nil, `[{"Config":"config.json","RepoTags":[%q],"Layers":["layer.tar"]}]`, ref))
}

// namespaceTests hold for every Runtime: containers can share pid and ipc namespaces by name.
func namespaceTests(t *testing.T, s *suite) {
	holder := s.spec(ScriptServe)
	holder.HostConfig.IpcMode = "shareable"
	s.start(t, holder)
	guest := s.spec(ScriptServe)
	guest.HostConfig.PidMode, guest.HostConfig.IpcMode = "container:"+holder.Name, "container:"+holder.Name
	if st := s.inspect(t, s.start(t, guest)); st.Status != engine.StatusRunning {
		t.Errorf("got %+v", st)
	}
}
