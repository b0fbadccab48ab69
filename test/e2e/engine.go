package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/test/seen"
)

// What hosts may run.
const (
	Docker     = "docker"
	Containerd = "containerd"
	Both       = "both"
)

// onEachEngine runs a test on hosts with Docker and on hosts with containerd, side by side: each waits most of the time. A test of one engine is
// named by TestX/docker.
func onEachEngine(t *testing.T, test func(t *testing.T, engine string)) {
	for _, engine := range []string{Docker, Containerd} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, engine)
		})
	}
}

// Settings are those that an agent needs for an engine.
func (l *Lab) Settings(engine string) []string {
	l.t.Helper()
	if engine != Containerd {
		return nil
	}
	if err := withContainerd(); err != nil {
		l.t.Fatal(err)
	}
	return []string{"ECS_ENGINE=containerd", "ECS_CONTAINERD_CERTS_DIR=" + l.certificates()}
}

// certificates says that the lab's registry is reached by plain http, which dockerd has as a flag.
func (l *Lab) certificates() string {
	l.t.Helper()
	all := filepath.Join(l.dir, "certs.d")
	for _, port := range append(l.plain, imgPort) {
		registry := net.JoinHostPort(l.Farm.LAN(), port)
		at := filepath.Join(all, registry)
		if err := os.MkdirAll(at, 0o755); err != nil {
			l.t.Fatal(err)
		}
		text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", registry, registry)
		if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(text), 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	return all
}

// PlainRegistry says that a further registry, at a port of the LAN, speaks plain http; before the agents start.
func (l *Lab) PlainRegistry(port string) { l.plain = append(l.plain, port) }

// Seen asks the engine of host i.
func (l *Lab) Seen(i int) seen.Engine { l.t.Helper(); return l.SeenOn(i, l.engineOf(i)) }

// engineOf is the engine that host i's agent was started with last.
func (l *Lab) engineOf(i int) string {
	if l.Farm.Runs == Both {
		return l.moved[i]
	}
	return l.Farm.Runs
}

// SeenOn asks one of the engines of a host that has both.
func (l *Lab) SeenOn(i int, engine string) seen.Engine {
	l.t.Helper()
	if engine != Containerd {
		return seen.Docker(l.Engine(i))
	}
	if c := l.seen[i]; c != nil {
		return c
	}
	root := "/proc/" + l.init(i) + "/root" // the host's own view of its files
	c, err := seen.NewContainerd(root+"/run/containerd/containerd.sock", l.Farm.Disk(i, "/var/lib/ecs/data/containerd"), func(ctx context.Context, argv ...string) *exec.Cmd {
		return l.Farm.Start(ctx, i, argv...)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.seen[i] = c
	return c
}

// forget closes the connections to containerd of a host that is cut, or of all for i 0.
func (l *Lab) forget(i int) {
	for at, c := range l.seen {
		if i == 0 || at == i {
			_ = c.Close()
			delete(l.seen, at)
		}
	}
}

// init is the process id of host i's first process.
func (l *Lab) init(i int) string {
	l.t.Helper()
	pid, err := os.ReadFile(filepath.Join(l.Farm.Dir, "h"+strconv.Itoa(i), "init.pid"))
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(string(pid))
}
