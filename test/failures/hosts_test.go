package failures

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/internal/remedy"
)

// plane is a control plane that speaks TLS, for hosts that fail to reach it.
type plane struct {
	*testing.T
	dir  string
	now  *controlplane.ControlPlane
	api  *ecs.Client
	join *auth.Key
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	p := &plane{T: t, dir: t.TempDir()}
	var err error
	if p.now, err = controlplane.Start(t.Context(), controlplane.Config{DataDir: p.dir, Listen: "127.0.0.1:0", TLS: true, Log: zaptest.NewLogger(t)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.now.Close() })
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.now.CA()) {
		t.Fatal("there is no CA")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	admin, err := auth.ReadKey(filepath.Join(p.dir, auth.AdminFile))
	if err != nil {
		t.Fatal(err)
	}
	if p.join, err = auth.ReadKey(filepath.Join(p.dir, auth.HostFile)); err != nil {
		t.Fatal(err)
	}
	p.api = ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String("https://" + p.now.Addr().String()), HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(admin.AccessKeyID, admin.Secret, "")})
	if _, err := p.api.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	return p
}

// member is a host whose agent runs in this process, with an engine in memory.
type member struct {
	*testing.T
	state string
}

// host starts an agent; settings replace those with which it would join.
func (p *plane) host(t *testing.T, change func(*agent.Options), settings ...string) *member {
	t.Helper()
	m := &member{T: t, state: t.TempDir()}
	file := filepath.Join(m.state, "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"ECS_CLUSTER=" + cluster, "ECS_BACKEND_HOST=https://" + p.now.Addr().String(), "AWS_CA_BUNDLE=" + filepath.Join(p.dir, certs.CAFile), "AWS_DEFAULT_REGION=us-west-2",
		"AWS_ACCESS_KEY_ID=" + p.join.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + p.join.Secret, "ECS_DATADIR=" + m.state, "ECS_LOGFILE=" + m.log(), "ECS_LOG_OUTPUT_FORMAT=json",
		"AWS_EC2_METADATA_DISABLED=true", "ECS_DISABLE_TASK_ENDPOINTS=true", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false"}
	environ = slices.DeleteFunc(environ, func(is string) bool {
		name, _, _ := strings.Cut(is, "=")
		return slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, name+"=") })
	})
	options := agent.Options{Config: config.Options{File: file, Environ: append(environ, settings...)}, Version: "0.1.0", Hash: "1234567",
		Introspect: "127.0.0.1:0", Runtime: lasting{enginetest.NewFake()}, Stderr: t.Output(), EngineRetry: 100 * time.Millisecond}
	if change != nil {
		change(&options)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, options) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// lasting is an engine that outlives its agent.
type lasting struct{ *enginetest.Fake }

func (lasting) Close() error { return nil }

func (m *member) log() string { return filepath.Join(m.state, "agent.log") }

// until looks again and again until something is so.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

// status asks the agent.
func (m *member) status() *local.Status {
	s := &local.Status{}
	if err := (local.Client{Dir: m.state}).Call(m.Context(), http.MethodGet, "/v1/status", nil, s); err != nil {
		return &local.Status{}
	}
	return s
}

// connected waits for the connection.
func (m *member) connected() *member {
	m.Helper()
	until(m.T, "the host is connected", func() bool { return m.status().Connection.Connected })
	return m
}

// own is the id of the access key that was made for the host.
func (p *plane) own(t *testing.T) (id string) {
	t.Helper()
	until(t, "the host has a key of its own", func() bool {
		keys, err := controlplane.Keys(t.Context(), p.dir)
		for _, k := range keys {
			if err == nil && k.From == p.join.AccessKeyID {
				id = k.AccessKeyID
			}
		}
		return id != ""
	})
	return id
}

// hostScenes cause what befalls a host as a whole.
var hostScenes = map[string]func(t *testing.T, p *plane) *member{
	"control/away": func(t *testing.T, p *plane) *member { return p.host(t, nil, "ECS_BACKEND_HOST=https://127.0.0.1:9") },
	"control/lost": func(t *testing.T, _ *plane) *member {
		p := newPlane(t)
		m := p.host(t, nil).connected()
		if err := p.now.Close(); err != nil {
			t.Error(err)
		}
		return m
	},
	"control/key":     func(t *testing.T, p *plane) *member { return p.host(t, nil, "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE") },
	"control/secret":  func(t *testing.T, p *plane) *member { return p.host(t, nil, "AWS_SECRET_ACCESS_KEY=another") },
	"control/cluster": func(t *testing.T, p *plane) *member { return p.host(t, nil, "ECS_CLUSTER=another") },
	"control/ca": func(t *testing.T, p *plane) *member {
		return p.host(t, nil, "AWS_CA_BUNDLE="+filepath.Join(newPlane(t).dir, certs.CAFile))
	},
	"control/revoked": func(t *testing.T, _ *plane) *member {
		p := newPlane(t)
		m := p.host(t, nil).connected()
		for _, id := range []string{p.own(t), p.join.AccessKeyID} {
			if _, err := controlplane.RevokeKey(t.Context(), p.dir, id); err != nil {
				t.Fatal(err)
			}
		}
		return m
	},
	"clock/skew": func(t *testing.T, p *plane) *member {
		return p.host(t, func(o *agent.Options) { o.Clock = func() time.Time { return time.Now().Add(-time.Hour) } })
	},
	"engine/absent": func(t *testing.T, p *plane) *member {
		return p.host(t, func(o *agent.Options) { o.Runtime = nil }, "DOCKER_HOST=unix:///run/no-such-engine.sock")
	},
}

func TestWhatEachFailureOfAHostLooksLike(t *testing.T) {
	p, members := newPlane(t), map[string]*member{}
	for name, cause := range hostScenes {
		members[name] = cause(t, p)
	}
	for name, m := range members {
		t.Run(name, func(t *testing.T) {
			f := entry(name)
			var lines []line
			until(t, "the log has an error line", func() bool {
				lines = m.errors()
				return len(lines) > 0
			})
			if f.Shown != "" {
				until(t, "status shows "+f.Shown, func() bool { return strings.Contains(m.shown(), f.Shown) })
			}
			if lines = m.errors(); len(lines) != 1 {
				t.Fatalf("there are %d error lines: %+v", len(lines), lines)
			}
			l := lines[0]
			text := l.Error
			if text == "" {
				text = l.Msg
			}
			if known := remedy.Of(text); !Matches(f.Message(), text) || l.Step != f.Step || known.Means == "" || l.Remedy != known.Do {
				t.Errorf("the error line is %+v,\nnot of step %s with %q and its remedy %q", l, f.Step, f.Message(), known.Do)
			}
		})
	}
}

// errors are the error lines of the host's log.
func (m *member) errors() []line {
	if _, err := os.Stat(m.log()); err != nil {
		return nil
	}
	return errorLines(m.T, m.log(), "")
}

// shown is what status says.
func (m *member) shown() string {
	var b strings.Builder
	s := m.status()
	if s.Version == "" || s.Print(&b) != nil {
		return ""
	}
	data, _ := json.Marshal(s)
	return b.String() + string(data)
}
