package daemons_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/test/images"
)

// debian unpacks packages of this machine's Debian release, and knows the libraries of their programs. What was downloaded
// is kept in the user's cache directory.
type debian struct {
	t    *testing.T
	root string
}

// unpack makes a root of packages. Libraries that are in none of them come from the machine itself.
func unpack(t *testing.T, packages ...string) *debian {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache = filepath.Join(cache, "longshore", "debs")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &debian{t: t, root: t.TempDir()}
	for _, p := range packages {
		name := downloaded(cache, p)
		if name == "" {
			cmd := exec.CommandContext(t.Context(), "apt-get", "download", p)
			cmd.Dir = cache
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("apt-get download %s (after apt-get update?): %v: %s", p, err, out)
			}
			name = downloaded(cache, p)
		}
		if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "-x", name, d.root).CombinedOutput(); err != nil {
			t.Fatalf("unpacking %s: %v: %s", name, err, out)
		}
	}
	return d
}

func downloaded(cache, name string) string {
	found, _ := filepath.Glob(filepath.Join(cache, name+"_*.deb"))
	if len(found) == 0 {
		return ""
	}
	return found[len(found)-1]
}

// programs are files of an image: these programs of the packages, under their own paths, and every library that they need.
func (d *debian) programs(paths ...string) []images.File {
	d.t.Helper()
	var files []images.File
	seen := map[string]bool{}
	add := func(from, to string) {
		if seen[to] {
			return
		}
		seen[to] = true
		data, err := os.ReadFile(from)
		if err != nil {
			d.t.Fatal(err)
		}
		files = append(files, images.File{Path: to, Bytes: data, Mode: 0o755})
	}
	for _, p := range paths {
		add(filepath.Join(d.root, p), p)
		cmd := exec.CommandContext(d.t.Context(), "ldd", filepath.Join(d.root, p))
		cmd.Env = append(os.Environ(), fmt.Sprintf("LD_LIBRARY_PATH=%[1]s/usr/lib/x86_64-linux-gnu:%[1]s/lib/x86_64-linux-gnu", d.root))
		out, err := cmd.Output()
		if err != nil || strings.Contains(string(out), "not found") {
			d.t.Fatalf("the libraries of %s: %v: %s", p, err, out)
		}
		for line := range strings.Lines(string(out)) {
			for _, field := range strings.Fields(line) {
				if strings.HasPrefix(field, "/") {
					add(field, strings.TrimPrefix(field, d.root))
				}
			}
		}
	}
	return files
}

// standIn is our own log router, where Fluent Bit's image has it.
func standIn(t *testing.T) images.File {
	t.Helper()
	program := filepath.Join(t.TempDir(), "router")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./router")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the log router: %v: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return images.File{Path: "/fluent-bit/bin/fluent-bit", Bytes: data, Mode: 0o755}
}
