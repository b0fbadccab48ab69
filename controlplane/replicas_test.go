package controlplane_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
)

// externalEtcd runs an etcd that is reached through a socket.
func externalEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	u := []url.URL{{Scheme: "http", Host: freeAddress(t)}}
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return u[0].String()
}

func TestReplicasOnOneEtcdAreOneControlPlane(t *testing.T) {
	endpoints := []string{externalEtcd(t)}
	a, b := start(t, controlplane.Config{EtcdEndpoints: endpoints}), start(t, controlplane.Config{EtcdEndpoints: endpoints})
	key := a.key(t, auth.AdminFile)
	if b.key(t, auth.AdminFile) != key {
		t.Error("the second replica hands out another key")
	}
	one, other := a.client(key, "us-west-2"), b.client(key, "us-west-2")
	for i := range 20 {
		name := fmt.Sprint("c", i)
		if _, err := one.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(name)}); err != nil {
			t.Fatal(err)
		}
		seen, err := other.DescribeClusters(t.Context(), &ecs.DescribeClustersInput{Clusters: []string{name}})
		if err != nil || len(seen.Clusters) != 1 {
			t.Fatalf("the other replica does not see %s: %v, %v", name, seen, err)
		}
		one, other = other, one
	}
}

func TestTheHealthIsThatOfTheStoreAndAnEtcdThatIsGoneDoesNotHoldUpTheEnd(t *testing.T) {
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{"/dev/null"}
	u := []url.URL{{Scheme: "http", Host: freeAddress(t)}}
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	<-e.Server.ReadyNotify()
	dir := t.TempDir()
	p, err := controlplane.Start(t.Context(), controlplane.Config{DataDir: dir, Listen: "127.0.0.1:0", EtcdEndpoints: []string{u[0].String()}})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + p.Addr().String()
	if status, _, body := get(t, "GET", url+"/healthz"); status != 200 {
		t.Errorf("with etcd: %d %s", status, body)
	}
	e.Close()
	if status, _, body := get(t, "GET", url+"/healthz"); status != 503 || !strings.Contains(body, "the store does not answer") {
		t.Errorf("without etcd: %d %s", status, body)
	}
	begun := time.Now()
	t.Log("closed:", p.Close(), "after", time.Since(begun))
	http.DefaultClient.CloseIdleConnections()
}
