// Package loss has both halves in one process, with TLS between them: hosts whose clocks are wrong, and two machines with one
// identity. What becomes of containers when records are lost is walked through in test/e2e.
package loss

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/engine/enginetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

const (
	patience = time.Minute
	cluster  = "daemonset"
)

// world is a control plane.
type world struct {
	*testing.T
	dir, address, scheme string
	plane                *controlplane.ControlPlane
	logs                 *observer.ObservedLogs
	api                  *ecs.Client
}

// newWorld is a control plane that speaks TLS, or else in clear.
func newWorld(t *testing.T, secure bool) *world {
	w := &world{T: t, dir: t.TempDir(), address: "127.0.0.1:0", scheme: "http"}
	if secure {
		w.scheme = "https"
	}
	w.start()
	pool := x509.NewCertPool()
	if secure && !pool.AppendCertsFromPEM(w.plane.CA()) {
		t.Fatal("there is no CA")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	key, err := auth.ReadKey(filepath.Join(w.dir, auth.AdminFile))
	if err != nil {
		t.Fatal(err)
	}
	w.api = ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String(w.scheme + "://" + w.address), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(key.AccessKeyID, key.Secret, "")})
	if _, err := w.api.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	return w
}

// start starts the control plane, at the address that it had before.
func (w *world) start() {
	w.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	plane, err := controlplane.Start(w.Context(), controlplane.Config{DataDir: w.dir, Listen: w.address, TLS: w.scheme == "https", Log: zap.New(core)})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = plane.Close() })
	w.plane, w.logs, w.address = plane, logs, plane.Addr().String()
}

// bundle is the file that agents trust; none in clear.
func (w *world) bundle() string {
	if w.scheme == "http" {
		return ""
	}
	return filepath.Join(w.dir, certs.CAFile)
}

// host is a machine with an engine in memory.
type host struct {
	w      *world
	root   string
	state  string
	engine *enginetest.Fake
	clock  time.Duration // how far its clock is off
	leave  func() error
}

// machine is a host that has never been started.
func (w *world) machine(id byte) *host {
	w.Helper()
	h := &host{w: w, root: w.TempDir(), state: w.TempDir(), engine: enginetest.NewFake()}
	h.engine.AddImage(enginetest.FakeImage{Ref: "web:1"})
	h.write("etc/machine-id", strings.Repeat(fmt.Sprintf("%02x", id), 16)+"\n")
	h.write("proc/meminfo", "MemTotal:       16384000 kB\n")
	h.write("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
	h.boot(int(id))
	return h
}

func (h *host) write(name, content string) {
	h.w.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		h.w.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		h.w.Fatal(err)
	}
}

// boot gives the kernel another boot id.
func (h *host) boot(n int) {
	h.w.Helper()
	h.write("proc/sys/kernel/random/boot_id", fmt.Sprintf("00000000-0000-4000-8000-%012d\n", n))
}

// clone is a machine whose disk is a copy of this one's: only its kernel tells them apart.
func (h *host) clone() *host {
	h.w.Helper()
	c := *h
	c.root, c.state, c.engine, c.leave = h.w.TempDir(), h.w.TempDir(), enginetest.NewFake(), nil
	for from, to := range map[string]string{h.root: c.root, h.state: c.state} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			h.w.Fatal(err)
		}
	}
	c.boot(999)
	return &c
}

// start starts the host's agent.
func (h *host) start() {
	h.w.Helper()
	key, err := auth.ReadKey(filepath.Join(h.w.dir, auth.HostFile))
	if err != nil {
		h.w.Fatal(err)
	}
	file := filepath.Join(h.state, "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		h.w.Fatal(err)
	}
	off := h.clock
	options := agent.Options{
		Config: config.Options{File: file, Environ: []string{
			"ECS_CLUSTER=" + cluster, "ECS_BACKEND_HOST=" + h.w.scheme + "://" + h.w.address, "AWS_CA_BUNDLE=" + h.w.bundle(), "AWS_DEFAULT_REGION=us-west-2",
			"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.Secret, "ECS_DATADIR=" + h.state, "ECS_LOGFILE=" + filepath.Join(h.state, "agent.log"),
			"AWS_EC2_METADATA_DISABLED=true", "ECS_DISABLE_TASK_ENDPOINTS=true", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false", "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached",
		}},
		Version: "0.1.0", Hash: "1234567", Root: h.root, Introspect: "127.0.0.1:0", Runtime: lasting{h.engine}, Stderr: h.w.Output(), EngineRetry: time.Millisecond,
		Clock: func() time.Time { return time.Now().Add(off) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, options) }()
	left := false
	h.leave = func() error {
		if left {
			return nil
		}
		left = true
		cancel()
		return <-done
	}
	h.w.Cleanup(func() { _ = h.leave() })
}

// lasting is an engine that outlives its agent.
type lasting struct{ *enginetest.Fake }

func (lasting) Close() error { return nil }

func (h *host) log() string {
	data, _ := os.ReadFile(filepath.Join(h.state, "agent.log")) // none yet says nothing
	return string(data)
}

// until looks again and again until something is so.
func (w *world) until(what string, so func() bool, hosts ...*host) {
	w.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			for _, h := range hosts {
				w.Logf("an agent says\n%s", h.log())
			}
			w.Fatalf("it never happened that %s", what)
		}
	}
}

// instances are those of the cluster.
func (w *world) instances() []types.ContainerInstance {
	w.Helper()
	listed, err := w.api.ListContainerInstances(w.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster)})
	if err != nil || len(listed.ContainerInstanceArns) == 0 {
		return nil
	}
	described, err := w.api.DescribeContainerInstances(w.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: listed.ContainerInstanceArns})
	if err != nil {
		return nil
	}
	return described.ContainerInstances
}

func (w *world) connected() (n int) {
	for _, i := range w.instances() {
		if i.AgentConnected {
			n++
		}
	}
	return n
}

func TestHostsWhoseClocksAreWrongJoinAndRunTheirDaemonsAndSaySoOnce(t *testing.T) {
	w := newWorld(t, true)
	_, err := w.api.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("web"), NetworkMode: types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("web"), Image: aws.String("web:1"), Memory: aws.Int32(16)}}})
	if err == nil {
		_, err = w.api.CreateService(t.Context(), &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("web"), TaskDefinition: aws.String("web"), SchedulingStrategy: types.SchedulingStrategyDaemon})
	}
	if err != nil {
		t.Fatal(err)
	}
	const year = 365 * 24 * time.Hour
	var hosts []*host
	for i, off := range []time.Duration{0, time.Hour, -time.Hour, year, -year} {
		h := w.machine(byte(i + 1))
		h.clock = off
		h.start()
		hosts = append(hosts, h)
	}
	w.until("five hosts run the daemon", func() bool {
		out, err := w.api.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String(cluster), Services: []string{"web"}})
		return err == nil && len(out.Services) == 1 && out.Services[0].RunningCount == 5 && w.connected() == 5
	}, hosts...)
	for _, h := range hosts {
		if err := h.leave(); err != nil {
			t.Error(err)
		}
		want := 1
		if h.clock == 0 {
			want = 0
		}
		if n := strings.Count(h.log(), "This host's clock is "); n != want {
			t.Errorf("the host whose clock is off by %s says so %d times, not %d:\n%s", h.clock, n, want, h.log())
		}
	}
}

func TestOfTwoMachinesWithOneIdentityTheSecondIsRefusedAndBothSidesSaySo(t *testing.T) {
	w := newWorld(t, true)
	first := w.machine(1)
	first.start()
	w.until("the first machine is connected", func() bool { return w.connected() == 1 }, first)
	instance := *w.instances()[0].ContainerInstanceArn
	if err := first.leave(); err != nil {
		t.Error(err)
	}
	second := first.clone()
	first.start()
	w.until("the first machine is connected again", func() bool { return w.connected() == 1 }, first)
	second.start()
	said := func() bool { return strings.Contains(second.log(), "Another machine runs as the container instance") }
	w.until("the second machine is told", said, second)
	if err := second.leave(); err != nil {
		t.Error(err)
	}
	if got := w.instances(); len(got) != 1 || *got[0].ContainerInstanceArn != instance || !got[0].AgentConnected {
		t.Errorf("the instance is %+v", got)
	}
	if err := first.leave(); err != nil {
		t.Error(err)
	}
	w.until("the first machine is gone", func() bool { return w.connected() == 0 })
	second.start() // the only one that is left: as far as can be told it is the first one, booted again
	w.until("the second machine takes its place", func() bool { return w.connected() == 1 }, second)
	first.start()
	told := func() bool { return w.logs.FilterMessageSnippet("two machines have the identity").Len() > 0 }
	w.until("the control plane says that two machines have one identity", func() bool {
		return told() || strings.Contains(first.log(), "Another machine runs as the container instance")
	}, first)
}
