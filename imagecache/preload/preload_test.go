package preload

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is an engine that takes what docker save writes, and keeps of an image its layers' bytes.
type store struct {
	images map[string]string
	loads  int
	err    error
}

func (s *store) ID(_ context.Context, name string) (string, error) {
	if id, ok := s.images[name]; ok {
		return id, nil
	}
	return "", errdefs.ErrNotFound
}

func (s *store) Load(_ context.Context, archive io.Reader) error {
	s.loads++
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
	var images []saved
	if err := json.Unmarshal(files[manifestName], &images); err != nil {
		return err
	}
	for _, i := range images {
		text := ""
		for _, l := range i.Layers {
			text += string(files[l])
		}
		for _, name := range i.RepoTags {
			s.images[name] = "id of " + text
		}
	}
	return s.err
}

func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dockerSave is an archive of images whose only layer is text.
func dockerSave(t *testing.T, text string, names ...string) []byte {
	t.Helper()
	tags, _ := json.Marshal(names)
	return pack(t, map[string]string{"c.json": "{}", "a/layer.tar": text, manifestName: fmt.Sprintf(`[{"Config":"c.json","RepoTags":%s,"Layers":["a/layer.tar"]}]`, tags)})
}

// layout is an OCI image layout: an image for this machine behind an index of two platforms.
func layout(t *testing.T, text, annotations, architecture string) []byte {
	t.Helper()
	files := map[string]string{layoutName: `{"imageLayoutVersion":"1.0.0"}`}
	put := func(data string) digest.Digest {
		d := digest.FromString(data)
		files["blobs/sha256/"+d.Encoded()] = data
		return d
	}
	manifest := put(fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":2},"layers":[{"digest":%q,"size":1}]}`, put("{}"), put(text)))
	index := put(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"platform":{"os":"linux","architecture":"s390x"}},{"digest":%q,"platform":{"os":%q,"architecture":%q}}]}`, digest.FromString("elsewhere"), manifest, runtime.GOOS, architecture))
	files[indexName] = fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"annotations":%s}]}`, index, annotations)
	return pack(t, files)
}

func zipped(t *testing.T, data []byte, zst bool) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&out)
	if zst {
		var err error
		if w, err = zstd.NewWriter(&out); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// world is a directory of archives, and an engine.
type world struct {
	t     *testing.T
	dir   string
	store *store
	logs  *observer.ObservedLogs
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: t.TempDir(), store: &store{images: map[string]string{}}}
}

func (w *world) put(name string, data []byte) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Join(w.dir, "images"), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "images", name), data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// start is an agent's start.
func (w *world) start() (*Loader, Report) {
	w.t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	w.logs = logs
	l := New(Config{Dir: filepath.Join(w.dir, "images"), Memory: filepath.Join(w.dir, "preloaded.json"), Timeout: time.Minute, Engine: w.store, Log: zap.New(core)})
	if err := l.Run(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	<-l.Done()
	return l, l.Report()
}

func TestArchivesOfEachKindAreLoadedOnce(t *testing.T) {
	w := newWorld(t)
	if l, r := w.start(); !r.Done || len(r.Failed) > 0 || w.store.loads != 0 || len(l.Pins()) != 0 { // there is no such directory
		t.Errorf("%+v", r)
	}
	w.put("a.tar", dockerSave(t, "A", "a:1", "a:latest"))
	w.put("b.tar.gz", zipped(t, dockerSave(t, "B", "b:1"), false))
	w.put("c.tar.zst", zipped(t, layout(t, "C", `{"org.opencontainers.image.ref.name":"registry.example/c:1"}`, runtime.GOARCH), true))
	w.put("d.tgz", zipped(t, layout(t, "D", `{"io.containerd.image.name":"docker.io/library/d:1","org.opencontainers.image.ref.name":"1"}`, runtime.GOARCH), false))
	w.put("again.tar", dockerSave(t, "A", "a:1", "a:latest")) // the same under another name
	l, r := w.start()
	want := map[string]string{"a:1": "id of A", "a:latest": "id of A", "b:1": "id of B", "registry.example/c:1": "id of C", "docker.io/library/d:1": "id of D"}
	if !maps.Equal(w.store.images, want) || w.store.loads != 4 || len(r.Failed) > 0 || len(r.Loaded) != 5 || r.Images != 7 {
		t.Fatalf("%v, %d loads, %+v", w.store.images, w.store.loads, r)
	}
	if pins := l.Pins(); len(pins) != 4 || !strings.HasSuffix(pins["id of B"], "images/b.tar.gz") {
		t.Errorf("%v", pins)
	}
	w.store.images["b:1"] = "id of a later b" // which a task had pulled
	if l, r = w.start(); w.store.loads != 4 || r.Images != 7 || w.store.images["b:1"] != "id of a later b" || l.Pins()["id of B"] == "" || l.Pins()["id of a later b"] != "" {
		t.Errorf("again: %d loads, %+v, %v", w.store.loads, r, l.Pins())
	}
	delete(w.store.images, "a:1") // by somebody's hand, or with the engine's disk
	if _, _ = w.start(); w.store.loads != 5 || w.store.images["a:1"] == "" {
		t.Errorf("an image that is gone: %d loads", w.store.loads)
	}
	w.put("b.tar.gz", dockerSave(t, "B2", "b:2"))
	if err := os.Remove(filepath.Join(w.dir, "images/c.tar.zst")); err != nil {
		t.Fatal(err)
	}
	if l, _ = w.start(); w.store.images["b:2"] != "id of B2" || l.Pins()["id of C"] != "" {
		t.Errorf("%v %v", w.store.images, l.Pins())
	}
	for _, memory := range []string{"", "{", `{"a.tar":5}`, "null"} {
		if err := os.WriteFile(filepath.Join(w.dir, "preloaded.json"), []byte(memory), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, r := w.start(); len(r.Failed) > 0 || len(r.Loaded) != 4 {
			t.Errorf("%q: %+v", memory, r)
		}
	}
}

func TestAnArchiveThatCanNotBeTakenIsNamedAndHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	good := dockerSave(t, strings.Repeat("long ", 10000), "good:1")
	w.put("z.tar", good)
	lacking := pack(t, map[string]string{manifestName: `[{"Config":"c.json","RepoTags":["x:1"],"Layers":[]}]`})
	for name, c := range map[string]struct {
		data []byte
		why  string
	}{
		"cut.tar":      {good[:len(good)/2], "unexpected EOF"},
		"cut.tar.gz":   {zipped(t, good, false)[:150], "unexpected EOF"},
		"cut.tar.zst":  {zipped(t, good, true)[:60], "unexpected EOF"},
		"text.tar":     {[]byte("no archive at all"), "damaged, or no archive"},
		"empty.tar":    {nil, "neither manifest.json"},
		"files.tar":    {pack(t, map[string]string{"etc/passwd": "x"}), "neither manifest.json"},
		"lacking.tar":  {lacking, "it lacks \"c.json\""},
		"nameless.tar": {dockerSave(t, "x"), "has no name"},
		"oddname.tar":  {dockerSave(t, "x", "UPPER CASE"), "is no image's name"},
		"tagonly.tar":  {layout(t, "x", `{"org.opencontainers.image.ref.name":"latest"}`, runtime.GOARCH), "skopeo copy"},
		"other.tar":    {layout(t, "x", `{"org.opencontainers.image.ref.name":"x:1"}`, "riscv64"), "it is for linux/s390x, linux/riscv64"},
		"README":       {[]byte("x"), "no archive by its name"},
	} {
		w.put(name, c.data)
		_, r := w.start()
		why := r.Failed[filepath.Join(w.dir, "images", name)]
		if !strings.Contains(why, c.why) || !slices.Contains(r.Loaded, "z.tar") {
			t.Errorf("%s: %q; loaded %q", name, why, r.Loaded)
		}
		if w.logs.FilterField(zap.String("path", filepath.Join(w.dir, "images", name))).Len() != 1 {
			t.Errorf("%s is not told by name once", name)
		}
		if err := os.Remove(filepath.Join(w.dir, "images", name)); err != nil {
			t.Fatal(err)
		}
	}
	if w.store.loads != 1 {
		t.Errorf("the engine was given %d archives", w.store.loads)
	}
	w.put("refused.tar", dockerSave(t, "R", "refused:1"))
	w.put("refused2.tar", layout(t, "S", `{"org.opencontainers.image.ref.name":"refused:2"}`, runtime.GOARCH))
	w.store.err = errors.New("the engine's disk is full")
	_, r := w.start()
	for _, name := range []string{"refused.tar", "refused2.tar"} {
		if !strings.Contains(r.Failed[filepath.Join(w.dir, "images", name)], "disk is full") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func FuzzArchive(f *testing.F) {
	t := &testing.T{}
	f.Add(dockerSave(t, "A", "a:1"))
	f.Add(layout(t, "C", `{"org.opencontainers.image.ref.name":"c:1"}`, runtime.GOARCH))
	f.Add(zipped(t, dockerSave(t, "B", "b:1"), false))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := parse(bytes.NewReader(data))
		if err == nil && len(a.names()) == 0 {
			t.Error("an archive without a name was taken")
		}
	})
}
