// Package api serves the Amazon ECS API: AWS JSON 1.1 over POST /, signed with SigV4, in the AWS SDK's own shapes.
//
// # A call's way
//
//	ServeHTTP   request id, size bound, operation from X-Amz-Target, signature, role        (api.go)
//	operation   decode with protocol/awsjson; required members; members we don't support    (operation.go, members.go)
//	handler     one Go function per operation: validate, read or write the store, answer    (one file per resource)
//	answer      the handler's output, or an exception in the form that SDKs know            (errors.go)
//
// A resource's file has a function that maps its operations to handlers, and [Server] joins these maps into the one
// table that is dispatched on. An operation that the SDK's model has and the table has not is answered with
// UnsupportedFeatureException and status 400: clients retry a 5xx for minutes.
//
// # Rules for handlers
//
// Reads go through store.Read, so that a client reads what it wrote on any replica. Writes are one store.Txn each,
// compare-and-swap, inside store.Retry, and decide again on a conflict. Records of the view are copied before they are
// changed. A handler returns an [Error] for what the client did wrong; any other error becomes a ServerException, or a
// ThrottlingException when the store asks for patience.
package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/controlplane/telemetry"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

const (
	defaultMaxBody     = 1 << 20
	defaultCallTimeout = 30 * time.Second
	maxUnknownLogged   = 4096 // so that nobody fills the memory or the log
	maxLogged          = 200  // bytes of what a client sent
)

// StaleHeader is in an answer that was made while etcd did not answer: what others wrote since its value, a time, may be
// missing. Only operations that change nothing are answered then.
const StaleHeader = "X-Longshore-Stale"

// Verifier finds out who signed a request. The body is given apart, since it is part of what was signed and has been
// read already. [auth.Verifier] is one.
type Verifier interface {
	Verify(r *http.Request, body []byte) (*auth.Identity, error)
}

// Config configures [New]. Store, Verifier, Region, AccountID and BaseURL are needed.
type Config struct {
	Store    *store.Store
	Verifier Verifier
	// Region and AccountID (12 digits) are those of every ARN made here. Clients may sign for any region.
	Region    string
	AccountID string
	// Seal opens what is sealed in the store; nil: hosts get no keys.
	Seal *seal.Key
	// BaseURL is the scheme, host and port under which the client of r can reach this control plane.
	BaseURL func(r *http.Request) string
	Log     *zap.Logger      // default: none
	Now     func() time.Time // default: time.Now
	// Zone is the availability zone of hosts that don't say where they are; default: Region followed by "a".
	Zone string
	// InstanceHealth is what an agent last reported about its host, nil for nothing. Default: nothing is known.
	InstanceHealth func(cluster, instance string) *types.ContainerInstanceHealthStatus
	// GateWait is how long RunTask waits for the daemons of an instance that joined; default 20 s, negative: not at all.
	GateWait time.Duration
	// Scheduling is the scheduler's configuration, for what is explained and tried out.
	Scheduling scheduler.Config
	// Sizing is what containers used beside what they reserve, of a cluster, and of one service unless that is empty. Default:
	// nothing was measured.
	Sizing func(cluster, service string) *telemetry.Sizing
	// Audit gets what was asked; nil: nobody wants it.
	Audit *audit.Log
	// MaxBody bounds a request's body in bytes; default 1 MiB.
	MaxBody int64
	// Overlap is how long the connection of an agent that does not say in which boot its machine is may stand when another one registers as
	// the same instance: then it is refused. Default task.Overlap.
	Overlap time.Duration
	// CallTimeout bounds a call; default 30 s.
	CallTimeout time.Duration
}

// Server serves the API. It is an [http.Handler] for POST / and safe for concurrent use.
type Server struct {
	cfg     Config
	store   *store.Store
	log     *zap.Logger
	owner   arn.Owner
	table   operations
	rooms   *placement.Rooms
	reports reports

	unknownMu sync.Mutex
	unknown   map[string]struct{} // what was logged already: member path, client
}

// New makes a server. It panics when two resources claim the same operation.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Zone == "" {
		cfg.Zone = cfg.Region + "a"
	}
	if cfg.Sizing == nil {
		cfg.Sizing = telemetry.New(telemetry.FromStore(cfg.Store), cfg.Now).Sizing
	}
	if cfg.GateWait == 0 {
		cfg.GateWait = defaultGateWait
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Overlap == 0 {
		cfg.Overlap = task.Overlap
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = defaultCallTimeout
	}
	s := &Server{cfg: cfg, store: cfg.Store, log: cfg.Log, owner: arn.Owner{Region: cfg.Region, Account: cfg.AccountID},
		table: operations{}, rooms: placement.NewRooms(cfg.Store, cfg.Scheduling.Network), unknown: map[string]struct{}{}}
	s.reports.s, s.reports.of = s, map[string][]*report{}
	for _, resource := range []operations{
		s.clusterOperations(),
		s.taskDefinitionOperations(),
		s.instanceOperations(),
		s.attributeOperations(),
		s.tagOperations(),
		s.settingOperations(),
		s.serviceOperations(),
		s.taskOperations(),
		s.protectionOperations(),
		s.submitOperations(),
	} {
		for name, o := range resource {
			if _, taken := s.table[name]; taken {
				panic("api: two resources serve " + name)
			}
			s.table[name] = o
		}
	}
	return s
}

// call is one request on its way.
type call struct {
	s         *Server
	op        string
	requestID string
	userAgent string
	identity  *auth.Identity
	request   *http.Request
	members   object // the request's JSON, for what the Go types can't tell: absent or zero
	made      []string
	stored    *store.Call
	now       time.Time
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{s: s, requestID: uuid.NewString(), userAgent: clip(r.UserAgent()), request: r, now: s.cfg.Now().UTC().Truncate(time.Millisecond)}
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.Context(), s.cfg.CallTimeout)
	defer cancel()

	body, err := s.answer(ctx, c, w, r)
	status, outcome := http.StatusOK, audit.OK
	if err != nil {
		e := s.exception(c, err)
		status, outcome, body = e.Status, e.Code, e.body()
	}
	s.record(c, outcome)
	h := w.Header()
	since, stale := c.stored.Stale()
	if stale {
		h.Set(StaleHeader, since.Format(time.RFC3339))
	}
	h.Set("x-amzn-RequestId", c.requestID)
	h.Set("Content-Type", awsjson.ContentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away has no use for the error

	fields := []zap.Field{
		zap.String("operation", c.op), zap.String("request_id", c.requestID), zap.String("client", c.userAgent),
		zap.String("remote", r.RemoteAddr), zap.Duration("duration", time.Since(start)), zap.String("outcome", outcome),
	}
	if c.identity != nil {
		fields = append(fields, zap.String("key", c.identity.AccessKeyID))
	}
	if stale {
		fields = append(fields, zap.Time("stale_since", since))
	}
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	s.log.Info("api call", fields...)
}

// answer runs a call as far as it goes. A panic becomes an error: one bad call must not end the others.
func (s *Server) answer(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("api call panicked; this is a bug in the control plane", zap.String("operation", c.op),
				zap.String("request_id", c.requestID), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			out, err = nil, fmt.Errorf("panic in %s: %v", c.op, p)
		}
	}()
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, &Error{Status: http.StatusNotFound, Code: "UnknownOperationException",
			Message: fmt.Sprintf("The ECS API is served at POST / only, not at %s %s.", r.Method, r.URL.Path)}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBody))
	if err != nil {
		return nil, s.bodyError(err)
	}
	if c.op, err = operationOf(r.Header.Values("X-Amz-Target")); err != nil {
		return nil, err
	}
	ctx, c.stored = store.WithCall(ctx, changesNothing(c.op))
	if c.identity, err = s.cfg.Verifier.Verify(r, body); err != nil {
		return nil, err
	}
	if err := c.authorize(); err != nil {
		return nil, err
	}
	switch c.op {
	case explainOperation:
		return s.explain(ctx, c, body)
	case sizingOperation:
		return s.sizing(ctx, body)
	case hostOperation:
		return s.host(ctx, c, body)
	case endKeyOperation:
		return s.endKey(ctx, c)
	case hostKeyOperation:
		return s.hostKey(ctx, c, body)
	}
	o, served := s.table[c.op]
	if !served {
		return nil, unsupported("The operation %s is not supported by this control plane.", c.op)
	}
	return o.run(ctx, c, body)
}

func (s *Server) bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "RequestEntityTooLargeException",
			Message: fmt.Sprintf("The request body is larger than %d bytes.", tooLarge.Limit)}
	}
	return exception("SerializationException", "The request body could not be read: %v", err)
}

// operationOf is the operation that X-Amz-Target names, when the SDK's model has it.
func operationOf(targets []string) (string, error) {
	if len(targets) != 1 {
		return "", exception("UnknownOperationException", "The request has %d X-Amz-Target headers; it needs one, of the form %s<operation>.", len(targets), ecsapi.TargetPrefix)
	}
	if own, ok := strings.CutPrefix(targets[0], OwnTargetPrefix); ok && (own == explainOperation || own == sizingOperation || own == hostOperation || own == hostKeyOperation || own == endKeyOperation) {
		return own, nil
	}
	op, err := ecsapi.ByTarget(targets[0])
	if err != nil {
		return "", err
	}
	return op.Name, nil
}

// authorize says whether the key's role may call the operation at all. Handlers hold a host to its own instance, and a task
// to itself.
func (c *call) authorize() error {
	own := c.op == explainOperation || c.op == sizingOperation
	switch {
	case c.op == hostKeyOperation, c.op == endKeyOperation:
		if c.identity.Role == store.RoleHost {
			return nil
		}
	case c.op == hostOperation:
		if c.identity.Role == store.RoleHost || c.identity.Role == store.RoleAdmin {
			return nil
		}
	case own && (c.identity.Role == store.RoleAdmin || c.identity.Role == store.RoleReadOnly), !own && c.identity.May(c.op):
		return nil
	}
	return c.denied("*")
}

// denied is the answer to a caller who is known but may not do this to resource.
func (c *call) denied(resource string) error {
	return exception("AccessDeniedException", "User: %s is not authorized to perform: ecs:%s on resource: %s (the access key has the role %s)",
		c.principal(), c.op, resource, c.identity.Role)
}

// principal is the caller as an ARN.
func (c *call) principal() string {
	return "arn:aws:iam::" + c.s.cfg.AccountID + ":user/" + c.identity.AccessKeyID
}

// speaksFor refuses a host that speaks for another instance than its own.
func (c *call) speaksFor(i *store.Instance) error {
	if !c.identity.SpeaksFor(i) {
		return c.denied(c.s.instanceARN(i.Cluster, i.ID))
	}
	return nil
}

// noteUnknown logs a member that the SDK's type does not have, once for each path and client: older and newer clients
// send such, and they are ignored.
func (c *call) noteUnknown(path string) {
	path = clip(indexless(path))
	key := c.op + "." + path + "\x00" + c.userAgent
	c.s.unknownMu.Lock()
	_, seen := c.s.unknown[key]
	if len(c.s.unknown) < maxUnknownLogged {
		c.s.unknown[key] = struct{}{}
	} else {
		seen = true
	}
	c.s.unknownMu.Unlock()
	if !seen {
		c.s.log.Warn("a client sent a member that this version does not know; it is ignored",
			zap.String("operation", c.op), zap.String("member", path), zap.String("client", c.userAgent))
	}
}

// clip bounds what a client sent, for the log.
func clip(s string) string {
	if len(s) > maxLogged {
		return strings.ToValidUTF8(s[:maxLogged], "") + "…"
	}
	return s
}
