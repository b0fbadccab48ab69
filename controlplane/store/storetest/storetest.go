// Package storetest gives tests a store on a real etcd of their own.
package storetest

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
)

// Etcd starts an etcd in this process, in a directory of the test, and stops it when the test ends.
func Etcd(t testing.TB) *clientv3.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	server, err := etcd.Start(ctx, etcd.Config{Dir: t.TempDir(), UnsafeNoFsync: true})
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("stop etcd: %v", err)
		}
	})
	return server.Client()
}

// Open opens a store on client and closes it when the test ends. Warnings of the store go to the test's log.
func Open(t testing.TB, client *clientv3.Client) *store.Store {
	t.Helper()
	return OpenWith(t, store.Config{Client: client})
}

// OpenWith is Open with a configuration.
func OpenWith(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := store.Open(ctx, cfg)
	if err != nil {
		t.Fatalf("open the store: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return s
}

// New is a store on an etcd of its own, both gone when the test ends.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, Etcd(t))
}

// Main runs a package's tests, and fails when they leave goroutines behind. Those of an embedded etcd end a moment after it is
// closed, which a busy machine stretches beyond what goleak waits for: they have half a minute.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := left(30 * time.Second); err != nil {
			fmt.Fprintf(os.Stderr, "the tests succeeded, and left goroutines behind: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// left is the goroutines that are still there after a time.
func left(patience time.Duration) (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if err = goleak.Find(); err == nil { // it waits by itself
			return nil
		}
	}
	return err
}
