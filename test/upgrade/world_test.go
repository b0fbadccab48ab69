package upgrade

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.IgnoreTopFunction("go.etcd.io/etcd/client/pkg/v3/logutil.(*MergeLogger).outputLoop"))
}

const (
	patience = time.Minute
	cluster  = "daemonset"
	region   = "us-west-2"
	role     = "arn:aws:iam::000000000000:role/app"
)

// object is a value of JSON.
type object = map[string]any

// plane is a control plane, in this process.
type plane struct {
	*testing.T
	dir, address string
	control      *controlplane.ControlPlane
	logs         *observer.ObservedLogs
	web          *http.Client
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	return newPlaneIn(t, t.TempDir())
}

// newPlaneIn starts one on a data directory that is there.
func newPlaneIn(t *testing.T, dir string) *plane {
	t.Helper()
	p := &plane{T: t, dir: dir, address: "127.0.0.1:0"}
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	p.web = &http.Client{Transport: transport, Timeout: patience}
	p.start()
	return p
}

// start starts the control plane, at the address that it had before. It knows one role.
func (p *plane) start() {
	p.Helper()
	roles := filepath.Join(p.dir, "roles.json")
	text := fmt.Sprintf(`{"roles": {%q: {"accessKeyId": "ASIAROLE", "secretAccessKey": "secret", "sessionToken": "token"}}}`, role)
	if err := os.WriteFile(roles, []byte(text), 0o600); err != nil {
		p.Fatal(err)
	}
	core, logs := observer.New(zapcore.WarnLevel)
	control, err := controlplane.Start(p.Context(), controlplane.Config{DataDir: p.dir, Listen: p.address, RoleCredentials: roles, Log: zap.New(core)})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = control.Close() })
	p.control, p.logs, p.address = control, logs, control.Addr().String()
}

func (p *plane) stop() {
	p.Helper()
	if err := p.control.Close(); err != nil {
		p.Fatal(err)
	}
}

// forget starts the control plane again with its key files and without any record.
func (p *plane) forget() {
	p.Helper()
	p.stop()
	dir := p.TempDir()
	for _, name := range []string{auth.AdminFile, auth.HostFile} {
		data, err := os.ReadFile(filepath.Join(p.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			p.Fatal(err)
		}
	}
	p.dir = dir
	p.start()
}

// rotate gives the host's own key a successor.
func (p *plane) rotate() {
	p.Helper()
	keys, err := controlplane.Keys(p.Context(), p.dir)
	if err != nil {
		p.Fatal(err)
	}
	for _, k := range keys {
		if k.Instance != "" {
			if _, err := controlplane.RotateKey(p.Context(), p.dir, k.AccessKeyID, time.Hour); err != nil {
				p.Fatal(err)
			}
		}
	}
}

func (p *plane) key(file string) aws.Credentials {
	p.Helper()
	k, err := auth.ReadKey(filepath.Join(p.dir, file))
	if err != nil {
		p.Fatal(err)
	}
	return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.Secret}
}

// call makes one call of an administrator.
func (p *plane) call(url, operation string, in any) (int, json.RawMessage) {
	p.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		p.Fatal(err)
	}
	answer, text, err := p.send(p.key(auth.AdminFile), url, target(operation), body, nil, 0)
	if err != nil {
		p.Fatalf("%s: %v", operation, err)
	}
	return answer.StatusCode, text
}

// target is what the header X-Amz-Target says for an operation.
func target(operation string) string { return "AmazonEC2ContainerServiceV20141113." + operation }

// send makes one signed call, whose date is off by some hours.
func (p *plane) send(key aws.Credentials, url, target string, body []byte, header map[string]string, hours int) (*http.Response, json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", target)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if err := sign(ctx, key, r, body, hours); err != nil {
		return nil, nil, err
	}
	answer, err := p.web.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer, text, err
}

func sign(ctx context.Context, key aws.Credentials, r *http.Request, body []byte, hours int) error {
	sum := sha256.Sum256(body)
	return v4.NewSigner().SignHTTP(ctx, key, r, hex.EncodeToString(sum[:]), "ecs", region, time.Now().Add(time.Duration(hours)*time.Hour))
}

// host is a machine with an engine in memory, whose clock is an hour ahead.
type host struct {
	*testing.T
	root, state, url string
	join             aws.Credentials
	engine           *enginetest.Fake
	leave            func() error
}

func newHost(t *testing.T, url string, join aws.Credentials) *host {
	t.Helper()
	h := &host{T: t, root: t.TempDir(), state: t.TempDir(), url: url, join: join, engine: enginetest.NewFake()}
	for _, ref := range []string{"web:1", "web:2"} {
		h.engine.AddImage(enginetest.FakeImage{Ref: ref})
	}
	h.engine.Behave(func(engine.Spec) enginetest.Behaviour { return enginetest.Behaviour{Health: "HEALTHY"} })
	for name, content := range map[string]string{
		"etc/machine-id": strings.Repeat("ab", 16) + "\n", "proc/meminfo": "MemTotal:       16384000 kB\n",
		"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n", "proc/sys/kernel/random/boot_id": "00000000-0000-4000-8000-000000000001\n",
	} {
		path := filepath.Join(h.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// lasting is an engine that outlives its agent.
type lasting struct{ *enginetest.Fake }

func (lasting) Close() error { return nil }

// start starts the host's agent.
func (h *host) start() {
	h.Helper()
	file := filepath.Join(h.state, "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		h.Fatal(err)
	}
	options := agent.Options{
		Config: config.Options{File: file, Environ: []string{
			"ECS_CLUSTER=" + cluster, "ECS_BACKEND_HOST=" + h.url, "AWS_DEFAULT_REGION=" + region, "AWS_ACCESS_KEY_ID=" + h.join.AccessKeyID,
			"AWS_SECRET_ACCESS_KEY=" + h.join.SecretAccessKey, "ECS_DATADIR=" + h.state, "ECS_LOGFILE=" + filepath.Join(h.state, "agent.log"),
			"AWS_EC2_METADATA_DISABLED=true", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false", "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached",
			"ECS_ENABLE_TASK_IAM_ROLE=true", "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST=true",
		}},
		Version: "0.1.0", Hash: "1234567", Root: h.root, Introspect: "127.0.0.1:0", AskedAt: "127.0.0.1:0", Runtime: lasting{h.engine}, Stderr: h.Output(), EngineRetry: time.Millisecond,
		Clock: func() time.Time { return time.Now().Add(time.Hour) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, options) }()
	left := false
	h.leave = func() error {
		if left {
			return nil
		}
		left = true
		cancel()
		return <-done
	}
	h.Cleanup(func() { _ = h.leave() })
}

func (h *host) stop() {
	h.Helper()
	if err := h.leave(); err != nil {
		h.Error(err)
	}
}

func (h *host) log() string {
	data, _ := os.ReadFile(filepath.Join(h.state, "agent.log")) // none yet says nothing
	return string(data)
}

// until looks again and again until something is so.
func until(t *testing.T, what string, so func() error, then ...func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := so()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			for _, f := range then {
				t.Log(f())
			}
			t.Fatalf("it never happened that %s: %v", what, err)
		}
	}
}
