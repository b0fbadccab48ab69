package task

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// The statuses of an attachment, in order.
const (
	AttachmentPrecreated = "PRECREATED" // its agent has not heard of it
	AttachmentAttaching  = "ATTACHING"
	AttachmentAttached   = "ATTACHED"
	AttachmentDetaching  = "DETACHING" // the task's containers have ended
	AttachmentDeleted    = "DELETED"
)

var attachmentStatuses = []string{AttachmentPrecreated, AttachmentAttaching, AttachmentAttached, AttachmentDetaching, AttachmentDeleted}

// ReasonNoInterface is the stoppedReason of a task whose agent did not get its interface in time.
const ReasonNoInterface = "Timeout waiting for network interface provisioning to complete."

const attachmentType = "ElasticNetworkInterface"

// AttachmentARN is the ARN of the attachment of one of a task's interfaces.
func AttachmentARN(t *store.Task, i *store.Interface) string {
	a, err := arn.Parse(aws.ToString(t.Object.TaskArn))
	if err != nil {
		return i.Attachment
	}
	a.Type, a.Path = arn.TypeAttachment, []string{i.Attachment}
	return a.String()
}

func firstStatus(interfaces []store.Interface) string {
	if len(interfaces) > 0 {
		return Provisioning
	}
	return Pending
}

func attachments(interfaces []store.Interface) []types.Attachment {
	out := []types.Attachment{}
	for _, i := range interfaces {
		a := types.Attachment{Id: aws.String(i.Attachment), Type: aws.String(attachmentType), Status: aws.String(AttachmentPrecreated)}
		for _, detail := range [][2]string{
			{"subnetId", i.Subnet}, {"networkInterfaceId", i.ID}, {"macAddress", i.MAC}, {"privateDnsName", i.PrivateDNSName},
			{"privateIPv4Address", i.IPv4}, {"ipv6Address", i.IPv6},
		} {
			if detail[1] != "" {
				a.Details = append(a.Details, types.KeyValuePair{Name: aws.String(detail[0]), Value: aws.String(detail[1])})
			}
		}
		out = append(out, a)
	}
	return out
}

func networkInterfaces(interfaces []store.Interface) []types.NetworkInterface {
	out := []types.NetworkInterface{}
	for _, i := range interfaces {
		out = append(out, types.NetworkInterface{AttachmentId: aws.String(i.Attachment), PrivateIpv4Address: nonEmpty(i.IPv4), Ipv6Address: nonEmpty(i.IPv6)})
	}
	return out
}

// Accepted is the task when its agent has acknowledged it: its interface is on its way. t is not modified.
func Accepted(t *store.Task) *store.Task {
	n := clone(t)
	if Wanted(n) {
		setAttachments(n, AttachmentAttaching)
	}
	return n
}

// setAttachments moves the attachments of the task's interfaces forward to a status.
func setAttachments(n *store.Task, status string) {
	for i := range n.Object.Attachments {
		if a := &n.Object.Attachments[i]; aws.ToString(a.Type) == attachmentType && attachmentRank(a.Status) < attachmentRank(&status) {
			a.Status = aws.String(status)
		}
	}
}

func attachmentRank(status *string) int {
	return slices.Index(attachmentStatuses, aws.ToString(status))
}

// applyAttachments takes over the state of attachments the task has, matched by the id at the end of their ARNs. Of an interface
// an agent can say that it is attached; its end is the task's. A task whose interfaces are there is PROVISIONING no more.
func applyAttachments(n *store.Task, reports []types.AttachmentStateChange) {
	for _, r := range reports {
		arn := aws.ToString(r.AttachmentArn)
		for i := range n.Object.Attachments {
			a := &n.Object.Attachments[i]
			if id := aws.ToString(a.Id); id == "" || !strings.HasSuffix(arn, "/"+id) {
				continue
			}
			if aws.ToString(a.Type) != attachmentType {
				a.Status = r.Status
			} else if aws.ToString(r.Status) == AttachmentAttached && attachmentRank(a.Status) < attachmentRank(r.Status) {
				a.Status = r.Status
			}
		}
	}
	missing := func(a types.Attachment) bool {
		return aws.ToString(a.Type) == attachmentType && attachmentRank(a.Status) < attachmentRank(aws.String(AttachmentAttached))
	}
	if LastStatus(n) == Provisioning && !slices.ContainsFunc(n.Object.Attachments, missing) {
		n.Object.LastStatus = aws.String(Pending)
	}
}
