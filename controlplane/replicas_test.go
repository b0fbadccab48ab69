package controlplane_test

import (
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/seal"
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

// sealKey makes a seal key for replicas to share.
func sealKey(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "seal.key")
	if _, err := seal.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReplicasOnOneEtcdAreOneControlPlane(t *testing.T) {
	endpoints := []string{externalEtcd(t)}
	shared := sealKey(t)
	a, b := start(t, controlplane.Config{EtcdEndpoints: endpoints, SealKeyFile: shared}), start(t, controlplane.Config{EtcdEndpoints: endpoints, SealKeyFile: shared})
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

// restartableEtcd is an etcd that a test stops and starts again with what it had.
func restartableEtcd(t *testing.T) (endpoint string, stop, begin func()) {
	t.Helper()
	dir, u := t.TempDir(), []url.URL{{Scheme: "http", Host: freeAddress(t)}}
	var e *embed.Etcd
	begin = func() {
		t.Helper()
		c := embed.NewConfig()
		c.Dir, c.LogLevel, c.LogOutputs = dir, "error", []string{"/dev/null"}
		c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
		var err error
		if e, err = embed.StartEtcd(c); err != nil {
			t.Fatal(err)
		}
		<-e.Server.ReadyNotify()
	}
	begin()
	t.Cleanup(func() { e.Close() })
	return u[0].String(), func() { e.Close() }, begin
}

func TestASchedulerWhoseEtcdGoesAndComesBackGoesOn(t *testing.T) {
	endpoint, stop, begin := restartableEtcd(t)
	a := start(t, controlplane.Config{EtcdEndpoints: []string{endpoint}})
	client := a.client(a.key(t, auth.AdminFile), "us-west-2")
	if _, err := client.CreateCluster(t.Context(), &ecs.CreateClusterInput{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("web"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("web"), Image: aws.String("web:1"), Memory: aws.Int32(64)}}}); err != nil {
		t.Fatal(err)
	}
	// Without a host the scheduler can only say so: that event is its sign of life.
	scheduled := func(name string) {
		t.Helper()
		eventually(t, "service "+name+" can be created", func() bool {
			_, err := client.CreateService(t.Context(), &ecs.CreateServiceInput{ServiceName: &name, TaskDefinition: aws.String("web"), DesiredCount: aws.Int32(1)})
			return err == nil
		})
		eventually(t, "the scheduler has looked at service "+name, func() bool {
			out, err := client.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Services: []string{name}})
			return err == nil && len(out.Services) == 1 && slices.ContainsFunc(out.Services[0].Events, func(e types.ServiceEvent) bool {
				return strings.Contains(*e.Message, "unable to place a task")
			})
		})
	}
	scheduled("before")
	stop()
	if status, _, body := get(t, "GET", "http://"+a.Addr().String()+"/healthz"); status != 503 {
		t.Errorf("without etcd: %d %s", status, body)
	}
	begin()
	scheduled("after")
	out, err := client.ListServices(t.Context(), &ecs.ListServicesInput{})
	if err != nil || len(out.ServiceArns) != 2 {
		t.Errorf("%v, %v", out, err)
	}
}

// eventually looks again and again, for at most a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never happened that %s", what)
		}
	}
}
