package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/session/sessiontest"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/tcs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time pass inside a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

type fakeEngine struct {
	mu     sync.Mutex
	tasks  []engine.TaskStatus
	health engine.EngineHealth
}

func (e *fakeEngine) Tasks() []engine.TaskStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]engine.TaskStatus(nil), e.tasks...)
}

func (e *fakeEngine) Health() engine.EngineHealth {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.health
}

func (e *fakeEngine) set(health engine.EngineHealth, tasks ...engine.TaskStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.health, e.tasks = health, tasks
}

type discover struct{}

func (discover) Call(_ context.Context, _ string, _, out any) error {
	out.(*agentapi.DiscoverPollEndpointOutput).TelemetryEndpoint = aws.String("http://control/tcs/")
	return nil
}

var credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "s", SessionToken: "token"}, nil
})

// world is a publisher, its engine and a server that records what comes, each frame as "seconds type details".
type world struct {
	engine    *fakeEngine
	publisher *Publisher
	server    *sessiontest.Server
	mu        sync.Mutex
	frames    []string
	raw       []string
}

func (w *world) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.frames...)
}

func inBubble(t *testing.T, f func(*world)) {
	t.Helper()
	inBubbleWith(t, func(*Config) {}, f)
}

func inBubbleWith(t *testing.T, change func(*Config), f func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{engine: &fakeEngine{}}
		begun := time.Now()
		w.server = sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			go func() {
				for ctx.Err() == nil {
					c.Send(ctx, `{"type":"HeartbeatMessage","message":{"healthy":true}}`)
					pass(30 * time.Second)
				}
			}()
			for frame := c.Receive(ctx); frame != ""; frame = c.Receive(ctx) {
				_, body, err := tcs.SplitFrame([]byte(frame))
				if err != nil {
					t.Error(err)
				}
				w.mu.Lock()
				w.raw = append(w.raw, frame)
				w.frames = append(w.frames, fmt.Sprintf("%ds %s", int(time.Since(begun).Seconds()), describe(t, body)))
				w.mu.Unlock()
			}
		})
		cfg := Config{
			Engine: w.engine, Log: zap.NewNop(), Client: w.server.Client, Signer: session.NewSigV4(credentials, "us-west-2"), Limits: Limits(),
			Endpoints: &session.Endpoints{API: discover{}}, Cluster: "daemonset", InstanceArn: "arn:i", AgentVersion: "0.1.0", AgentHash: "1234567", EngineVersion: func() string { return "20.10.24+dfsg1" },
		}
		change(&cfg)
		w.publisher = New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.publisher.Run(ctx) }()
		synctest.Wait()
		f(w)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		pass(time.Minute)
	})
}

func describe(t *testing.T, body []byte) string {
	message, err := tcs.Decode(body)
	if err != nil {
		t.Error(err)
	}
	switch m := message.(type) {
	case *tcs.PublishMetricsRequest:
		return fmt.Sprintf("metrics idle=%t fin=%t tasks=%d", m.Metadata.Idle, m.Metadata.Fin, len(m.TaskMetrics))
	case *tcs.PublishHealthRequest:
		out := fmt.Sprintf("health fin=%t", m.Metadata.Fin)
		for _, task := range m.Tasks {
			for _, c := range task.Containers {
				out += fmt.Sprintf(" %s/%s=%s", task.TaskArn, c.ContainerName, c.HealthStatus)
			}
		}
		return out
	case *tcs.PublishInstanceStatusRequest:
		return fmt.Sprintf("status %s=%s %s", m.Statuses[0].Type, m.Statuses[0].Status, m.Statuses[0].StatusReason)
	}
	return fmt.Sprintf("%T", message)
}

func expect(t *testing.T, w *world, want ...string) {
	t.Helper()
	synctest.Wait()
	if d := cmp.Diff(want, w.seen()); d != "" {
		t.Errorf("frames (-want +got):\n%s", d)
	}
}

func checked(arn, status string) engine.TaskStatus {
	return engine.TaskStatus{Arn: arn, Family: "f", Version: "1", Known: "RUNNING", Containers: []engine.ContainerStatus{
		{Name: "web", Known: "RUNNING", Health: engine.Health{Status: status, Output: "out"}}, {Name: "unchecked", Known: "RUNNING"},
	}}
}

func TestAnIdleInstanceSaysSoAtConnectAndEveryTwentySeconds(t *testing.T) {
	inBubble(t, func(w *world) {
		pass(41 * time.Second)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ", "20s metrics idle=true fin=true tasks=0", "40s metrics idle=true fin=true tasks=0")
		r := w.server.Attempts()[0]
		if d := cmp.Diff("agentHash=1234567&agentVersion=0.1.0&cluster=daemonset&containerInstance=arn%3Ai&dockerVersion=20.10.24%2Bdfsg1", r.URL.RawQuery); d != "" || r.URL.Path != "/tcs/ws" {
			t.Error(d, r.URL.Path)
		}
	})
}

func TestNothingIsPublishedAboutTasksThatWasNotMeasured(t *testing.T) {
	inBubble(t, func(w *world) {
		w.engine.set(engine.EngineHealth{}, engine.TaskStatus{Arn: "t1", Known: "RUNNING"})
		pass(time.Minute)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ")
	})
}

func TestHealthIsPublishedEveryPeriodAndAtOnceWhenItChanges(t *testing.T) {
	inBubble(t, func(w *world) {
		w.engine.set(engine.EngineHealth{}, checked("t1", "UNKNOWN"))
		pass(25 * time.Second)
		w.engine.set(engine.EngineHealth{}, checked("t1", "HEALTHY"))
		w.publisher.Changed()
		synctest.Wait()
		w.publisher.Changed() // nothing new
		pass(16 * time.Second)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ", "20s health fin=true t1/web=UNKNOWN", "25s health fin=true t1/web=HEALTHY", "40s health fin=true t1/web=HEALTHY")
	})
}

func TestTheHealthOfManyTasksIsDivided(t *testing.T) {
	inBubble(t, func(w *world) {
		var tasks []engine.TaskStatus
		for i := range 25 {
			tasks = append(tasks, checked(fmt.Sprint("t", i), "HEALTHY"))
		}
		w.engine.set(engine.EngineHealth{}, tasks...)
		pass(21 * time.Second)
		synctest.Wait()
		got := w.seen()[2:]
		if len(got) != 3 || !strings.Contains(got[0], "fin=false") || !strings.Contains(got[1], "fin=false") || !strings.Contains(got[2], "fin=true") {
			t.Error(got)
		}
	})
}

func TestTheEnginesStateFollowsAHeartbeat(t *testing.T) {
	inBubble(t, func(w *world) {
		w.engine.set(engine.EngineHealth{}, engine.TaskStatus{Arn: "t1", Known: "RUNNING"})
		pass(30 * time.Second)
		w.publisher.Heartbeat()
		pass(20 * time.Second)
		w.engine.set(engine.EngineHealth{Impaired: true, Causes: []string{"docker does not answer", "disk full"}, Since: time.Now()}, engine.TaskStatus{Arn: "t1", Known: "RUNNING"})
		w.publisher.Heartbeat()
		pass(60 * time.Second)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ", "40s status ContainerRuntime=OK ", "60s status ContainerRuntime=IMPAIRED docker does not answer; disk full")
	})
}

func TestAnotherVerdictAboutTheEngineIsToldAtOnce(t *testing.T) {
	inBubble(t, func(w *world) {
		running := engine.TaskStatus{Arn: "t1", Known: "RUNNING"}
		w.engine.set(engine.EngineHealth{}, running)
		pass(23 * time.Second)
		w.engine.set(engine.EngineHealth{Impaired: true, Causes: []string{"docker does not answer"}}, running)
		w.publisher.Changed()
		pass(2 * time.Second)
		w.publisher.Changed() // nothing new
		pass(20 * time.Second)
		w.engine.set(engine.EngineHealth{}, running)
		w.publisher.Changed()
		pass(2 * time.Second)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ", "23s status ContainerRuntime=IMPAIRED docker does not answer", "45s status ContainerRuntime=OK ")
	})
}

func TestEachFrameIsSignedOverItsBody(t *testing.T) {
	inBubble(t, func(w *world) {
		synctest.Wait()
		header, body, err := tcs.SplitFrame([]byte(w.raw[0]))
		if err != nil || !json.Valid(body) {
			t.Fatal(err)
		}
		lines := strings.Split(w.raw[0], "\r\n")
		if lines[0] != "Host: control" || !strings.HasPrefix(lines[1], "Authorization: AWS4-HMAC-SHA256 ") || !strings.HasPrefix(lines[2], "X-Amz-Date: ") || lines[3] != "X-Amz-Security-Token: token" || lines[4] != "" {
			t.Error(lines[:5])
		}
		// Signing the same request at the same time gives the same signature: time stands still in here.
		r, err := http.NewRequest(http.MethodGet, "http://control"+w.server.Attempts()[0].URL.RequestURI(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.NewSigV4(credentials, "us-west-2").Sign(t.Context(), r, body); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r.Header.Get("Authorization"), header.Get("Authorization")); d != "" {
			t.Error(d)
		}
	})
}

func TestNonsenseFromTheTelemetryServiceIsIgnored(t *testing.T) {
	p := New(Config{Log: zap.NewNop()})
	for frame, alive := range map[string]bool{
		"": false, "x": false, `{"type":"Never"}`: false, `{"type":"PublishMetricsRequest","message":{}}`: false, `{"type":"StopTelemetrySessionMessage","message":{}}`: false,
		`{"type":"ServerException","message":{"message":"x"}}`: false, `{"InvalidParameterException":"x"}`: false,
		`{"type":"AckPublishMetric","message":{"message":"x"}}`: true, `{"type":"AckPublishHealth"}`: true, `{"type":"AckPublishInstanceStatus"}`: true, `{"type":"HeartbeatMessage"}`: true,
	} {
		if got, err := p.handle([]byte(frame)); err != nil || got != alive {
			t.Errorf("%s: %t %v", frame, got, err)
		}
	}
	var inactive *session.Inactive
	if _, err := p.handle([]byte(`{"InactiveInstanceException":"gone"}`)); !errors.As(err, &inactive) {
		t.Error(err)
	}
}
