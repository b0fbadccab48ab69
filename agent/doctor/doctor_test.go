package doctor

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// well is a host on which all is well.
func well(t *testing.T) *Patient {
	t.Helper()
	root, dir := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"proc/filesystems": "nodev\tproc\nnodev\toverlay\n", "proc/sys/user/max_user_namespaces": "100\n", "sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
		"proc/7/status": "Name:\tx\nCapEff:\t000001ffffffffff\n", "proc/self/status": "CapEff:\t000001ffffffffff\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"reserve", "ecs.config", "policy"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"data", "log"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(dir, "reserve"), filepath.Join(dir, "data/reserve")); err != nil {
		t.Fatal(err)
	}
	control := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(control.Close)
	pool := x509.NewCertPool()
	pool.AddCert(control.Certificate())
	served := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(served.Close)
	address := strings.TrimPrefix(served.URL, "http://")
	return &Patient{
		Config: &config.Config{DataDir: filepath.Join(dir, "data"), Log: config.Log{File: filepath.Join(dir, "log/agent.log")}, HostPolicyFile: filepath.Join(dir, "policy"), DockerEndpoint: "unix:///d.sock"},
		File:   filepath.Join(dir, "ecs.config"), Root: root, Now: time.Now,
		Ask: func(context.Context) (*local.Status, error) {
			return &local.Status{Version: "0.1.0", PID: 7, ContainerInstanceArn: "arn:i", Connection: local.Connection{Connected: true}, Health: local.Health{OK: true}}, nil
		},
		Engine: func(context.Context) (engine.Info, error) {
			return engine.Info{Name: "docker", Version: "20.10", APIVersion: "1.41", LiveRestore: true}, nil
		},
		Endpoint: control.URL, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		Sign: func(context.Context) error { return nil }, Introspection: address, Credentials: address,
	}
}

func TestOnAHostOnWhichAllIsWellEachLineIsOK(t *testing.T) {
	r := well(t).Examine(t.Context())
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || r.Failed+r.Warned > 0 {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, name := range []string{"agent", "session", "health", "engine", "disk", "reserve", "state", "log", "config file", "policy file", "cgroups", "overlay", "task networks", "user namespaces", "capabilities", "DNS", "TCP", "TLS", "HTTP", "clock", "credentials", "introspection", "link-local"} {
		if !strings.Contains(out.String(), "OK    "+name+" ") {
			t.Errorf("%s is missing:\n%s", name, out.String())
		}
	}
}

// link gives a patient an interface.
func link(t *testing.T, p *Patient, name, flags string) {
	t.Helper()
	dir := filepath.Join(p.Root, "sys/class/net", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "flags"), []byte(flags+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWhatTasksNetworksHangOnIsNamed(t *testing.T) {
	for want, n := range map[string]config.TaskNetwork{
		"macvlan on eth7, which is up": {Macvlan: "eth7"}, "on the bridge br0 with the uplink eth7, which is up": {Bridge: "br0", Uplink: "eth7"}, "on the bridge br0, whose way": {Bridge: "br0"},
	} {
		p := well(t)
		link(t, p, "eth7", "0x1003")
		p.Config.TaskENI, p.Config.TaskNetwork = true, n
		if r := p.Examine(t.Context()); !slices.ContainsFunc(r.Checks, func(c Check) bool {
			return c.Name == "task networks" && c.Verdict == OK && strings.HasPrefix(c.Says, want)
		}) {
			t.Errorf("%s: %+v", want, r.Checks)
		}
	}
}

// closed is an address at which nobody listens.
func closed(t *testing.T) string {
	s := httptest.NewServer(nil)
	s.Close()
	return strings.TrimPrefix(s.URL, "http://")
}

func TestEachThingThatIsNotWellIsNamedWithHowToMendIt(t *testing.T) {
	at := func(offset time.Duration) func(*Patient) {
		return func(p *Patient) { p.Now = func() time.Time { return time.Now().Add(offset) } }
	}
	refused := func(code, message string) func(*Patient) {
		return func(p *Patient) {
			p.Sign = func(context.Context) error { return &agentapi.APIError{Code: code, Message: message, StatusCode: 400} }
		}
	}
	chmod := func(name string, mode os.FileMode) func(*Patient) {
		return func(p *Patient) {
			if err := os.Chmod(filepath.Join(filepath.Dir(p.File), name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		change          func(*Patient)
		line, says, fix string
	}{
		{func(p *Patient) {
			p.Ask = func(context.Context) (*local.Status, error) {
				return nil, &local.NotRunningError{Socket: "/s", Err: os.ErrNotExist}
			}
		}, "FAIL  agent", "no agent answers", "systemctl start longshore-agent"},
		{func(p *Patient) {
			p.Ask = func(context.Context) (*local.Status, error) { return nil, errors.New("boom") }
		}, "FAIL  agent", "boom", "systemctl restart"},
		{func(p *Patient) {
			p.Ask = func(context.Context) (*local.Status, error) {
				return &local.Status{PID: 7, UnsentChanges: 3, Connection: local.Connection{Problem: "refused"}, Health: local.Health{Reasons: []string{"disk"}}}, nil
			}
		}, "FAIL  health", "IMPAIRED", "heals by itself"},
		{func(p *Patient) {
			p.Engine = func(context.Context) (engine.Info, error) { return engine.Info{}, errors.New("no socket") }
		}, "FAIL  engine", "no socket", "systemctl status docker"},
		{func(p *Patient) {
			p.Engine = func(context.Context) (engine.Info, error) { return engine.Info{Name: "docker"}, nil }
		}, "WARN  live restore", "ends every container", "live-restore"},
		{func(p *Patient) { p.Config.TaskENI, p.Config.TaskNetwork.Macvlan = true, "eth7" }, "FAIL  task networks", "ParentMissing: the macvlan parent eth7", "ip link lists them"},
		{func(p *Patient) {
			link(t, p, "eth7", "0x1002")
			p.Config.TaskENI, p.Config.TaskNetwork = true, config.TaskNetwork{Bridge: "br0", Uplink: "eth7"}
		}, "FAIL  task networks", "ParentDown: the uplink eth7", "ip link set eth7 up"},
		{func(p *Patient) { p.Warnings = []string{"ECS_X is unknown"} }, "WARN  configuration", "ECS_X is unknown", "longshore-agent settings"},
		{func(p *Patient) { p.Endpoint = "nonsense" }, "FAIL  control plane", "is no URL", "ECS_BACKEND_HOST"},
		{func(p *Patient) { p.Endpoint = "https://no.such.host.invalid" }, "FAIL  DNS", "no.such.host.invalid", "resolv.conf"},
		{func(p *Patient) { p.Endpoint = "http://" + closed(t) }, "FAIL  TCP", "refused", "firewalls"},
		{func(p *Patient) { p.TLS = &tls.Config{MinVersion: tls.VersionTLS12} }, "FAIL  TLS", "certificate", "AWS_CA_BUNDLE"},
		{func(p *Patient) {
			p.Now = func() time.Time { return time.Date(2083, time.June, 1, 0, 0, 0, 0, time.UTC) } // httptest's ends in 2084
		}, "WARN  CA", "ends at 2084", "ca rotate"},
		{func(p *Patient) { p.Endpoint = strings.Replace(p.Endpoint, "https", "http", 1) }, "OK    HTTP", "", ""},
		{at(-10 * time.Minute), "FAIL  clock", "10m0s behind", "chrony"},
		{at(time.Minute), "WARN  clock", "ahead of", "chrony"},
		{refused("InvalidSignatureException", "expired"), "FAIL  credentials", "InvalidSignatureException", "longshore-control keys list"},
		{refused("AccessDeniedException", "it was registered with another access key."), "FAIL  credentials", "another access key", "register anew"},
		{refused("ServerException", "later"), "WARN  credentials", "ServerException", "log"},
		{func(p *Patient) { p.Sign = func(context.Context) error { return errors.New("no key") } }, "FAIL  credentials", "no key", "longshore-control host add"},
		{func(p *Patient) { p.Introspection = closed(t) }, "FAIL  introspection", "refused", "ss -ltnp"},
		{func(p *Patient) { p.Credentials = closed(t) }, "FAIL  link-local", "refused", "nft list table"},
		{func(p *Patient) {
			p.Ask = func(context.Context) (*local.Status, error) {
				return &local.Status{PID: 7, Containers: local.Endpoints{Address: "a", Problem: "address already in use"}}, nil
			}
		}, "FAIL  link-local", "address already in use", "sport = :51679"},
		{chmod("data", 0o777), "FAIL  state", "0777", "chmod go-w"},
		{chmod("data", 0o755), "WARN  state", "0755", "chmod go-rwx"},
		{chmod("policy", 0o666), "FAIL  policy file", "0666", "chmod go-w"},
		{func(p *Patient) { p.Config.SecretAccessKey = "s"; chmod("ecs.config", 0o644)(p) }, "WARN  config file", "0644", "chmod go-rwx"},
		{func(p *Patient) { p.Config.DataDir += "/none" }, "FAIL  state", "none", "install -d"},
		{func(p *Patient) { _ = os.Remove(filepath.Join(p.Config.DataDir, "reserve")) }, "FAIL  reserve", "spent", "32 MiB"},
		{func(p *Patient) { _ = os.Remove(filepath.Join(p.Root, "sys/fs/cgroup/cgroup.controllers")) }, "FAIL  cgroups", "cpu, memory, pids are missing", "kernel's command line"},
		{func(p *Patient) { _ = os.Remove(filepath.Join(p.Root, "proc/filesystems")) }, "WARN  overlay", "overlay", "modprobe"},
		{func(p *Patient) { _ = os.Remove(filepath.Join(p.Root, "proc/sys/user/max_user_namespaces")) }, "WARN  user namespaces", "none", "userns-remap"},
		{func(p *Patient) {
			_ = os.WriteFile(filepath.Join(p.Root, "proc/7/status"), []byte("CapEff:\t0000000000000001\n"), 0o644)
		}, "FAIL  capabilities", "the agent lacks CAP_DAC_OVERRIDE", "CapabilityBoundingSet"},
	} {
		p := well(t)
		c.change(p)
		var out bytes.Buffer
		if err := p.Examine(t.Context()).Print(&out); err != nil {
			t.Error(err)
		}
		lines := strings.Split(out.String(), "\n")
		found := false
		for i, l := range lines {
			if strings.HasPrefix(l, c.line+" ") && strings.Contains(l, c.says) && (c.fix == "" || strings.Contains(lines[i+1], c.fix)) {
				found = true
			}
		}
		if !found {
			t.Errorf("%s … %s … %s is not in\n%s", c.line, c.says, c.fix, out.String())
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	}
}

func TestTheRealKernelIsAsked(t *testing.T) {
	p := well(t)
	p.Root = "/"
	r := p.Examine(t.Context())
	names := map[string]bool{}
	for _, c := range r.Checks {
		names[c.Name] = true
	}
	if !names["nftables"] || !names["time service"] {
		t.Errorf("%+v", r.Checks)
	}
}

func TestSourcesOfRegistryCredentialsAreLookedAtWithTheAgentsPath(t *testing.T) {
	p := well(t)
	if err := os.WriteFile(filepath.Join(p.Root, "proc/7/environ"), []byte("HOME=/root\x00PATH=/opt/helpers:/usr/bin\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := ""
	p.Registries = func(_ context.Context, path string) []imagecache.Finding {
		asked = path
		return []imagecache.Finding{
			{Source: "/root/.docker/config.json", Says: "has credentials for r.example", Mend: "chmod 600 it"}, {Source: "docker-credential-x", Says: "did not answer", Mend: "run it", Dead: true},
			{Source: "docker-credential-y", Says: "answers"},
		}
	}
	var verdicts []string
	for _, c := range p.Examine(t.Context()).Checks {
		if c.Name == "registries" {
			verdicts = append(verdicts, string(c.Verdict)+" "+c.Says+" "+c.Mend)
		}
	}
	want := "WARN /root/.docker/config.json has credentials for r.example Chmod 600 it.|FAIL docker-credential-x did not answer Run it.|OK docker-credential-y answers "
	if got := strings.Join(verdicts, "|"); got != want || asked != "/opt/helpers:/usr/bin" {
		t.Errorf("%s; the PATH is %s", got, asked)
	}
}

func TestWithoutAWayToTheControlPlaneTheRestIsLookedAt(t *testing.T) {
	p := well(t)
	all := len(p.Examine(t.Context()).Checks)
	p.Endpoint, p.TLS, p.Proxy, p.Astray = "", nil, nil, errors.New("neither ECS_BACKEND_HOST nor AWS_DEFAULT_REGION is set")
	r := p.Examine(t.Context())
	control := 0
	for _, c := range r.Checks {
		if c.Name == "control plane" && c.Verdict == Fail && strings.Contains(c.Says, "neither ECS_BACKEND_HOST") {
			control++
		}
	}
	if control != 1 || r.Failed != 1 || len(r.Checks) < all-7 {
		t.Errorf("%d checks of %d, %+v", len(r.Checks), all, r)
	}
}
