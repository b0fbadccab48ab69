package agent

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/statemgr"
)

const (
	first  = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/1"
	second = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/2"
	task1  = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/t1"
)

func TestTheAgentJoinsRunsATaskAndLeavesItRunning(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("register <nil> as "+first, "connected "+first)
	c.send(first, task1, "RUNNING")
	c.expect("acs AckRequest", "submit "+task1+" RUNNING")
	accepted := `msg="The control plane accepted the state change" task=` + task1 + " step=report"
	waitFor(t, func() bool { return strings.Contains(h.log(), accepted) })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if h.engine.Running() != 1 {
		t.Errorf("%d containers run", h.engine.Running())
	}
	for _, line := range []string{`msg="Registered"`, `msg="Connected to the control plane"`, accepted, "containers stay as they are"} {
		if !strings.Contains(h.log(), line) {
			t.Errorf("the log has no %s:\n%s", line, h.log())
		}
	}
	if strings.Contains(h.log(), "AWS_SECRET") || h.stderr.buf.Len() != 0 {
		t.Error(h.stderr.buf.String())
	}
}

func TestAnAgentThatStartsAgainIsTheSameInstanceAndRepeatsNothing(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	leave = h.start()
	c.expect("register "+first+" as "+first, "connected "+first)
	c.send(first, task1, "STOPPED")
	got := c.expect("submit " + task1 + " STOPPED")
	if slices.Contains(got, "submit "+task1+" RUNNING") {
		t.Errorf("RUNNING was reported twice: %q", got)
	}
	if h.engine.Running() != 0 {
		t.Errorf("%d containers run", h.engine.Running())
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAnEngineThatIsDownIsWaitedFor(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.engine.Down()
	leave := h.start()
	waitFor(t, func() bool {
		data, err := os.ReadFile(filepath.Join(h.dir, "agent.log"))
		return err == nil && strings.Contains(string(data), "The container engine does not answer; waiting for it")
	})
	if got := c.quiet(); got != nil {
		t.Errorf("before the engine answered: %q", got)
	}
	h.engine.Up()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits until a condition holds.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !condition(); {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("it did not come to pass")
		}
	}
}

func TestAControlPlaneThatIsDownIsWaitedForWhileContainersAreLookedAfter(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	h.env = slices.Clone(h.env)
	h.env[1] = "ECS_BACKEND_HOST=" + unusedAddress(t)
	leave = h.start()
	state, _ := h.engine.Container(task1, "web")
	waitFor(t, func() bool { return strings.Contains(h.log(), "adopt done") })
	h.engine.Exit(state.ID, 3) // it ends while nobody can be told
	waitFor(t, func() bool { return strings.Contains(h.log(), "STOPPED, sequence number") })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	h.env[1] = "ECS_BACKEND_HOST=" + c.server.URL
	leave = h.start()
	c.expect("submit " + task1 + " STOPPED")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func unusedAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func TestAnInstanceThatWasGivenUpWhileTheHostWasAwayJoinsAgainAsANewOne(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.arn, c.inactive = second, true
	c.mu.Unlock()
	leave = h.start()
	c.expect("register "+first+" as "+second, "register <nil> as "+second, "connected "+second)
	if h.engine.Running() != 1 {
		t.Errorf("%d containers run", h.engine.Running())
	}
	id, err := statemgr.LoadIdentity(h.dir)
	if err != nil || id.ContainerInstanceArn != second {
		t.Errorf("%+v %v", id, err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestSystemdIsToldWhatHappens(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	t.Setenv("NOTIFY_SOCKET", name)
	c := newControlPlane(t)
	leave := newTestHost(t, c).start()
	c.expect("connected " + first)
	var got []string
	told := func(want string) {
		t.Helper()
		if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 1024)
		for !slices.Contains(got, want) {
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("%s did not come; these did: %q", want, got)
			}
			got = append(got, string(buffer[:n]))
		}
	}
	told("READY=1")
	told("STATUS=Connected as " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
}

func TestADeregistrationCountsAsGivenUpOnlyWhenTheHostWasAway(t *testing.T) {
	for away, want := range map[time.Duration]error{0: nil, 3 * time.Second: nil, 5 * time.Second: errRegisterAnew, time.Hour: errRegisterAnew} {
		h := newTestHost(t, nil)
		a := &Agent{log: nopLog}
		a.arn.Store(&h.dir)
		if err := a.inactive(away); !errors.Is(err, want) {
			t.Errorf("away for %s: %v", away, err)
		}
	}
}

func TestWhatARestartDoesNotHealIsATerminalError(t *testing.T) {
	registered := func(change func(*statemgr.Identity)) func(*testHost) {
		return func(h *testHost) {
			id := statemgr.Identity{Cluster: "daemonset", ContainerInstanceArn: first}
			change(&id)
			if err := statemgr.SaveIdentity(h.dir, id); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	write := func(name, content string) func(*testHost) {
		return func(h *testHost) {
			if err := os.WriteFile(filepath.Join(h.dir, name), []byte(content), 0o600); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	env := func(kv string) func(*testHost) { return func(h *testHost) { h.env = append([]string{kv}, h.env...) } }
	for _, c := range []struct {
		name     string
		prepare  func(*testHost)
		want     string
		terminal bool
	}{
		{"another cluster", registered(func(id *statemgr.Identity) { id.Cluster = "other" }), `registered with the cluster "other", and the configuration says "daemonset"`, true},
		{"an identity that can't be read", write(statemgr.IdentityName, "{"), "identity.json", true},
		{"attributes that are no JSON", env("ECS_INSTANCE_ATTRIBUTES={"), "ECS_INSTANCE_ATTRIBUTES", true},
		{"a volume check that does not exist", env("ECS_HOST_VOLUME_CHECK=maybe"), "ECS_HOST_VOLUME_CHECK", true},
		{"registry credentials that are no JSON", func(h *testHost) { env("ECS_ENGINE_AUTH_TYPE=docker")(h); env("ECS_ENGINE_AUTH_DATA=topsecret")(h) }, "ECS_ENGINE_AUTH_DATA", true},
		{"a certificate bundle that is not there", env("AWS_CA_BUNDLE=/none"), "AWS_CA_BUNDLE", true},
		{"an endpoint that is none", env("ECS_BACKEND_HOST=ftp://x"), "ftp://x", true},
		{"no region", func(h *testHost) { h.env[2] = "AWS_DEFAULT_REGION=" }, "set AWS_DEFAULT_REGION", false},
		{"a state directory that can't be made", func(h *testHost) { write("file", "")(h); env("ECS_DATADIR=" + h.dir + "/file/x")(h) }, "ECS_DATADIR", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHost(t, newControlPlane(t))
			c.prepare(h)
			err := h.run()
			var terminal *TerminalError
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &terminal) != c.terminal || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestARefusedRegistrationIsToldAndTriedAgainAndEndsNobody(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*testHost)
		want    string
	}{
		{"no credentials", func(h *testHost) { h.env[3] = "AWS_SHARED_CREDENTIALS_FILE=/none" }, "no credentials"},
		{"a key that may not", func(h *testHost) { h.env[0] = "ECS_CLUSTER=refused" }, "AccessDeniedException: not you"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHost(t, newControlPlane(t))
			c.prepare(h)
			leave := h.start()
			h.untilLogged(c.want)
			h.untilLogged("it is tried again")
			if err := leave(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestATakenIntrospectionPortEndsTheAgentAndSaysWhy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	o := newTestHost(t, nil).options()
	o.Introspect = l.Addr().String()
	if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is taken: another container agent") {
		t.Error(err)
	}
}

func TestASecondAgentOnTheSameStateIsRefused(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	if err := h.run(); err == nil || !strings.Contains(err.Error(), "is another longshore-agent running?") {
		t.Error(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestATruncatedStateFileIsPutAsideAndTheContainersAreFoundAgain(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(h.dir, statemgr.DatabaseName), 5000); err != nil {
		t.Fatal(err)
	}
	leave = h.start()
	c.expect("register "+first+" as "+first, "connected "+first)
	c.send(first, task1, "RUNNING") // the control plane sends whole payloads when the agent connects
	c.expect("acs AckRequest")
	c.send(first, task1, "STOPPED")
	c.expect("submit " + task1 + " STOPPED")
	if h.engine.Running() != 0 || h.engine.Peak(task1, "web") != 1 {
		t.Errorf("%d containers run, at most %d at once\n%s", h.engine.Running(), h.engine.Peak(task1, "web"), h.log())
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAMachineWithACopiedDiskIsAnInstanceOfItsOwn(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	leave := h.start()
	c.expect("connected " + first)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	h.root = hostRoot(t, map[string]string{"etc/machine-id": "ffffffffffffffffffffffffffffffff\n"})
	leave = h.start()
	c.expect("register <nil> as "+second, "connected "+second)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	aside, err := filepath.Glob(filepath.Join(h.dir, "*.other-machine-*"))
	if err != nil || len(aside) != 2 {
		t.Errorf("%v %v", aside, err)
	}
}

func TestTheTokenOfARegistrationIsKeptUntilItsAnswerIsSaved(t *testing.T) {
	dir := t.TempDir()
	one, err := keptToken(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := keptToken(dir)
	if err != nil || one != two {
		t.Errorf("%s %s %v", one, two, err)
	}
	dropToken(dir)
	if three, err := keptToken(dir); err != nil || three == one {
		t.Errorf("%s %v", three, err)
	}
}

func TestPulledImagesAreRememberedAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	p := newPulled(dir, nopLog)
	for _, ref := range []string{"a:1", "b:1", "a:1"} {
		if err := p.SetPulled(ref); err != nil {
			t.Fatal(err)
		}
	}
	p = newPulled(dir, nopLog)
	if d := cmp.Diff([]string{"a:1", "b:1"}, p.refs); d != "" || !p.Pulled("a:1") || p.Pulled("c:1") {
		t.Error(d)
	}
	if err := os.WriteFile(filepath.Join(dir, pulledName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if newPulled(dir, nopLog).Pulled("a:1") {
		t.Error("a broken list was believed")
	}
}
