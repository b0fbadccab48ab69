package seal_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatIsSealedOpensWithItsKeyAndUnderItsNameOnly(t *testing.T) {
	k, secret := seal.New(), []byte("a secret of some length")
	sealed := k.Seal("one", secret)
	if bytes.Contains(sealed, secret) || bytes.Equal(sealed, k.Seal("one", secret)) {
		t.Error("it shows what is in it")
	}
	if got, err := k.Open("one", sealed); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("it opens as %q, %v", got, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another name": func() ([]byte, error) { return k.Open("two", sealed) },
		"another key":  func() ([]byte, error) { return seal.New().Open("one", sealed) },
		"nothing":      func() ([]byte, error) { return k.Open("one", nil) },
		"cut off":      func() ([]byte, error) { return k.Open("one", sealed[:len(sealed)-1]) },
	} {
		if got, err := open(); !errors.Is(err, seal.ErrSealed) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := k.Open("one", changed); !errors.Is(err, seal.ErrSealed) {
			t.Errorf("changed at %d it opens: %v", i, err)
		}
	}
}

func TestAKeyFileIsMadeOnceAndOnlyItsOwnerMayReadIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), seal.FileName)
	if _, err := seal.Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	made, err := seal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := seal.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again: %v", err)
	}
	loaded, err := seal.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := loaded.Open("n", made.Seal("n", []byte("s"))); err != nil || string(got) != "s" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Load(path); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("readable by others: %v", err)
	}
	for _, content := range []string{"", "short", strings.Repeat("A", 44) + "=", strings.Repeat("A", 8192)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.10q: %v", content, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k := seal.New()
	f.Add("n", k.Seal("n", []byte("s")))
	f.Fuzz(func(t *testing.T, name string, sealed []byte) {
		if got, err := k.Open(name, sealed); err == nil && string(got) != "s" {
			t.Errorf("%q opens as %q", sealed, got)
		}
	})
}

// TestACredentialOfSystemdIsReadByItsAccessControlList has a key as systemd hands it to a unit with a user: root's, of mode 0400, with an entry for
// the user, which makes its mode 0440.
func TestACredentialOfSystemdIsReadByItsAccessControlList(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "longshore-control.seal-key")
	if _, err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	mode := func(mode fs.FileMode) error {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := seal.Load(path)
		return err
	}
	if err := mode(0o440); err == nil {
		t.Error("a file that a group may read is taken")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := mode(0o440); err != nil {
		t.Error(err)
	}
	for _, m := range []fs.FileMode{0o460, 0o444, 0o404} {
		if err := mode(m); err == nil {
			t.Errorf("a credential of mode %04o is taken", m)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(dir))
	if err := mode(0o440); err == nil {
		t.Error("a file beside the credentials is taken as one of them")
	}
}
