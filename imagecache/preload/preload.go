// Package preload takes images out of a directory (/var/lib/ecs/images) into the engine when the agent starts, so that a machine image has
// the images of its tasks, and a host without a registry can run them.
//
//	preload.go  which archives are taken, once each, and what is remembered of them
//	archive.go  what is in an archive: "docker save", or an OCI image layout; as it is, gzip or zstd
//
// An archive is known by its digest. What the engine has of it already, under each of its names, is not loaded again: a tag that was pulled
// anew meanwhile stays as it is. A file that is damaged, or names no image, is told by name and holds up no other. The images stay
// out of the collection of unused ones for as long as their file is there.
package preload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// maxMemory bounds what is remembered, and maxFiles the archives of a directory.
const (
	maxMemory = 8 << 20
	maxFiles  = 1000
)

// Engine is what is asked of the container engine.
type Engine interface {
	// Load takes images from an archive as "docker save" writes it, not compressed.
	Load(ctx context.Context, archive io.Reader) error
	// ID is the id of a local image; NotFound (errdefs) if there is none of that name.
	ID(ctx context.Context, name string) (string, error)
}

// Config is what a [Loader] works on.
type Config struct {
	Dir     string // of the archives; it need not be there
	Memory  string // file of what is remembered
	Timeout time.Duration
	Engine  Engine
	Log     *zap.Logger
}

// Report is what has become of the archives.
type Report struct {
	Dir    string
	Done   bool
	Loaded []string          // files whose images the engine has
	Images int               // of them
	Failed map[string]string // by file: why
}

// Loader loads the archives of a directory. Its methods may be called concurrently.
type Loader struct {
	cfg  Config
	done chan struct{}

	mu     sync.Mutex
	known  map[string]file // by name
	report Report
}

// file is what is remembered of an archive.
type file struct {
	Size     int64             `json:"size"`
	Modified time.Time         `json:"modified"`
	Digest   string            `json:"digest"`
	Images   map[string]string `json:"images"` // ids by name, as they were loaded
}

// New reads what is remembered. What can't be read is as good as nothing: archives are looked into once more.
func New(cfg Config) *Loader {
	l := &Loader{cfg: cfg, done: make(chan struct{}), known: map[string]file{}, report: Report{Dir: cfg.Dir, Failed: map[string]string{}}}
	data, err := durable.Read(cfg.Memory, maxMemory)
	if err == nil {
		err = json.Unmarshal(data, &l.known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		cfg.Log.Warn("What is remembered of preloaded images can't be read; their archives are looked into once more", zap.Error(err))
	}
	if l.known == nil {
		l.known = map[string]file{}
	}
	return l
}

// Done is closed when each archive was taken or refused.
func (l *Loader) Done() <-chan struct{} { return l.done }

// Report is how it stands.
func (l *Loader) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report
	r.Loaded, r.Failed = slices.Clone(r.Loaded), maps.Clone(r.Failed)
	return r
}

// Pins are the images whose archives are there, by id, with the reason.
func (l *Loader) Pins() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	pins := map[string]string{}
	for name, f := range l.known {
		path := filepath.Join(l.cfg.Dir, name)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		for _, id := range f.Images {
			pins[id] = "it was preloaded from " + path
		}
	}
	return pins
}

// Run takes the archives, one after the other, and returns. It is called once; its only error is that of ctx.
func (l *Loader) Run(ctx context.Context) error {
	defer close(l.done)
	names, err := l.archives()
	if err != nil {
		l.failed(l.cfg.Dir, err)
	}
	begun := time.Now()
	for _, name := range names {
		took := time.Now()
		images, loaded, err := l.take(ctx, name)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			l.failed(filepath.Join(l.cfg.Dir, name), err)
			continue
		case loaded:
			l.cfg.Log.Info("Images were preloaded", zap.String("path", filepath.Join(l.cfg.Dir, name)), zap.Strings("images", images), zap.Duration("duration", time.Since(took)))
		}
		l.mu.Lock()
		l.report.Loaded = append(l.report.Loaded, name)
		l.report.Images += len(images)
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.report.Done = true; len(names) > 0 {
		l.cfg.Log.Info("The archives of images were looked at", zap.String("directory", l.cfg.Dir), zap.Int("files", len(names)), zap.Int("images", l.report.Images), zap.Int("failed", len(l.report.Failed)), zap.Duration("duration", time.Since(begun)))
	}
	return nil
}

func (l *Loader) failed(path string, err error) {
	l.cfg.Log.Error("Images can't be preloaded; whatever needs them pulls them. Replace or remove the file, and start the agent again", zap.String("path", path), zap.Error(err))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Failed[path] = err.Error()
}

// suffixes are those of archives.
var suffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"}

// archives are the names of the files to take, in order.
func (l *Loader) archives() (names []string, err error) {
	entries, err := os.ReadDir(l.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."):
		case !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }):
			l.failed(filepath.Join(l.cfg.Dir, name), fmt.Errorf("it is no archive by its name, which ends in none of %s", strings.Join(suffixes, ", ")))
		case len(names) == maxFiles:
			return names, fmt.Errorf("there are more than %d archives; the others are left out", maxFiles)
		default:
			names = append(names, name)
		}
	}
	return names, err
}

// take makes the images of one archive local, unless they are.
func (l *Loader) take(ctx context.Context, name string) (images []string, loaded bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	path := filepath.Join(l.cfg.Dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, errors.New("it is no regular file")
	}
	l.mu.Lock()
	f, known := l.known[name]
	l.mu.Unlock()
	if known && f.Size == info.Size() && f.Modified.Equal(info.ModTime()) {
		if there, err := l.there(ctx, slices.Collect(maps.Keys(f.Images))); err != nil || there != nil {
			return slices.Sorted(maps.Keys(f.Images)), false, err
		}
	}
	a, err := examine(ctx, path)
	if err != nil {
		return nil, false, err
	}
	there, err := l.there(ctx, a.names())
	if err == nil && there == nil {
		loaded = true
		failpoint.Hit("preload/load-before")
		if err = a.load(ctx, path, l.cfg.Engine); err == nil {
			there, err = l.there(ctx, a.names())
		}
		if err == nil && there == nil {
			err = errors.New("the engine took it, and does not have the images that it names")
		}
	}
	if err != nil {
		return nil, false, err
	}
	failpoint.Hit("preload/load-after")
	return a.names(), loaded, l.remember(name, file{Size: info.Size(), Modified: info.ModTime(), Digest: a.digest, Images: l.first(a.digest, there)})
}

// first are the ids that an archive's images had when it was loaded: names may lead to others since.
func (l *Loader) first(digest string, now map[string]string) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.known {
		if f.Digest == digest {
			return f.Images
		}
	}
	return now
}

// there are the ids of images; nil if not all of them are local.
func (l *Loader) there(ctx context.Context, names []string) (map[string]string, error) {
	ids := map[string]string{}
	for _, name := range names {
		id, err := l.cfg.Engine.ID(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		ids[name] = id
	}
	return ids, nil
}

// remember keeps what is known of a file, and forgets those that are gone.
func (l *Loader) remember(name string, f file) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known[name] = f
	maps.DeleteFunc(l.known, func(name string, _ file) bool {
		_, err := os.Stat(filepath.Join(l.cfg.Dir, name))
		return errors.Is(err, fs.ErrNotExist)
	})
	data, err := json.Marshal(l.known)
	if err == nil {
		err = durable.Write(l.cfg.Memory, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember that it is loaded: %w", err)
	}
	return nil
}
