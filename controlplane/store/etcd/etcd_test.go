package etcd_test

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// sockets of this process.
func sockets(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func TestTheEmbeddedServerOpensNoSocket(t *testing.T) {
	before := sockets(t)
	s, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client().Put(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
	if n := sockets(t); n != before {
		t.Errorf("%d sockets with the server, %d without", n, before)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error("a second Close:", err)
	}
	<-s.Stopped()
}

func TestTheLeasesOfAProcessThatWasKilledEndAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		s, err := etcd.Start(t.Context(), etcd.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Client().Get(t.Context(), "k"); err != nil || got.Count != 0 {
			t.Errorf("the key under a lease is still there: %v, %v", got, err)
		}
		lease, err := s.Client().Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Client().Put(t.Context(), "k", "v", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatEtcdLogsIsOneLevelLower(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	s, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), Log: zap.New(core)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if logs.Len() == 0 {
		t.Error("etcd logs nothing")
	}
	for _, e := range logs.All() {
		if e.Level > zapcore.InfoLevel || !strings.HasPrefix(e.LoggerName, "etcd") {
			t.Errorf("%s %s: %s", e.LoggerName, e.Level, e.Message)
		}
	}
}

func TestADamagedDirectoryIsAnErrorThatNamesIt(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte("no directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Start(t.Context(), etcd.Config{Dir: file + "/etcd"}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the error is %v", err)
	}
}

func TestADamagedDatabaseIsAnErrorThatNamesItAndIsLeftAlone(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"truncated": func(path string) error { return os.Truncate(path, 3*4096) },
		"zeroed":    func(path string) error { return os.WriteFile(path, make([]byte, 1<<20), 0o600) },
		"text":      func(path string) error { return os.WriteFile(path, []byte("no database"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := etcd.Start(t.Context(), etcd.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Client().Put(t.Context(), "k", strings.Repeat("v", 100_000)); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := dir + "/member/snap/db"
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := etcd.Start(t.Context(), etcd.Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), path+" is damaged") {
				t.Errorf("the error is %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
}

func TestAFirstStartThatWasKilledHalfWayIsBegunAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/member/snap", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/member/snap/db", []byte("half a page"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Start(t.Context(), etcd.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnExternalClusterIsReachedThroughItsEndpoints(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	u := []url.URL{{Scheme: "http", Host: addr}}
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	<-e.Server.ReadyNotify()
	client, err := etcd.Connect(t.Context(), etcd.External{Endpoints: []string{"http://" + addr}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestAClusterThatDoesNotAnswerIsAnErrorThatNamesTheEndpoints(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := etcd.Connect(ctx, etcd.External{Endpoints: []string{"http://127.0.0.1:1"}}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("the error is %v", err)
	}
}
