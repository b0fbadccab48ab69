package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
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
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

// own is what a host's ecs.config says before it joins, and after it has left.
const own = "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached\nAWS_EC2_METADATA_DISABLED=true\nECS_RESERVED_MEMORY=0\n"

// onContainerd is the host of a LAN whose agent uses containerd. All of them have both engines.
const onContainerd = 1

// lan is a control plane beside hosts: it listens on the LAN, with a certificate of its own CA.
type lan struct {
	t    *testing.T
	dir  string
	bin  string
	farm *hosts.Farm
	line []string // what init printed, from "join" on
	api  *ecs.Client
	ends []func()
}

func newLAN(t *testing.T, n int) *lan {
	if os.Geteuid() != 0 {
		t.Fatal("the end-to-end tests need root: they make network namespaces, mounts and containers (sudo make test)")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Fatal("nft is missing: apt-get install -y --no-install-recommends nftables")
	}
	bin, err := binaries()
	if err == nil {
		err = withContainerd()
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ls-lan") // short: unix sockets lie below
	if err != nil {
		t.Fatal(err)
	}
	l := &lan{t: t, dir: dir, bin: bin, farm: &hosts.Farm{Dir: filepath.Join(dir, "h"), Name: "lslan", Net: "10.79.7", Runs: Both}}
	t.Cleanup(func() {
		for _, end := range slices.Backward(l.ends) {
			end()
		}
		if err := errors.Join(l.farm.Down(context.WithoutCancel(t.Context())), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if err := l.farm.Up(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	l.control()
	return l
}

// control makes a control plane, and runs it on the LAN.
func (l *lan) control() {
	data, listen := filepath.Join(l.dir, "control"), net.JoinHostPort(l.farm.LAN(), apiPort)
	flags := []string{"--data-dir", data, "--listen", listen, "--region", region, "--account-id", account}
	var said bytes.Buffer
	made := l.farm.Command(l.t.Context(), append([]string{"lan", filepath.Join(l.bin, "longshore-control"), "init", "--uses", "3", "--cluster", "daemonset"}, flags...)...)
	made.Stderr = &said
	line, err := made.Output()
	if err != nil {
		l.t.Fatalf("init: %v: %s", err, said.String())
	}
	if l.line = strings.Fields(string(line)); len(l.line) != 7 || l.line[2] != "https://"+listen {
		l.t.Fatalf("init printed %q", line)
	}
	l.start("control", l.farm.Command(context.WithoutCancel(l.t.Context()), append([]string{"lan", filepath.Join(l.bin, "longshore-control"), "run", "--metrics-listen", ""}, flags...)...))
	ca, err := os.ReadFile(filepath.Join(data, "tls/ca.pem"))
	if err != nil {
		l.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return hosts.Dial(ctx, l.farm.LANNamespace(), address)
	}}
	l.ends = append(l.ends, transport.CloseIdleConnections)
	raw, err := os.ReadFile(filepath.Join(data, "admin.env"))
	if err != nil {
		l.t.Fatal(err)
	}
	words := strings.Fields(string(raw))
	id, _ := strings.CutPrefix(words[0], "AWS_ACCESS_KEY_ID=")
	secret, _ := strings.CutPrefix(words[1], "AWS_SECRET_ACCESS_KEY=")
	l.api = ecs.New(ecs.Options{Region: region, BaseEndpoint: aws.String("https://" + listen), HTTPClient: &http.Client{Transport: transport}, Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	l.until(time.Minute, "the control plane is there", func() error {
		_, err := l.api.CreateCluster(l.t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("daemonset")})
		return err
	})
}

// start runs a command until the test ends, with its output in a file, which is returned.
func (l *lan) start(name string, cmd *exec.Cmd) (log string, done <-chan struct{}) {
	log = filepath.Join(l.dir, name+".log")
	out, err := os.Create(log)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer out.Close()
		_ = cmd.Wait()
	}()
	l.ends = append(l.ends, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		for i := 0; l.t.Failed() && i < 2; i++ {
			text, _ := os.ReadFile(log)
			l.t.Logf("---- %s\n%s", log, text[max(0, len(text)-6000):])
			log = l.farm.Disk(int(name[len(name)-1]-'0'), "/var/log/ecs/ecs-agent.log")
		}
	})
	return log, ended
}

func (l *lan) until(limit time.Duration, what string, holds func() error) {
	l.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(limit); ; {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			l.t.Fatalf("after %s not: %s: %v", limit, what, err)
		}
	}
}

// on runs a command on host i, which must succeed.
func (l *lan) on(i int, argv ...string) string {
	l.t.Helper()
	out, err := l.farm.Start(l.t.Context(), i, argv...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("host %d: %s: %v: %s", i, strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// wall drops all that comes to host i, and of what leaves it all but connections to one port of the LAN's address.
func (l *lan) wall(i int, port string) {
	l.t.Helper()
	cmd := l.farm.Start(l.t.Context(), i, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(`table inet walls {
	counter refused {}
	chain in { type filter hook input priority -300; policy drop; iif lo accept; ct state established,related accept; }
	chain out { type filter hook output priority -300; policy drop; oif lo accept; ct state established,related accept
		ip daddr ` + l.farm.LAN() + ` tcp dport ` + port + ` accept
		meta l4proto tcp counter name refused
	}
}
`)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
}

// prepare gives host i an image, and the settings that it has of its own, which are returned.
func (l *lan) prepare(i int) (settings string) {
	settings = own
	img, err := images.Build(images.Spec{Cmd: []string{"sh", "-c", "echo kept >/data/file; exec sleep 100000"}, StopSignal: "SIGKILL"})
	switch {
	case err != nil:
	case i == onContainerd:
		settings += "ECS_ENGINE=containerd\n"
		var archive bytes.Buffer
		err = tarball.Write(name.MustParseReference("logs:1"), img, &archive)
		load := l.farm.Start(l.t.Context(), i, "ctr", "-n", "longshore", "images", "import", "-")
		load.Stdin = &archive
		if out, e := load.CombinedOutput(); e != nil {
			err = fmt.Errorf("%w: %s", e, out)
		}
	default:
		err = images.Load(l.t.Context(), l.engine(i), "logs:1", img)
	}
	if err == nil {
		err = os.MkdirAll(l.farm.Disk(i, "/etc/ecs"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(l.farm.Disk(i, "/etc/ecs/ecs.config"), []byte(settings), 0o644)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return settings
}

func (l *lan) engine(i int) *client.Client {
	c, err := client.NewClientWithOpts(client.WithHost(l.farm.Engine(i)), client.WithAPIVersionNegotiation())
	if err != nil {
		l.t.Fatal(err)
	}
	l.ends = append(l.ends, func() { _ = c.Close() })
	c.NegotiateAPIVersion(l.t.Context())
	return c
}

// containers are those of host i, whether they run or not.
func (l *lan) containers(i int) int {
	l.t.Helper()
	if i == onContainerd {
		return len(strings.Fields(l.on(i, "ctr", "-n", "longshore", "containers", "ls", "-q")))
	}
	all, err := l.engine(i).ContainerList(l.t.Context(), container.ListOptions{All: true})
	if err != nil {
		l.t.Fatal(err)
	}
	return len(all)
}

// left fails if there is more of the agent on host i than what tasks have written.
func (l *lan) left(i int, settings string) {
	t := l.t
	t.Helper()
	if n := l.containers(i); n != 0 {
		t.Errorf("%d containers on host %d after it left", n, i)
	}
	if text, err := os.ReadFile(l.farm.Disk(i, "/etc/ecs/ecs.config")); err != nil || string(text) != settings {
		t.Errorf("ecs.config is %q, %v", text, err)
	}
	there := "find /etc/ecs/longshore-ca.pem /var/lib/ecs/data /run/longshore -type f -o -type d -empty"
	volumes := "cat /var/lib/docker/volumes/*/_data/file"
	if i == onContainerd {
		there += " | grep -v ^/var/lib/ecs/data/containerd/volumes/"
		volumes = "cat /var/lib/ecs/data/containerd/volumes/*/*/file"
	}
	if got := l.on(i, "sh", "-c", "("+there+") 2>/dev/null || true"); got != "" {
		t.Errorf("host %d has %s", i, got)
	}
	if got := l.on(i, "sh", "-c", volumes); got != "kept\n" {
		t.Errorf("host %d's volume has %q", i, got)
	}
	if tables := l.on(i, "nft", "list", "tables"); strings.Contains(tables, "longshore") {
		t.Errorf("host %d's tables are %s", i, tables)
	}
	if links := l.on(i, "ip", "addr"); strings.Contains(links, "169.254.170.2") || strings.Contains(links, "longshore") || strings.Contains(links, "veth") && strings.Contains(links, "master") {
		t.Errorf("host %d's interfaces are %s", i, links)
	}
	if again := l.on(i, filepath.Join(l.bin, "longshore-agent"), "leave"); !strings.Contains(again, "none: this host has not joined, or has left") {
		t.Errorf("a second time it says %s", again)
	}
}

// instances are the connected container instances.
func (l *lan) instances() (connected []types.ContainerInstance) {
	l.t.Helper()
	list, err := l.api.ListContainerInstances(l.t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String("daemonset")})
	if err != nil || len(list.ContainerInstanceArns) == 0 {
		l.t.Fatal(list, err)
	}
	out, err := l.api.DescribeContainerInstances(l.t.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String("daemonset"), ContainerInstances: list.ContainerInstanceArns})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, i := range out.ContainerInstances {
		if i.AgentConnected {
			connected = append(connected, i)
		}
	}
	return connected
}

// Three hosts that nobody can reach, each with one port of the LAN that it reaches, join with one line: straight, through a proxy that
// takes CONNECT, and through a reverse proxy with a certificate and an idle limit of its own. Their daemons run. One, with containerd, leaves,
// killed once on the way, another one, with Docker, after it, and nothing of them stays but what their tasks have written.
func TestHostsOnALANJoinWithATokenAndLeave(t *testing.T) {
	l := newLAN(t, 3)
	if _, err := l.api.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("logs"), NetworkMode: types.NetworkModeBridge, RequiresCompatibilities: []types.Compatibility{types.CompatibilityEc2},
		Volumes: []types.Volume{{Name: aws.String("data"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared, Autoprovision: aws.Bool(true)}}},
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("logs"), Image: aws.String("logs:1"), Memory: aws.Int32(32), Essential: aws.Bool(true), PortMappings: []types.PortMapping{{ContainerPort: aws.Int32(80)}},
			MountPoints: []types.MountPoint{{SourceVolume: aws.String("data"), ContainerPath: aws.String("/data")}}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.CreateService(t.Context(), &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("logs"), TaskDefinition: aws.String("logs"), LaunchType: types.LaunchTypeEc2, SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
		t.Fatal(err)
	}
	connect := l.connectProxy(net.JoinHostPort(l.farm.LAN(), "3128"))
	reverse := l.reverseProxy(net.JoinHostPort(l.farm.LAN(), "443"), "https://"+net.JoinHostPort(l.farm.LAN(), apiPort), 6*time.Second)
	agent, token := filepath.Join(l.bin, "longshore-agent"), l.line[4]
	var logs, settings []string
	var ended []<-chan struct{}
	for i, way := range []struct {
		port string
		args []string
	}{
		{apiPort, l.line[1:]},
		{"3128", append(slices.Clone(l.line[1:]), "--https-proxy", "http://"+net.JoinHostPort(l.farm.LAN(), "3128"))},
		{"443", []string{"join", "https://" + l.farm.LAN(), "--token", token, "--cluster", "daemonset", "--ca", reverse.caFile}},
	} {
		host := i + 1
		settings = append(settings, l.prepare(host))
		l.wall(host, way.port)
		log, done := l.start("agent-"+strconv.Itoa(host), l.farm.Start(context.WithoutCancel(t.Context()), host, append(append([]string{"env", "AWS_CA_BUNDLE=/nowhere", "ECS_CLUSTER=other", agent}, way.args...), "--foreground")...))
		logs, ended = append(logs, log), append(ended, done)
	}
	for i, log := range logs {
		l.until(2*time.Minute, "host "+strconv.Itoa(i+1)+" has joined", func() error { return says(log, "is connected, and its 1 daemons run") })
	}
	joined := time.Now()
	if n := len(l.instances()); n != 3 {
		t.Errorf("%d instances are connected", n)
	}
	for host := 1; host <= 3; host++ {
		l.until(time.Minute, "host "+strconv.Itoa(host)+" has a key of its own", func() error {
			_, err := os.Stat(l.farm.Disk(host, "/var/lib/ecs/data/host-key.json"))
			return err
		})
		if got := l.on(host, "stat", "-c", "%a", "/etc/ecs/ecs.config"); got != "600\n" {
			t.Errorf("host %d: ecs.config has the mode %s", host, got)
		}
		if got := l.on(host, "nft", "list", "counter", "inet", "walls", "refused"); !strings.Contains(got, "packets 0 ") {
			t.Errorf("host %d tried another port than its one: %s", host, got)
		}
	}
	if connect.tunnels.Load() == 0 {
		t.Error("nobody came through the proxy")
	}

	if n := l.containers(onContainerd); n != 1 {
		t.Errorf("%d containers on host %d", n, onContainerd)
	}
	// It is killed as soon as it drains, if it comes no further before.
	l.on(onContainerd, "sh", "-c", `"$0" leave >/tmp/host/leave.log 2>&1 & p=$!; while kill -0 $p 2>/dev/null && ! grep -q "drain" /tmp/host/leave.log; do sleep .02; done; kill -9 $p 2>/dev/null; wait $p; true`, agent)
	said := l.on(onContainerd, agent, "leave")
	t.Logf("leave says:\n%s", said)
	<-ended[onContainerd-1]
	l.left(onContainerd, settings[onContainerd-1])
	// The token was for three.
	out, err := l.farm.Start(t.Context(), 1, append([]string{agent}, append(slices.Clone(l.line[1:]), "--no-start")...)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "as many hosts as it was for have joined") {
		t.Errorf("a fourth host: %v: %s", err, out)
	}

	// The others are as they were, the web sockets through the reverse proxy for longer than it lets a connection be idle.
	l.until(time.Minute, "the limit has passed twice", func() error {
		if time.Since(joined) < 13*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	if n := len(l.instances()); n != 2 {
		t.Errorf("%d instances are connected", n)
	}
	if opened, idle := reverse.opened.Load(), reverse.idle.Load(); opened != 2 || idle != 0 {
		t.Errorf("%d web sockets were opened through the reverse proxy, %d were ended as idle", opened, idle)
	}
	l.on(2, agent, "leave")
	<-ended[1]
	l.left(2, settings[1])
}

// says looks for a text in a file.
func says(path, want string) error {
	text, err := os.ReadFile(path)
	if err == nil && !strings.Contains(string(text), want) {
		err = fmt.Errorf("it says %q", text)
	}
	return err
}

// writePEM writes a certificate.
func writePEM(t *testing.T, path string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
}
