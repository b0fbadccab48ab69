// Package readme runs the README's commands, in order, as a newcomer would: on a fresh clone of what is committed.
package readme

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// blocks returns the sh blocks of a Markdown text.
func blocks(markdown string) []string {
	var out []string
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(markdown, -1) {
		out = append(out, m[1])
	}
	return out
}

func TestTheReadmesCommandsWorkInOrderOnAFreshClone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root (sudo make test)")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "longshore")
	if out, err := exec.Command("git", "clone", "-q", root, clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(clone, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("set -euo pipefail\nexec 2>&1\n")
	for _, b := range blocks(string(text)) {
		for line := range strings.Lines(b) {
			script.WriteString("echo '$ " + strings.ReplaceAll(strings.TrimSpace(line), "'", `'\''`) + "'\n" + line)
		}
	}
	before := machine(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	t.Cleanup(func() {
		// also when a command failed in the middle
		down := exec.Command("make", "down")
		down.Dir = clone
		_ = down.Run()
	})
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = clone
	cmd.Env = clean(os.Environ())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"logging-agent on", "arn:aws:ecs:us-west-2:123456789012:task/daemonset/", `"KnownStatus":"RUNNING"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	for what, was := range before {
		if is := machine(t)[what]; is != was {
			t.Errorf("%s changed:\nbefore:\n%s\nafter make down:\n%s", what, was, is)
		}
	}
}

func TestMakeUpNamesEveryUnmetNeedAndChangesNothing(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "longshore")
	if out, err := exec.Command("git", "clone", "-q", root, clone).CombinedOutput(); err != nil {
		t.Fatalf("git clone: %v: %s", err, out)
	}
	for _, address := range []string{"127.0.0.1:8480", "[::1]:51678"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	before := machine(t)
	cmd := exec.Command("make", "up")
	cmd.Dir, cmd.Env = clone, append(clean(os.Environ()), "HOSTS=")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("it went on:\n%s", out)
	}
	for _, want := range []string{"2 needs are unmet; nothing was changed", "port 8480 is taken", "port 51678 is taken", "ss -ltnp"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(clone, ".run")); err == nil {
		t.Error("it made .run")
	}
	for what, was := range before {
		if is := machine(t)[what]; is != was {
			t.Errorf("%s changed:\nbefore:\n%s\nafter:\n%s", what, was, is)
		}
	}
}

// clean takes AWS settings of the person who runs the tests out of the environment.
func clean(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "AWS_") && !strings.HasPrefix(e, "ECS_") {
			out = append(out, e)
		}
	}
	return out
}

// machine is what make down must leave as it was. Counters and times are left out.
func machine(t *testing.T) map[string]string {
	t.Helper()
	state := map[string]string{}
	for what, argv := range map[string][]string{
		"docker ps -a":     {"docker", "ps", "-a", "--format", "{{.ID}} {{.Names}} {{.State}}"},
		"docker images":    {"docker", "images", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"},
		"ip addr":          {"sh", "-c", "ip -o addr | sed 's/ valid_lft.*//'"},
		"nftables ruleset": {"sh", "-c", "nft -s list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*/counter/'"},
		// an engine that ran before keeps a mount of its own network namespace from its first host-network container on; it needs it
		"mounts": {"sh", "-c", "cut -d' ' -f1-3 /proc/mounts | grep -v ' /run/docker/netns/' | sort"},
	} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", what, err, out)
		}
		state[what] = string(out)
	}
	return state
}
