package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/internal/durable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAFileIsReplacedWholeAndNothingStaysBesideIt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"one", "the other one"} {
		if err := durable.Write(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if info, e := os.Stat(path); err != nil || e != nil || string(got) != content || info.Mode().Perm() != 0o600 {
			t.Errorf("it has %q, %v, %v", got, err, e)
		}
	}
	if err := durable.Create(path, []byte("third"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made where there is one: %v", err)
	}
	if err := durable.Create(filepath.Join(dir, "g"), []byte("third"), 0o644); err != nil {
		t.Error(err)
	}
	if err := durable.Write(filepath.Join(dir, "missing", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the directory has %v, %v", entries, err)
	}
}

func TestAFileIsReadUpToItsBoundAndOnlyIfItIsARegularOne(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, err := durable.Read(path, 5); err != nil || string(got) != "12345" {
		t.Errorf("at its bound: %q, %v", got, err)
	}
	if got, err := durable.Read(path, 4); err == nil || got != nil || err.Error() != path+" has more than 4 bytes" {
		t.Errorf("over its bound: %q, %v", got, err)
	}
	if _, err := durable.Read(filepath.Join(dir, "missing"), 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is none: %v", err)
	}
	refused := errors.New("others can read it")
	var mode fs.FileMode
	if _, err := durable.Read(path, 5, func(info fs.FileInfo) error { mode = info.Mode(); return refused }); !errors.Is(err, refused) || mode != 0o640 {
		t.Errorf("a check that refuses: %v, of mode %v", err, mode)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pipe, dir} { // a pipe has no writer: a plain open would wait for ever
		if _, err := durable.Read(name, 5); err == nil || err.Error() != name+" is not a regular file" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := durable.Read("/proc/self/comm", 64); err != nil || len(got) == 0 {
		t.Errorf("a file whose size is told as 0: %q, %v", got, err)
	}
}
