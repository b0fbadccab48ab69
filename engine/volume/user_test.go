package volume

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	passwd = "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\ndog:x:1001:2000::/:/bin/sh\n"
	group  = "root:x:0:\napp:x:1000:\nlogs:x:2000:app\nadm:x:4:app,dog\n"
)

func TestAUserStringIsResolvedAsEnginesDo(t *testing.T) {
	for _, c := range []struct {
		spec     string
		uid, gid uint32
		groups   []uint32
	}{
		{"", 0, 0, nil},
		{"root", 0, 0, nil},
		{"0", 0, 0, nil},
		{"app", 1000, 1000, []uint32{4, 2000}},
		{"1000", 1000, 1000, []uint32{4, 2000}},
		{"app:logs", 1000, 2000, nil},
		{"1000:5", 1000, 5, nil},
		{"dog", 1001, 2000, []uint32{4}},
		{"4242", 4242, 0, nil},
		{"4242:4343", 4242, 4343, nil},
		{":logs", 0, 2000, nil},
	} {
		got, err := parseUser(c.spec, []byte(passwd), []byte(group))
		if err != nil {
			t.Errorf("%q: %v", c.spec, err)
			continue
		}
		if got.uid != c.uid || got.gid != c.gid || !slices.Equal(got.groups, c.groups) {
			t.Errorf("%q is %d:%d %v, want %d:%d %v", c.spec, got.uid, got.gid, got.groups, c.uid, c.gid, c.groups)
		}
	}
}

func TestAUserThatTheImageDoesNotHaveIsRefused(t *testing.T) {
	for _, spec := range []string{"nobody", "app:nogroup", "99999999999", "-1", "app\nroot"} {
		if got, err := parseUser(spec, []byte(passwd), []byte(group)); err == nil {
			t.Errorf("%q was taken for %+v", spec, got)
		}
	}
}

func TestCapabilitiesCountForUidZeroOnly(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  uint32
		req  engine.VolumeRequest
		want uint64
	}{
		{"root has the engine's defaults", 0, engine.VolumeRequest{}, capDacOverride},
		{"another uid has none, whatever is added", 1000, engine.VolumeRequest{CapAdd: []string{"ALL"}, Privileged: true}, 0},
		{"dropped", 0, engine.VolumeRequest{CapDrop: []string{"CAP_DAC_OVERRIDE"}}, 0},
		{"all dropped", 0, engine.VolumeRequest{CapDrop: []string{"all"}}, 0},
		{"all dropped, one added", 0, engine.VolumeRequest{CapDrop: []string{"ALL"}, CapAdd: []string{"DAC_OVERRIDE"}}, capDacOverride},
		{"all added", 0, engine.VolumeRequest{CapAdd: []string{"ALL"}}, capDacOverride | capDacReadSearch},
		{"all added, one dropped", 0, engine.VolumeRequest{CapAdd: []string{"ALL"}, CapDrop: []string{"DAC_OVERRIDE"}}, capDacReadSearch},
		{"privileged", 0, engine.VolumeRequest{Privileged: true, CapDrop: []string{"ALL"}}, capDacOverride | capDacReadSearch},
	} {
		if got := capabilities(c.uid, c.req); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// imageFiles is an image in memory that counts how often it is read.
type imageFiles struct {
	files map[string]string
	stats map[string]engine.FileInfo
	reads int
}

func (f *imageFiles) ReadFile(_ context.Context, _, path string, _ int64) ([]byte, error) {
	f.reads++
	if s, ok := f.files[path]; ok {
		return []byte(s), nil
	}
	return nil, errdefs.ErrNotFound
}

func (f *imageFiles) Stat(_ context.Context, _, path string) (engine.FileInfo, error) {
	f.reads++
	if s, ok := f.stats[path]; ok {
		return s, nil
	}
	return engine.FileInfo{}, errdefs.ErrNotFound
}

func TestAnImageIsReadOncePerUser(t *testing.T) {
	files := &imageFiles{files: map[string]string{"/etc/passwd": passwd, "/etc/group": group}}
	c := New(Options{})
	req := engine.VolumeRequest{ImageID: "sha256:1", User: "app", Files: files, Mounts: []engine.Mount{{Type: "bind", Source: t.TempDir(), Target: "/data/x"}}}
	c.Check(t.Context(), req)
	first := files.reads
	for range 3 {
		c.Check(t.Context(), req)
	}
	if files.reads != first {
		t.Errorf("the image was read %d times more after the first check", files.reads-first)
	}
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"", "app", "app:logs", "1000:5", ":", "-1:-1", "4294967295", "root:x:0:0"} {
		f.Add(s, passwd, group)
	}
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		id, err := parseUser(spec, []byte(passwd), []byte(group))
		if err != nil {
			return
		}
		if id.uid == ^uint32(0) || id.gid == ^uint32(0) {
			t.Errorf("%q resolved to the id that means none: %+v", spec, id)
		}
		again, err := parseUser(spec, []byte(passwd), []byte(group))
		if err != nil || again.uid != id.uid || again.gid != id.gid {
			t.Errorf("%q resolved to %+v and then to %+v, %v", spec, id, again, err)
		}
	})
}
