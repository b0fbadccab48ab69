package ecsagent_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/test/ecsagent"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// patience bounds every wait; it is reached only by a test that fails.
const patience = 20 * time.Second

// quick are timers that let a test see what takes minutes.
var quick = ecsagent.Timers{
	Reconnect: 20 * time.Millisecond, Telemetry: 20 * time.Millisecond, Publish: 200 * time.Millisecond, Drain: 200 * time.Millisecond,
	Register: 50 * time.Millisecond, Retry: 20 * time.Millisecond, SubmitAgain: 50 * time.Millisecond,
}

// plane is a real control plane on loopback, with its etcd inside.
type plane struct {
	*testing.T
	cfg     controlplane.Config
	running *controlplane.ControlPlane
	admin   *ecs.Client
	web     *http.Client
	// patience is this one's own, for what takes longer by design.
	patience time.Duration
}

func newPlane(t *testing.T, change ...func(*controlplane.Config)) *plane {
	t.Helper()
	p := &plane{T: t, cfg: controlplane.Config{
		DataDir: t.TempDir(), Listen: "127.0.0.1:0", Region: "us-west-2", AccountID: "123456789012", ShutdownGrace: 2 * time.Second,
		RolloutWaveWait: 50 * time.Millisecond, Log: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	}}
	for _, f := range change {
		f(&p.cfg)
	}
	p.web = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	p.start()
	t.Cleanup(p.stop)
	p.admin = p.client()
	return p
}

// client is an administrator's.
func (p *plane) client() *ecs.Client {
	return ecs.New(ecs.Options{Region: p.cfg.Region, BaseEndpoint: aws.String(p.url()), HTTPClient: p.web,
		Credentials: credentials.StaticCredentialsProvider{Value: p.key(auth.AdminFile)}})
}

func (p *plane) url() string {
	if p.cfg.TLSCert != "" {
		return "https://" + p.cfg.Listen
	}
	return "http://" + p.cfg.Listen
}

func (p *plane) start() {
	p.Helper()
	running, err := controlplane.Start(context.Background(), p.cfg)
	if err != nil {
		p.Fatal(err)
	}
	p.running, p.cfg.Listen = running, running.Addr().String()
}

func (p *plane) stop() {
	p.web.CloseIdleConnections()
	if err := p.running.Close(); err != nil {
		p.Errorf("close the control plane: %v", err)
	}
}

func (p *plane) key(file string) (c aws.Credentials) {
	p.Helper()
	data, err := os.ReadFile(filepath.Join(p.cfg.DataDir, file))
	if err != nil {
		p.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(line), "="); name {
		case "AWS_ACCESS_KEY_ID":
			c.AccessKeyID = value
		case "AWS_SECRET_ACCESS_KEY":
			c.SecretAccessKey = value
		}
	}
	return c
}

// agent is a machine with a running agent.
type agent struct {
	*ecsagent.Machine
	*ecsagent.Agent
	p   *plane
	cfg ecsagent.Config
}

// join starts an agent on a new machine. When the test ends there must be no fault in its journal.
func (p *plane) join(change ...func(*ecsagent.Config)) *agent {
	p.Helper()
	return p.joinOn(ecsagent.NewMachine(), change...)
}

// joinOn is join on a machine that is there.
func (p *plane) joinOn(m *ecsagent.Machine, change ...func(*ecsagent.Config)) *agent {
	p.Helper()
	a := &agent{Machine: m, p: p, cfg: ecsagent.Config{
		Endpoint: p.url(), Region: "us-west-2", Key: p.key(auth.HostFile), Cluster: "daemonset", Timers: quick,
	}}
	for _, f := range change {
		f(&a.cfg)
	}
	a.Agent = a.Machine.Start(a.cfg)
	p.Cleanup(func() {
		a.Agent.Stop()
		a.Machine.Close()
		for _, fault := range a.Faults() {
			p.Errorf("the real agent would choke: %s", fault)
		}
		if p.Failed() {
			for _, e := range a.Journal() {
				if strings.HasPrefix(e.Type, "Publish") || strings.HasPrefix(e.Type, "AckPublish") {
					continue
				}
				p.Logf("%.300s", e.String())
			}
		}
	})
	return a
}

// restart starts a new process on the machine.
func (a *agent) restart(change ...func(*ecsagent.Config)) {
	for _, f := range change {
		f(&a.cfg)
	}
	a.Agent = a.Machine.Start(a.cfg)
}

// expect waits for n entries of the machine's journal.
func (a *agent) expect(what string, n int, filters ...func(ecsagent.Entry) bool) []ecsagent.Entry {
	a.p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := a.Until(ctx, n, filters...)
	if err != nil {
		a.p.Fatalf("%s: %v", what, err)
	}
	return found
}

// until asks again until it is so.
func (p *plane) until(what string, so func() bool) {
	p.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	most := max(patience, p.patience)
	for deadline := time.Now().Add(most); !so(); <-tick.C {
		if time.Now().After(deadline) {
			p.Fatalf("%s: not within %s", what, most)
		}
	}
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (p *plane) cluster(name string) {
	p.Helper()
	must(p.admin.CreateCluster(p.Context(), &ecs.CreateClusterInput{ClusterName: &name}))(p.T)
}

// define registers a revision of a task definition.
func (p *plane) define(family string, containers ...types.ContainerDefinition) string {
	p.Helper()
	if len(containers) == 0 {
		containers = []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("registry.test/" + family + ":1"), Memory: aws.Int32(64), Essential: aws.Bool(true)}}
	}
	out := must(p.admin.RegisterTaskDefinition(p.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, ContainerDefinitions: containers}))(p.T)
	return fmt.Sprintf("%s:%d", family, out.TaskDefinition.Revision)
}

// daemon creates a DAEMON service in the cluster daemonset.
func (p *plane) daemon(service, definition string) {
	p.Helper()
	must(p.admin.CreateService(p.Context(), &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: &service,
		TaskDefinition: &definition, SchedulingStrategy: types.SchedulingStrategyDaemon}))(p.T)
}

func (p *plane) instance(a *agent) types.ContainerInstance {
	p.Helper()
	out := must(p.admin.DescribeContainerInstances(p.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String(clusterOf(a)), ContainerInstances: []string{a.InstanceARN()}}))(p.T)
	if len(out.ContainerInstances) != 1 {
		p.Fatalf("the instance %s: %v", a.InstanceARN(), out.Failures)
	}
	return out.ContainerInstances[0]
}

func clusterOf(a *agent) string {
	if a.cfg.Cluster == "" {
		return "default"
	}
	return a.cfg.Cluster
}

// tasks are the tasks on a machine that have a desired status.
func (p *plane) tasks(a *agent, desired types.DesiredStatus) []types.Task {
	p.Helper()
	list := must(p.admin.ListTasks(p.Context(), &ecs.ListTasksInput{Cluster: aws.String(clusterOf(a)), ContainerInstance: aws.String(a.InstanceARN()), DesiredStatus: desired}))(p.T)
	if len(list.TaskArns) == 0 {
		return nil
	}
	return must(p.admin.DescribeTasks(p.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(clusterOf(a)), Tasks: list.TaskArns}))(p.T).Tasks
}

func (p *plane) task(arn string) types.Task {
	p.Helper()
	out := must(p.admin.DescribeTasks(p.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("daemonset"), Tasks: []string{arn}}))(p.T)
	if len(out.Tasks) != 1 {
		p.Fatalf("task %s: %v", arn, out.Failures)
	}
	return out.Tasks[0]
}

// runs starts a task on a machine and returns its ARN.
func (p *plane) runs(a *agent, definition string) string {
	p.Helper()
	out := must(p.admin.StartTask(p.Context(), &ecs.StartTaskInput{Cluster: aws.String(clusterOf(a)), TaskDefinition: &definition, ContainerInstances: []string{a.InstanceARN()}}))(p.T)
	if len(out.Tasks) != 1 {
		p.Fatalf("the task was not started: %v", out.Failures)
	}
	return aws.ToString(out.Tasks[0].TaskArn)
}

func (p *plane) connected(a *agent) {
	p.Helper()
	a.expect("the control channel", 1, ecsagent.Is(ecsagent.Connected, "ACS"), ecsagent.In(a.Number()))
	p.until("agentConnected", func() bool { return p.instance(a).AgentConnected })
}

// wire is a TCP proxy that can fall silent: what was sent stays on the way, and both sides' connections stay open.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	silent   chan struct{} // closed when it is
	conns    []net.Conn
	wg       sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, to: to, silent: make(chan struct{})}
	w.wg.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, in, out)
			w.mu.Unlock()
			w.wg.Go(func() { w.copy(out, in) })
			w.wg.Go(func() { w.copy(in, out) })
		}
	})
	t.Cleanup(w.close)
	return w
}

func (w *wire) url() string { return "http://" + w.listener.Addr().String() }

func (w *wire) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-w.silent: // nothing passes any more, not even the end
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			to.Close()
			return
		}
	}
}

// fallSilent has nothing pass any more, for good.
func (w *wire) fallSilent() { close(w.silent) }

func (w *wire) close() {
	w.listener.Close()
	w.mu.Lock()
	for _, c := range w.conns {
		c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}
