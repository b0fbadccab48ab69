// Package real is what the suites on real engines share.
package real

import (
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/test/images"
)

// Image turns the suite's description of an image into one that can be built.
func Image(img enginetest.FakeImage) images.Spec {
	c := img.Config
	spec := images.Spec{
		User: c.User, WorkingDir: c.WorkingDir, Entrypoint: c.EntryPoint, Cmd: c.Command, Env: c.Env[1:], Labels: c.Labels, StopSignal: c.StopSignal,
	}
	for _, path := range slices.Sorted(maps.Keys(img.Files)) {
		f := img.Files[path]
		file := images.File{Path: path, Data: f.Data, Mode: fs.FileMode(f.Mode & 0o777), UID: int(f.UID), GID: int(f.GID), Link: f.Link}
		if f.Mode&0o170000 == 0o040000 {
			file.Mode |= fs.ModeDir
		}
		if f.Mode&0o4000 != 0 {
			file.Mode |= fs.ModeSetuid
		}
		spec.Files = append(spec.Files, file)
	}
	return spec
}

// Hung is the path of a unix socket that accepts connections and never answers.
func Hung(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hung") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	return l.Addr().String()
}
