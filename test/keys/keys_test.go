// Package keys has both halves in one process, with TLS between them: what becomes of the keys that hosts have.
package keys

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/engine/enginetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

const patience = time.Minute

// world is a control plane that speaks TLS, and a host with an engine in memory.
type world struct {
	*testing.T
	dir, address string
	plane        *controlplane.ControlPlane
	state        string // the agent's data directory
	engine       *enginetest.Fake
	web          *http.Client
	forget       bool // what is sealed
	change       []func(*controlplane.Config)
	via, bundle  string // what the agent is told of the control plane, if not its own address and CA
}

func newWorld(t *testing.T, change ...func(*controlplane.Config)) *world {
	w := &world{T: t, dir: t.TempDir(), address: "127.0.0.1:0", state: t.TempDir(), engine: enginetest.NewFake(), change: change}
	w.start()
	if _, err := w.admin().CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("daemonset")}); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts the control plane, at the address that it had before.
func (w *world) start() {
	w.Helper()
	cfg := controlplane.Config{DataDir: w.dir, Listen: w.address, TLS: true, ForgetSealed: w.forget, ReplicasWait: 10 * time.Second, CertInterval: 20 * time.Millisecond, Log: zaptest.NewLogger(w.T)}
	for _, f := range w.change {
		f(&cfg)
	}
	var err error
	if w.plane, err = controlplane.Start(w.Context(), cfg); err != nil {
		w.Fatal(err)
	}
	plane := w.plane
	w.Cleanup(func() { _ = plane.Close() })
	w.address = w.plane.Addr().String()
	if w.web, err = w.trusting(); err != nil {
		w.Fatal(err)
	}
}

// trusting is a client that trusts what hosts are to trust.
func (w *world) trusting() (*http.Client, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(w.plane.CA()) {
		return nil, errors.New("there is no CA")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	w.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, nil
}

func (w *world) admin() *ecs.Client {
	w.Helper()
	key, err := auth.ReadKey(filepath.Join(w.dir, auth.AdminFile))
	if err != nil {
		w.Fatal(err)
	}
	return ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String("https://" + w.address), HTTPClient: w.web,
		Credentials: credentials.NewStaticCredentialsProvider(key.AccessKeyID, key.Secret, "")})
}

// agent starts an agent that is configured with a key; what it returns ends it, with its error.
func (w *world) agent(id, secret string) (leave func() error) {
	w.Helper()
	file := filepath.Join(w.state, "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- agent.Run(ctx, agent.Options{
			Config: config.Options{File: file, Environ: []string{
				"ECS_CLUSTER=daemonset", "ECS_BACKEND_HOST=https://" + cmp.Or(w.via, w.address), "AWS_CA_BUNDLE=" + cmp.Or(w.bundle, filepath.Join(w.dir, certs.CAFile)), "AWS_DEFAULT_REGION=us-west-2",
				"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + secret, "ECS_DATADIR=" + w.state, "ECS_LOGFILE=" + filepath.Join(w.state, "agent.log"),
				"AWS_EC2_METADATA_DISABLED=true", "ECS_DISABLE_TASK_ENDPOINTS=true", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false",
			}},
			Version: "0.1.0", Hash: "1234567", Introspect: "127.0.0.1:0", Runtime: lasting{w.engine}, Stderr: w.Output(), EngineRetry: time.Millisecond,
		})
	}()
	left := false
	leave = func() error {
		if left {
			return nil
		}
		left = true
		cancel()
		return <-done
	}
	w.Cleanup(func() { _ = leave() })
	return leave
}

// lasting is an engine that outlives its agent.
type lasting struct{ *enginetest.Fake }

func (lasting) Close() error { return nil }

// until looks again and again until something is so.
func (w *world) until(what string, so func() bool) {
	w.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(w.state, "agent.log"))
			w.Fatalf("it never happened that %s; the agent says\n%s", what, log)
		}
	}
}

// instance is the connected instance's ARN, empty while there is none.
func (w *world) instance() string {
	w.Helper()
	listed, err := w.admin().ListContainerInstances(w.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String("daemonset")})
	if err != nil || len(listed.ContainerInstanceArns) == 0 {
		return ""
	}
	if len(listed.ContainerInstanceArns) > 1 {
		w.Fatalf("the host is %d container instances: %v", len(listed.ContainerInstanceArns), listed.ContainerInstanceArns)
	}
	described, err := w.admin().DescribeContainerInstances(w.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String("daemonset"), ContainerInstances: listed.ContainerInstanceArns})
	if err != nil || len(described.ContainerInstances) != 1 || !described.ContainerInstances[0].AgentConnected {
		return ""
	}
	return listed.ContainerInstanceArns[0]
}

// kept is the id of the key that the agent keeps as its own, empty while there is none.
func (w *world) kept() string {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.state, hostkey.FileName))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	var file struct{ Current hostkey.Key }
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		w.Fatal(err)
	}
	return file.Current.AccessKeyID
}

// key is a key as the control plane lists it.
func (w *world) key(id string) controlplane.Key {
	w.Helper()
	keys, err := controlplane.Keys(w.Context(), w.dir)
	if err != nil {
		w.Fatal(err)
	}
	for _, k := range keys {
		if k.AccessKeyID == id {
			return k
		}
	}
	w.Fatalf("there is no key %s among %v", id, keys)
	return controlplane.Key{}
}

// joined starts an agent with the join key of host.env, and waits until it has a key of its own and is connected.
func (w *world) joined() (leave func() error, join *auth.Key, instance string) {
	w.Helper()
	join, err := auth.ReadKey(filepath.Join(w.dir, auth.HostFile))
	if err != nil {
		w.Fatal(err)
	}
	leave = w.agent(join.AccessKeyID, join.Secret)
	w.until("the agent is connected", func() bool { instance = w.instance(); return instance != "" && w.kept() != "" })
	if k := w.key(w.kept()); k.Instance != instance || k.From != join.AccessKeyID || k.Enrolment || k.Role != store.RoleHost {
		w.Errorf("the host's own key is %+v", k)
	}
	return leave, join, instance
}

func TestAHostExchangesItsJoinKeyAndFollowsRotationsUntilItIsRevoked(t *testing.T) {
	w := newWorld(t)
	leave, join, instance := w.joined()
	if _, err := controlplane.RevokeKey(t.Context(), w.dir, join.AccessKeyID); err != nil {
		t.Fatal(err)
	}
	first := w.kept()
	next, err := controlplane.RotateKey(t.Context(), w.dir, first, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.until("the running agent has the key that replaces its own", func() bool { return w.kept() == next.AccessKeyID })
	if _, err := controlplane.RevokeKey(t.Context(), w.dir, first); err != nil {
		t.Fatal(err)
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
	leave = w.agent(join.AccessKeyID, join.Secret) // which both have ended
	w.until("it is connected with its new key after a restart", func() bool { return w.instance() == instance })
	if _, err := controlplane.RevokeKey(t.Context(), w.dir, next.AccessKeyID); err != nil {
		t.Fatal(err)
	}
	w.until("it is connected no more", func() bool { return w.instance() == "" })
	if err := leave(); err != nil {
		t.Errorf("the agent did not go on without a key: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(w.state, "agent.log")); err != nil || strings.Contains(string(data), next.SecretAccessKey) || strings.Contains(string(data), join.Secret) {
		t.Errorf("the log has a secret in it (%v)", err)
	}
}

func TestAHostWhoseOwnKeyIsForgottenGetsAnotherOneWithItsJoinKey(t *testing.T) {
	for name, forget := range map[string]func(w *world){
		"the store is lost": func(w *world) {
			if err := os.RemoveAll(filepath.Join(w.dir, "etcd")); err != nil {
				w.Fatal(err)
			}
			w.start()
		},
		"the seal key is lost": func(w *world) { // and the CA with it, of which the host is given the new one
			if err := os.Remove(filepath.Join(w.dir, seal.FileName)); err != nil {
				w.Fatal(err)
			}
			w.forget = true
			w.start()
		},
	} {
		t.Run(name, func(t *testing.T) { forgotten(t, forget) })
	}
}

func forgotten(t *testing.T, forget func(w *world)) {
	w := newWorld(t)
	leave, join, instance := w.joined()
	first := w.kept()
	if err := leave(); err != nil {
		t.Error(err)
	}
	if err := w.plane.Close(); err != nil {
		t.Error(err)
	}
	forget(w)
	w.agent(join.AccessKeyID, join.Secret)
	w.until("it is the same container instance", func() bool { return w.instance() == instance })
	w.until("it has another key of its own", func() bool { return w.kept() != first })
	if k := w.key(w.kept()); k.Instance != instance {
		t.Errorf("the key is %+v", k)
	}
}

func TestAHostsOwnConfiguredKeyStaysUntilItIsRotated(t *testing.T) {
	w := newWorld(t)
	own, err := controlplane.CreateKey(t.Context(), w.dir, controlplane.Key{Role: store.RoleHost, Name: "rack1"})
	if err != nil {
		t.Fatal(err)
	}
	w.agent(own.AccessKeyID, own.SecretAccessKey)
	var instance string
	w.until("the agent is connected", func() bool { instance = w.instance(); return instance != "" })
	if k := w.key(own.AccessKeyID); k.Instance != instance || w.kept() != "" {
		t.Errorf("its key is %+v, and it keeps %q", k, w.kept())
	}
	next, err := controlplane.RotateKey(t.Context(), w.dir, own.AccessKeyID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.until("the running agent has the key that replaces it", func() bool { return w.kept() == next.AccessKeyID })
	if k := w.key(next.AccessKeyID); k.Name != "rack1" || k.Instance != instance {
		t.Errorf("the new key is %+v", k)
	}
}
