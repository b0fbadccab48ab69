package controlplane

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
)

// rotated is a control plane whose seal key is replaced.
func rotated(t *testing.T, cfg Config) *ControlPlane {
	t.Helper()
	cfg.Listen, cfg.CertInterval = "127.0.0.1:0", 10*time.Millisecond
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// opens checks that every key and the own CA open, and with which seal keys alone.
func (p *ControlPlane) opens(t *testing.T, with *seal.Key) {
	t.Helper()
	err := p.store.Read(t.Context(), func(v *store.View) error {
		n := 0
		for k := range v.Keys() {
			n++
			if _, err := auth.Unseal(with, k); err != nil {
				t.Errorf("the key %s: %v", k.AccessKeyID, err)
			}
		}
		for s := range v.Secrets() {
			n++
			if _, err := with.Open("secret/"+s.Name, s.Sealed); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
		if n < 24 {
			t.Errorf("%d records are sealed", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func makeKeys(t *testing.T, p *ControlPlane) {
	t.Helper()
	for i := range 20 {
		if _, err := p.makeKey(t.Context(), Key{Role: store.RoleReadOnly, Name: fmt.Sprint("k", i)}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// A process that ends after any step of a rotation leaves what the next one opens, and the rotation goes on there.
func TestARotationOfTheSealKeyGoesOnWhereverItWasBrokenOff(t *testing.T) {
	for steps := range len(sealSteps) + 1 {
		t.Run(fmt.Sprintf("after %d steps", steps), func(t *testing.T) {
			cfg := Config{DataDir: t.TempDir(), SealKeyFile: filepath.Join(t.TempDir(), "the.seal")}
			p := rotated(t, cfg)
			makeKeys(t, p)
			before, err := os.ReadFile(cfg.SealKeyFile)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.rotateSeal(t.Context(), steps); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = rotated(t, cfg)
			p.opens(t, p.seal)
			if steps < len(sealSteps) {
				done, err := RotateSeal(t.Context(), cfg.DataDir)
				if err != nil || len(done.Damaged)+len(done.Others) != 0 || (steps < 3) != (done.Renewed > 0) {
					t.Errorf("%+v, %v", done, err)
				}
			}
			after, err := os.ReadFile(cfg.SealKeyFile)
			if err != nil || bytes.Count(after, []byte("\n")) != 1 || bytes.Equal(before, after) {
				t.Errorf("the file has %d lines, is the same: %v, %v", bytes.Count(after, []byte("\n")), bytes.Equal(before, after), err)
			}
			alone, err := seal.Load(cfg.SealKeyFile)
			if err != nil {
				t.Fatal(err)
			}
			p.opens(t, alone)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(filepath.Join(cfg.DataDir, "etcd")); err != nil { // a store that is new takes the copies
				t.Fatal(err)
			}
			was, err := os.ReadFile(filepath.Join(cfg.DataDir, certs.CAFile))
			if err != nil {
				t.Fatal(err)
			}
			if p = rotated(t, cfg); !bytes.Equal(p.authority.Load().PEM(), was) {
				t.Error("the copy of the own CA is not of use any more")
			}
		})
	}
}

// sharedEtcd is an etcd that several control planes reach.
func sharedEtcd(t *testing.T) []string {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	listener, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := []url.URL{{Scheme: "http", Host: listener.Addr().String()}}
	_ = listener.Close()
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return []string{u[0].String()}
}

func TestTheSealKeyOfReplicasIsReplacedWhenAllHaveTheNewOne(t *testing.T) {
	endpoints := sharedEtcd(t)
	one := Config{DataDir: t.TempDir(), EtcdEndpoints: endpoints, ReplicasWait: 500 * time.Millisecond}
	p := rotated(t, one)
	makeKeys(t, p)
	other := Config{DataDir: t.TempDir(), EtcdEndpoints: endpoints}
	copyKey := func() {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(one.DataDir, seal.FileName))
		if err == nil {
			err = os.WriteFile(filepath.Join(other.DataDir, seal.FileName), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copyKey()
	q := rotated(t, other)
	await(t, "both replicas are there", func() bool { return len(replicasOf(t, p)) == 2 })
	if _, err := RotateSeal(t.Context(), one.DataDir); err == nil || !strings.Contains(err.Error(), q.replica) || strings.Contains(err.Error(), p.replica) {
		t.Errorf("a replica that has only the old key: %v", err)
	}
	made, err := q.makeKey(t.Context(), Key{Role: store.RoleReadOnly}, time.Now()) // with the old one still
	if err != nil {
		t.Fatal(err)
	}
	copyKey()
	await(t, "the other replica has both", func() bool { return len(q.seal.IDs()) == 2 })
	await(t, "the other replica says so", func() bool {
		return !slices.ContainsFunc(replicasOf(t, p), func(r *store.Replica) bool { return len(r.SealKeys) != 2 })
	})
	done, err := RotateSeal(t.Context(), one.DataDir)
	if err != nil || done.Renewed < 24 || len(done.Others) != 1 || done.Others[0] != q.replica {
		t.Errorf("%+v, %v", done, err)
	}
	alone, err := seal.Load(filepath.Join(one.DataDir, seal.FileName))
	if err != nil {
		t.Fatal(err)
	}
	q.opens(t, alone)
	if _, err := q.makeKey(t.Context(), Key{Role: store.RoleReadOnly}, time.Now()); err != nil {
		t.Fatal(err)
	}
	p.opens(t, alone)
	if k, err := auth.StoredKeys(p.store, p.seal)(t.Context(), made.AccessKeyID); err != nil || k.Secret != made.SecretAccessKey {
		t.Errorf("a key from before: %v", err)
	}
	copyKey()
	await(t, "the other replica has the new key alone", func() bool { return len(q.seal.IDs()) == 1 })
}

func replicasOf(t *testing.T, p *ControlPlane) (all []*store.Replica) {
	t.Helper()
	if err := p.store.Read(t.Context(), func(v *store.View) error {
		all = nil
		for r := range v.Replicas() {
			all = append(all, r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// await looks again and again until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never happened that %s", what)
		}
	}
}

// A key in the file that is not the store's is not taken, whatever else the file has.
func TestAKeyFileThatLosesTheStoresKeyIsNotTaken(t *testing.T) {
	cfg := Config{DataDir: t.TempDir()}
	p := rotated(t, cfg)
	makeKeys(t, p)
	path := filepath.Join(cfg.DataDir, seal.FileName)
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("A", 43)+"=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateSeal(t.Context(), cfg.DataDir); err == nil || !strings.Contains(err.Error(), "put that back") {
		t.Errorf("%v", err)
	}
	p.opens(t, p.seal)
	if err := os.WriteFile(path, was, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateSeal(t.Context(), cfg.DataDir); err != nil {
		t.Error(err)
	}
}

// A replica of a version that knows nothing of rotations has no record; it is known by the agents' connections that it holds.
func TestAReplicaOfAnOlderVersionKeepsTheSealKeyFromBeingReplaced(t *testing.T) {
	cfg := Config{DataDir: t.TempDir(), ReplicasWait: 100 * time.Millisecond}
	p := rotated(t, cfg)
	session, err := p.store.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	txn := p.store.Txn().Create(&store.Cluster{Object: types.Cluster{ClusterName: aws.String("c"), Status: aws.String("ACTIVE")}})
	if err := txn.Put(&store.Connection{Cluster: "c", Instance: "i", Replica: "older-1"}, session.Lease()).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := RotateSeal(t.Context(), cfg.DataDir); err == nil || !strings.Contains(err.Error(), "older-1 (of an older version)") {
		t.Errorf("%v", err)
	}
}
