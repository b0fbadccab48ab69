package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/longshore-project/longshore/agent/dropin"
	"github.com/longshore-project/longshore/agent/dropin/dropintest"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/statemgr"
	testimages "github.com/longshore-project/longshore/test/images"
)

// theirs is a host on which an amazon-ecs-agent has run tasks, on the machine's real engine, and left.
type theirs struct {
	*testHost
	cluster, instance string
	containers        []dropintest.Container
	state             string // its file
	before            []byte
}

// newTheirs makes it, with the labels and names that that agent gives.
func newTheirs(t *testing.T, c *controlPlane, tasks int) *theirs {
	h := &theirs{testHost: newTestHost(t, c), cluster: "theirs-" + strings.ToLower(rand.Text())}
	h.instance = "arn:aws:ecs:us-west-2:123456789012:container-instance/" + h.cluster + "/0123456789abcdef"
	h.env[0] = "ECS_CLUSTER=" + h.cluster
	image := "longshore-test/" + h.cluster + ":1"
	testimages.MustLoad(t, testimages.DockerClient(t), image, testimages.Spec{})
	for i := range tasks {
		ct := dropintest.Container{TaskArn: fmt.Sprintf("arn:aws:ecs:us-west-2:123456789012:task/%s/t%d", h.cluster, i), Name: "app", Image: image, EngineName: fmt.Sprintf("ecs-web-7-app-%s%d", h.cluster, i),
			EndpointID: uuid.NewString(), Status: "RUNNING", NetworkMode: "none"}
		ct.ID = h.docker("run", "-d", "--pull", "never", "--network", "none", "--name", ct.EngineName, "--label", engine.LabelCluster+"="+h.cluster, "--label", engine.LabelTaskArn+"="+ct.TaskArn,
			"--label", engine.LabelContainerName+"=app", "--label", engine.LabelFamily+"=web", "--label", engine.LabelVersion+"=7", image, "sleep", "100000")
		t.Cleanup(func() { h.docker("rm", "-f", ct.ID) })
		started, err := time.Parse(time.RFC3339Nano, h.docker("inspect", "-f", "{{.State.StartedAt}}", ct.ID))
		if err != nil {
			t.Fatal(err)
		}
		ct.StartedAt = started
		h.containers = append(h.containers, ct)
	}
	h.state = dropintest.Write(t, h.dir, h.cluster, h.instance, h.containers...)
	var err error
	if h.before, err = os.ReadFile(h.state); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *theirs) docker(args ...string) string {
	h.t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(h.t.Context()), "docker", args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("docker %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// processes are the first processes of the containers, with the times at which they were started.
func (h *theirs) processes() map[string]string {
	h.t.Helper()
	all := map[string]string{}
	for _, c := range h.containers {
		all[c.TaskArn] = h.docker("inspect", "-f", "{{.State.Status}} {{.State.Pid}} {{.State.StartedAt}}", c.ID)
	}
	return all
}

// with runs our agent on the real engine while f runs.
func (h *theirs) with(f func()) {
	h.t.Helper()
	runtime, err := docker.New(docker.Config{})
	if err != nil {
		h.t.Fatal(err)
	}
	opt := h.options()
	opt.Runtime = runtime
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, opt) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}()
	f()
}

func TestTasksOfAnAmazonECSAgentAreTakenOverAndGivenBackUntouched(t *testing.T) {
	c := newControlPlane(t)
	h := newTheirs(t, c, 3)
	before := h.processes()
	h.with(func() {
		got := c.expect("register "+h.instance+" as "+h.instance, "connected "+h.instance)
		waitFor(t, func() bool { return strings.Count(h.log(), `"found as running`) == 3 })
		if _, err := bbolt.Open(h.state, 0o600, &bbolt.Options{Timeout: 20 * time.Millisecond}); err == nil {
			t.Error("the other agent can start beside this one")
		}
		for _, e := range slices.Concat(got, c.quiet()) {
			if strings.HasPrefix(e, "submit") {
				t.Errorf("reported: %s", e)
			}
		}
	})
	if e := c.quiet(); slices.ContainsFunc(e, func(e string) bool { return strings.HasPrefix(e, "submit") }) {
		t.Errorf("reported: %q", e)
	}
	if after := h.processes(); !maps.Equal(before, after) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
	if now, err := os.ReadFile(h.state); err != nil || string(now) != string(h.before) {
		t.Errorf("its state file was written: %v", err)
	}
	db, err := bbolt.Open(h.state, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatalf("the other agent can't come back: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	// Once more, and now a task is stopped, and the others are not.
	h.with(func() {
		c.expect("connected " + h.instance)
		waitFor(t, func() bool { return strings.Count(h.log(), `"found as running`) == 6 })
		c.raw(fmt.Sprintf(`{"type":"PayloadMessage","message":{"clusterArn":"c","containerInstanceArn":%q,"messageId":"m","seqNum":1,"tasks":[{"arn":%q,"taskClusterArn":"arn:aws:ecs:us-west-2:123456789012:cluster/%s",
			"family":"web","version":"7","desiredStatus":"STOPPED","containers":[{"name":"app","image":"web:1","essential":true,"memory":16,"stopTimeout":1,"dockerConfig":{"hostConfig":"{\"NetworkMode\":\"none\"}"}}]}]}}`, h.instance, h.containers[1].TaskArn, h.cluster))
		c.expect("submit " + h.containers[1].TaskArn + " STOPPED")
	})
	after := h.processes()
	if !strings.HasPrefix(after[h.containers[1].TaskArn], "exited ") {
		t.Errorf("it was not stopped: %v", after)
	}
	after[h.containers[1].TaskArn] = before[h.containers[1].TaskArn]
	if !maps.Equal(before, after) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
}

func TestWhatEndedWhileNoAgentRanIsReportedOnce(t *testing.T) {
	c := newControlPlane(t)
	h := newTheirs(t, c, 2)
	h.docker("kill", h.containers[0].ID)
	h.with(func() {
		got := c.expect("submit " + h.containers[0].TaskArn + " STOPPED")
		if slices.Contains(got, "submit "+h.containers[1].TaskArn+" STOPPED") {
			t.Errorf("%q", got)
		}
		waitFor(t, func() bool { return strings.Contains(h.log(), "The control plane accepted the state change") })
	})
	h.with(func() {
		if got := c.expect("connected " + h.instance); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "submit") }) {
			t.Errorf("%q", got)
		}
	})
}

func TestContainersOfTasksThatHadEndedThereAreCleanedUpWhenTheirTimeComes(t *testing.T) {
	c := newControlPlane(t)
	h := newTheirs(t, c, 2)
	ended := h.containers[0]
	h.docker("kill", ended.ID)
	ended.Status = "STOPPED"
	dropintest.Write(t, h.dir, h.cluster, h.instance, ended)
	h.env = append(h.env, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s")
	h.with(func() {
		waitFor(t, func() bool {
			return h.docker("ps", "-aq", "--filter", "label="+engine.LabelTaskArn+"="+ended.TaskArn) == ""
		})
		for _, e := range c.expect("connected " + h.instance) {
			if strings.HasPrefix(e, "submit") {
				t.Errorf("reported: %s", e)
			}
		}
	})
	if state := h.docker("inspect", "-f", "{{.State.Status}}", h.containers[1].ID); state != "running" {
		t.Errorf("the other task is %s", state)
	}
}

func TestTheOtherAgentsContainersAreLeftAloneWhereThatIsWanted(t *testing.T) {
	c := newControlPlane(t)
	h := newTheirs(t, c, 1)
	h.env = append(h.env, "ECS_PREDECESSOR=leave")
	before := h.processes()
	h.with(func() {
		c.expect("register <nil> as "+first, "connected "+first)
		if strings.Contains(h.log(), "found as running") {
			t.Error("its container was taken over")
		}
	})
	id, err := statemgr.LoadIdentity(h.dir)
	if err != nil || id.Predecessor == 0 {
		t.Fatalf("%+v %v", id, err)
	}
	h.env = h.env[:len(h.env)-1] // it is decided
	h.with(func() { c.expect("register "+first+" as "+first, "connected "+first) })
	if after := h.processes(); !maps.Equal(before, after) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
}

// The engine is not asked in these: what is refused is refused before.
func TestAHostThatCanNotBeTakenOverIsRefusedByName(t *testing.T) {
	ordinary := func(h *testHost) dropintest.Container {
		return dropintest.Container{TaskArn: task1, Name: "app", Image: "web:1", ID: "abc", EngineName: "ecs-web", Status: "RUNNING", StartedAt: time.Now()}
	}
	for name, tc := range map[string]struct {
		make func(h *testHost)
		want []string
	}{
		"awsvpc": {func(h *testHost) {
			ct := ordinary(h)
			ct.NetworkMode = "awsvpc"
			dropintest.Write(t, h.dir, "daemonset", first, ct)
		}, []string{task1, "awsvpc", "ECS_PREDECESSOR=leave"}},
		"another cluster": {func(h *testHost) { dropintest.Write(t, h.dir, "other", first, ordinary(h)) }, []string{`"other"`, `"daemonset"`, "ECS_CLUSTER"}},
		"damaged":         {func(h *testHost) { writeFile(t, filepath.Join(h.dir, dropin.FileName), "no database") }, []string{dropin.FileName, "ECS_PREDECESSOR=leave"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTestHost(t, nil)
			tc.make(h)
			err := h.run()
			var terminal *TerminalError
			if !errors.As(err, &terminal) {
				t.Fatal(err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not say %s", err, w)
				}
			}
		})
	}
	h := newTestHost(t, nil)
	db, err := bbolt.Open(dropintest.Write(t, h.dir, "daemonset", first), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if err := h.run(); !errors.Is(err, dropin.ErrRunning) || errors.As(err, new(*TerminalError)) {
		t.Errorf("while it runs: %v", err)
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
