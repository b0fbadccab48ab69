package kill

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/client"

	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

const (
	region  = "us-west-2"
	account = "123456789012"
	cluster = "daemonset"
	apiPort = "8480"
	dataDir = "/var/lib/ecs/data"
	image   = "longshore-kill/serving:1"
)

// patience bounds every wait; what takes longer has failed.
const patience = 90 * time.Second

// serving runs until it is stopped, and ends then at once and always in the same way: a shell needs some time before it can
// obey SIGTERM.
var serving = images.Spec{Cmd: []string{"sleep", "100000"}, StopSignal: "SIGKILL"}

// binaries are built once for all tests of the package.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "longshore-kill-bin")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-tags", "failpoint,grpcnotrace", "-o", dir, "./cmd/longshore-agent", "./cmd/longshore-control")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("building the binaries: %w: %s", err, out)
	}
	return dir, nil
})

// world is a control plane and one host. It is for one goroutine.
type world struct {
	t       *testing.T
	dir     string
	bin     string
	farm    *hosts.Farm
	addr    string // of the control plane
	control *process
	agent   *process
	env     []string // of the agent, with the host's key
	admin   aws.CredentialsProvider
	calls   *calls // what the agent submitted
	events  *events
	engine  *client.Client
	ecs     *ecs.Client
	kills   int   // processes found killed and started again
	from    int64 // the size of the agent's log when the round began
}

// process is one of our binaries.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	log   string
	from  int64 // the log's size when the round began
	asked bool  // it was to end
}

func (p *process) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// newWorld starts a control plane and a host without an agent. name has at most four letters.
func newWorld(t *testing.T, name string, subnet int) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests need root: they make network namespaces, mounts and containers (sudo make test)")
	}
	for _, need := range [][2]string{{"dockerd", "docker.io"}, {"tini", "tini"}, {"ip", "iproute2"}, {"iptables", "iptables"}, {"nsenter", "util-linux"}} {
		if _, err := exec.LookPath(need[0]); err != nil {
			t.Fatalf("%s is missing: apt-get install -y --no-install-recommends %s", need[0], need[1])
		}
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lk"+name) // short: unix sockets lie below
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, bin: bin, farm: &hosts.Farm{Dir: filepath.Join(dir, "hosts"), Name: "lk" + name, Net: "10." + strconv.Itoa(subnet) + ".8"}}
	t.Cleanup(w.down)
	if err := w.farm.Up(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	w.engine = w.dial()
	if err := images.Load(t.Context(), w.engine, image, images.Must(t, serving)); err != nil {
		t.Fatal(err)
	}
	w.events = listen(t, w.engine)
	w.addr = freeAddress(t)
	w.forward()
	w.startControl()
	w.ready()
	w.keys()
	w.do("CreateCluster", func(ctx context.Context) error {
		_, err := w.ecs.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: aws.String(cluster),
			Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}}) // else RunTask waits after each return of the agent
		return err
	})
	w.define("serving", 1)
	return w
}

func (w *world) dial() *client.Client {
	w.t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(w.farm.Engine(1)), client.WithAPIVersionNegotiation())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	c.NegotiateAPIVersion(w.t.Context()) // now, for the client's first requests race when they are made side by side
	return c
}

// forward makes the control plane reachable for the host, through the proxy that takes notes.
func (w *world) forward() {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.calls = &calls{}
	transport := &http.Transport{DisableKeepAlives: true}
	server := &http.Server{Handler: w.calls.proxy(w.addr, transport), ReadHeaderTimeout: patience}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(front) })
	wg.Go(func() {
		if err := hosts.Forward(ctx, w.farm.LANNamespace(), net.JoinHostPort(w.farm.LAN(), apiPort), front.Addr().String()); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() {
		cancel()
		_ = server.Close()
		wg.Wait()
		transport.CloseIdleConnections()
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// down ends what the world started.
func (w *world) down() {
	w.end(w.agent, syscall.SIGKILL)
	w.end(w.control, syscall.SIGKILL)
	if w.t.Failed() {
		w.dump()
		if b, err := os.ReadFile(filepath.Join(w.farm.Dir, "h1", "dockerd.log")); err == nil {
			w.t.Logf("---- dockerd\n%s", last(b, 30))
		}
	}
	if err := w.farm.Down(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

// dump prints the logs since the round began, without the looks of the tests.
func (w *world) dump() {
	w.t.Helper()
	for _, l := range w.logs() {
		b, err := os.ReadFile(l.path)
		if err != nil {
			continue
		}
		if int64(len(b)) > *l.from { // else it was begun anew
			b = b[*l.from:]
		}
		lines := slices.DeleteFunc(strings.Split(string(b), "\n"), func(line string) bool {
			return line == "" || strings.Contains(line, `"operation": "Describe`) || strings.Contains(line, `"operation": "List`)
		})
		w.t.Logf("---- %s\n%s", filepath.Base(l.path), last([]byte(strings.Join(lines, "\n")), 100))
	}
}

type logFile struct {
	path string
	from *int64
}

func (w *world) logs() []logFile {
	all := []logFile{{w.agentLog(), &w.from}}
	for _, p := range []*process{w.control, w.agent} {
		if p != nil {
			all = append(all, logFile{p.log, &p.from})
		}
	}
	return all
}

// agentLog is the agent's log file; what it writes before there is one is in its process's.
func (w *world) agentLog() string { return w.farm.Disk(1, "/var/log/ecs/ecs-agent.log") }

func last(b []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// begin marks the beginning of a round in the logs.
func (w *world) begin() {
	for _, l := range w.logs() {
		*l.from = size(l.path)
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func (w *world) start(name string, old *process, cmd *exec.Cmd) *process {
	w.t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{}), log: filepath.Join(w.dir, name+".log")}
	if old != nil {
		p.from = old.from
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	return p
}

func (w *world) startControl(env ...string) {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.bin, "longshore-control"), "run", "--data-dir", filepath.Join(w.dir, "control"), "--listen", w.addr, "--region", region, "--account-id", account)
	cmd.Env = append(os.Environ(), env...)
	w.control = w.start("control", w.control, cmd)
}

// startAgent starts the agent on the host; env adds to its environment and replaces.
func (w *world) startAgent(env ...string) {
	w.t.Helper()
	cmd := exec.Command("nsenter", "-t", w.hostInit(), "-n", "-m", "-p", "-u", "-i", "--", filepath.Join(w.bin, "longshore-agent"), "run", "--blackhole-ec2-metadata")
	cmd.Env = append(slices.Clone(w.env), env...)
	w.agent = w.start("agent", w.agent, cmd)
}

// hostInit is the process id of the host's first process.
func (w *world) hostInit() string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.farm.Dir, "h1", "init.pid"))
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// end signals a process and waits for its end. The agent is nsenter's child.
func (w *world) end(p *process, sig syscall.Signal) {
	if p == nil || !p.alive() {
		return
	}
	p.asked = true
	target := p.cmd.Process.Pid
	if p == w.agent {
		for target = child(p.cmd.Process.Pid); target == 0 && p.alive(); target = child(p.cmd.Process.Pid) { // it is about to fork
		}
	}
	if target != 0 {
		_ = syscall.Kill(target, sig)
	}
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		w.t.Errorf("%s did not end on %v", p.cmd.Path, sig)
		_ = syscall.Kill(target, syscall.SIGKILL)
		<-p.ended
	}
}

// kill ends a process without warning, to be revived.
func (w *world) kill(p *process) {
	w.end(p, syscall.SIGKILL)
	p.asked = false
}

func child(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// revive starts what was killed again, without failpoints. A process that ended in another way is a failure.
func (w *world) revive() {
	w.t.Helper()
	for _, p := range []*process{w.control, w.agent} {
		if p == nil || p.asked || p.alive() {
			continue
		}
		status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if status.Signal() != syscall.SIGKILL {
			w.t.Fatalf("%s ended by itself: %v", p.cmd.Path, p.cmd.ProcessState)
		}
		w.kills++
		if p == w.agent {
			w.startAgent()
		} else {
			w.startControl()
		}
	}
}

// ready waits until the control plane answers.
func (w *world) ready() {
	w.t.Helper()
	w.until("the control plane is ready", func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+"/healthz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
}

// keys reads the keys that the control plane made.
func (w *world) keys() {
	w.t.Helper()
	read := func(name string) []string {
		b, err := os.ReadFile(filepath.Join(w.dir, "control", name))
		if err != nil {
			w.t.Fatal(err)
		}
		return strings.Fields(string(b))
	}
	value := func(s string) string { _, v, _ := strings.Cut(s, "="); return v }
	admin := read("admin.env")
	w.admin = credentials.NewStaticCredentialsProvider(value(admin[0]), value(admin[1]), "")
	w.ecs = ecs.New(ecs.Options{Region: region, BaseEndpoint: aws.String("http://" + w.addr), Credentials: w.admin, RetryMaxAttempts: 1, HTTPClient: http.DefaultClient})
	w.env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "ECS_BACKEND_HOST=http://" + net.JoinHostPort(w.farm.LAN(), apiPort), "ECS_CLUSTER=" + cluster,
		"AWS_DEFAULT_REGION=" + region, "ECS_DATADIR=" + dataDir, "ECS_LOGFILE=/var/log/ecs/ecs-agent.log", "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached",
		"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s"}, read("host.env")...)
}

// until waits for a condition and brings back what is killed meanwhile.
func (w *world) until(what string, holds func(ctx context.Context) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		w.revive()
		err := holds(ctx)
		if err == nil {
			if d := time.Since(began); d > 3*time.Second {
				w.t.Logf("it took %v: %s", d.Round(time.Millisecond), what)
			}
			return
		}
		var final *fatal
		if errors.As(err, &final) {
			w.t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.t.Fatalf("after %v still not: %s: %v", patience, what, err)
		}
	}
}

// fatal is an error that waiting does not heal.
type fatal struct{ error }

// do repeats an API call until it is acknowledged; what the control plane refuses is a failure.
func (w *world) do(operation string, call func(ctx context.Context) error) {
	w.t.Helper()
	w.until(operation, func(ctx context.Context) error {
		err := call(ctx)
		var refused interface{ HTTPStatusCode() int }
		if errors.As(err, &refused) && refused.HTTPStatusCode()/100 == 4 {
			return &fatal{err}
		}
		return err
	})
}

// define registers a task definition with one container and so many bytes of environment.
func (w *world) define(family string, ballast int) {
	w.t.Helper()
	in := &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeHost, ContainerDefinitions: []types.ContainerDefinition{{
		Name: aws.String("main"), Image: aws.String(image), Memory: aws.Int32(16), StopTimeout: aws.Int32(5),
		Environment: []types.KeyValuePair{{Name: aws.String("BALLAST"), Value: aws.String(strings.Repeat("x", ballast))}},
	}}}
	w.do("RegisterTaskDefinition", func(ctx context.Context) error {
		_, err := w.ecs.RegisterTaskDefinition(ctx, in)
		return err
	})
}
