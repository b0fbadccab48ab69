// Package credentials is the credentials endpoint of containers: what the AWS SDKs ask when AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
// is set, and what the awslogs log driver asks for its task's execution role.
//
//	GET /v2/credentials/<id>     {"RoleArn","AccessKeyId","SecretAccessKey","Token","Expiration"}
//	GET /v1/credentials?id=<id>  the same
//
//	status  code
//	400     NoIdInRequest            no id
//	400     InvalidIdInRequest       no running task of this host has it
//	403     AccessDenied             the caller is not who the credentials are for; the message says who it is instead
//	503     CredentialsUninitialized the task is known, and its credentials have not come since the agent's start
//
// An id is the control plane's credentialsId: it can't be guessed, and it is not enough. Those of a task role are for the containers of that task
// only, and those of an execution role for the container engine only, which asks for its awslogs driver, or the log processes of the
// task's own containers. Each answer is a line of the audit log, and each refusal one of the agent's log. Credentials are in memory only.
//
// Source: agent-protocol sections 3.7, 8.2 and 8.4. AccessDenied is ours: the Amazon ECS agent tells whoever knows an id.
package credentials

import (
	"encoding/json"
	"net/http"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
	"github.com/longshore-project/longshore/agent/endpoints/caller"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Path is what stands before an id in AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and in the option awslogs-credentials-endpoint.
const Path = "/v2/credentials/"

// maxID bounds an id: control planes send UUIDs.
const maxID = 256

// Held are the credentials that the control plane has sent.
type Held interface {
	// Lookup returns the credentials with an id, whose they are and for what: acs.RoleTypeTask or acs.RoleTypeExecution.
	Lookup(id string) (credentials acs.IAMRoleCredentials, taskArn, roleType string, ok bool)
}

// Callers say who asks; *caller.Finder does.
type Callers interface {
	Find(r *http.Request) (caller.Caller, error)
	Is(r *http.Request, taskArn string) (caller.Caller, error)
}

// Config configures the endpoint.
type Config struct {
	Held    Held
	Callers Callers
	// Tasks are the engine's: those that have ended get nothing.
	Tasks func() []engine.TaskStatus
	Audit *audit.Log
	Log   *zap.Logger
}

// Mux takes handlers; *taskserver.Server is one.
type Mux interface {
	Handle(pattern string, h http.Handler)
}

// Mount adds the endpoint to a server.
func Mount(m Mux, c Config) {
	v1 := handler{c, "CredentialsV1Request", func(r *http.Request) string { return r.URL.Query().Get("id") }}
	v2 := handler{c, "CredentialsV2Request", func(r *http.Request) string { return r.PathValue("id") }}
	m.Handle("GET /v1/credentials", v1)
	m.Handle("GET /v2/credentials", v2)
	m.Handle("GET /v2/credentials/", v2)
	m.Handle("GET /v2/credentials/{id}", v2)
}

type handler struct {
	Config
	request string // how messages call it
	id      func(*http.Request) string
}

// Failure is the body of an error.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"HTTPErrorCode"`
}

// answer is the body of a success.
type answer struct {
	RoleArn         string `json:"RoleArn"`
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string `json:"SecretAccessKey"`
	Token           string `json:"Token"`
	Expiration      string `json:"Expiration"`
}

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, status, whose := h.answer(r)
	path := "/v2/credentials"
	if h.request == "CredentialsV1Request" {
		path = "/v1/credentials"
	}
	if err := h.Audit.Write(audit.Entry{Status: status, Client: r.RemoteAddr, Path: path, UserAgent: r.UserAgent(), TaskArn: whose.task, Event: whose.event()}); err != nil {
		h.Log.Error("The audit log can't be written", zap.Error(err))
	}
	data, err := json.Marshal(body)
	if err != nil { // strings and numbers always have a form
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// owner is whose credentials an id names.
type owner struct {
	task, role string
}

func (o owner) event() string {
	switch o.role {
	case acs.RoleTypeExecution:
		return audit.GetCredentialsExecutionRole
	case acs.RoleTypeTask:
		return audit.GetCredentials
	}
	return audit.GetCredentialsInvalidRole
}

func (h handler) answer(r *http.Request) (body any, status int, whose owner) {
	fail := func(status int, code, message string) (any, int, owner) {
		return Failure{code, h.request + ": " + message, status}, status, whose
	}
	id := h.id(r)
	if id == "" {
		return fail(http.StatusBadRequest, "NoIdInRequest", "No Credential ID in the request")
	}
	got, whose, held := h.find(id)
	if whose.task == "" {
		return fail(http.StatusBadRequest, "InvalidIdInRequest", "Credentials not found")
	}
	if err := h.may(r, whose); err != nil {
		h.Log.Warn("Credentials were asked for by somebody who they are not for; they were refused",
			zap.String("task", whose.task), zap.String("roleType", whose.role), zap.String("client", r.RemoteAddr), zap.Error(err))
		return fail(http.StatusForbidden, "AccessDenied", err.Error())
	}
	if !held {
		return fail(http.StatusServiceUnavailable, "CredentialsUninitialized", "Credentials uninitialized for ID")
	}
	return answer{got.RoleArn, got.AccessKeyID, got.SecretAccessKey, got.SessionToken, got.Expiration}, http.StatusOK, whose
}

// find is whose an id is. A task that is on record knows its ids before its credentials have come.
func (h handler) find(id string) (got acs.IAMRoleCredentials, whose owner, held bool) {
	if len(id) > maxID {
		return got, whose, false
	}
	var task, role string
	got, task, role, held = h.Held.Lookup(id)
	tasks := h.Tasks()
	for i := range tasks {
		t := &tasks[i]
		if t.Known == acs.StatusStopped {
			continue
		}
		switch p := t.Payload; {
		case held && t.Arn == task:
			return got, owner{task, role}, true
		case held || p == nil:
		case p.RoleCredentials != nil && p.RoleCredentials.CredentialsID == id:
			return got, owner{t.Arn, acs.RoleTypeTask}, false
		case p.ExecutionRoleCredentials != nil && p.ExecutionRoleCredentials.CredentialsID == id:
			return got, owner{t.Arn, acs.RoleTypeExecution}, false
		}
	}
	return acs.IAMRoleCredentials{}, whose, false
}

// may says why the caller must not have credentials; nil: they are for it.
func (h handler) may(r *http.Request, whose owner) error {
	if whose.role == acs.RoleTypeTask {
		_, err := h.Callers.Is(r, whose.task)
		return err
	}
	c, err := h.Callers.Find(r)
	switch {
	case err != nil:
		return err
	case !c.Engine:
		return &caller.Refused{Reason: "the credentials of an execution role are for the container engine only, and the caller at " + r.RemoteAddr + " is the container " + c.Container + " of " + c.TaskArn}
	case c.TaskArn != "" && c.TaskArn != whose.task:
		return &caller.Refused{Reason: "the credentials are those of " + whose.task + "'s execution role, and the caller at " + r.RemoteAddr + " is the log process of the container " + c.Container + " of " + c.TaskArn}
	}
	return nil
}
