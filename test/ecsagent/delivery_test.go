package ecsagent_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/poll"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/test/ecsagent"
)

func TestAPayloadWhoseAckIsLostComesAgainAndTheTaskRunsOnce(t *testing.T) {
	p, a := ready(t)
	// The second process loses each answer to the first payload, until its connection has ended of age.
	a.Stop()
	var payload atomic.Value
	a.restart(func(c *ecsagent.Config) {
		c.Timers.MaxAge, c.Timers.MaxAgeJitter = 1500*time.Millisecond, time.Millisecond
		c.Lose = func(e ecsagent.Entry) bool {
			if e.Type != "AckRequest" {
				return false
			}
			for _, m := range a.Journal(ecsagent.Is(ecsagent.Received, "PayloadMessage")) {
				if m.MessageID == e.MessageID && payload.CompareAndSwap(nil, e.MessageID) {
					return true
				}
			}
			return payload.Load() == e.MessageID
		}
	})
	p.connected(a)
	arn := p.runs(a, p.define("app"))
	lost := a.expect("the ack is lost", 1, ecsagent.Is(ecsagent.Lost, "AckRequest"))[0]
	got := a.expect("the payload again, after the reconnect", 2, ecsagent.Is(ecsagent.Received, "PayloadMessage"), ecsagent.Of(arn))
	a.expect("its ack", 1, ecsagent.Is(ecsagent.Sent, "AckRequest"), func(e ecsagent.Entry) bool { return e.MessageID == got[1].MessageID && e.MessageID != lost.MessageID })
	p.settled(a, "app:1")
	if n := len(a.Journal(ecsagent.Is(ecsagent.Started, ""), ecsagent.Of(arn))); n != 1 {
		t.Errorf("it was started %d times", n)
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("RUNNING"))); n != 1 {
		t.Errorf("RUNNING was told %d times", n)
	}
}

func TestAConnectionThatEndsOfAgeIsFollowedByAnotherAtOnce(t *testing.T) {
	p, a := ready(t, func(c *ecsagent.Config) {
		c.Timers.MaxAge, c.Timers.MaxAgeJitter = time.Second, time.Millisecond
		c.Timers.Reconnect = time.Hour // so that a back-off would be seen
		c.Timers.Telemetry = time.Hour
	})
	p.daemon("logging-agent", p.define("logging"))
	p.settled(a, "logging:1")
	acs := a.expect("three connections", 3, ecsagent.Is(ecsagent.Connected, "ACS"))
	a.expect("telemetry's too", 3, ecsagent.Is(ecsagent.Connected, "TCS"))
	for i, e := range acs {
		if want := i == 0; strings.Contains(e.Text, "sendCredentials=true") != want {
			t.Errorf("connection %d is %s", i, e.Text)
		}
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Started, ""))); n != 1 {
		t.Errorf("%d containers were started", n)
	}
	manifests := a.expect("a manifest each", 3, ecsagent.Is(ecsagent.Received, "TaskManifestMessage"))
	for _, m := range manifests[:3] {
		a.expect("it is obeyed", 1, ecsagent.Is(ecsagent.Sent, "AckRequest"), func(e ecsagent.Entry) bool { return e.MessageID == m.MessageID })
	}
}

func TestARestartedAgentKeepsItsTasksAndRepeatsNothing(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	before := p.settled(a, "logging:1")
	arn := aws.ToString(before.TaskArn)
	a.Stop()
	p.until("the end of the connection", func() bool { return !p.instance(a).AgentConnected })
	if got := p.task(arn); aws.ToString(got.LastStatus) != "RUNNING" {
		t.Errorf("without its agent the task is %s", aws.ToString(got.LastStatus))
	}
	a.restart()
	p.connected(a)
	again := a.expect("the payload again", 1, ecsagent.Is(ecsagent.Received, "PayloadMessage"), ecsagent.Of(arn), ecsagent.In(a.Number()))[0]
	a.expect("its ack", 1, ecsagent.Is(ecsagent.Sent, "AckRequest"), func(e ecsagent.Entry) bool { return e.MessageID == again.MessageID })
	if now := p.settled(a, "logging:1"); aws.ToString(now.TaskArn) != arn {
		t.Errorf("%s became %s", arn, aws.ToString(now.TaskArn))
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("RUNNING"))); n != 1 {
		t.Errorf("RUNNING was told %d times", n)
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Started, ""))); n != 1 {
		t.Errorf("%d containers were started", n)
	}
}

func TestATaskThatEndsWhileTheAgentIsAwayIsReportedWhenItIsBack(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	a.Stop()
	a.Kill(arn, "main", 9)
	a.restart()
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	if code := p.task(arn).Containers[0].ExitCode; aws.ToInt32(code) != 9 {
		t.Errorf("the exit code is %v", code)
	}
}

func TestATaskStoppedWhileTheAgentIsAwayIsStoppedWhenItIsBack(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	a.Stop()
	p.until("the end of the connection", func() bool { return !p.instance(a).AgentConnected })
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn}))(t)
	a.restart()
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" && a.Running() == 0 })
}

func TestARestartedControlPlaneGoesOnAboveItsOldNumbersAndIsObeyed(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	task := p.settled(a, "logging:1")
	p.stop()
	a.expect("the connection's end", 1, ecsagent.Is(ecsagent.Ended, "ACS"))
	before := a.Journal(ecsagent.Is(ecsagent.Received, "TaskManifestMessage"))
	p.start()
	manifests := a.expect("another manifest", len(before)+1, ecsagent.Is(ecsagent.Received, "TaskManifestMessage"))
	last := manifests[len(manifests)-1]
	a.expect("it is obeyed", 1, ecsagent.Is(ecsagent.Sent, "AckRequest"), func(e ecsagent.Entry) bool { return e.MessageID == last.MessageID })
	if last.Seq <= before[len(before)-1].Seq {
		t.Errorf("the timeline went from %d to %d", before[len(before)-1].Seq, last.Seq)
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Ignored, ""))); n != 0 {
		t.Errorf("%d messages were ignored", n)
	}
	if now := p.settled(a, "logging:1"); aws.ToString(now.TaskArn) != aws.ToString(task.TaskArn) || a.Running() != 1 {
		t.Errorf("%s became %s, %d containers run", aws.ToString(task.TaskArn), aws.ToString(now.TaskArn), a.Running())
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Process, ""))); n != 0 {
		t.Errorf("the agent ended %d times", n)
	}
}

func TestAStateChangeMadeWhileTheControlPlaneIsAwayArrivesOnceItIsBack(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	p.stop()
	a.Kill(arn, "main", 4)
	p.start()
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("STOPPED"))
	if got := p.task(arn); aws.ToString(got.LastStatus) != "STOPPED" || aws.ToInt32(got.Containers[0].ExitCode) != 4 {
		t.Errorf("the task is %s with %v", aws.ToString(got.LastStatus), got.Containers[0].ExitCode)
	}
}

// A real agent on a copy of another one's data directory reports its tasks STOPPED, since it has no containers of theirs: the control plane
// would stop those that run, and start others. So it is not let in at all.
func TestOfTwoAgentsWithOneIdentityTheSecondIsRefusedUntilTheFirstIsGone(t *testing.T) {
	p := newPlane(t, func(c *controlplane.Config) { c.Overlap = time.Second })
	p.cluster("daemonset")
	a := p.join()
	p.connected(a)
	p.daemon("logging-agent", p.define("logging"))
	task := p.settled(a, "logging:1")
	b := p.joinOn(a.Twin())
	if code := b.Wait(); code != 1 {
		t.Errorf("the second agent ended with %d, which has systemd start it again if it is 1", code)
	}
	said := b.Journal(ecsagent.Is(ecsagent.Refused, "RegisterContainerInstance"))
	if len(said) == 0 || !strings.Contains(said[0].Text, "Another agent is connected") {
		t.Errorf("it was told %v", said)
	}
	is := p.instance(a)
	if reason := aws.ToString(is.StatusReason); !is.AgentConnected || !strings.Contains(reason, "has the same identity") || strings.Count(reason, "127.0.0.1") != 2 {
		t.Errorf("the instance is connected: %v, and says %q", is.AgentConnected, reason)
	}
	if got := p.task(aws.ToString(task.TaskArn)); aws.ToString(got.LastStatus) != "RUNNING" || a.Running() != 1 || b.Running() != 0 || len(a.Journal(ecsagent.Is(ecsagent.Ended, "ACS"))) != 0 {
		t.Errorf("the daemon is %s, %d and %d containers run, and the first agent lost its connection %d times", aws.ToString(got.LastStatus), a.Running(), b.Running(), len(a.Journal(ecsagent.Is(ecsagent.Ended, "ACS"))))
	}
	a.Stop()
	b.restart()
	p.until("the one that is left is connected, and nothing is said of another", func() bool {
		is := p.instance(b)
		return is.AgentConnected && is.StatusReason == nil
	})
}

func TestAMachineThatComesBackAnotherWayIsServedThereWhileItsOldConnectionHangs(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	w := newWire(t, p.cfg.Listen)
	a := p.join(func(c *ecsagent.Config) { c.Endpoint = w.url() })
	p.connected(a)
	w.fallSilent()
	b := p.joinOn(a.Twin())
	p.connected(b)
	arn := p.runs(b, p.define("app"))
	b.expect("RUNNING", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("RUNNING"))
	if n := len(a.Journal(ecsagent.Is(ecsagent.Started, ""))); n != 0 {
		t.Errorf("%d containers were started where nothing is heard", n)
	}
}

func TestAMachineThatFallsSilentIsNotConnectedAfterFiveSeconds(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	w := newWire(t, p.cfg.Listen)
	a := p.join(func(c *ecsagent.Config) { c.Endpoint = w.url() })
	p.connected(a)
	p.daemon("logging-agent", p.define("logging"))
	task := p.settled(a, "logging:1")
	w.fallSilent()
	start := time.Now()
	p.until("agentConnected is false", func() bool { return !p.instance(a).AgentConnected })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if got := p.task(aws.ToString(task.TaskArn)); aws.ToString(got.LastStatus) != "RUNNING" || aws.ToString(got.DesiredStatus) != "RUNNING" {
		t.Errorf("its task is %s, wanted %s", aws.ToString(got.LastStatus), aws.ToString(got.DesiredStatus))
	}
}

func TestAKilledAgentIsNotConnectedAtOnce(t *testing.T) {
	p, a := ready(t)
	a.Stop() // without a close frame
	start := time.Now()
	p.until("agentConnected is false", func() bool { return !p.instance(a).AgentConnected })
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestATaskThatTheControlPlaneDoesNotKnowIsDropped(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	// The instance goes, and its tasks with it, while the agent goes on.
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn}))(t)
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("STOPPED"))
	other := newPlane(t)
	other.cluster("daemonset")
	b := other.join()
	other.connected(b)
	err := b.Report(strings.Replace(arn, "task/daemonset/", "task/daemonset/0", 1)[:len(arn)], "STOPPED")
	if err == nil || !strings.Contains(err.Error(), "InvalidParameterException") {
		t.Errorf("the answer is %v", err)
	}
}

func TestAnAgentCannotSpeakForAnInstanceOfAnotherKey(t *testing.T) {
	p, a := ready(t)
	b := p.join(func(c *ecsagent.Config) { c.Key = p.key("admin.env") }) // an administrator may
	p.connected(b)
	if a.InstanceARN() == b.InstanceARN() {
		t.Error("two machines are one instance")
	}
	c := p.join(func(c *ecsagent.Config) { c.Endpoint = p.url() })
	p.connected(c)
	b.Stop()
	b.restart(func(c *ecsagent.Config) { c.Key = p.key("host.env") })
	if code := b.Wait(); code != ecsagent.ExitError {
		t.Errorf("a host's key took over an administrator's instance: exit %d", code)
	}
}

func TestDeregisteringEndsTheTasksAndAsksNothingOfTheOtherMachines(t *testing.T) {
	p, a := ready(t)
	b := p.join()
	p.connected(b)
	p.daemon("logging-agent", p.define("logging"))
	p.settled(a, "logging:1")
	p.settled(b, "logging:1")
	must(p.admin.DeregisterContainerInstance(t.Context(), &ecs.DeregisterContainerInstanceInput{Cluster: aws.String("daemonset"), ContainerInstance: aws.String(a.InstanceARN()), Force: aws.Bool(true)}))(t)
	a.expect("its sleep", 1, ecsagent.Is(ecsagent.Suspended, ""))
	p.until("the service wants one", func() bool {
		s := must(p.admin.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"logging-agent"}}))(t).Services[0]
		return s.DesiredCount == 1 && s.RunningCount == 1
	})
	if list := p.tasks(b, types.DesiredStatusRunning); len(list) != 1 {
		t.Errorf("the other machine has %d tasks", len(list))
	}
}

func TestHandshakesAreRefusedWithBareErrors(t *testing.T) {
	p, a := ready(t)
	a.Stop()
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, p.url()+"/acs/ws?clusterArn=daemonset&containerInstanceArn="+a.InstanceARN(), nil))(t)
	answer := must(p.web.Do(r))(t)
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("without a signature the answer is %d", answer.StatusCode)
	}
}

func TestATaskThatRunsOnThoughItIsRecordedAsStoppedIsStoppedAfterTheNextManifest(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	if err := a.Report(arn, "STOPPED"); err != nil { // which is not true
		t.Fatal(err)
	}
	a.Stop()
	a.restart()
	a.expect("the agent's question", 1, ecsagent.Is(ecsagent.Sent, "TaskStopVerificationMessage"))
	a.expect("the answer", 1, ecsagent.Is(ecsagent.Received, "TaskStopVerificationAck"))
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("STOPPED"))
	if n := a.Running(); n != 0 {
		t.Errorf("%d containers run", n)
	}
}

func TestAReportThatIsRepeatedBecauseItsAnswerWasLostChangesNothing(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	before := p.task(arn)
	for range 3 {
		if err := a.Report(arn, "RUNNING"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Report(arn, "PENDING"); err != nil { // late
		t.Fatal(err)
	}
	if after := p.task(arn); after.Version != before.Version || aws.ToString(after.LastStatus) != "RUNNING" {
		t.Errorf("version %d became %d, %s", before.Version, after.Version, aws.ToString(after.LastStatus))
	}
}

func TestAnAgentThatTakesItsTimeOverAPayloadStaysConnected(t *testing.T) {
	p, a := ready(t, func(c *ecsagent.Config) {
		c.Handling = func(ecsagent.Entry) { <-time.After(1500 * time.Millisecond) }
	})
	for _, name := range []string{"one", "two"} {
		p.runs(a, p.define(name))
	}
	a.expect("both run", 2, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("RUNNING"))
	if ends := a.Journal(ecsagent.Is(ecsagent.Ended, "")); len(ends) != 0 {
		t.Errorf("connections ended: %v", ends)
	}
}

func TestHeartbeatsComeOftenEnoughForAnAgentThatGivesUpAfterTwiceTheirTime(t *testing.T) {
	// The real ones come every 30 to 45 s, and agents give up after 60 s at the earliest: here all of it is 50 times as fast.
	p := scaledPlane(t, poll.Config{Heartbeat: 600 * time.Millisecond, HeartbeatJitter: 300 * time.Millisecond})
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) {
		c.Timers.Heartbeat, c.Timers.HeartbeatJitter, c.Timers.Publish = 1200*time.Millisecond, time.Millisecond, time.Hour
	})
	a.expect("heartbeats on the control channel", 5, ecsagent.Is(ecsagent.Sent, "HeartbeatAckRequest"))
	a.expect("and on telemetry's", 9, ecsagent.Is(ecsagent.Received, "HeartbeatMessage"))
	if ends := a.Journal(ecsagent.Is(ecsagent.Ended, "")); len(ends) != 0 {
		t.Errorf("connections ended: %v", ends)
	}
}

// scaledPlane is a control plane without its scheduler, whose timers for agents can be set.
func scaledPlane(t *testing.T, timers poll.Config) *plane {
	t.Helper()
	p := &plane{T: t, web: &http.Client{Transport: &http.Transport{}}}
	p.cfg.DataDir, p.cfg.Region = t.TempDir(), "us-west-2"
	records := storetest.New(t)
	sealed := seal.New()
	if err := auth.EnsureKeys(t.Context(), records, sealed, p.cfg.DataDir, time.Now()); err != nil {
		t.Fatal(err)
	}
	verifier := auth.NewVerifier(auth.StoredKeys(records, sealed), auth.Options{})
	timers.Store, timers.Verifier = records, verifier
	sockets := must(poll.New(timers))(t)
	calls := api.New(api.Config{Store: records, Verifier: verifier, Region: p.cfg.Region, AccountID: "123456789012", Log: zap.NewNop(),
		BaseURL: func(r *http.Request) string { return "http://" + r.Host }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = sockets.Run(ctx) })
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			sockets.ServeHTTP(w, r)
		} else {
			calls.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		p.web.CloseIdleConnections()
		cancel()
		running.Wait()
		web.Close()
	})
	p.cfg.Listen = web.Listener.Addr().String()
	p.admin = p.client()
	return p
}
