package docker_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
)

func TestAnEngineThatTakesNoNewConnectionsIsNotReached(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	r, err := docker.New(docker.Config{Host: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	reacher, ok := any(r).(engine.Reacher)
	if !ok {
		t.Fatal("it can't tell")
	}
	held, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Close() }()
	if err := reacher.Reach(t.Context()); err != nil {
		t.Errorf("it listens: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := reacher.Reach(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("it has closed its socket: %v", err)
	}
}
