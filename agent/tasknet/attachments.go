package tasknet

import (
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Attachment is a network interface that the control plane has announced.
type Attachment struct {
	Arn       string    `json:"arn"`
	MAC       string    `json:"mac"`               // in lower case
	TaskArn   string    `json:"taskArn,omitempty"` // empty: the instance's own
	Made      bool      `json:"made,omitempty"`    // the agent makes it: no card is looked for
	ExpiresAt time.Time `json:"expiresAt"`
	Attached  time.Time `json:"attached,omitzero"` // when that was queued to be reported
}

// waiting reports whether the attachment may still be reported.
func (a Attachment) waiting(now time.Time) bool {
	return a.Attached.IsZero() && now.Before(a.ExpiresAt)
}

// AttachTask takes the announcement of a task's interfaces. When it returns nil it is durable.
func (n *Networks) AttachTask(m *acs.AttachTaskNetworkInterfacesMessage) error {
	return n.announced(m.TaskArn, m.WaitTimeoutMs, m.ElasticNetworkInterfaces)
}

// AttachInstance takes the announcement of interfaces of the instance.
func (n *Networks) AttachInstance(m *acs.AttachInstanceNetworkInterfacesMessage) error {
	return n.announced("", m.WaitTimeoutMs, m.ElasticNetworkInterfaces)
}

func (n *Networks) announced(taskArn string, waitMs int64, interfaces []*acs.ElasticNetworkInterface) error {
	n.saved.Lock()
	defer n.saved.Unlock()
	now := time.Now()
	var all []Attachment
	for _, e := range interfaces {
		if e.AttachmentArn == "" { // nobody could be told
			continue
		}
		a := Attachment{Arn: e.AttachmentArn, MAC: strings.ToLower(e.MacAddress), TaskArn: taskArn, Made: e.InterfaceAssociationProtocol == acs.AssociationVeth,
			ExpiresAt: now.Add(time.Duration(waitMs) * time.Millisecond), Attached: n.saved.attachments[e.AttachmentArn].Attached}
		all = append(all, a)
	}
	if err := n.save(all...); err != nil {
		return err
	}
	n.say(func() {
		if t := n.tasks[taskArn]; t != nil && t.right && (n.cfg.Serve == nil || t.listening != nil) {
			n.attached(t.payload)
		}
		n.lookForCards()
	})
	return nil
}

// save has the mutex.
func (n *Networks) save(all ...Attachment) error {
	if len(all) == 0 {
		return nil
	}
	if err := n.cfg.State.SaveAttachments(all...); err != nil {
		return err
	}
	for _, a := range all {
		n.saved.attachments[a.Arn] = a
	}
	return nil
}

// attached reports the interfaces of a task whose network is right.
func (n *Networks) attached(p *acs.Task) {
	n.found(func(a Attachment) bool {
		return slices.ContainsFunc(p.ElasticNetworkInterfaces, func(e *acs.ElasticNetworkInterface) bool { return e.AttachmentArn == a.Arn })
	})
}

// lookForCards reports the announced interfaces whose cards are on the host. An attachment that is no longer waited for is
// not reported any more.
func (n *Networks) lookForCards() {
	now := time.Now()
	n.saved.Lock()
	waits := false
	for _, a := range n.saved.attachments {
		waits = waits || a.waiting(now) && !a.Made
	}
	n.saved.Unlock()
	if !waits {
		return
	}
	cards, err := n.cfg.Cards()
	if err != nil {
		n.cfg.Log.Warn("The host's network cards can't be looked at; it is tried again", zap.Error(err))
		return
	}
	n.found(func(a Attachment) bool { return !a.Made && cards[a.MAC] })
}

// found reports the attachments that wait and that are there.
func (n *Networks) found(there func(Attachment) bool) {
	n.saved.Lock()
	defer n.saved.Unlock()
	now := time.Now()
	var all []Attachment
	for _, a := range n.saved.attachments {
		if a.waiting(now) && there(a) {
			a.Attached = now
			all = append(all, a)
		}
	}
	switch err := n.save(all...); {
	case err == nil && len(all) > 0:
		n.cfg.Queued()
	case err != nil:
		n.cfg.Log.Error("That network interfaces are attached could not be saved; it is tried again", zap.Int("attachments", len(all)), zap.Error(err))
		time.AfterFunc(cardsInterval, func() { n.say(func() { n.found(there) }) })
	}
}

// dropOf forgets the attachments of a task that has ended.
func (n *Networks) dropOf(taskArn string) {
	n.drop(func(a Attachment) bool { return a.TaskArn == taskArn })
}

// keepUnknown is how long an attachment of a task that is not here is kept after its time: its payload may be on its way.
const keepUnknown = time.Hour

// prune forgets the attachments of tasks that are none of these.
func (n *Networks) prune(taskArns []string) {
	now := time.Now()
	n.drop(func(a Attachment) bool {
		return a.TaskArn != "" && !slices.Contains(taskArns, a.TaskArn) && now.After(a.ExpiresAt.Add(keepUnknown))
	})
}

func (n *Networks) drop(over func(Attachment) bool) {
	n.saved.Lock()
	defer n.saved.Unlock()
	var arns []string
	for arn, a := range n.saved.attachments {
		if over(a) {
			arns = append(arns, arn)
		}
	}
	if len(arns) == 0 {
		return
	}
	if err := n.cfg.State.DropAttachments(arns...); err != nil {
		n.cfg.Log.Warn("Attachments of a task that has ended could not be forgotten; the agent's next start tries again", zap.Error(err))
		return
	}
	for _, arn := range arns {
		delete(n.saved.attachments, arn)
	}
}
