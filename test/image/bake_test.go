//go:build image

package image_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// patience bounds a wait; it is reached only when the test fails.
const patience = 3 * time.Minute

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// debian is the root of a Debian system with cloud-init, which was never started.
func debian(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Fatalf("%v; install it with: apt-get install -y --no-install-recommends mmdebstrap", err)
	}
	root := filepath.Join(t.TempDir(), "root")
	must(t, "mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,cloud-init,ca-certificates", "bookworm", root)
	return root
}

// machine is one that was made from an image: a copy of its disk, whose first boot made a machine id.
type machine struct {
	t    *testing.T
	root string
}

func machineOf(t *testing.T, image string) *machine {
	t.Helper()
	m := &machine{t, filepath.Join(t.TempDir(), "machine")}
	must(t, "cp", "-a", image, m.root)
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	m.put("etc/machine-id", hex.EncodeToString(id)+"\n")
	m.engine()
	return m
}

func (m *machine) put(name, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(m.root, name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(m.root, name), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// engine gives the machine this machine's Docker, at the usual address.
func (m *machine) engine() {
	m.t.Helper()
	socket := filepath.Join(m.root, "run/docker.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		m.t.Fatal(err)
	}
	_ = os.Remove(socket)
	here, err := os.Getwd()
	if err != nil {
		m.t.Fatal(err)
	}
	short, err := filepath.Rel(here, socket) // the names of sockets have at most 108 bytes
	if err != nil || len(short) > 100 {
		short = socket
	}
	l, err := net.Listen("unix", short)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go forward(c)
		}
	}()
}

func forward(c net.Conn) {
	defer func() { _ = c.Close() }()
	e, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(e, c); _ = e.(*net.UnixConn).CloseWrite() })
	both.Go(func() { _, _ = io.Copy(c, e); _ = c.(*net.UnixConn).CloseWrite() })
	both.Wait()
	_ = e.Close()
}

// run runs the machine's agent until its log has a text, and returns the log.
func (m *machine) run(until string) string {
	m.t.Helper()
	// Its processes, and the mounts that it has, end with the first one.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc="+filepath.Join(m.root, "proc"), "chroot", m.root, "/usr/bin/longshore-agent", "run")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // unshare heeds nothing else, and takes the agent with it
		_ = cmd.Wait()
	}()
	log := filepath.Join(m.root, "var/log/ecs/ecs-agent.log")
	for end := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		data, _ := os.ReadFile(log)
		if bytes.Contains(data, []byte(until)) {
			return string(data)
		}
		if time.Now().After(end) {
			m.t.Fatalf("the log does not have %q:\n%s\n%s", until, data, out.String())
		}
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// controlPlane is Longshore's own; it returns its URL and the settings of hosts.
func controlPlane(t *testing.T, bin string) (url, settings, admin string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	data := t.TempDir()
	cmd := exec.Command(filepath.Join(bin, "longshore-control"), "run", "--listen", address, "--data-dir", data)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	for end := time.Now().Add(patience); ; <-time.After(100 * time.Millisecond) {
		host, err := os.ReadFile(filepath.Join(data, "host.env"))
		if c, dialErr := net.Dial("tcp", address); err == nil && dialErr == nil {
			_ = c.Close()
			return "http://" + address, string(host), filepath.Join(data, "admin.env")
		}
		if time.Now().After(end) {
			t.Fatalf("the control plane does not come up:\n%s", out.String())
		}
	}
}

// instances are the container instances of the cluster.
func instances(t *testing.T, url, admin string) int {
	t.Helper()
	out := must(t, "bash", "-c", ". "+admin+`; curl -sS --fail-with-body --aws-sigv4 aws:amz:us-west-2:ecs --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -H 'Content-Type: application/x-amz-json-1.1' -H 'X-Amz-Target: AmazonEC2ContainerServiceV20141113.ListContainerInstances' -d '{}' `+url+"/")
	return strings.Count(out, ":container-instance/")
}

func TestAnImageIsBakedAndItsMachinesAreInstancesOfTheirOwn(t *testing.T) {
	bin := t.TempDir()
	must(t, "go", "build", "-o", bin+"/", "../../cmd/longshore-control", "../../cmd/longshore-agent")
	url, settings, admin := controlPlane(t, bin)
	files := t.TempDir()
	config := filepath.Join(files, "ecs.config")
	if err := os.WriteFile(config, []byte(settings+"\nECS_BACKEND_HOST="+url+"\nAWS_DEFAULT_REGION=us-west-2\nAWS_EC2_METADATA_DISABLED=true\nECS_DISABLE_TASK_ENDPOINTS=true\nECS_ENABLE_TASK_ENI=false\nECS_ENABLE_TASK_CPU_MEM_LIMIT=false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ref := fmt.Sprintf("longshore-test/preloaded-%d:1", os.Getpid())
	if err := os.Mkdir(filepath.Join(files, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	images.MustLoad(t, images.DockerClient(t), ref, images.Spec{})
	saved := filepath.Join(files, "saved.tar")
	must(t, "docker", "save", "-o", saved, ref)
	must(t, "skopeo", "--insecure-policy", "copy", "docker-archive:"+saved, "oci-archive:"+filepath.Join(files, "images/preloaded.tar")+":"+ref)
	must(t, "docker", "rmi", ref)

	t.Log("an image is baked, without anything being started")
	root := debian(t)
	bake := func(args ...string) string {
		t.Helper()
		return must(t, dir+"bake.sh", append([]string{"--root", root, "--binaries", bin, "--units", "../../systemd", "--config", config, "--images", filepath.Join(files, "images")}, args...)...)
	}
	for range 2 { // it can be repeated
		if out := bake(); !strings.Contains(out, "baked: ") || !strings.Contains(out, "cloud-init clean") {
			t.Error(out)
		}
	}
	for _, name := range []string{"var/lib/ecs/data", "var/log/ecs/ecs-agent.log", "usr/sbin/policy-rc.d"} {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("the image has /%s", name)
		}
	}
	if id, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || len(id) != 0 {
		t.Errorf("the image's machine id: %q %v", id, err)
	}

	t.Log("the examples of user data are what cloud-init takes")
	for _, name := range []string{"ecs-config.yaml", "join.yaml"} {
		must(t, "cp", dir+"user-data/"+name, filepath.Join(root, "tmp", name))
		if out := must(t, "chroot", root, "cloud-init", "schema", "--config-file", "/tmp/"+name); !strings.Contains(out, "Valid") {
			t.Errorf("%s: %s", name, out)
		}
		must(t, "rm", filepath.Join(root, "tmp", name))
	}

	t.Log("two machines from it are two instances, each with the image that came with it")
	one, two := machineOf(t, root), machineOf(t, root)
	log := one.run("Registered")
	if !strings.Contains(log, "Images were preloaded") || strings.Contains(log, "can't be preloaded") {
		t.Errorf("the image was not preloaded:\n%s", log)
	}
	must(t, "docker", "image", "inspect", ref)
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", ref).Run() })
	two.run("Registered")
	if n := instances(t, url, admin); n != 2 {
		t.Errorf("%d container instances", n)
	}
	one.run("Registered")
	if n := instances(t, url, admin); n != 2 {
		t.Errorf("after another start %d container instances", n)
	}

	t.Log("an image that was taken without clean-instance gives a machine of its own, too, and its state is set aside")
	three := machineOf(t, one.root)
	must(t, "truncate", "-s", "0", filepath.Join(three.root, "var/log/ecs/ecs-agent.log"))
	log = three.run("Registered")
	if !strings.Contains(log, "it is set aside") || !strings.Contains(log, "its machine id is") {
		t.Error(log)
	}
	if aside, err := filepath.Glob(filepath.Join(three.root, "var/lib/ecs/data/*.other-machine-*")); err != nil || len(aside) < 2 {
		t.Errorf("%q %v", aside, err)
	}
	if n := instances(t, url, admin); n != 3 {
		t.Errorf("%d container instances", n)
	}

	t.Log("and cleaned, it has no trace of the instance that it was")
	must(t, "chroot", three.root, "longshore-agent", "clean-instance", "--machine-id", "--without-engine", "--config")
	if left := must(t, "find", filepath.Join(three.root, "var/lib/ecs/data"), filepath.Join(three.root, "etc/ecs"), filepath.Join(three.root, "var/log/ecs"), "-type", "f"); strings.Contains(left, "identity") || strings.Contains(left, ".log") || strings.Contains(left, "ecs.config") || strings.Contains(left, "host-key") {
		t.Error(left)
	}
}
