package replicas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/auth"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(int) {
		if dir, err := binaries(); err == nil {
			_ = os.RemoveAll(dir)
		}
	}))
}

// binaries are the programs under test, built once: the control plane with the race detector, and etcd from its module.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "longshore-replicas")
	if err != nil {
		return "", err
	}
	for name, args := range map[string][]string{
		"longshore-control": {"-race", "github.com/longshore-project/longshore/cmd/longshore-control"},
		"etcd":              {"-tags", "grpcnotrace", "go.etcd.io/etcd/server/v3"},
	} {
		build := exec.Command("go", append([]string{"build", "-o", filepath.Join(dir, name)}, args...)...)
		if out, err := build.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return dir, nil
})

// node is a place on the network with the process that runs there.
type node struct {
	w    *world
	name string
	ip   string
	dir  string
	args []string
	log  *log

	cmd   *exec.Cmd
	ended chan struct{}
}

// log is what a process says, over all its lives.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 64<<20 {
		l.b.Write(p)
	}
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is three control planes on three members.
type world struct {
	*testing.T
	*lan
	bin      string
	dir      string
	members  []*node
	controls []*node
	web      *http.Client // of who asks one replica directly
	loads    []*load
}

const network = `{"subnets": {"subnet-a": {"cidrBlock": "10.20.0.0/24"}}}`

type options struct {
	quota   int64
	control []string // further flags
}

// newWorld starts everything, and returns when each control plane is healthy.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	const count = 3
	var ips, endpoints, cluster []string
	for i := range count {
		ip := fmt.Sprintf("10.77.0.%d", i+1)
		ips = append(ips, ip)
		endpoints = append(endpoints, "http://"+ip+":2379")
		cluster = append(cluster, fmt.Sprintf("m%d=http://%s:2380", i+1, ip))
	}
	for i := range count {
		ips = append(ips, fmt.Sprintf("10.77.0.%d", i+11))
	}
	w := &world{T: t, bin: bin, dir: t.TempDir()}
	w.lan = newLAN(t, ips...)
	t.Cleanup(func() {
		for _, n := range append(w.controls, w.members...) {
			n.kill()
		}
	})
	w.web = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dialer(w.lan)}}
	t.Cleanup(w.web.CloseIdleConnections)
	for i, ip := range ips[:count] {
		n := &node{w: w, name: fmt.Sprint("m", i+1), ip: ip, dir: filepath.Join(w.dir, fmt.Sprint("m", i+1)), log: &log{}}
		// Killed processes lose nothing that the kernel has: without fsync the disk that others use as well decides nothing.
		n.args = []string{filepath.Join(bin, "etcd"), "--name", n.name, "--data-dir", n.dir, "--unsafe-no-fsync", "--log-level", "warn",
			"--listen-peer-urls", "http://" + ip + ":2380", "--initial-advertise-peer-urls", "http://" + ip + ":2380",
			"--listen-client-urls", "http://" + ip + ":2379", "--advertise-client-urls", "http://" + ip + ":2379",
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new"}
		if o.quota > 0 {
			n.args = append(n.args, "--quota-backend-bytes", fmt.Sprint(o.quota))
		}
		w.members = append(w.members, n)
		n.begin()
	}
	file, seal := filepath.Join(w.dir, "network.json"), filepath.Join(w.dir, "seal.key")
	if err := os.WriteFile(file, []byte(network), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, ip := range ips[count:] {
		n := &node{w: w, name: fmt.Sprint("c", i+1), ip: ip, dir: filepath.Join(w.dir, fmt.Sprint("c", i+1)), log: &log{}}
		n.args = append([]string{filepath.Join(bin, "longshore-control"), "run", "--data-dir", n.dir, "--listen", ip + ":8480", "--insecure-http", "--metrics-listen", "",
			"--etcd-endpoints", strings.Join(endpoints, ","), "--network", file, "--seal-key-file", seal, "--log-level", "warn"}, o.control...)
		w.controls = append(w.controls, n)
		n.begin()
		if i == 0 {
			n.healthy() // it makes the key that seals
		}
	}
	for _, n := range w.controls {
		n.healthy()
	}
	return w
}

// begin starts the process.
func (n *node) begin() {
	n.w.Helper()
	n.cmd = exec.Command(n.args[0], n.args[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.w.start(n.ip, n.cmd); err != nil {
		n.w.Fatalf("start %s: %v", n.name, err)
	}
	n.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // that it is killed is the point
		close(ended)
	}(n.cmd, n.ended)
}

// kill ends it at once.
func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	<-n.ended
}

// alive fails the test when the process has ended by itself.
func (n *node) alive() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// exited tells whether the process has ended by itself with an error, as a control plane does that is started while etcd can't
// be reached. Who runs it has it started again; a panic is told at the end.
func (n *node) exited() bool { return !n.alive() && n.cmd.ProcessState.Exited() }

// health asks a control plane directly.
func (n *node) health(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := n.w.web.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", answer.Status)
	}
	return nil
}

func (n *node) url() string { return "http://" + n.ip + ":8480" }

func (n *node) healthy() {
	n.w.Helper()
	n.w.until(2*time.Minute, n.name+" is healthy", func(ctx context.Context) error {
		if !n.alive() {
			n.begin() // etcd was not there yet; who runs it has it started again
		}
		return n.health(ctx)
	})
}

// until waits until something holds.
func (w *world) until(patience time.Duration, what string, holds func(ctx context.Context) error) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var err error
	for {
		if err = holds(ctx); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.Fatalf("it never happened that %s: %v\n%s", what, err, w.tails())
		}
	}
}

// tails are the ends of what the processes said.
func (w *world) tails() string {
	var b strings.Builder
	for _, n := range append(append([]*node{}, w.controls...), w.members...) {
		said := n.log.String()
		fmt.Fprintf(&b, "--- %s\n%s\n", n.name, said[max(0, len(said)-3000):])
	}
	return b.String()
}

// key is one that the first control plane has handed out.
func (w *world) key(file string) aws.Credentials {
	w.Helper()
	k, err := auth.ReadKey(filepath.Join(w.controls[0].dir, file))
	if err != nil {
		w.Fatal(err)
	}
	return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.Secret}
}

// judgeProcesses tells of data races and panics.
func (w *world) judgeProcesses() {
	for _, n := range w.controls {
		if said := n.log.String(); strings.Contains(said, "DATA RACE") || strings.Contains(said, "panic: ") {
			w.Errorf("%s: %s", n.name, excerpt(said, "DATA RACE", "panic: "))
		}
	}
}

// excerpt is what stands around the first of some words.
func excerpt(text string, words ...string) string {
	at := len(text)
	for _, word := range words {
		if i := strings.Index(text, word); i >= 0 {
			at = min(at, i)
		}
	}
	return text[max(0, at-500):min(len(text), at+4000)]
}

var errNotYet = errors.New("not yet")

// dialer dials from this process's place on the network.
func dialer(l *lan) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return l.dial(ctx, address) }
}
