package task

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// adoptedProtection is for how long an adopted task of a REPLICA service is protected from scale-in: the store may be from
// before more tasks were wanted.
const adoptedProtection = 2 * time.Hour

// namePattern is what names of services and families are made of.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,255}$`)

// Adopt makes the record of a task that runs on inst and of which the store knows nothing, from what its agent says. def is
// its definition, nil when that is gone too. The record has no deployment: the scheduler makes it one of the service's
// current deployment, so that the service takes it as it is. The times are those of this clock: a host's order nothing.
func Adopt(d *acs.TaskDescription, inst *store.Instance, def *types.TaskDefinition, now time.Time) (*store.Task, error) {
	a, err := arn.Parse(d.TaskArn)
	if err != nil || a.Type != arn.TypeTask {
		return nil, fmt.Errorf("adopting a task: %.200q is no task's ARN", d.TaskArn)
	}
	id, ok := arn.NormalID(a.ID())
	if !ok || id != a.ID() {
		return nil, fmt.Errorf("adopting a task: %.200q has no task id", d.TaskArn)
	}
	if d.ServiceName != "" && !namePattern.MatchString(d.ServiceName) {
		return nil, fmt.Errorf("adopting task %s: %.200q is no name of a service", id, d.ServiceName)
	}
	if def == nil {
		if def, err = described(d, inst); err != nil {
			return nil, fmt.Errorf("adopting task %s: %w", id, err)
		}
	}
	t, err := New(Params{
		ID: id, Cluster: inst.Cluster, Definition: def, Instance: inst, Service: d.ServiceName, Group: clip(d.Group, 255), LaunchType: launchType(d.LaunchType),
		Interfaces: describedInterfaces(d.Interfaces), Now: now,
	})
	if err != nil {
		return nil, err
	}
	if arn := aws.ToString(t.Object.TaskArn); arn != d.TaskArn {
		return nil, fmt.Errorf("adopting task %s: its ARN is %.200q, and would be %s", id, d.TaskArn, arn)
	}
	if d.CredentialsID != "" && len(d.CredentialsID) <= 64 {
		t.TaskCredentialsID = d.CredentialsID
	}
	if d.ExecutionCredentialsID != "" && len(d.ExecutionCredentialsID) <= 64 {
		t.ExecutionCredentialsID = d.ExecutionCredentialsID
	}
	t.AdoptedAt, t.AcceptedAt, t.Reserved.GPUs = now, now, d.GPUs
	for _, c := range d.Containers {
		if is := container(t, c.Name); is != nil && c.ContainerArn != "" && len(c.ContainerArn) <= 255 {
			is.ContainerArn = aws.String(c.ContainerArn)
		}
	}
	return CatchUp(t, d, now), nil
}

// CatchUp is the task with what its agent says of it applied. It is t itself when that is nothing new.
func CatchUp(t *store.Task, d *acs.TaskDescription, now time.Time) *store.Task {
	change := StateChange{
		Status: d.KnownStatus, Reason: clip(d.Reason, 1024),
		PullStartedAt: milliseconds(d.PullStartedAt), PullStoppedAt: milliseconds(d.PullStoppedAt), ExecutionStoppedAt: milliseconds(d.ExecutionStoppedAt),
	}
	for _, c := range d.Containers {
		report := types.ContainerStateChange{
			ContainerName: &c.Name, Status: &c.Status, RuntimeId: nonEmpty(clip(c.RuntimeID, 255)), ImageDigest: nonEmpty(clip(c.ImageDigest, 255)),
			ExitCode: c.ExitCode, Reason: nonEmpty(clip(c.Reason, 1024)),
		}
		for _, b := range c.Bindings {
			report.NetworkBindings = append(report.NetworkBindings, binding(b))
		}
		change.Containers = append(change.Containers, report)
	}
	if d.KnownStatus == Stopped && d.Ran { // it has not failed to start
		t, _ = Apply(t, StateChange{Status: Running}, now)
	}
	if d.KnownStatus != Stopped && d.DesiredStatus == Stopped {
		if n := Stop(t, "", change.Reason, now); n != nil {
			t = n
		}
	}
	t, _ = Apply(t, change, now)
	if LastStatus(t) == Deprovisioning {
		t, _ = Apply(t, change, now)
	}
	return t
}

func binding(b *acs.PortBinding) types.NetworkBinding {
	n := types.NetworkBinding{BindIP: nonEmpty(b.BindIP), Protocol: types.TransportProtocol(b.Protocol)}
	if b.ContainerPortRange != "" {
		n.ContainerPortRange, n.HostPortRange = &b.ContainerPortRange, &b.HostPortRange
	} else {
		n.ContainerPort, n.HostPort = &b.ContainerPort, &b.HostPort
	}
	return n
}

// OfDeployment is the task as one of a deployment of its service.
func OfDeployment(t *store.Task, deployment string) *store.Task {
	n := clone(t)
	n.Deployment, n.Object.StartedBy = deployment, aws.String(deployment)
	n.Object.Version++
	return n
}

// Gone is the task as STOPPED because its agent, which has said all that it runs, does not have it; nil for one that is
// STOPPED already.
func Gone(t *store.Task, now time.Time) *store.Task {
	n := Lost(t, "", ReasonGone, now)
	if n != nil {
		n.Unreported = false
		n.Object.Connectivity = types.ConnectivityConnected
	}
	return n
}

// ReasonGone is the stoppedReason of a task of a restored store that is not there any more.
const ReasonGone = "The container instance's agent does not have this task any more: it ended after the backup that the control plane was restored from."

// described is as much of the task's definition as a record and its reservations need.
func described(d *acs.TaskDescription, inst *store.Instance) (*types.TaskDefinition, error) {
	revision, err := strconv.ParseInt(d.Version, 10, 32)
	host, hostErr := arn.Parse(aws.ToString(inst.Object.ContainerInstanceArn))
	if err := errors.Join(err, hostErr); err != nil || revision < 1 || !namePattern.MatchString(d.Family) {
		return nil, fmt.Errorf("%.200q is no task definition", d.Family+":"+d.Version)
	}
	owner := arn.Owner{Region: host.Region, Account: host.Account}
	def := &types.TaskDefinition{
		Family: aws.String(d.Family), Revision: int32(revision), TaskDefinitionArn: aws.String(owner.TaskDefinition(d.Family, int32(revision))),
		NetworkMode: types.NetworkMode(d.NetworkMode),
	}
	if d.CPU > 0 {
		def.Cpu = aws.String(strconv.FormatInt(int64(math.Round(min(d.CPU, 1<<20)*1024)), 10))
	}
	if d.Memory > 0 {
		def.Memory = aws.String(strconv.FormatInt(min(d.Memory, math.MaxInt32), 10))
	}
	for _, c := range d.Containers {
		made := types.ContainerDefinition{Name: aws.String(c.Name), Image: aws.String(clip(c.Image, 1024)), Essential: aws.Bool(c.Essential), Cpu: narrow(c.CPU)}
		if c.Memory > 0 {
			made.Memory = aws.Int32(narrow(c.Memory))
		}
		if c.MemoryReservation > 0 {
			made.MemoryReservation = aws.Int32(narrow(c.MemoryReservation))
		}
		for _, m := range c.PortMappings {
			made.PortMappings = append(made.PortMappings, types.PortMapping{
				ContainerPort: aws.Int32(narrow(m.ContainerPort)), HostPort: aws.Int32(narrow(m.HostPort)), Protocol: types.TransportProtocol(m.Protocol),
			})
		}
		def.ContainerDefinitions = append(def.ContainerDefinitions, made)
	}
	return def, nil
}

func describedInterfaces(list []*acs.ElasticNetworkInterface) (out []store.Interface) {
	for _, e := range list {
		if e == nil || len(out) == 1 { // a task has one
			continue
		}
		i := store.Interface{
			ID: e.Ec2ID, MAC: e.MacAddress, IPv4Gateway: e.SubnetGatewayIpv4Address, IPv6Gateway: e.SubnetGatewayIpv6Address, SecurityGroups: e.SecurityGroups,
			DomainName: e.DomainName, DomainNameServers: e.DomainNameServers, PrivateDNSName: e.PrivateDNSName,
		}
		if a, err := arn.Parse(e.AttachmentArn); err == nil {
			i.Attachment = a.ID()
		}
		for _, a := range e.IPv4Addresses {
			i.IPv4 = a.PrivateAddress
		}
		for _, a := range e.IPv6Addresses {
			i.IPv6 = a.Address
		}
		out = append(out, i)
	}
	return out
}

// TakeIn adds to txn what makes an adopted task part of the store: its record, what it holds of its instance, the claims on its
// addresses that nobody else has, and that its revision of its family is not given out again.
func TakeIn(txn *store.Txn, v *store.View, t *store.Task) {
	txn.Create(t).StateChange()
	if f := newest(v, t); f != nil {
		txn.Update(f)
	}
	if IsStopped(t) {
		return
	}
	for _, claim := range store.AddressesOf(t) {
		if v.Address(claim.Address) == nil {
			txn.Create(claim)
		}
	}
	txn.Update(Reserve(v.Allocation(t.Cluster, t.Instance), t))
}

// newest is the task's family when it must be noted that it has had the task's revision; nil when that is known.
func newest(v *store.View, t *store.Task) *store.Family {
	a, err := arn.Parse(aws.ToString(t.Object.TaskDefinitionArn))
	if err != nil {
		return nil
	}
	name, revision, err := (arn.Owner{}).ParseTaskDefinition(a.ID())
	if err != nil {
		return nil
	}
	switch known := v.Family(name); {
	case known == nil:
		return &store.Family{Name: name, Latest: revision}
	case known.Latest < revision:
		n := *known
		n.Latest = revision
		return &n
	}
	return nil
}

// Belong makes an adopted task that is not STOPPED one of its service, and adds to txn the claim of a daemon on the instance.
// A service that the store knows says itself whether it is a DAEMON service; for another one the agent may know.
func Belong(txn *store.Txn, v *store.View, t *store.Task, daemon bool, now time.Time) {
	svc := v.Service(t.Cluster, t.Service)
	if svc != nil {
		daemon = svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
	}
	if !daemon {
		t.ProtectedUntil = now.Add(adoptedProtection)
		return
	}
	slot := v.DaemonSlot(t.Cluster, t.Service, t.Instance)
	switch {
	case slot == nil:
		txn.Create(&store.DaemonSlot{Cluster: t.Cluster, Service: t.Service, Instance: t.Instance, Task: t.ID})
	case slot.Beside == "": // the agent runs both: one was started beside the other
		n := *slot
		n.Task, n.Beside, t.Beside = t.ID, slot.Task, slot.Task
		txn.Update(&n)
	}
}

func milliseconds(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func narrow(n int64) int32 { return int32(max(0, min(n, math.MaxInt32))) }

func launchType(s string) types.LaunchType {
	if l := types.LaunchType(s); slices.Contains(l.Values(), l) {
		return l
	}
	return ""
}
