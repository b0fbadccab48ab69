package credentials

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
	"github.com/longshore-project/longshore/agent/endpoints/caller"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

const (
	taskArn = "arn:aws:ecs:us-west-2:123456789012:task/c/a"
	other   = "arn:aws:ecs:us-west-2:123456789012:task/c/b"
)

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

// desk is the endpoint, with who asks and what is held decided by the test.
type desk struct {
	*testing.T
	mux   http.ServeMux
	who   caller.Caller
	err   error
	held  map[string][2]string // id → task, role type
	tasks []engine.TaskStatus
	audit buffer
	logs  *observer.ObservedLogs
}

func (d *desk) Lookup(id string) (acs.IAMRoleCredentials, string, string, bool) {
	h, ok := d.held[id]
	return acs.IAMRoleCredentials{CredentialsID: id, RoleArn: "arn:role", AccessKeyID: "ASIA1", SecretAccessKey: "planted-secret", SessionToken: "planted-token", Expiration: "2026-11-20T12:00:00Z"}, h[0], h[1], ok
}

func (d *desk) Find(*http.Request) (caller.Caller, error) { return d.who, d.err }

func (d *desk) Is(_ *http.Request, arn string) (caller.Caller, error) {
	if d.err == nil && d.who.TaskArn != arn {
		return d.who, &caller.Refused{Reason: "it is another task's"}
	}
	return d.who, d.err
}

func newDesk(t *testing.T) *desk {
	core, logs := observer.New(zap.DebugLevel)
	d := &desk{T: t, who: caller.Caller{TaskArn: taskArn, Container: "web"}, logs: logs, held: map[string][2]string{"id-task": {taskArn, acs.RoleTypeTask}, "id-exec": {taskArn, acs.RoleTypeExecution}}}
	d.tasks = []engine.TaskStatus{{Arn: other, Known: "RUNNING"}, {Arn: taskArn, Known: "RUNNING", Payload: &acs.Task{
		RoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "id-task"}, ExecutionRoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "id-exec"}}}}
	Mount(&d.mux, Config{Held: d, Callers: d, Tasks: func() []engine.TaskStatus { return d.tasks }, Audit: audit.New(&d.audit, func() (string, string) { return "c", "arn:instance" }), Log: zap.New(core)})
	return d
}

func (d *desk) ask(path string) (int, string) {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
	d.mux.ServeHTTP(w, r)
	return w.Code, strings.TrimSpace(w.Body.String())
}

func (d *desk) gets(path string, status int, want string) {
	d.Helper()
	if code, body := d.ask(path); code != status || !strings.Contains(body, want) {
		d.Errorf("%s: %d %s, want %d and %s", path, code, body, status, want)
	}
}

func TestATasksContainersGetItsCredentialsInTheDocumentedShape(t *testing.T) {
	d := newDesk(t)
	const want = `{"RoleArn":"arn:role","AccessKeyId":"ASIA1","SecretAccessKey":"planted-secret","Token":"planted-token","Expiration":"2026-11-20T12:00:00Z"}`
	for _, path := range []string{"/v2/credentials/id-task", "/v1/credentials?id=id-task"} {
		if code, body := d.ask(path); code != 200 || body != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, line := range []string{`"/v2/credentials" "" ` + taskArn + ` GetCredentials 2 c arn:instance`, `"/v1/credentials" "" ` + taskArn + ` GetCredentials 2 c arn:instance`} {
		if !strings.Contains(d.audit.String(), line) {
			t.Errorf("%s is not in the audit log:\n%s", line, d.audit.String())
		}
	}
}

func TestWhatIsWrongHasItsCode(t *testing.T) {
	d := newDesk(t)
	d.gets("/v2/credentials/", 400, `{"code":"NoIdInRequest","message":"CredentialsV2Request: No Credential ID in the request","HTTPErrorCode":400}`)
	d.gets("/v2/credentials", 400, `NoIdInRequest`)
	d.gets("/v1/credentials", 400, `{"code":"NoIdInRequest","message":"CredentialsV1Request: No Credential ID in the request","HTTPErrorCode":400}`)
	d.gets("/v2/credentials/unknown", 400, `{"code":"InvalidIdInRequest"`)
	d.gets("/v2/credentials/"+strings.Repeat("x", 1000), 400, `InvalidIdInRequest`)
	d.who = caller.Caller{TaskArn: other}
	d.gets("/v2/credentials/id-task", 403, `{"code":"AccessDenied","message":"CredentialsV2Request: it is another task's","HTTPErrorCode":403}`)
	d.who, d.err = caller.Caller{}, &caller.Refused{Reason: "it is nobody"}
	d.gets("/v2/credentials/id-task", 403, `it is nobody`)
	d.who, d.err, d.held = caller.Caller{TaskArn: taskArn}, nil, nil
	d.gets("/v2/credentials/id-task", 503, `{"code":"CredentialsUninitialized","message":"CredentialsV2Request: Credentials uninitialized for ID","HTTPErrorCode":503}`)
	d.who = caller.Caller{TaskArn: other}
	d.gets("/v2/credentials/id-task", 403, `AccessDenied`) // before they have come, too
	if n := d.logs.FilterMessageSnippet("were refused").Len(); n != 3 {
		t.Errorf("%d refusals are in the log", n)
	}
}

func TestAnExecutionRolesCredentialsAreForTheEngineOnly(t *testing.T) {
	d := newDesk(t)
	d.gets("/v2/credentials/id-exec", 403, `for the container engine only`)
	d.who = caller.Caller{Engine: true, Pid: 1}
	d.gets("/v2/credentials/id-exec", 200, `"AccessKeyId"`)
	d.who = caller.Caller{Engine: true, Pid: 2, TaskArn: taskArn, Container: "web"} // its log process
	d.gets("/v2/credentials/id-exec", 200, `"AccessKeyId"`)
	d.who.TaskArn = other
	d.gets("/v2/credentials/id-exec", 403, `is the log process of the container web of `+other)
	if !strings.Contains(d.audit.String(), "GetCredentialsExecutionRole 2 c") {
		t.Error(d.audit.String())
	}
	d.who, d.err = caller.Caller{}, &caller.Refused{Reason: "it is nobody"}
	d.gets("/v2/credentials/id-exec", 403, `it is nobody`)
}

func TestATaskThatHasEndedGetsNothing(t *testing.T) {
	d := newDesk(t)
	d.tasks[1].Known = "STOPPED"
	d.gets("/v2/credentials/id-task", 400, `InvalidIdInRequest`)
	d.tasks = nil
	d.gets("/v2/credentials/id-task", 400, `InvalidIdInRequest`)
}

func TestNoLogHasASecretOrAnIDInIt(t *testing.T) {
	d := newDesk(t)
	for _, path := range []string{"/v2/credentials/id-task", "/v1/credentials?id=id-task", "/v2/credentials/id-exec", "/v2/credentials/id-none"} {
		d.ask(path)
	}
	d.err = &caller.Refused{Reason: "x"}
	d.ask("/v2/credentials/id-task")
	everything := d.audit.String()
	for _, l := range d.logs.All() {
		everything += fmt.Sprint(l.Message, l.ContextMap())
	}
	for _, secret := range []string{"planted", "id-task", "id-exec", "id-none"} {
		if strings.Contains(everything, secret) {
			t.Errorf("%s is in a log: %s", secret, everything)
		}
	}
	var f Failure
	if _, body := d.ask("/v2/credentials/id-task"); json.Unmarshal([]byte(body), &f) != nil || strings.Contains(body, "planted") {
		t.Error(body)
	}
}
