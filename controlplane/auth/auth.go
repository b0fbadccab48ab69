// Package auth finds out who sent a request, and what that key may do.
//
// Every call is signed with AWS Signature Version 4 in its headers. [Verifier.Verify] builds the canonical request from
// exactly the headers that the client says it signed, derives the signing key as the SDKs do, and compares in constant
// time. What it insists on:
//
//   - host, x-amz-date or date, and x-amz-target if there is one, are signed; any other header may be
//   - the scope is for the service ecs and for the day of the date; any region is accepted, clients choose theirs
//   - the date is at most [DefaultSkew] away from this machine's clock
//   - the body hashes to what was signed; an X-Amz-Content-Sha256, which ECS clients don't send, must agree
//
// Presigned URLs are refused by name. Keys with a session token are accepted if they were issued for a task (see [TaskKey]): such
// a caller is that task, and may do nothing but protect itself. A refusal is an [*Error] with the code and the text that AWS
// uses; any other error means that the key could not be looked up, and says nothing about the caller.
//
// [Identity.May] is what each role may call. [EnsureKeys] makes the first keys and the files they are handed out in.
package auth

import (
	"fmt"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
)

// DefaultSkew is how far a client's clock may be off, either way, as on AWS.
const DefaultSkew = 5 * time.Minute

// service is the signing name of the API.
const service = "ecs"

// Identity is who signed a request.
type Identity struct {
	AccessKeyID string
	Role        store.Role
	// Enrolment marks a join key, which may register instances but is no instance's own.
	Enrolment bool
	// Name is what people call the key.
	Name string
	// Instance is the ARN of the container instance that a host's own key speaks for; empty while there is none.
	Instance string
	// Expires is when the key ends; zero for never.
	Expires time.Time
	// Region is the one that the client signed for.
	Region string
	// Service is the signing name, always "ecs".
	Service string
	// Task is the task that a key of the role store.RoleTask was issued for; nil for all others.
	Task *TaskIdentity
}

// Error refuses a request, with the code and text that AWS's clients know. The HTTP status is 400.
type Error struct {
	Code, Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// The codes of [Error].
const (
	CodeMissingToken    = "MissingAuthenticationTokenException"
	CodeIncomplete      = "IncompleteSignatureException"
	CodeInvalid         = "InvalidSignatureException"
	CodeUnknownKey      = "UnrecognizedClientException"
	CodeAccessDenied    = "AccessDeniedException"
	CodeExpired         = "ExpiredTokenException"
	messageUnknownKey   = "The security token included in the request is invalid."
	messageMismatch     = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
	messageMissingToken = "Missing Authentication Token"
)

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// hostOperations are what an agent calls, and all that a host key may call. CreateCluster is for the cluster "default"
// only, and the others for the instance that the key registered: the handlers know those.
var hostOperations = map[string]bool{
	"RegisterContainerInstance":     true,
	"DeregisterContainerInstance":   true,
	"DiscoverPollEndpoint":          true,
	"SubmitTaskStateChange":         true,
	"SubmitContainerStateChange":    true,
	"SubmitAttachmentStateChanges":  true,
	"UpdateContainerInstancesState": true,
	"ListTagsForResource":           true,
	"CreateCluster":                 true,
}

// May says whether the identity's role allows an operation of the API at all.
func (i *Identity) May(operation string) bool {
	switch i.Role {
	case store.RoleAdmin:
		return true
	case store.RoleReadOnly:
		return strings.HasPrefix(operation, "Describe") || strings.HasPrefix(operation, "List") || strings.HasPrefix(operation, "Get")
	case store.RoleHost:
		return hostOperations[operation]
	case store.RoleTask:
		return operation == "UpdateTaskProtection" || operation == "GetTaskProtection"
	}
	return false
}

// ARN is the identity as AWS names a caller.
func (i *Identity) ARN(accountID string) string {
	return "arn:aws:iam::" + accountID + ":user/" + i.AccessKeyID
}

// Denied is the refusal of an operation on a resource ("*" when it does not matter which).
func (i *Identity) Denied(accountID, operation, resource string) *Error {
	return refuse(CodeAccessDenied, "User: %s is not authorized to perform: ecs:%s on resource: %s (the access key has the role %s)",
		i.ARN(accountID), operation, resource, i.Role)
}
