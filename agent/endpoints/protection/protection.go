// Package protection is the endpoint at which a container protects its own task from scale-in and deployments:
//
//	GET, PUT $ECS_AGENT_URI/task-protection/v1/state
//
// The agent asks the control plane (GetTaskProtection, UpdateTaskProtection) for the task that the caller is in, and signs with
// the credentials of that task's role, so that the control plane's answer is to the task and not to the host.
//
//	PUT   {"ProtectionEnabled": true, "ExpiresInMinutes": 60}
//	200   {"protection": {"TaskArn", "ProtectionEnabled", "ExpirationDate"}} or {"failure": {"Arn", "Reason", "Detail"}}
//	else  {"error": {"Arn", "Code", "Message"}, "requestID"}
//
// Source: agent-protocol section 8.5.
package protection

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/caller"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

const (
	callTimeout = 4 * time.Second
	maxBody     = 16 << 10
)

// API calls the control plane; *agentapi.Client does.
type API interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Config configures the endpoint.
type Config struct {
	Tasks func() []engine.TaskStatus
	// Container finds a container by the id in the URL; ids.IDs has it.
	Container func(id string, tasks []engine.TaskStatus) (*engine.TaskStatus, *engine.ContainerStatus)
	// Caller says who asks, who must be of the task.
	Caller func(r *http.Request, taskArn string) (caller.Caller, error)
	// Role returns the credentials of a task's role; ok is false when it has none now.
	Role func(taskArn string) (role acs.IAMRoleCredentials, ok bool)
	// API makes what calls the control plane with credentials.
	API     func(aws.CredentialsProvider) (API, error)
	Cluster string
	Log     *zap.Logger
}

// Mux takes handlers; *taskserver.Server is one.
type Mux interface {
	Handle(pattern string, h http.Handler)
}

// Mount adds the endpoint to a server.
func Mount(m Mux, c Config) {
	const path = "/api/{id}/task-protection/v1/state"
	m.Handle("GET "+path, endpoint(func(r *http.Request) (answer, *failed) { return c.serve(r, c.get) }))
	m.Handle("PUT "+path, endpoint(func(r *http.Request) (answer, *failed) { return c.serve(r, c.put) }))
}

// The shapes of the answers.
type answer struct {
	Protection *state   `json:"protection,omitempty"`
	Failure    *failure `json:"failure,omitempty"`
	Error      *problem `json:"error,omitempty"`
	RequestID  string   `json:"requestID,omitempty"`
}

type state struct {
	ExpirationDate    *time.Time
	ProtectionEnabled bool
	TaskArn           string
}

type failure struct {
	Arn    string `json:",omitempty"`
	Detail string `json:",omitempty"`
	Reason string
}

type problem struct {
	Arn     string `json:",omitempty"`
	Code    string
	Message string
}

// failed is an answer that is an error.
type failed struct {
	status int
	answer
}

func fail(status int, arn, code, format string, args ...any) *failed {
	return &failed{status, answer{Error: &problem{arn, code, fmt.Sprintf(format, args...)}}}
}

type endpoint func(r *http.Request) (answer, *failed)

func (e endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, problem := e(r)
	status := http.StatusOK
	if problem != nil {
		out, status = problem.answer, problem.status
	}
	data, err := json.Marshal(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// serve finds the task, whose caller this is, and what signs for it.
func (c Config) serve(r *http.Request, do func(ctx context.Context, r *http.Request, api API, task string) (answer, *failed)) (answer, *failed) {
	task, _ := c.Container(r.PathValue("id"), c.Tasks())
	if task == nil {
		return answer{}, fail(http.StatusNotFound, "", "ResourceNotFoundException", "Failed to find a task for the request")
	}
	if _, err := c.Caller(r, task.Arn); err != nil {
		c.Log.Warn("Somebody who is no container of a task asked for its protection; it was refused", zap.String("task", task.Arn), zap.String("client", r.RemoteAddr), zap.Error(err))
		return answer{}, fail(http.StatusForbidden, task.Arn, "AccessDeniedException", "%s", err.Error())
	}
	role, ok := c.Role(task.Arn)
	if !ok {
		return answer{}, fail(http.StatusForbidden, task.Arn, "AccessDeniedException", "Invalid Request: no task IAM role credentials available for task")
	}
	api, err := c.API(signer(role))
	if err != nil {
		return answer{}, fail(http.StatusInternalServerError, task.Arn, "ServerException", "%s", err.Error())
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	return do(ctx, r, api, task.Arn)
}

type signer acs.IAMRoleCredentials

// Retrieve are the task's credentials.
func (s signer) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey, SessionToken: s.SessionToken, Source: "task role"}, nil
}

func (c Config) get(ctx context.Context, _ *http.Request, api API, task string) (answer, *failed) {
	var out agentapi.GetTaskProtectionOutput
	err := api.Call(ctx, "GetTaskProtection", &agentapi.GetTaskProtectionInput{Cluster: &c.Cluster, Tasks: []string{task}}, &out)
	return c.result(task, "get", out.ProtectedTasks, out.Failures, err)
}

func (c Config) put(ctx context.Context, r *http.Request, api API, task string) (answer, *failed) {
	in, err := decode(r.Body)
	if err != nil {
		return answer{}, fail(http.StatusBadRequest, task, "InvalidParameterException", "%s", err.Error())
	}
	var out agentapi.UpdateTaskProtectionOutput
	err = api.Call(ctx, "UpdateTaskProtection", &agentapi.UpdateTaskProtectionInput{Cluster: &c.Cluster, Tasks: []string{task}, ProtectionEnabled: *in.ProtectionEnabled, ExpiresInMinutes: in.ExpiresInMinutes}, &out)
	return c.result(task, "update", out.ProtectedTasks, out.Failures, err)
}

// wish is the body of a PUT.
type wish struct {
	ProtectionEnabled *bool
	ExpiresInMinutes  *int32
}

func decode(body io.Reader) (in wish, err error) {
	data, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return in, fmt.Errorf("invalid request: the body can't be read: %w", err)
	}
	if len(data) > maxBody {
		return in, fmt.Errorf("invalid request: the body has more than %d bytes", maxBody)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return in, fmt.Errorf("invalid request: the body must be a JSON object with ProtectionEnabled and perhaps ExpiresInMinutes: %w", err)
	}
	if d.More() {
		return in, errors.New("invalid request: there is more behind the JSON object")
	}
	if in.ProtectionEnabled == nil {
		return in, errors.New("invalid request: does not contain 'ProtectionEnabled' field")
	}
	return in, nil
}

// result is what the control plane said about one task.
func (c Config) result(task, verb string, protected []agentapi.ProtectedTask, failures []agentapi.Failure, err error) (answer, *failed) {
	var refused *agentapi.APIError
	switch {
	case errors.As(err, &refused):
		f := fail(refused.StatusCode, task, refused.Code, "%s", refused.Message)
		f.RequestID = refused.RequestID
		return answer{}, f
	case errors.Is(err, context.DeadlineExceeded):
		return answer{}, fail(http.StatusGatewayTimeout, task, "RequestCanceled", "Timed out calling ECS Task Protection API")
	case err != nil:
		c.Log.Warn("The control plane can't be asked for a task's protection", zap.String("task", task), zap.Error(err))
		return answer{}, fail(http.StatusInternalServerError, task, "ServerException", "Failed to %s the task's protection: %s", verb, err.Error())
	case len(failures) > 0:
		f := failures[0]
		return answer{Failure: &failure{aws.ToString(f.Arn), aws.ToString(f.Detail), aws.ToString(f.Reason)}}, nil
	case len(protected) != 1:
		return answer{}, fail(http.StatusInternalServerError, task, "ServerException", "Unexpected error: the control plane answered for %d tasks", len(protected))
	}
	p := protected[0]
	out := &state{TaskArn: aws.ToString(p.TaskArn), ProtectionEnabled: p.ProtectionEnabled}
	if p.ExpirationDate != nil {
		at := p.ExpirationDate.UTC()
		out.ExpirationDate = &at
	}
	return answer{Protection: out}, nil
}
