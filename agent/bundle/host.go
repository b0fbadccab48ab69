package bundle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Command is a piece with what programs print, each command in a paragraph of its own. A program that is not installed, or fails, does not keep the others.
func Command(name string, commands ...[]string) Piece {
	return Piece{Name: name, Make: func(ctx context.Context, w io.Writer) error {
		var failed []error
		for _, argv := range commands {
			fmt.Fprintf(w, "$ %s\n", strings.Join(argv, " "))
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = append(os.Environ(), "LC_ALL=C"), w, w, time.Second
			if err := cmd.Run(); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", argv[0], err))
			}
			fmt.Fprintln(w)
		}
		return errors.Join(failed...)
	}}
}

// Files is a piece with small files, each below its path. One that is not there is said to be missing, and is no failure.
func Files(name, root string, paths ...string) Piece {
	return Piece{Name: name, Make: func(ctx context.Context, w io.Writer) error {
		var failed []error
		for _, pattern := range paths {
			found, err := filepath.Glob(filepath.Join(root, pattern))
			if err != nil || len(found) == 0 {
				fmt.Fprintf(w, "== %s: none\n\n", pattern)
				continue
			}
			for _, path := range found {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				data, err := head(path, 256<<10)
				if err != nil {
					failed = append(failed, err)
				}
				fmt.Fprintf(w, "== %s\n%s\n", path, data)
			}
		}
		return errors.Join(failed...)
	}}
}

func head(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, most))
}

// Disks is a piece with the room on the file systems of paths.
func Disks(name string, paths ...string) Piece {
	return Piece{Name: name, Make: func(_ context.Context, w io.Writer) error {
		for _, p := range paths {
			var s unix.Statfs_t
			if err := unix.Statfs(p, &s); err != nil {
				fmt.Fprintf(w, "%s: %v\n", p, err)
				continue
			}
			fmt.Fprintf(w, "%s: %d of %d MiB free, %d of %d inodes free\n", p, int64(s.Bavail)*s.Bsize>>20, int64(s.Blocks)*s.Bsize>>20, s.Ffree, s.Files)
		}
		return nil
	}}
}

// Log is a piece with the lines of a rotated log since a time, the newest file last.
func Log(name, file string, since time.Time, most int) Piece {
	return Piece{Name: name, Most: most, Make: func(ctx context.Context, w io.Writer) error {
		files, err := rotated(file, since)
		if err != nil {
			return err
		}
		for _, path := range files {
			if err := linesSince(ctx, w, path, since, int64(most)); err != nil {
				return err
			}
		}
		return nil
	}}
}

// rotated are a log's files that were written since a time, the oldest first.
func rotated(file string, since time.Time) ([]string, error) {
	all, err := filepath.Glob(file + "*")
	if err != nil {
		return nil, err
	}
	written := map[string]time.Time{}
	for _, path := range all {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && !st.ModTime().Before(since) {
			written[path] = st.ModTime()
		}
	}
	all = slices.DeleteFunc(all, func(p string) bool { return written[p].IsZero() })
	if len(all) == 0 {
		if _, err := os.Stat(file); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b string) int { return written[a].Compare(written[b]) })
	return all, nil
}

// stamp is the time of a log line, in either form of ours, or at its beginning.
var stamp = regexp.MustCompile(`(?:^|time=|"time":")(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))`)

// linesSince copies the lines at the end of a file that are not older; a line without a time goes with the one before it.
func linesSince(ctx context.Context, w io.Writer, path string, since time.Time, most int64) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) { // rotated away meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err
		}
	}
	r, wanted := bufio.NewReaderSize(f, 64<<10), since.IsZero()
	if st.Size() > most { // it begins within a line
		_, _ = r.ReadBytes('\n')
	}
	for ctx.Err() == nil {
		line, err := r.ReadBytes('\n')
		if m := stamp.FindSubmatch(line[:min(len(line), 200)]); m != nil {
			if at, parseErr := time.Parse(time.RFC3339Nano, string(m[1])); parseErr == nil {
				wanted = !at.Before(since)
			}
		}
		if wanted {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// KnowProcess adds the secrets among a process's variables: those whose names say so, and those that are named.
func (f *Filter) KnowProcess(proc string, pid int, named map[string]bool) {
	data, err := head(filepath.Join(proc, strconv.Itoa(pid), "environ"), 1<<20)
	if err != nil {
		return
	}
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		if name, value, ok := strings.Cut(string(kv), "="); ok {
			if named[name] {
				f.Know(value)
			}
			f.KnowNamed(name, value)
		}
	}
}
