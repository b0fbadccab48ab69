package protection

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/caller"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

const arn = "arn:aws:ecs:us-west-2:123456789012:task/c/a"

// desk is the endpoint with a control plane that the test plays.
type desk struct {
	*testing.T
	mux      http.ServeMux
	stranger error
	roleless bool
	signed   aws.Credentials
	call     func(operation string, in, out any) error
}

func (d *desk) Call(_ context.Context, operation string, in, out any) error {
	return d.call(operation, in, out)
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t}
	tasks := []engine.TaskStatus{{Arn: arn, Containers: []engine.ContainerStatus{{Name: "web"}}}}
	Mount(&d.mux, Config{
		Tasks: func() []engine.TaskStatus { return tasks }, Cluster: "c", Log: zap.NewNop(),
		Container: func(id string, all []engine.TaskStatus) (*engine.TaskStatus, *engine.ContainerStatus) {
			if id != "good" {
				return nil, nil
			}
			return &all[0], &all[0].Containers[0]
		},
		Caller: func(_ *http.Request, task string) (caller.Caller, error) {
			return caller.Caller{TaskArn: task}, d.stranger
		},
		Role: func(string) (acs.IAMRoleCredentials, bool) {
			return acs.IAMRoleCredentials{AccessKeyID: "ASIATASK", SecretAccessKey: "s", SessionToken: "t"}, !d.roleless
		},
		API: func(p aws.CredentialsProvider) (API, error) {
			var err error
			d.signed, err = p.Retrieve(t.Context())
			return d, err
		},
	})
	return d
}

func (d *desk) gets(method, id, body string, status int, want string) {
	d.Helper()
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, "/api/"+id+"/task-protection/v1/state", strings.NewReader(body))
	d.mux.ServeHTTP(w, r)
	if got := strings.TrimSpace(w.Body.String()); w.Code != status || got != want {
		d.Errorf("%s %s: %d %s, want %d %s", method, body, w.Code, got, status, want)
	}
}

func TestATaskProtectsItselfWithItsOwnCredentials(t *testing.T) {
	d := newDesk(t)
	until := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	d.call = func(operation string, in, out any) error {
		switch in := in.(type) {
		case *agentapi.UpdateTaskProtectionInput:
			if operation != "UpdateTaskProtection" || *in.Cluster != "c" || len(in.Tasks) != 1 || in.Tasks[0] != arn || !in.ProtectionEnabled || *in.ExpiresInMinutes != 60 {
				t.Errorf("%s %+v", operation, in)
			}
			out.(*agentapi.UpdateTaskProtectionOutput).ProtectedTasks = []agentapi.ProtectedTask{{TaskArn: aws.String(arn), ProtectionEnabled: true, ExpirationDate: &until}}
		case *agentapi.GetTaskProtectionInput:
			out.(*agentapi.GetTaskProtectionOutput).ProtectedTasks = []agentapi.ProtectedTask{{TaskArn: aws.String(arn)}}
		}
		return nil
	}
	d.gets("PUT", "good", `{"ProtectionEnabled":true,"ExpiresInMinutes":60}`, 200, `{"protection":{"ExpirationDate":"2026-11-20T12:00:00Z","ProtectionEnabled":true,"TaskArn":"`+arn+`"}}`)
	d.gets("GET", "good", "", 200, `{"protection":{"ExpirationDate":null,"ProtectionEnabled":false,"TaskArn":"`+arn+`"}}`)
	if d.signed.AccessKeyID != "ASIATASK" || d.signed.SessionToken != "t" {
		t.Errorf("%+v", d.signed)
	}
	d.call = func(_ string, _, out any) error {
		out.(*agentapi.UpdateTaskProtectionOutput).Failures = []agentapi.Failure{{Arn: aws.String(arn), Reason: aws.String("TASK_NOT_VALID"), Detail: aws.String("why")}}
		return nil
	}
	d.gets("PUT", "good", `{"ProtectionEnabled":false}`, 200, `{"failure":{"Arn":"`+arn+`","Detail":"why","Reason":"TASK_NOT_VALID"}}`)
}

func TestWhatIsWrongHasItsStatusAndCode(t *testing.T) {
	d := newDesk(t)
	problem := func(code, message string) string {
		return `{"error":{"Arn":"` + arn + `","Code":"` + code + `","Message":"` + message + `"}}`
	}
	d.gets("GET", "bad", "", 404, `{"error":{"Code":"ResourceNotFoundException","Message":"Failed to find a task for the request"}}`)
	d.gets("PUT", "good", `{"ExpiresInMinutes":60}`, 400, problem("InvalidParameterException", "invalid request: does not contain 'ProtectionEnabled' field"))
	d.gets("PUT", "good", `{"ProtectionEnabled":true} {}`, 400, problem("InvalidParameterException", "invalid request: there is more behind the JSON object"))
	d.gets("PUT", "good", strings.Repeat(" ", maxBody+1), 400, problem("InvalidParameterException", "invalid request: the body has more than 16384 bytes"))
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{&agentapi.APIError{Code: "AccessDeniedException", Message: "no", StatusCode: 400, RequestID: "r-1"}, 400, `{"error":{"Arn":"` + arn + `","Code":"AccessDeniedException","Message":"no"},"requestID":"r-1"}`},
		{context.DeadlineExceeded, 504, problem("RequestCanceled", "Timed out calling ECS Task Protection API")},
		{errors.New("no route"), 500, problem("ServerException", "Failed to get the task's protection: no route")},
		{nil, 500, problem("ServerException", "Unexpected error: the control plane answered for 0 tasks")},
	} {
		d.call = func(string, any, any) error { return c.err }
		d.gets("GET", "good", "", c.status, c.want)
	}
	d.roleless = true
	d.gets("GET", "good", "", 403, problem("AccessDeniedException", "Invalid Request: no task IAM role credentials available for task"))
	d.stranger = &caller.Refused{Reason: "a stranger"}
	d.gets("GET", "good", "", 403, problem("AccessDeniedException", "a stranger"))
}

func FuzzABody(f *testing.F) {
	for _, s := range []string{"", "{}", `{"ProtectionEnabled":true,"ExpiresInMinutes":60}`, `{"ProtectionEnabled":1}`, `[]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if in, err := decode(strings.NewReader(s)); err == nil && in.ProtectionEnabled == nil {
			t.Error("a body without a wish")
		}
	})
}
