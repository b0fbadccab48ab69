package controlplane

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSystemdIsToldThatCallsAreServedAndFedAsLongAsTheyAre(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "100000")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0"}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	want := []string{"READY=1", "STATUS=Serving on 127.0.0.1:", "WATCHDOG=1", "WATCHDOG=1"}
	buffer := make([]byte, 1024)
	for len(want) > 0 {
		if err := socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(buffer)
		if err != nil {
			t.Fatalf("these did not come: %q", want)
		}
		for len(want) > 0 && strings.Contains(string(buffer[:n]), want[0]) {
			want = want[1:]
			if strings.HasPrefix(string(buffer[:n]), "WATCHDOG") {
				break
			}
		}
	}
}
