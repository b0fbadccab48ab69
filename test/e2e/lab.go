package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
	"github.com/longshore-project/longshore/test/seen"
)

const (
	region  = "us-west-2"
	account = "123456789012"
	apiPort = "8480"
	imgPort = "5480"
)

// Lab is a control plane, a registry and hosts. A lab and its tests are for one goroutine.
type Lab struct {
	t        *testing.T
	dir      string
	Farm     *hosts.Farm
	Registry *images.Registry
	control  *process
	agents   map[int]*process
	api      string // host:port on loopback
	metrics  string // the same, for Prometheus
	admin    []string
	host     []string
	astray   atomic.Int64 // calls of the CLI that would have left the machine
	proxy    *httptest.Server
	plain    []string                 // ports of further registries that speak http
	seen     map[int]*seen.Containerd // connections
	moved    map[int]string           // the engine of a host that has both
}

// process is one of our binaries, restartable.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// BuildFlags are those of go build for the binaries under test; set them before the first lab. Measurements build what is shipped.
var BuildFlags = []string{"-race"}

// binaries are built once for all packages that have labs: they stay in the user's cache, and go sees whether they are what it would build.
var binaries = sync.OnceValues(func() (string, error) {
	return build("./cmd/longshore-agent", "./cmd/longshore-control", "./cmd/longshore-log")
})

// withContainerd is the agent with containerd's client in it, beside the others.
var withContainerd = sync.OnceValue(func() error {
	_, err := build("-tags", "containerd", "./cmd/longshore-agent")
	return err
})

// build builds programs of this module, with a suffix for a build tag, into the folder that it returns.
func build(args ...string) (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(fmt.Sprint(string(root), BuildFlags)))
	dir := filepath.Join(cache, "longshore-test", hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	to := dir
	if args[0] == "-tags" {
		to = filepath.Join(dir, "longshore-agent-"+args[1])
	}
	cmd := exec.Command("go", append(append([]string{"build"}, BuildFlags...), append([]string{"-o", to}, args...)...)...)
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the binaries: %w: %s", err, out)
	}
	return dir, nil
}

// NewLab starts a world with n hosts that run Docker; no agent runs yet. name is at most five letters and unique among labs that run
// at once, subnet the third byte of the hosts' addresses.
func NewLab(t *testing.T, name string, subnet, n int, controlFlags ...string) *Lab {
	t.Helper()
	return NewLabOn(t, Docker, name, subnet, n, controlFlags...)
}

// NewLabOn is the same with hosts that run an engine, or both.
func NewLabOn(t *testing.T, engine, name string, subnet, n int, controlFlags ...string) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the end-to-end tests need root: they make network namespaces, mounts and containers (sudo make test)")
	}
	for _, need := range [][2]string{{"aws", "awscli"}, {"dockerd", "docker.io"}, {"tini", "tini"}, {"ip", "iproute2"}, {"iptables", "iptables"}} {
		if _, err := exec.LookPath(need[0]); err != nil {
			t.Fatalf("%s is missing: apt-get install -y --no-install-recommends %s", need[0], need[1])
		}
	}
	dir, err := os.MkdirTemp("", "ls-"+name) // short: unix sockets lie below
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{t: t, dir: dir, agents: map[int]*process{}, seen: map[int]*seen.Containerd{}, moved: map[int]string{}, Farm: &hosts.Farm{Dir: filepath.Join(dir, "hosts"), Name: "ls" + name, Net: "10." + strconv.Itoa(subnet) + ".7", Runs: engine}}
	t.Cleanup(func() { l.down() })
	l.proxy = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.astray.Add(1)
		http.Error(w, "this call would have left the machine", http.StatusBadGateway)
	}))
	l.Registry, err = images.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Farm.Up(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	l.api, l.metrics = freeAddress(t), freeAddress(t)
	l.StartControl(controlFlags...)
	l.forward(apiPort, l.api)
	l.forward(imgPort, l.Registry.Addr)
	return l
}

// Forward makes a loopback address reachable for the hosts at the LAN's address and a port.
func (l *Lab) Forward(port, target string) { l.forward(port, target) }

// forward makes a loopback address reachable for the hosts.
func (l *Lab) forward(port, target string) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- hosts.Forward(ctx, l.Farm.LANNamespace(), net.JoinHostPort(l.Farm.LAN(), port), target)
	}()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
}

// ports counts the addresses that were given.
var ports atomic.Uint32

// freeAddress is one at which nobody listens, with a port below those that the kernel gives to connections: whoever listens there later still can.
func freeAddress(t *testing.T) string {
	t.Helper()
	const first, many = 20000, 12000
	for range many {
		address := fmt.Sprint("127.0.0.1:", first+(uint32(os.Getpid())*131+ports.Add(1))%many)
		if ln, err := net.Listen("tcp", address); err == nil {
			_ = ln.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// down ends what the lab started, and prints the logs of a test that failed.
func (l *Lab) down() {
	ctx := context.WithoutCancel(l.t.Context())
	for i := range l.agents {
		l.stop(l.agents[i], syscall.SIGKILL)
	}
	l.stop(l.control, syscall.SIGTERM)
	if l.t.Failed() {
		l.dumpLogs()
	}
	l.forget(0)
	if err := l.Farm.Down(ctx); err != nil {
		l.t.Error(err)
	}
	if l.Registry != nil {
		_ = l.Registry.Close()
	}
	if l.proxy != nil {
		l.proxy.Close()
	}
	if n := l.astray.Load(); n != 0 {
		l.t.Errorf("%d calls of the CLI would have left the machine", n)
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
}

func (l *Lab) dumpLogs() {
	logs, _ := filepath.Glob(filepath.Join(l.dir, "*.log"))
	more, _ := filepath.Glob(filepath.Join(l.Farm.Dir, "h*/disk/var/log/ecs/*.log"))
	for _, path := range append(logs, more...) {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.Split(string(b), "\n")
		if len(lines) > 120 {
			lines = lines[len(lines)-120:]
		}
		l.t.Logf("---- %s\n%s", strings.TrimPrefix(path, l.dir), strings.Join(lines, "\n"))
	}
}

// start runs a command with its output in a log file of the lab.
func (l *Lab) start(name string, cmd *exec.Cmd) *process {
	l.t.Helper()
	p := &process{cmd: cmd, done: make(chan struct{}), log: filepath.Join(l.dir, name+".log")}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		defer out.Close()
		_ = cmd.Wait()
	}()
	return p
}

// stop signals a process and waits for its end.
func (l *Lab) stop(p *process, sig syscall.Signal) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		l.t.Errorf("%s did not end on %v", p.cmd.Path, sig)
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// StartControl starts the control plane and waits until it is ready.
func (l *Lab) StartControl(flags ...string) {
	l.t.Helper()
	bin, err := binaries()
	if err != nil {
		l.t.Fatal(err)
	}
	data := filepath.Join(l.dir, "control")
	args := append([]string{"run", "--data-dir", data, "--listen", l.api, "--region", region, "--account-id", account, "--metrics-listen", l.metrics}, flags...)
	l.control = l.start("control", exec.Command(filepath.Join(bin, "longshore-control"), args...))
	l.Until(30*time.Second, "the control plane is ready", func() error {
		res, err := http.Get("http://" + l.api + "/healthz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz says %s", res.Status)
		}
		return nil
	})
	l.admin, l.host = l.keys("admin.env"), l.keys("host.env")
}

// API is the control plane's URL, and the administrator's key.
func (l *Lab) API() (url, accessKeyID, secretAccessKey string) {
	value := func(i int) string { _, v, _ := strings.Cut(l.admin[i], "="); return v }
	return "http://" + l.api, value(0), value(1)
}

// ControlDir is the control plane's data directory.
func (l *Lab) ControlDir() string { return filepath.Join(l.dir, "control") }

// ControlLog is the file with what the control plane writes.
func (l *Lab) ControlLog() string { return filepath.Join(l.dir, "control.log") }

// Agent is the path of the agent's binary.
func (l *Lab) Agent() string {
	bin, _ := binaries()
	return filepath.Join(bin, "longshore-agent")
}

// StopAgent ends the agent of host i as systemd would.
func (l *Lab) StopAgent(i int) {
	l.t.Helper()
	if err := syscall.Kill(l.AgentPid(i), syscall.SIGTERM); err != nil {
		l.t.Fatal(err)
	}
	<-l.agents[i].done
}

// Cut is a power cut of host i, agent included.
func (l *Lab) Cut(i int) {
	l.t.Helper()
	l.forget(i)
	if err := l.Farm.Cut(l.t.Context(), i); err != nil {
		l.t.Fatal(err)
	}
	if l.agents[i] != nil {
		<-l.agents[i].done
	}
	delete(l.agents, i)
}

// KillControl ends the control plane without warning.
func (l *Lab) KillControl() { l.stop(l.control, syscall.SIGKILL) }

func (l *Lab) keys(name string) []string {
	path := filepath.Join(l.dir, "control", name)
	info, err := os.Stat(path)
	if err != nil {
		l.t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		l.t.Errorf("%s has mode %v", name, info.Mode())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// StartAgent starts the agent of host i, again if it ran before.
func (l *Lab) StartAgent(i int, settings ...string) {
	l.t.Helper()
	bin, err := binaries()
	if err != nil {
		l.t.Fatal(err)
	}
	if l.Farm.Runs != Both {
		settings = append(l.Settings(l.Farm.Runs), settings...)
	}
	env := append([]string{"env", "ECS_BACKEND_HOST=http://" + net.JoinHostPort(l.Farm.LAN(), apiPort), "ECS_CLUSTER=daemonset",
		"AWS_DEFAULT_REGION=" + region, "ECS_DATADIR=/var/lib/ecs/data", "ECS_LOGFILE=/var/log/ecs/ecs-agent.log"}, l.host...)
	env = append(append(env, settings...), filepath.Join(bin, "longshore-agent"), "run")
	if err := l.OnHost(i, "mkdir", "-p", "/var/lib/ecs/data", "/tmp/host/logs").Run(); err != nil {
		l.t.Fatal(err)
	}
	l.agents[i] = l.start("agent-"+strconv.Itoa(i), l.Farm.Start(context.WithoutCancel(l.t.Context()), i, env...))
}

// ControlPid is the process id of the control plane.
func (l *Lab) ControlPid() int { return l.control.cmd.Process.Pid }

// OnHost is a command inside host i.
func (l *Lab) OnHost(i int, argv ...string) *exec.Cmd { return l.Farm.Start(l.t.Context(), i, argv...) }

// AgentPid is the process id of host i's agent, as this machine counts.
func (l *Lab) AgentPid(i int) int {
	l.t.Helper()
	if l.engineOf(i) == Containerd {
		return l.ProcessOn(i, "longshore-agent-containerd")
	}
	return l.ProcessOn(i, "longshore-agent")
}

// ProcessOn is the process id, as this machine counts, of the process on host i whose program has that name.
func (l *Lab) ProcessOn(i int, name string) int {
	l.t.Helper()
	want, err := os.Readlink("/proc/" + l.init(i) + "/ns/pid")
	if err != nil {
		l.t.Fatal(err)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, p := range procs {
		if to, err := os.Readlink(p); err != nil || filepath.Base(to) != name {
			continue
		}
		pid := filepath.Base(filepath.Dir(p))
		if ns, err := os.Readlink("/proc/" + pid + "/ns/pid"); err == nil && ns == want {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	l.t.Fatalf("no %s runs on host %d", name, i)
	return 0
}

// KillAgent ends the agent of host i without warning.
func (l *Lab) KillAgent(i int) {
	l.t.Helper()
	if err := syscall.Kill(l.AgentPid(i), syscall.SIGKILL); err != nil {
		l.t.Fatal(err)
	}
	<-l.agents[i].done
}

// Engine is a client of host i's Docker engine.
func (l *Lab) Engine(i int) *client.Client {
	l.t.Helper()
	c, err := client.NewClientWithOpts(client.WithHost(l.Farm.Engine(i)), client.WithAPIVersionNegotiation())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	c.NegotiateAPIVersion(l.t.Context()) // now, for the client's first requests race when they are made side by side
	return c
}

// Push serves an image to the hosts and returns the name they pull it by.
func (l *Lab) Push(repo string, spec images.Spec) string {
	l.t.Helper()
	img, err := images.Build(spec)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, _, err := l.Registry.Push(l.t.Context(), repo, img); err != nil {
		l.t.Fatal(err)
	}
	return net.JoinHostPort(l.Farm.LAN(), imgPort) + "/" + repo
}

// TryAWS runs the real CLI against the control plane.
func (l *Lab) TryAWS(args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(l.t.Context(), "aws", append([]string{"--endpoint-url", "http://" + l.api, "--region", region, "--output", "json"}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_PAGER=", "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=2",
		"HTTP_PROXY=" + l.proxy.URL, "HTTPS_PROXY=" + l.proxy.URL, "NO_PROXY=127.0.0.1"}, l.admin...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

// AWS runs the CLI, which must succeed, and decodes its answer into a T.
func AWS[T any](l *Lab, args ...string) T {
	l.t.Helper()
	out, stderr, err := l.TryAWS(args...)
	if err != nil {
		l.t.Fatalf("aws %s: %v: %s", strings.Join(args, " "), err, stderr)
	}
	var v T
	if strings.TrimSpace(out) == "" {
		return v
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		l.t.Fatalf("aws %s printed %q: %v", strings.Join(args, " "), out, err)
	}
	return v
}

// Do runs the CLI, which must succeed.
func (l *Lab) Do(args ...string) { l.t.Helper(); AWS[any](l, args...) }

// Until waits for a condition; the last reason why it does not hold is the failure.
func (l *Lab) Until(limit time.Duration, what string, holds func() error) {
	l.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("after %v still not: %s: %v", limit, what, err)
		}
	}
}
