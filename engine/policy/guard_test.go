package policy

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/engine"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheFileIsReadAnewForEveryTask(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy")
	core, logs := observer.New(zap.InfoLevel)
	g := NewGuard(Options{File: file, Log: zap.New(core)})
	task := one(engine.PolicyContainer{Privileged: true})
	step := func(what, denial string) {
		t.Helper()
		for range 2 { // what has not changed is logged once
			if v := g.Judge(t.Context(), task); denial == "" && v.Denial != "" || !strings.Contains(v.Denial, denial) {
				t.Errorf("%s: %q", what, v.Denial)
			}
		}
	}
	step("no file", "")
	write(t, file, "deny privileged\n")
	step("a denial", file+":1: deny privileged")
	write(t, file, "deny privileged\ndeny hostpath /\n")
	step("a mistake lets nothing new run", file+`:2: a rule is about one of`)
	if a := g.Attributes(); len(a) != 1 || a["longshore.policy"] != "invalid" {
		t.Error(a)
	}
	write(t, file, "allow privileged\n")
	step("corrected", "")
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	step("anybody can write it", "has mode 0666")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	step("removed", "")
	if a := g.Attributes(); a != nil {
		t.Error(a)
	}
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	step("a directory in its place", "is not a regular file")
	var said []string
	for _, e := range logs.All() {
		said = append(said, e.Level.String()+" "+e.Message)
	}
	if want := []string{"info The host policy is in force", "error The host policy can't be used", "info The host policy is in force", "error The host policy can't be used", "warn The host policy was removed", "error The host policy can't be used"}; len(said) != len(want) {
		t.Errorf("logged %q", said)
	} else {
		for i := range want {
			if !strings.HasPrefix(said[i], want[i]) {
				t.Errorf("logged %q, not %q", said[i], want[i])
			}
		}
	}
}

// hung is a host whose network file system does not answer until it is released.
type hung struct{ released chan struct{} }

func (h hung) Request(string) Place { <-h.released; return Place{Path: "/", Sure: true} }
func (h hung) Rule(p string) string { return p }

func TestAPathThatDoesNotAnswerIsDenied(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy")
	write(t, file, "deny host-path /etc\n")
	synctest.Test(t, func(t *testing.T) {
		h := hung{make(chan struct{})}
		g := NewGuard(Options{File: file, Places: h, Timeout: time.Second})
		for range maxHung {
			if v := g.Judge(t.Context(), mounts("/net")); !strings.Contains(v.Denial, "could not be found out within 1s") {
				t.Error(v.Denial)
			}
		}
		if v := g.Judge(t.Context(), mounts("/net")); !strings.Contains(v.Denial, "16 judgements wait for file systems") {
			t.Error(v.Denial)
		}
		close(h.released)
		synctest.Wait()
		if v := g.Judge(t.Context(), one(engine.PolicyContainer{})); v.Denial != "" {
			t.Error(v.Denial)
		}
	})
}

func TestPathsAreComparedByWhereTheyLead(t *testing.T) {
	dir := t.TempDir()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"secret/deep", "data", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"data/link": "../secret", "alias": filepath.Join(dir, "secret"), "data/future": "../secret/not-yet", "data/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	sock := filepath.Join(dir, "run/engine.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Link(sock, filepath.Join(dir, "data/other.sock")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "policy")
	g := NewGuard(Options{File: file, Sockets: []string{sock}})
	for _, c := range []struct {
		policy, path string
		denied       bool
	}{
		{"deny host-path D/secret", "D/data/link/deep", true},
		{"deny host-path D/alias", "D/secret", true},
		{"deny host-path D/secret", "D/data", false},
		{"deny host-path D/secret", "D/data/link/will/be/made", true},
		{"deny host-path D/secret", "D/data/future", true},
		{"deny host-path D/secret", "D/data/loop", true}, // where it leads can't be found out
		{"deny host-path D/secret", "/proc/self/root/tmp", true},
		{"deny host-path D/se*", "D/data/link", true},
		{"deny docker-sock", "D/run/engine.sock", true},
		{"deny docker-sock", "D/data/other.sock", true},
		{"deny docker-sock", "D/run", true},
		{"deny docker-sock", "/", true},
		{"deny docker-sock", "D/data", false},
		{"deny docker-sock", "/proc/self/root", true},
	} {
		write(t, file, strings.ReplaceAll(c.policy, "D/", dir+"/")+"\n")
		path := strings.ReplaceAll(c.path, "D/", dir+"/")
		if v := g.Judge(t.Context(), mounts(path)); (v.Denial != "") != c.denied {
			t.Errorf("%s with %s: %q", c.path, c.policy, v.Denial)
		}
	}
}
