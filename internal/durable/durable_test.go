package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
