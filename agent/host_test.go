package agent

import (
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/test/imds"
)

// hostRoot is a root directory with what hostFacts reads.
func hostRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{
		"proc/meminfo": "MemFree: 1 kB\nMemTotal:       16384000 kB\n", "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
		"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
	}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestTheHostIsWhatTheKernelSaysLessWhatIsReserved(t *testing.T) {
	h, err := hostFacts(hostRoot(t, nil), &config.Config{ReservedMemory: 1000, InstanceName: "box", InstanceAddress: "10.1.2.3"})
	if err != nil || h.Memory != 15000 || h.CPU == 0 || h.CPU%1024 != 0 || h.Name != "box" || h.Address != "10.1.2.3" || h.Ephemeral != [2]int32{32768, 60999} {
		t.Errorf("%+v %v", h, err)
	}
	if !strings.HasPrefix(h.MachineID, "lh-") || len(h.MachineID) != 20 || strings.Contains(h.MachineID, "0123456789") {
		t.Errorf("machine id %q", h.MachineID)
	}
	again, err := hostFacts(hostRoot(t, nil), &config.Config{})
	if err != nil || again.MachineID != h.MachineID {
		t.Errorf("%+v %v", again, err)
	}
}

func TestReservingMoreMemoryThanThereIsIsATerminalError(t *testing.T) {
	_, err := hostFacts(hostRoot(t, nil), &config.Config{ReservedMemory: 16000})
	var terminal *TerminalError
	if !errors.As(err, &terminal) || !strings.Contains(err.Error(), "ECS_RESERVED_MEMORY is 16000 MiB, and the host has 16000 MiB") {
		t.Error(err)
	}
}

func TestAHostWithoutMachineIDOrPortRangeIsAHostAllTheSame(t *testing.T) {
	h, err := hostFacts(hostRoot(t, map[string]string{"etc/machine-id": "uninitialized\n", "proc/sys/net/ipv4/ip_local_port_range": "x"}), &config.Config{})
	if err != nil || h.MachineID != "" || h.Ephemeral != [2]int32{} {
		t.Errorf("%+v %v", h, err)
	}
	if _, err := hostFacts(hostRoot(t, map[string]string{"proc/meminfo": "Nothing: 1\n"}), &config.Config{}); err == nil || !strings.Contains(err.Error(), "MemTotal") {
		t.Error(err)
	}
}

// lookedOut is what an agent with these settings, on this host, finds out.
func lookedOut(t *testing.T, root, address string) *lookout {
	t.Helper()
	a := &Agent{opt: Options{Root: root}, cfg: &config.Config{InstanceMetadataAddress: address}, log: zap.NewNop(), lookout: &lookout{answered: make(chan struct{})}}
	if err := a.lookOut(t.Context()); err != nil {
		t.Error(err)
	}
	return a.lookout
}

func TestAnEC2InstanceIsKnownByItsIdentityDocument(t *testing.T) {
	s := imds.New(t, "i-1")
	got := lookedOut(t, hostRoot(t, nil), s.URL)
	if got.err != nil || got.ec2 == nil || got.ec2.InstanceID != "i-1" {
		t.Fatalf("%+v %v", got.ec2, got.err)
	}
	r := newRegistration(config.Config{})
	r.ec2, r.tags, r.can.taskNetworks = got.ec2, map[string]string{"b": "2", "a": "1"}, true
	in := r.input()
	if *in.InstanceIdentityDocument != imds.Document("i-1") || *in.InstanceIdentityDocumentSignature != "c2lnbmVk" || valueOf(in, "ecs.cpu-architecture") != "absent" ||
		valueOf(in, "ecs.vpc-id") != "vpc-1" || valueOf(in, "ecs.subnet-id") != "subnet-1" || len(in.Tags) != 2 || *in.Tags[0].Key != "a" {
		t.Errorf("%+v", in)
	}
	r.cfg.AllowNoIdentity = true
	if in := r.input(); *in.InstanceIdentityDocument != "" {
		t.Errorf("%+v", in)
	}
}

func TestAHostWhereNobodyOrSomebodyElseAnswersIsAnOwnHost(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	nonsense, old, off := imds.New(t, "i-1"), imds.New(t, "i-1"), imds.New(t, "i-1")
	nonsense.Set("dynamic/instance-identity/document", "<html>")
	old.Is(imds.Old)
	off.Is(imds.Off)
	for name, address := range map[string]string{
		"nobody": "http://127.0.0.1:1", "a web server": web.URL, "nonsense": nonsense.URL, "silence": "http://" + silent.Addr().String(), "version 1": old.URL, "off": off.URL,
	} {
		begun := time.Now()
		if got := lookedOut(t, hostRoot(t, nil), address); got.ec2 != nil || got.err != nil {
			t.Errorf("%s: %+v %v", name, got.ec2, got.err)
		}
		if took := time.Since(begun); took > 10*metadataProbe {
			t.Errorf("%s: it took %s", name, took)
		}
	}
	if got := lookedOut(t, ec2Root(t, ""), off.URL); got.ec2 != nil || got.err != nil { // an EC2 instance whose metadata is off is registered as an own host
		t.Errorf("%+v %v", got.ec2, got.err)
	}
}

func TestACertificateBundleIsTrustedAndABadOneIsRefused(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	for _, c := range []struct {
		name     string
		pem      string
		insecure bool
		works    bool
	}{
		{"the server's certificate", pemOf(server), false, true},
		{"no bundle", "", false, false},
		{"any certificate", "", true, true},
	} {
		cfg := &config.Config{}
		if c.pem != "" {
			cfg.CABundle = bundle
			if err := os.WriteFile(bundle, []byte(c.pem), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		client, err := httpClient(cfg, c.insecure)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Get(server.URL)
		if (err == nil) != c.works {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil {
			_ = response.Body.Close()
		}
		client.CloseIdleConnections()
	}
	if err := os.WriteFile(bundle, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := httpClient(&config.Config{CABundle: bundle}, false); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Error(err)
	}
}

func pemOf(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}
