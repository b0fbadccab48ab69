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

	"github.com/longshore-project/longshore/agent/config"
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

// metadataServer is an instance metadata service.
func metadataServer(t *testing.T, paths map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, ok := paths[r.URL.Path]; ok {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
			_, _ = w.Write([]byte(body))
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestAnEC2InstanceIsKnownByItsIdentityDocument(t *testing.T) {
	address := metadataServer(t, map[string]string{
		"/latest/api/token":                           "token",
		"/latest/dynamic/instance-identity/document":  `{"instanceId":"i-1","region":"eu-west-1","availabilityZone":"eu-west-1b","instanceType":"t3.small","imageId":"ami-1"}`,
		"/latest/dynamic/instance-identity/signature": "c2ln",
	})
	got, err := probeMetadata(t.Context(), &config.Config{InstanceMetadataAddress: address}, metadataProbe)
	if err != nil || got == nil || got.InstanceID != "i-1" || got.AvailabilityZone != "eu-west-1b" || got.Region != "eu-west-1" || got.signature != "c2ln" || got.role == nil || !strings.Contains(got.document, "ami-1") {
		t.Errorf("%+v %v", got, err)
	}
	r := newRegistration(config.Config{})
	r.ec2 = got
	if in := r.input(); *in.InstanceIdentityDocument != got.document || *in.InstanceIdentityDocumentSignature != "c2ln" || valueOf(in, "ecs.cpu-architecture") != "absent" {
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
	for name, address := range map[string]string{
		"nobody": "http://127.0.0.1:1", "a web server": metadataServer(t, nil), "nonsense": metadataServer(t, map[string]string{"/latest/api/token": "t", "/latest/dynamic/instance-identity/document": "<html>"}),
		"silence": "http://" + silent.Addr().String(),
	} {
		begun := time.Now()
		got, err := probeMetadata(t.Context(), &config.Config{InstanceMetadataAddress: address}, metadataProbe)
		if got != nil || err != nil {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		if took := time.Since(begun); took > 10*metadataProbe {
			t.Errorf("%s: it took %s", name, took)
		}
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
