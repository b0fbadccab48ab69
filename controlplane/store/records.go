package store

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Meta is the part of a record that is about the record. The zero value means "not stored yet".
type Meta struct {
	revision int64
	storedAt string // the key it was read from or written to; empty for a record that never was
}

// Revision is the etcd revision at which the record was last written, 0 for one that never was.
func (m *Meta) Revision() int64 { return m.revision }

func (m *Meta) setRevision(r int64) { m.revision = r }

func (m *Meta) stored(key string, revision int64) { m.storedAt, m.revision = key, revision }

func (m *Meta) at() string { return m.storedAt }

// Cluster is a cluster. Counts and statistics of Object are computed when it is described, not stored; tags and
// settings are stored in Object.
type Cluster struct {
	Meta
	Object types.Cluster
	// InactiveSince is when the cluster was deleted; zero while it is ACTIVE.
	InactiveSince time.Time
}

// Family is the revision counter of a task definition family: revisions are never reused.
type Family struct {
	Meta
	Name   string
	Latest int32
}

// TaskDefinition is one revision of a task definition.
type TaskDefinition struct {
	Meta
	Object types.TaskDefinition
	Tags   []types.Tag
}

// Service is a service. RunningCount and PendingCount, here and in each deployment, are computed when it is described;
// so are Events, which are records of their own. DesiredCount is stored: CreateService computes it and the reconciler keeps it.
type Service struct {
	Meta
	Cluster     string
	Object      types.Service
	CreateToken string // clientToken of CreateService
	CreateHash  string // digest of CreateService's other parameters, for idempotent replay
	// Rollouts is the state of each deployment of Object, by deployment id.
	Rollouts map[string]Rollout
	// Failures is what is known about failed starts, by instance id, for growing delays. Of a REPLICA service the one of the
	// empty id is about all instances.
	Failures map[string]Failure
	// InactiveSince is when the service became INACTIVE.
	InactiveSince time.Time
	// SteadySince is when the service last reached its steady state; zero while it has not.
	SteadySince time.Time
}

// Rollout is how far a deployment has come: of a DAEMON service in waves of 1, 2, 4 … instances.
type Rollout struct {
	Wave      int32     // number of the current wave, from 0
	Instances []string  // ids of the instances in waves begun so far
	HealthyAt time.Time // when every task of the current wave was first seen healthy
	Held      string    // why the roll-out holds; empty while it proceeds
	Continued bool      // it was told to go on whatever holds it
	Failed    int32     // how many tasks of a DAEMON service's deployment failed, whatever became healthy in between
	// Ahead is the id of the task beyond desiredCount that was started to balance availability zones, until it is healthy.
	Ahead string
	// Of a REPLICA service whose images are made local first: that they are, as far as they can be, and its roll-out has begun;
	// Instances are then those that have them. Unprepared is the last attempt that was counted as failed.
	Prepared   bool
	Unprepared int32
}

// Failure counts the consecutive failures of one deployment of a service on one instance.
type Failure struct {
	Deployment string // id
	Task       string // id of the last one that failed
	Count      int32
	At         time.Time // the last one
	NotBefore  time.Time // the next attempt
	Reason     string
	// Of a DAEMON service's roll-out: the deployment before was tried on the instance to see which of the two is broken, and
	// it fails there too.
	Tried, Before bool
	// Of the one about all instances of a REPLICA service:
	Rounds int32 // how often the delay has grown
	Seen   int64 // revision up to which ends of tasks were counted
}

// ServiceDeployment is the history of one deployment of a service. Counts of Object are computed when it is described.
type ServiceDeployment struct {
	Meta
	Cluster string
	Service string
	ID      string // the digits of the deployment's id
	Object  types.ServiceDeployment
}

// ServiceRevision is what a deployment of a service runs. It never changes.
type ServiceRevision struct {
	Meta
	Cluster string
	Service string
	ID      string // the digits of the deployment's id
	Object  types.ServiceRevision
}

// Instance is a container instance. AgentConnected, RemainingResources and task counts of Object are computed when it is
// described.
type Instance struct {
	Meta
	Cluster string
	ID      string // 32 hex digits
	Object  types.ContainerInstance
	// RegisteredBy is the access key that speaks for the instance: the one that registered it, or that one was exchanged for.
	// Empty: it was forgotten, and the next host key that registers the instance does.
	RegisteredBy string
	// ClientToken is that of the last registration: a repeated call with the same one gets the same instance.
	ClientToken string
	// AgentAttributes names the attributes that came with the registration (the others were put by operators).
	AgentAttributes []string
	// SequenceNumber is the last seqNum or timeline sent to the agent; it only rises.
	SequenceNumber int64
	// DisconnectedSince is when the last connection ended; zero while connected or never connected.
	DisconnectedSince time.Time
	// InactiveSince is when the instance was deregistered.
	InactiveSince time.Time
	// JoinedAt is when the instance was registered, or registered again after what may have been a reboot: from then on daemons
	// come first. A restart of an agent that says which boot it is in leaves it as it was.
	JoinedAt time.Time
	// DrainingSince is when the instance last became DRAINING; zero while it is not.
	DrainingSince time.Time
	// DrainedItself says that the instance goes down and its own agent made it DRAINING, which stops its daemons itself, the last of all tasks.
	DrainedItself bool
	// Boot is the kernel's id of the boot in which the machine runs whose agent connected last; empty when it did not say.
	Boot string
	// Trusts are the fingerprints of the control plane's own CAs that the agent has saved; nil when it does not say (package certs).
	Trusts []string
	// Unlisted marks an instance of whose tasks this store may know too little, because it was restored from a backup or the
	// instance was made again, until its agent has said what runs there.
	Unlisted bool
}

// Resources is an amount of what an instance offers.
type Resources struct {
	CPU      int64 // CPU units, 1024 per vCPU
	Memory   int64 // MiB
	PortsTCP []int32
	PortsUDP []int32
	GPUs     []string
	// Interfaces are network interfaces for tasks in network mode awsvpc.
	Interfaces int64
}

// Allocation is what the tasks that are placed on one instance take. It is apart from the Instance so that an attribute
// change and a placement do not conflict; each placement compares its revision.
type Allocation struct {
	Meta
	Cluster  string
	Instance string
	Tasks    map[string]Resources // by task id
}

// Task is a task, from placement until it is purged after STOPPED.
type Task struct {
	Meta
	Cluster  string
	ID       string // 32 hex digits
	Instance string // instance id
	Service  string // service name, empty for a standalone task
	// Deployment is the id of the deployment that started the task; it is Object.StartedBy too.
	Deployment string
	Object     types.Task
	Reserved   Resources
	// Interfaces are the network interfaces of a task in network mode awsvpc: one.
	Interfaces []Interface
	// ClientToken is that of the RunTask that made the task.
	ClientToken string
	// TaskCredentialsID and ExecutionCredentialsID are what the task knows the credentials of its roles by, for all its life:
	// containers hold a URL with the first. They can't be guessed, and leak into no answer.
	TaskCredentialsID, ExecutionCredentialsID string
	// Containers holds what the payload needs about each container beyond the definition, by container name:
	// the container ARN is in Object.Containers.
	// AcceptedAt is when the agent acknowledged the payload with the current desired status; zero before.
	AcceptedAt time.Time
	// Warnings are lines that the agent or the control plane attached to the task.
	Warnings []string
	// MakesRoomFor is the DAEMON service for whose task this one is to be replaced elsewhere; empty: it may stay.
	MakesRoomFor   string
	MakesRoomSince time.Time
	// ProtectedUntil is until when the task is protected from scale-in and roll-outs; zero: it is not.
	ProtectedUntil time.Time
	// Beside is the task of the service on the same instance that this daemon was started beside, to replace it; empty: none.
	Beside string
	// AdoptedAt is when the record was made of what an agent said, because there was none; zero for a task that was placed.
	AdoptedAt time.Time
	// Unreported marks a task that was made STOPPED without a report of its agent. Until the agent has reported, the record
	// stays for longer than those of other STOPPED tasks: an agent that comes back with the task is told to stop it.
	Unreported bool
}

// DaemonSlot is the claim of a DAEMON service on an instance. It is created in the transaction that creates the task and
// deleted in the one that records it STOPPED. A task that is started beside another takes it over.
type DaemonSlot struct {
	Meta
	Cluster  string
	Service  string
	Instance string
	Task     string // task id
	Beside   string // id of the task that Task was started beside, until one of the two is STOPPED; empty: there is only one
}

// Holds tells whether the claim is for the task.
func (d *DaemonSlot) Holds(task string) bool { return d.Task == task || task != "" && d.Beside == task }

// Preparation asks the agent of an instance to have the images of a deployment before the service's old task there is
// stopped. The scheduler creates it, whoever holds the agent's connection has it asked and writes the answer, and the
// scheduler deletes it with the stop. There is at most one for a service on an instance.
type Preparation struct {
	Meta
	Cluster    string
	Service    string
	Instance   string
	Deployment string // id
	Attempt    int32  // from 1
	Since      time.Time
	// Status is empty until the agent answers, then READY or FAILED, for Reason.
	Status string
	Reason string
}

// The answers to a [Preparation].
const (
	PreparationReady  = "READY"
	PreparationFailed = "FAILED"
)

// Connection says which replica holds an instance's ACS socket. It lives under that replica's lease; the newest wins.
type Connection struct {
	Meta
	Cluster  string
	Instance string
	Replica  string
	Since    time.Time
	// Boot is the kernel's id of the boot in which the agent's machine runs; empty when it does not say.
	Boot string
	// Address is the agent's, without its port, as this side sees it.
	Address string
}

// Departed is what is left of an instance that was deregistered and whose record is gone: its ARN is not that of an instance
// which this store has forgotten.
type Departed struct {
	Meta
	Cluster string
	ID      string
	Since   time.Time
}

// ServiceEvent is one line of a service's history.
type ServiceEvent struct {
	Meta
	Cluster string
	Service string
	Object  types.ServiceEvent
}

// AccountSetting is an account setting of one principal, or of the account as a whole.
type AccountSetting struct {
	Meta
	Name      string // as types.SettingName
	Principal string // the principal's ARN; "default" for the account as a whole
	Value     string
}

// Role is what a key may do.
type Role string

// The roles. RoleHost may call only what an agent calls.
const (
	RoleAdmin    Role = "admin"
	RoleReadOnly Role = "readonly"
	RoleHost     Role = "host"
)

// RoleTask is the role of keys that were issued for a task: they may only see and set the task's own protection. It is no
// role that a [Key] has.
const RoleTask Role = "task"

// TaskKey is what is kept of an access key that was issued for one task, so that every replica can verify what the task signs with
// it. It can sign nothing but ECS calls in one region on the days of its life: neither the secret nor the token can be had from it.
type TaskKey struct {
	Meta
	AccessKeyID string
	Cluster     string
	Task        string // id
	RoleArn     string
	Region      string
	Token       []byte            // SHA-256 of the session token
	Signing     map[string][]byte // the signing key for ECS in the region, by day (20060102)
	Expires     time.Time
}

// Key is an access key. A host's key is one of two kinds: a join key (Enrolment), with which hosts register, or a key of one
// host's own, which speaks for the container instance Instance and no other.
type Key struct {
	Meta
	AccessKeyID string
	// Sealed is the secret, sealed under the access key id (package seal): it is needed in clear to verify a signature.
	Sealed []byte
	Role   Role
	// Name is what people call the key, or its host; it may be empty.
	Name string
	// Enrolment marks a join key, with which any number of instances may be registered, or as many as MaxUses says.
	Enrolment bool
	// Instance is the ARN of the instance that a host's own key speaks for: the first one that it registered, or for which it
	// was made. Empty: there is none yet.
	Instance string
	// From is the access key id of the join key that was exchanged for this one, and Exchange the client token of the
	// registration: whoever shows both gets this key again.
	From, Exchange string
	// Successor is the access key id of the key that replaces this one, which then has an end.
	Successor string
	// MaxUses is how many instances a join key may register, 0 for any number; Uses is how many it has.
	MaxUses, Uses int32
	Created       time.Time
	// Expires is when the key ends by itself; zero: never.
	Expires time.Time
	// Revoked is when somebody ended it; zero: nobody has.
	Revoked time.Time
}

// Usable tells whether the key counts at a time.
func (k *Key) Usable(now time.Time) bool {
	return k.Revoked.IsZero() && (k.Expires.IsZero() || now.Before(k.Expires))
}

// Ended is when the key ceased to count, zero for one that counts at a time.
func (k *Key) Ended(now time.Time) time.Time {
	switch {
	case k.Usable(now):
		return time.Time{}
	case k.Revoked.IsZero():
		return k.Expires
	}
	return k.Revoked
}

// Secret is something that all replicas share and that is none of the records of ECS: the control plane's own CA.
type Secret struct {
	Meta
	Name string
	// Public is the part that anybody may see.
	Public []byte
	// Sealed is the other part, sealed under "secret/" and the name (package seal).
	Sealed []byte
}

// Replica is a process of the control plane that lives, and what it has ready of what all must have before it is replaced.
type Replica struct {
	Meta
	Name string
	// SealKeys are the ids of the seal keys that it can open with, the one it seals with first (package seal).
	SealKeys []string
	// Authorities are the fingerprints of the own CAs that it tells hosts to trust, the one that has signed its certificate first.
	Authorities []string
}
