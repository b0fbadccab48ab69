// Package arn writes and reads the ARNs of ECS, and the identifiers that clients may give instead of them.
//
//	arn:<partition>:ecs:<region>:<account>:<type>/<path>
//
//	cluster             cluster/<name>
//	service             service/<cluster>/<name>                     (short form service/<name>)
//	task                task/<cluster>/<32 hex>                      (short form task/<id>)
//	container instance  container-instance/<cluster>/<32 hex>        (short form container-instance/<id>)
//	container           container/<cluster>/<task id>/<uuid>
//	task definition     task-definition/<family>:<revision>
//	task set            task-set/<cluster>/<service>/ecs-svc/<digits>
//	capacity provider   capacity-provider/<name>
//	service deployment  service-deployment/<cluster>/<service>/<id>
//	service revision    service-revision/<cluster>/<service>/<digits>
//	daemon, daemon-deployment, daemon-revision, daemon-task-definition: likewise
//
// [Parse] reads any of them. An [Owner] is the region and account that a control plane stands for: it writes ARNs, and reads
// what a request names, as name, id or ARN, long or short, in ECS's error texts. Ids are 32 lower-case hex digits; a UUID
// with dashes means the same id.
package arn

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// The resource types.
const (
	TypeCluster              = "cluster"
	TypeService              = "service"
	TypeTask                 = "task"
	TypeContainerInstance    = "container-instance"
	TypeContainer            = "container"
	TypeTaskDefinition       = "task-definition"
	TypeTaskSet              = "task-set"
	TypeCapacityProvider     = "capacity-provider"
	TypeServiceDeployment    = "service-deployment"
	TypeServiceRevision      = "service-revision"
	TypeAttachment           = "attachment"
	TypeDaemon               = "daemon"
	TypeDaemonDeployment     = "daemon-deployment"
	TypeDaemonRevision       = "daemon-revision"
	TypeDaemonTaskDefinition = "daemon-task-definition"
)

var known = map[string]bool{
	TypeCluster: true, TypeService: true, TypeTask: true, TypeContainerInstance: true, TypeContainer: true, TypeTaskDefinition: true, TypeTaskSet: true,
	TypeCapacityProvider: true, TypeServiceDeployment: true, TypeServiceRevision: true, TypeDaemon: true, TypeDaemonDeployment: true,
	TypeDaemonRevision: true, TypeDaemonTaskDefinition: true,
}

// DefaultCluster is the cluster of a request that names none.
const DefaultCluster = "default"

// maxLength bounds an identifier: the longest ARN of ECS is below 1,100 bytes.
const maxLength = 2048

// Error is a malformed or foreign identifier. Its AWS code is InvalidParameterException.
type Error struct{ Message string }

func (e *Error) Error() string { return e.Message }

// Code is the AWS error code.
func (e *Error) Code() string { return "InvalidParameterException" }

func fail(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// The texts that ECS answers.
const (
	textInvalid    = "The ARN provided is invalid."
	textSeparators = "Invalid identifier: Unexpected number of separators"
)

// ARN is a parsed ARN.
type ARN struct {
	Partition string
	Region    string
	Account   string
	Type      string   // TypeTask …
	Path      []string // what follows the type, at least one element, none empty
}

// Is tells whether a reference is an ARN rather than a name or id.
func Is(ref string) bool { return strings.HasPrefix(ref, "arn:") }

// Parse reads an ARN of ECS. Errors are [*Error].
func Parse(s string) (ARN, error) {
	if len(s) > maxLength {
		return ARN{}, fail(textInvalid)
	}
	f := strings.SplitN(s, ":", 6)
	if len(f) != 6 || f[0] != "arn" || f[1] == "" || f[2] != "ecs" || f[3] == "" || !isAccount(f[4]) {
		return ARN{}, fail(textInvalid)
	}
	parts := strings.Split(f[5], "/")
	if len(parts) < 2 {
		return ARN{}, fail(textSeparators)
	}
	if !known[parts[0]] {
		return ARN{}, fail("Unsupported resource type: %s", clip(parts[0]))
	}
	for _, p := range parts[1:] {
		if p == "" {
			return ARN{}, fail(textSeparators)
		}
	}
	return ARN{Partition: f[1], Region: f[3], Account: f[4], Type: parts[0], Path: parts[1:]}, nil
}

func isAccount(s string) bool {
	return len(s) == 12 && strings.Trim(s, "0123456789") == ""
}

// String writes the ARN.
func (a ARN) String() string {
	return "arn:" + a.Partition + ":ecs:" + a.Region + ":" + a.Account + ":" + a.Type + "/" + strings.Join(a.Path, "/")
}

// ID is the last element of the path.
func (a ARN) ID() string { return a.Path[len(a.Path)-1] }

// Owner is whose ARNs are written and accepted.
type Owner struct {
	Region  string
	Account string
}

// partition is the partition that a region belongs to.
func (o Owner) partition() string {
	switch {
	case strings.HasPrefix(o.Region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(o.Region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// Format writes an ARN of the given type.
func (o Owner) Format(typ string, path ...string) string {
	return ARN{o.partition(), o.Region, o.Account, typ, path}.String()
}

// Cluster writes a cluster's ARN.
func (o Owner) Cluster(name string) string { return o.Format(TypeCluster, name) }

// Service writes a service's ARN.
func (o Owner) Service(cluster, name string) string { return o.Format(TypeService, cluster, name) }

// Task writes a task's ARN.
func (o Owner) Task(cluster, id string) string { return o.Format(TypeTask, cluster, id) }

// ContainerInstance writes a container instance's ARN.
func (o Owner) ContainerInstance(cluster, id string) string {
	return o.Format(TypeContainerInstance, cluster, id)
}

// Container writes a container's ARN; id is a UUID with dashes.
func (o Owner) Container(cluster, task, id string) string {
	return o.Format(TypeContainer, cluster, task, id)
}

// TaskDefinition writes a task definition's ARN.
func (o Owner) TaskDefinition(family string, revision int32) string {
	return o.Format(TypeTaskDefinition, family+":"+strconv.Itoa(int(revision)))
}

// parse reads an ARN that must be the owner's and of the given type.
func (o Owner) parse(s, typ string) (ARN, error) {
	a, err := Parse(s)
	switch {
	case err != nil:
		return a, err
	case a.Partition != o.partition():
		return a, fail(textInvalid)
	case a.Region != o.Region:
		return a, fail("Invalid identifier: Identifier is for region %s. Your region is %s", clip(a.Region), o.Region)
	case a.Account != o.Account:
		return a, fail("Invalid identifier: Identifier is for account %s. Your accountId is %s", a.Account, o.Account)
	case a.Type != typ:
		return a, fail("Unsupported resource type: %s", a.Type)
	}
	return a, nil
}

// ParseCluster reads what a request calls its cluster, a name or ARN; empty is [DefaultCluster].
func (o Owner) ParseCluster(ref string) (name string, err error) {
	switch {
	case ref == "":
		return DefaultCluster, nil
	case !Is(ref):
		return ref, plain(ref)
	}
	a, err := o.parse(ref, TypeCluster)
	if err == nil && len(a.Path) != 1 {
		err = fail(textSeparators)
	}
	if err != nil {
		return "", err
	}
	return a.Path[0], nil
}

// ParseService reads the name or ARN of a service of the cluster.
func (o Owner) ParseService(cluster, ref string) (name string, err error) {
	return o.member(TypeService, cluster, ref)
}

// ParseTask reads the id or ARN of a task of the cluster.
func (o Owner) ParseTask(cluster, ref string) (id string, err error) {
	id, err = o.member(TypeTask, cluster, ref)
	if err != nil {
		return "", err
	}
	if id, ok := NormalID(id); ok {
		return id, nil
	}
	return "", fail("Invalid identifier: Task Identifier is invalid")
}

// ParseContainerInstance reads the id or ARN of a container instance of the cluster.
func (o Owner) ParseContainerInstance(cluster, ref string) (id string, err error) {
	id, err = o.member(TypeContainerInstance, cluster, ref)
	if err != nil {
		return "", err
	}
	if id, ok := NormalID(id); ok {
		return id, nil
	}
	return "", fail("Invalid identifier: Container Instance Identifier is invalid")
}

// member reads the identifier of something that belongs to a cluster.
func (o Owner) member(typ, cluster, ref string) (string, error) {
	if !Is(ref) {
		return ref, plain(ref)
	}
	a, err := o.parse(ref, typ)
	switch {
	case err != nil:
		return "", err
	case len(a.Path) > 2:
		return "", fail(textSeparators)
	case len(a.Path) == 2 && a.Path[0] != cluster:
		return "", fail("Invalid identifier: Identifier is for cluster %s. Your cluster is %s", clip(a.Path[0]), cluster)
	}
	return a.ID(), nil
}

// ParseTaskDefinition reads family, family:revision or an ARN with or without revision. Revision 0 means none was given.
func (o Owner) ParseTaskDefinition(ref string) (family string, revision int32, err error) {
	if Is(ref) {
		a, err := o.parse(ref, TypeTaskDefinition)
		if err == nil && len(a.Path) != 1 {
			err = fail(textSeparators)
		}
		if err != nil {
			return "", 0, err
		}
		ref = a.Path[0]
	}
	family, number, given := strings.Cut(ref, ":")
	if family == "" || len(family) > maxLength || strings.ContainsAny(family+number, "/:") {
		return "", 0, fail(textSeparators)
	}
	if !given {
		return family, 0, nil
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 1 {
		return "", 0, fail("Invalid revision number. Number: %s", clip(number))
	}
	return family, int32(n), nil
}

// plain checks a name or id that is not an ARN.
func plain(ref string) error {
	if ref == "" || len(ref) > maxLength || strings.ContainsAny(ref, "/:") {
		return fail(textSeparators)
	}
	return nil
}

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// NormalID is the 32 lower-case hex digits that an id in either form means; false if it is neither.
func NormalID(id string) (string, bool) {
	if len(id) == 36 && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-' {
		id = strings.ReplaceAll(id, "-", "")
	}
	if len(id) != 32 {
		return "", false
	}
	id = strings.ToLower(id)
	return id, strings.Trim(id, "0123456789abcdef") == ""
}

// NewID makes the id of a task or container instance: 32 hex digits.
func NewID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// NewDeploymentID makes the id of a deployment or task set: ecs-svc/ and 19 digits.
func NewDeploymentID() string {
	lowest := big.NewInt(1e18)
	n, err := rand.Int(rand.Reader, new(big.Int).Sub(big.NewInt(9223372036854775807), lowest))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return "ecs-svc/" + n.Add(n, lowest).String()
}
