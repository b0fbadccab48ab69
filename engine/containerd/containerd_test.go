package containerd_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/agent/bridge"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/engine/enginetest/real"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is a containerd of the test's own.
type daemon struct {
	dir, program string
	cmd          *exec.Cmd
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "sock") }

func start(t *testing.T) *daemon {
	t.Helper()
	program, err := exec.LookPath("containerd")
	if err != nil {
		t.Fatal("there is no containerd; install it: apt-get install -y containerd runc")
	}
	dir, err := os.MkdirTemp("", "ctd") // short, for the sockets' sake
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: dir, program: program}
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n address = %q\n[ttrpc]\n address = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), d.socket(), d.socket()+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.up(t)
	t.Cleanup(func() {
		d.down()
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("containerd: %s", b[max(0, len(b)-3000):])
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *daemon) up(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	d.cmd = exec.Command(d.program, "-c", filepath.Join(d.dir, "config.toml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("unix", d.socket())
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(limit) {
			t.Fatal("containerd did not come up")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (d *daemon) down() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

var logProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "longshore-log")
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, "longshore-log")
	out, err := exec.Command("go", "build", "-o", at, "github.com/longshore-project/longshore/cmd/longshore-log").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return at, nil
})

func runtime(t *testing.T, cfg containerd.Config) *containerd.Runtime {
	t.Helper()
	program, err := logProgram()
	if err != nil {
		t.Fatal(err)
	}
	cfg.LogProgram = program
	cfg.OCIRuntime = cmp.Or(cfg.OCIRuntime, os.Getenv("TEST_OCI_RUNTIME")) // make test-containerd tries others
	if cfg.Root == "" {
		cfg.Root = t.TempDir()
	}
	cfg.Networks = bridged(t)
	r, err := containerd.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// bridged is a bridge on a host network of the test's own.
func bridged(t *testing.T) containerd.Networks {
	t.Helper()
	dir := t.TempDir()
	host := filepath.Join(dir, "host")
	if err := netns.MakeNamespace(host); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	network := &netns.HostNetwork{Namespace: int(f.Fd())}
	b, err := network.OpenBridge(netns.BridgeConfig{Dir: filepath.Join(dir, "leases")})
	if err != nil {
		t.Fatal(err)
	}
	network.Set(b)
	if _, err := network.Ensure(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, l := range b.Leases() {
			t.Errorf("the lease of %s is left", l.ID)
		}
		_ = f.Close()
		if err := netns.RemoveNamespace(host); err != nil {
			t.Error(err)
		}
	})
	return bridge.New(b, filepath.Join(dir, "netns"))
}

func TestContainerdPassesTheSuite(t *testing.T) {
	d := start(t)
	enginetest.Run(t, func(t *testing.T) enginetest.Subject { return subject(t, d) })
}

func subject(t *testing.T, d *daemon) enginetest.Subject {
	registry, closed := images.NewRegistry(t), images.NewRegistry(t)
	r := runtime(t, containerd.Config{Address: d.socket(), Namespace: "longshore-test"})
	s := enginetest.Subject{
		Runtime: r, Images: map[string]string{}, Missing: registry.Addr + "/missing:1", Unreachable: "127.0.0.1:1/x:1",
		Auth: engine.RegistryAuth{Username: "me", Password: "s3cret", ServerAddress: closed.Addr},
	}
	for name, img := range enginetest.Images() {
		ref, _ := registry.MustPush(t, "longshore-test/"+strings.ToLower(rand.Text())+":1", real.Image(img))
		if _, err := r.Pull(t.Context(), ref, nil, nil); err != nil {
			t.Fatal(err)
		}
		s.Images[name] = ref
	}
	base := enginetest.Images()["base"]
	base.Config.Env = append(base.Config.Env, "COPY="+rand.Text()) // so that it is another image than the local one
	s.Open, s.OpenDigest = registry.MustPush(t, "open:1", real.Image(base))
	closed.RequireAuth(s.Auth.Username, s.Auth.Password)
	base.Config.Env = append(base.Config.Env, "CLOSED=1")
	s.Closed, _ = closed.MustPush(t, "closed:1", real.Image(base))
	s.Foreign = func(t *testing.T) (string, string, func() bool) { return foreign(t, d, s.Images["base"]) }
	s.Down = func(t *testing.T) engine.Runtime {
		return runtime(t, containerd.Config{Address: filepath.Join(t.TempDir(), "none.sock")})
	}
	s.Hung = func(t *testing.T) engine.Runtime { return runtime(t, containerd.Config{Address: real.Hung(t)}) }
	return s
}

// foreign is a container in our namespace that somebody else made.
func foreign(t *testing.T, d *daemon, ref string) (id, name string, untouched func() bool) {
	t.Helper()
	c, err := client.New(d.socket(), client.WithDefaultNamespace("longshore-test"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	img, err := c.GetImage(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	id = "foreign-" + rand.Text()
	made, err := c.NewContainer(ctx, id, client.WithNewSnapshot(id, img), client.WithNewSpec(oci.WithImageConfig(img), oci.WithProcessArgs("sh", "-c", enginetest.ScriptServe)))
	if err != nil {
		t.Fatal(err)
	}
	task, err := made.NewTask(ctx, cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = task.Delete(ctx, client.WithProcessKill)
		_ = made.Delete(ctx, client.WithSnapshotCleanup)
		_ = c.Close()
	})
	return id, id, func() bool {
		status, err := task.Status(ctx)
		return err == nil && status.Status == client.Running
	}
}
