package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// asking is a task with both roles, whose container logs by the awslogs driver.
func asking() *acs.Task {
	return &acs.Task{Arn: "arn:t", RoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "id-task"}, ExecutionRoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "id-exec"},
		Containers: []*acs.Container{{Name: "web", LogsAuthStrategy: engine.LogsByExecutionRole}}}
}

func newAsked(t *testing.T) *asked {
	key, err := ids.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &asked{ids: key, engine: true}
}

func TestContainersAreToldWhereToAsk(t *testing.T) {
	s, task := newAsked(t), asking()
	options := map[string]string{"awslogs-group": "g"}
	spec := engine.Spec{HostConfig: acs.HostConfig{LogConfig: &acs.LogConfig{Type: "awslogs", Config: options}}}
	for _, add := range []engine.Prepare{s.addCredentials, s.addLogCredentials} {
		if err := add(task, "web", &spec); err != nil {
			t.Fatal(err)
		}
	}
	env := strings.Join(spec.Env, " ")
	if env != "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/id-task" {
		t.Error(env)
	}
	if got := spec.HostConfig.LogConfig.Config; got["awslogs-credentials-endpoint"] != "/v2/credentials/id-exec" || got["awslogs-group"] != "g" || len(options) != 1 {
		t.Errorf("%v, and the definition's own are %v", got, options)
	}
	var plain engine.Spec
	if err := errors.Join(s.addCredentials(&acs.Task{}, "web", &plain), s.addLogCredentials(&acs.Task{}, "web", &plain)); err != nil || plain.Env != nil || plain.HostConfig.LogConfig != nil {
		t.Errorf("a task without roles got %+v, %v", plain, err)
	}
}

func TestWhatCanNotBeServedIsRefusedByName(t *testing.T) {
	log := engine.Spec{NetworkMode: "host", HostConfig: acs.HostConfig{LogConfig: &acs.LogConfig{Type: "awslogs"}}}
	blind, alone, down, late := newAsked(t), newAsked(t), newAsked(t), asking()
	down.set(errors.New("address already in use"))
	blind.hostMode, alone.engine, late.ExecutionRoleCredentials = errors.New("no sock_diag"), false, nil
	for want, err := range map[string]error{
		"taskRoleArn, and this agent serves no credentials":                                refuseRoles(asking(), "web", &log),
		"serve credentials to containers now: " + engine.ErrNotReady.Error() + ": address": down.addCredentials(asking(), "web", &log),
		"serve them now: " + engine.ErrNotReady.Error() + ": address already in use":       down.addLogCredentials(asking(), "web", &log),
		"can't be served to containers, and this is tried again: address":                  (&Agent{asked: down}).ready(asking(), "web"),
		"can't be told from others on this host":                                           blind.addCredentials(asking(), "web", &log),
		"it must be a Docker behind a local socket (DOCKER_HOST)":                          alone.addLogCredentials(asking(), "web", &log),
		"the control plane has sent none":                                                  newAsked(t).addLogCredentials(late, "web", &log),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := refuseRoles(&acs.Task{Containers: []*acs.Container{{Name: "web"}}}, "web", &log); err != nil {
		t.Error(err)
	}
}

func TestTaskRolesAreOfferedOnlyWhereTheyCanBeKept(t *testing.T) {
	names := []string{awsCapability + "task-iam-role", awsCapability + "task-iam-role-network-host", ecsCapability + "execution-role-awslogs"}
	for name, c := range map[string]struct {
		change func(a *Agent)
		want   [3]bool
	}{
		"all of it":                      {func(*Agent) {}, [3]bool{true, true, true}},
		"nothing is served":              {func(a *Agent) { a.asked = nil }, [3]bool{}},
		"nobody is answered now":         {func(a *Agent) { a.asked.set(errors.New("x")) }, [3]bool{}},
		"switched off":                   {func(a *Agent) { a.cfg.TaskRoles, a.cfg.HostTaskRoles, a.cfg.RoleLogs = false, false, false }, [3]bool{}},
		"callers of the host are unseen": {func(a *Agent) { a.asked.hostMode = errors.New("x") }, [3]bool{true, false, false}},
		"the engine is not local":        {func(a *Agent) { a.asked.engine = false }, [3]bool{true, true, false}},
	} {
		a := &Agent{cfg: &config.Config{TaskRoles: true, HostTaskRoles: true, RoleLogs: true}, asked: newAsked(t)}
		c.change(a)
		got := capabilities(a.cfg, engine.Info{APIVersion: "1.41"}, a.offers(abilities{}))
		for i, n := range names {
			if _, ok := got[n]; ok != c.want[i] {
				t.Errorf("%s: %s is offered: %v", name, n, ok)
			}
		}
	}
}

func TestATasksCallsAreSignedForTheRegionOfItsControlPlane(t *testing.T) {
	a := &Agent{cfg: &config.Config{Region: "eu-west-1"}}
	if got := a.instanceRegion(); got != "eu-west-1" {
		t.Error(got)
	}
	registered := "arn:aws:ecs:us-west-2:123456789012:container-instance/c/0123"
	if a.arn.Store(&registered); a.instanceRegion() != "us-west-2" {
		t.Error(a.instanceRegion())
	}
}

func TestAPortThatIsTakenAtTheStartIsHadOnceItIsFreeAndRolesAreOfferedThen(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.asked = taken.Addr().String()
	h.env = append(slices.DeleteFunc(h.env, func(s string) bool { return strings.HasPrefix(s, "ECS_DISABLE_TASK_ENDPOINTS") }), "ECS_AUDIT_LOGFILE="+filepath.Join(h.dir, "audit.log"))
	leave := h.start()
	c.expect("register <nil> as "+first, "connected "+first)
	problem := func() string {
		var s local.Status
		if err := (local.Client{Dir: h.dir}).Call(t.Context(), http.MethodGet, "/v1/status", nil, &s); err != nil {
			t.Error(err)
		}
		return s.Containers.Problem
	}
	if got := problem(); c.offers(awsCapability+"task-iam-role") || !strings.Contains(got, "address already in use") || !strings.Contains(got, fmt.Sprintf("(pid %d) has the port", os.Getpid())) {
		t.Errorf("roles are offered, or the status says %q", got)
	}
	// A task with a role that comes all the same waits, and says for what.
	arn := "arn:aws:ecs:us-west-2:123456789012:task/daemonset/0123456789abcdef0123456789abcdef"
	c.sendWith(first, arn, "RUNNING", `"roleCredentials":{"credentialsId":"id-1","roleArn":"arn:aws:iam::123456789012:role/app","accessKeyId":"AK","secretAccessKey":"s","sessionToken":"t","expiration":"2036-01-01T00:00:00Z"},`)
	h.waitsFor(arn, "container web waits for what this host lacks: the credentials of the task's role can't be served to containers")
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	c.expect("register "+first+" as "+first, "connected "+first)
	if got := problem(); !c.offers(awsCapability+"task-iam-role") || got != "" {
		t.Errorf("roles are not offered, or the status says %q", got)
	}
	c.expect("submit " + arn + " RUNNING")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + h.asked + "/v2/credentials/")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusBadRequest {
		t.Error(r.Status)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(h.log(), "Containers on this host get neither credentials nor metadata"); n != 1 || !strings.Contains(h.log(), "Containers get credentials and metadata now") {
		t.Errorf("it is said %d times:\n%s", n, h.log())
	}
}

// waitsFor asks the agent until a task waits for something that begins so.
func (h *testHost) waitsFor(arn, what string) {
	h.t.Helper()
	timeout := time.After(patience)
	for {
		var e local.Explanation
		err := (local.Client{Dir: h.dir}).Call(h.t.Context(), http.MethodGet, "/v1/explain?"+url.Values{"task": {arn}}.Encode(), nil, &e)
		if slices.ContainsFunc(e.Waits, func(w string) bool { return strings.HasPrefix(w, what) }) {
			return
		}
		select {
		case <-timeout:
			h.t.Fatalf("it does not wait for %q: %+v, %v", what, e, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
