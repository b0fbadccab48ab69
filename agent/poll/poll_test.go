package poll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/session/sessiontest"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time pass inside a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

const (
	cluster  = "arn:aws:ecs:us-west-2:123456789012:cluster/daemonset"
	instance = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/0123"
)

// fakeEngine accepts tasks as told.
type fakeEngine struct {
	mu       sync.Mutex
	accepted []string
	tasks    []engine.TaskStatus
	fail     func(n int, task *acs.Task) error
}

func (e *fakeEngine) Accept(_ context.Context, task *acs.Task) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.accepted)
	e.accepted = append(e.accepted, task.Arn+" "+task.DesiredStatus)
	if e.fail != nil {
		if err := e.fail(n, task); err != nil {
			return err
		}
	}
	e.tasks = append(e.tasks, engine.TaskStatus{Arn: task.Arn, ClusterArn: task.TaskClusterArn, Desired: task.DesiredStatus, Known: "NONE"})
	return nil
}

func (e *fakeEngine) Tasks() []engine.TaskStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.tasks)
}

func (e *fakeEngine) seen() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.accepted)
}

// memory is a Sequence.
type memory struct {
	mu    sync.Mutex
	value int64
	err   error
}

func (m *memory) LoadSequence() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, nil
}

func (m *memory) SaveSequence(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.value = n
	}
	return m.err
}

// discover answers DiscoverPollEndpoint.
type discover struct{}

func (discover) Call(_ context.Context, operation string, in, out any) error {
	if operation != "DiscoverPollEndpoint" || *in.(*agentapi.DiscoverPollEndpointInput).ContainerInstance != instance || *in.(*agentapi.DiscoverPollEndpointInput).ZoneId != "" {
		return fmt.Errorf("unexpected %s %+v", operation, in)
	}
	out.(*agentapi.DiscoverPollEndpointOutput).Endpoint = aws.String("http://control/acs/")
	return nil
}

// world is a poller, its engine and the control plane that talks to it.
type world struct {
	engine   *fakeEngine
	sequence *memory
	server   *sessiontest.Server
	poller   *Poller
	mu       sync.Mutex
	networks Networks
	refused  []string
	updown   []bool
	beats    int
}

// inBubble runs a poller against scripts while f looks on.
func inBubble(t *testing.T, prepare func(*world), f func(*world), scripts ...sessiontest.Script) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{engine: &fakeEngine{}, sequence: &memory{value: -1}}
		if prepare != nil {
			prepare(w)
		}
		w.server = sessiontest.New(t, scripts...)
		p, err := New(Config{
			Engine: w.engine, Sequence: w.sequence, Credentials: &Credentials{}, Log: zap.NewNop(), Client: w.server.Client,
			Signer: session.NewSigV4(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "s"}, nil
			}), "us-west-2"),
			Endpoints: &session.Endpoints{API: discover{}, Cluster: "daemonset", InstanceArn: instance}, Limits: session.DefaultLimits(),
			Cluster: "daemonset", InstanceArn: instance, AgentVersion: "0.1.0", AgentHash: "1234567", EngineVersion: func() string { return "DockerVersion: 20.10.24" },
			Networks: w.networks,
			Refused: func(arn, reason string) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.refused = append(w.refused, arn+" "+reason)
			},
			Connected: func(up bool) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.updown = append(w.updown, up)
			},
			Heartbeat: func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.beats++
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.poller = p
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		f(w)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// say sends frames and collects what comes back within a second, sorted when the order is free.
func say(answers *[]string, frames ...string) sessiontest.Script {
	return func(ctx context.Context, c *sessiontest.Conn) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				answer := c.Receive(ctx)
				if answer == "" {
					return
				}
				*answers = append(*answers, answer)
			}
		}()
		for _, f := range frames {
			c.Send(ctx, f)
		}
		<-done
	}
}

func payload(id string, extra string, tasks ...string) string {
	return fmt.Sprintf(`{"type":"PayloadMessage","message":{"clusterArn":%q,"containerInstanceArn":%q,"messageId":%q%s,"tasks":[%s]}}`, cluster, instance, id, extra, strings.Join(tasks, ","))
}

func task(arn, status string) string {
	return fmt.Sprintf(`{"arn":%q,"desiredStatus":%q,"containers":[{"name":"a","image":"i"}]}`, arn, status)
}

func ack(id string) string {
	return fmt.Sprintf(`{"type":"AckRequest","message":{"cluster":%q,"containerInstance":%q,"messageId":%q}}`, cluster, instance, id)
}

// expect compares what the agent answered to the frames with want.
func expect(t *testing.T, prepare func(*world), frames, want []string, check func(*world)) {
	t.Helper()
	var answers []string
	inBubble(t, prepare, func(w *world) {
		pass(time.Second)
		synctest.Wait()
		if check != nil {
			check(w)
		}
		if n := len(w.server.Attempts()); n != 1 {
			t.Errorf("%d connections", n)
		}
	}, say(&answers, frames...))
	if d := cmp.Diff(want, answers); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
}

func TestTheAgentConnectsAsTheProtocolSaysAndAsksForCredentialsOnce(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		pass(time.Minute)
		synctest.Wait()
		attempts := w.server.Attempts()
		if len(attempts) != 2 {
			t.Fatalf("%d connections", len(attempts))
		}
		want := "agentHash=1234567&agentVersion=0.1.0&clusterArn=daemonset&containerInstanceArn=arn%3Aaws%3Aecs%3Aus-west-2%3A123456789012%3Acontainer-instance%2Fdaemonset%2F0123&dockerVersion=DockerVersion%3A%2020.10.24&protocolVersion=2&sendCredentials=true&seqNum=1"
		if d := cmp.Diff(want, attempts[0].URL.RawQuery); d != "" || attempts[0].URL.Path != "/acs/ws" {
			t.Error(d, attempts[0].URL.Path)
		}
		if attempts[1].URL.Query().Get("sendCredentials") != "false" {
			t.Error(attempts[1].URL)
		}
		if d := cmp.Diff([]bool{true, false, true}, w.updown); d != "" || !w.poller.Connected() {
			t.Error(d)
		}
	}, func(context.Context, *sessiontest.Conn) { pass(2 * time.Second) }, func(ctx context.Context, c *sessiontest.Conn) { c.Receive(ctx) })
}

func TestAHeartbeatIsAnswered(t *testing.T) {
	expect(t, nil, []string{`{"type":"HeartbeatMessage","message":{"healthy":true,"messageId":"h-1"}}`}, []string{`{"type":"HeartbeatAckRequest","message":{"messageId":"h-1"}}`}, func(w *world) {
		if w.beats != 1 {
			t.Errorf("%d heartbeats", w.beats)
		}
	})
}

func TestAPayloadIsAcknowledgedWhenItsTasksAreDurableAndStopsGoFirst(t *testing.T) {
	expect(t, nil, []string{payload("m-1", "", task("t1", "RUNNING"), "null", task("t2", "STOPPED"), task("t3", "RUNNING"))}, []string{ack("m-1")}, func(w *world) {
		if d := cmp.Diff([]string{"t2 STOPPED", "t1 RUNNING", "t3 RUNNING"}, w.engine.seen()); d != "" {
			t.Error(d)
		}
	})
}

func TestAPayloadThatComesAgainIsAcknowledgedAgain(t *testing.T) {
	expect(t, nil, []string{payload("m-1", "", task("t1", "RUNNING")), payload("m-1", "", task("t1", "RUNNING"))}, []string{ack("m-1"), ack("m-1")}, nil)
}

func TestAPayloadThatCouldNotBeSavedIsNotAcknowledgedUntilItCan(t *testing.T) {
	full := func(w *world) {
		w.engine.fail = func(n int, _ *acs.Task) error {
			if n == 0 {
				return errors.New("no space left on device")
			}
			return nil
		}
	}
	expect(t, full, []string{payload("m-1", "", task("t1", "RUNNING")), payload("m-1", "", task("t1", "RUNNING"))}, []string{ack("m-1")}, func(w *world) {
		if len(w.refused) != 0 {
			t.Error(w.refused)
		}
	})
}

func TestAPayloadThatCouldNotBeSavedIsTriedAgainWithoutComingAgain(t *testing.T) {
	var answers []string
	inBubble(t, func(w *world) {
		begun := time.Now()
		w.engine.fail = func(_ int, task *acs.Task) error {
			if task.Arn == "bad" {
				return fmt.Errorf("never: %w", errdefs.ErrInvalidArgument)
			}
			if time.Since(begun) < 30*time.Second {
				return errors.New("no space left on device")
			}
			return nil
		}
	}, func(w *world) {
		pass(time.Minute)
		synctest.Wait()
		if n := len(w.engine.seen()); n > 20 {
			t.Errorf("%d tries", n)
		}
	}, func(ctx context.Context, c *sessiontest.Conn) {
		begun := time.Now()
		for _, f := range []string{payload("m-1", "", task("t1", "RUNNING")), payload("m-2", "", task("t1", "STOPPED")), payload("m-3", "", task("bad", "RUNNING"))} {
			c.Send(ctx, f)
		}
		for answer := c.Receive(ctx); answer != ""; answer = c.Receive(ctx) {
			answers = append(answers, answer+time.Since(begun).Truncate(10*time.Second).String())
		}
	})
	if d := cmp.Diff([]string{ack("m-1") + "30s", ack("m-2") + "30s"}, answers); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
}

func TestATaskThatCannotBeUnderstoodIsReportedAndTheOthersRunWithoutAnAck(t *testing.T) {
	picky := func(w *world) {
		w.engine.fail = func(_ int, task *acs.Task) error {
			if task.Arn == "bad" {
				return fmt.Errorf("volume v: unrecognized volume type %q: %w", "ebs", errdefs.ErrInvalidArgument)
			}
			return nil
		}
	}
	expect(t, picky, []string{payload("m-1", "", task("good", "RUNNING"), task("bad", "RUNNING"), `{"arn":"worse","desiredStatus":7}`)}, nil, func(w *world) {
		if d := cmp.Diff([]string{"good RUNNING", "bad RUNNING"}, w.engine.seen()); d != "" {
			t.Error(d)
		}
		want := []string{"worse UnrecogniedTaskError: Error loading task - malformed Task: desiredStatus: JSON number where string belongs", `bad UnrecogniedTaskError: Error loading task - volume v: unrecognized volume type "ebs": invalid argument`}
		if d := cmp.Diff(want, w.refused); d != "" {
			t.Error(d)
		}
	})
}

func TestAPayloadThatLacksARequiredMemberOrIsForAnotherInstanceIsDropped(t *testing.T) {
	frames := []string{
		`{"type":"PayloadMessage","message":{"clusterArn":"c","containerInstanceArn":"","messageId":"m","tasks":[` + task("t", "RUNNING") + `]}}`,
		`{"type":"PayloadMessage","message":{"clusterArn":"c","containerInstanceArn":"arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/other","messageId":"m","tasks":[` + task("t", "RUNNING") + `]}}`,
		`{"type":"PayloadMessage"}`,
	}
	expect(t, nil, frames, nil, func(w *world) {
		if len(w.engine.seen()) != 0 {
			t.Error(w.engine.seen())
		}
	})
}

func TestNonsenseIsIgnoredAndTheConnectionStays(t *testing.T) {
	frames := []string{
		"", "x", "[]", "{}", `{"type":7}`, `{"type":"Never"}`, `{"type":"PayloadMessage","message":[]}`, `{"type":"AckRequest","message":{}}`,
		`{"type":"CloseMessage","message":{"message":"bye"}}`, `{"type":"ErrorMessage","message":{"message":"oh"}}`, `{"type":"ServerException","message":{"message":"oh"}}`, `{"BadRequestException":"oh"}`,
		`{"type":"TaskManifestMessage"}`, `{"type":"TaskStopVerificationAck"}`, `{"type":"IAMRoleCredentialsMessage"}`, `{"type":"StageUpdateMessage"}`, `{"type":"AttachTaskNetworkInterfacesMessage","message":{}}`,
		strings.Repeat("[", 100_000),
		`{"type":"HeartbeatMessage","message":{"messageId":"h"}}`,
	}
	expect(t, nil, frames, []string{`{"type":"HeartbeatAckRequest","message":{"messageId":"h"}}`}, nil)
}

func manifest(id string, timeline int64, tasks ...string) string {
	var list []string
	for _, t := range tasks {
		arn, status, _ := strings.Cut(t, " ")
		list = append(list, fmt.Sprintf(`{"taskArn":%q,"taskClusterArn":"c","desiredStatus":%q}`, arn, status))
	}
	return fmt.Sprintf(`{"type":"TaskManifestMessage","message":{"clusterArn":%q,"containerInstanceArn":%q,"messageId":%q,"generatedAt":1,"timeline":%d,"tasks":[%s]}}`, cluster, instance, id, timeline, strings.Join(list, ","))
}

func running(arns ...string) func(*world) {
	return func(w *world) {
		for _, arn := range arns {
			w.engine.tasks = append(w.engine.tasks, engine.TaskStatus{Arn: arn, ClusterArn: "c", Desired: "RUNNING", Known: "RUNNING"})
		}
	}
}

func TestAManifestIsObeyedOnlyAboveEverySequenceNumberSeen(t *testing.T) {
	frames := []string{payload("p", `,"seqNum":10`), manifest("m-1", 10), manifest("m-2", 11), manifest("m-3", 11), manifest("m-4", 12)}
	expect(t, nil, frames, []string{ack("p"), ack("m-2"), ack("m-4")}, func(w *world) {
		if w.sequence.value != 12 {
			t.Errorf("saved %d", w.sequence.value)
		}
	})
}

func TestTheSequenceNumberOutlivesTheAgent(t *testing.T) {
	expect(t, func(w *world) { w.sequence.value = 50 }, []string{manifest("m-1", 50), manifest("m-2", 51)}, []string{ack("m-2")}, nil)
}

func TestAManifestWhoseNumberCannotBeSavedIsNotAcknowledged(t *testing.T) {
	expect(t, func(w *world) { w.sequence.err = errors.New("disk full") }, []string{manifest("m-1", 1)}, nil, nil)
}

func TestTasksThatAManifestDoesNotListAreAskedAboutAndStoppedOnlyWhenConfirmed(t *testing.T) {
	question := `{"type":"TaskStopVerificationMessage","message":{"messageId":"m-1","stopCandidates":[{"taskArn":"t2","taskClusterArn":"c","desiredStatus":"STOPPED"},{"taskArn":"t3","taskClusterArn":"c","desiredStatus":"STOPPED"}]}}`
	verified := func(id string) string {
		return fmt.Sprintf(`{"type":"TaskStopVerificationAck","message":{"generatedAt":1,"messageId":%q,"stopTasks":[{"taskArn":"t3","taskClusterArn":"c","desiredStatus":"STOPPED"}]}}`, id)
	}
	frames := []string{manifest("m-1", 1, "t1 RUNNING", "t2 STOPPED"), verified("other"), verified("m-1"), verified("m-1")}
	expect(t, running("t1", "t2", "t3"), frames, []string{ack("m-1"), question}, func(w *world) {
		if d := cmp.Diff([]string{"t3 STOPPED"}, w.engine.seen()); d != "" {
			t.Error(d)
		}
	})
}

func TestWhoNeedsAnExecutionRoleWaitsForItsCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Credentials
		got := make(chan acs.IAMRoleCredentials, 2)
		for range 2 {
			go func() {
				held, err := c.Execution(t.Context(), "t1")
				if err != nil {
					t.Error(err)
				}
				got <- held
			}()
		}
		synctest.Wait()
		c.set("t2", acs.RoleTypeExecution, &acs.IAMRoleCredentials{CredentialsID: "c-2", AccessKeyID: "another task's"})
		c.set("t1", acs.RoleTypeTask, &acs.IAMRoleCredentials{CredentialsID: "c-3", AccessKeyID: "the task role's"})
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("credentials of another task or role were taken")
		}
		c.set("t1", acs.RoleTypeExecution, &acs.IAMRoleCredentials{CredentialsID: "c-1", AccessKeyID: "it"})
		if a, b := <-got, <-got; a.AccessKeyID != "it" || b.AccessKeyID != "it" {
			t.Error(a, b)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.Execution(ctx, "t9"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestCredentialsAreKeptInMemoryAndAcknowledgedForTasksThatRunHere(t *testing.T) {
	set := func(id, secret string) string {
		return fmt.Sprintf(`{"credentialsId":%q,"roleArn":"r","accessKeyId":"AKIA","secretAccessKey":%q,"sessionToken":"t","expiration":"2026-01-01T06:00:00Z"}`, id, secret)
	}
	frames := []string{
		payload("p", "", `{"arn":"t1","desiredStatus":"RUNNING","containers":[{"name":"a","image":"i"}],"roleCredentials":`+set("c-1", "one")+`,"executionRoleCredentials":`+set("c-2", "two")+`}`),
		`{"type":"IAMRoleCredentialsMessage","message":{"messageId":"m","taskArn":"t1","roleType":"TaskApplication","roleCredentials":` + set("c-1", "new") + `}}`,
		`{"type":"IAMRoleCredentialsMessage","message":{"messageId":"m","taskArn":"unknown","roleType":"TaskApplication","roleCredentials":` + set("c-9", "x") + `}}`,
		`{"type":"IAMRoleCredentialsMessage","message":{"messageId":"m","taskArn":"t1","roleType":"Other","roleCredentials":` + set("c-9", "x") + `}}`,
	}
	credentialsAck := func(message, id string) string {
		return fmt.Sprintf(`{"type":"IAMRoleCredentialsAckRequest","message":{"messageId":%q,"expiration":"2026-01-01T06:00:00Z","credentialsId":%q}}`, message, id)
	}
	expect(t, nil, frames, []string{credentialsAck("p", "c-1"), credentialsAck("p", "c-2"), ack("p"), credentialsAck("m", "c-1")}, func(w *world) {
		got, arn, _, ok := w.poller.cfg.Credentials.Lookup("c-1")
		if !ok || arn != "t1" || got.SecretAccessKey != "new" {
			t.Error(arn, ok)
		}
		if _, _, _, ok := w.poller.cfg.Credentials.Lookup("c-9"); ok {
			t.Error("credentials of an unknown task were kept")
		}
	})
}

func TestUpdatesAreRefused(t *testing.T) {
	frame := func(name string) string {
		return fmt.Sprintf(`{"type":%q,"message":{"clusterArn":%q,"containerInstanceArn":%q,"messageId":"u","updateInfo":{"location":"https://x/y","signature":"00"}}}`, name, cluster, instance)
	}
	nack := fmt.Sprintf(`{"type":"NackRequest","message":{"cluster":%q,"containerInstance":%q,"messageId":"u","reason":"Updates are disabled"}}`, cluster, instance)
	expect(t, nil, []string{frame("StageUpdateMessage"), frame("PerformUpdateMessage")}, []string{nack, nack}, nil)
}

func TestADeregisteredInstanceLearnsItOnTheSocketToo(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		pass(59 * time.Minute)
		synctest.Wait()
		if n := len(w.server.Attempts()); n != 1 {
			t.Errorf("%d connections", n)
		}
	}, func(ctx context.Context, c *sessiontest.Conn) {
		c.Send(ctx, `{"type":"InactiveInstanceException","message":{"message":"deregistered"}}`)
		c.Receive(ctx)
	})
}

func TestALostAckMakesThePayloadComeAgainAndTheTaskIsAcceptedAgain(t *testing.T) {
	var answers []string
	inBubble(t, nil, func(w *world) {
		pass(5 * time.Second)
		synctest.Wait()
		if d := cmp.Diff([]string{"t1 RUNNING", "t1 RUNNING"}, w.engine.seen()); d != "" {
			t.Error(d)
		}
	}, func(ctx context.Context, c *sessiontest.Conn) {
		pass(2 * time.Second)
		c.Send(ctx, payload("m-1", "", task("t1", "RUNNING")))
		pass(time.Second) // and the connection breaks before the ack is read
	}, say(&answers, payload("m-1", "", task("t1", "RUNNING"))))
	if d := cmp.Diff([]string{ack("m-1")}, answers); d != "" {
		t.Error(d)
	}
}

func TestTheEndpointIsKeptForTwelveHoursAndAskedForAgainWhenItLeadsNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var broken error
		e := &session.Endpoints{Cluster: "c", InstanceArn: instance, API: apiFunc(func(out *agentapi.DiscoverPollEndpointOutput) error {
			calls++
			out.Endpoint, out.TelemetryEndpoint = aws.String(fmt.Sprintf("https://acs-%d.example/prefix", calls)), aws.String("http://tcs.example:1234/tcs/")
			return broken
		})}
		steps := []struct {
			do   func()
			acs  string
			call int
		}{
			{func() {}, "wss://acs-1.example/prefix/ws", 1},
			{func() { pass(12*time.Hour - time.Second) }, "wss://acs-1.example/prefix/ws", 1},
			{func() { pass(2 * time.Second) }, "wss://acs-2.example/prefix/ws", 2},
			{func() { e.Doubt() }, "wss://acs-3.example/prefix/ws", 3},
			{func() { e.Doubt(); broken = errors.New("down") }, "wss://acs-3.example/prefix/ws", 4},
		}
		for i, s := range steps {
			s.do()
			if got, err := e.ACS(t.Context()); err != nil || got != s.acs || calls != s.call {
				t.Errorf("step %d: %s %v after %d calls", i, got, err, calls)
			}
		}
		if got, err := e.TCS(t.Context()); err != nil || got != "ws://tcs.example:1234/tcs/ws" {
			t.Error(got, err)
		}
	})
	for _, bad := range []string{"", "ftp://x", "http://", "http://[::1"} {
		e := &session.Endpoints{API: apiFunc(func(out *agentapi.DiscoverPollEndpointOutput) error { out.Endpoint = &bad; return nil })}
		if got, err := e.ACS(t.Context()); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

type apiFunc func(*agentapi.DiscoverPollEndpointOutput) error

func (f apiFunc) Call(_ context.Context, _ string, _, out any) error {
	return f(out.(*agentapi.DiscoverPollEndpointOutput))
}
