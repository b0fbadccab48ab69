package poll

import (
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Networks takes messages on tasks' own networks. What it took is durable when it returns nil, and may then be acknowledged.
type Networks interface {
	AttachTask(m *acs.AttachTaskNetworkInterfacesMessage) error
	AttachInstance(m *acs.AttachInstanceNetworkInterfacesMessage) error
	SecurityGroups(m *acs.SecurityGroupsMessage) error
}

// network takes one such message and acknowledges it. One that can't be understood, is another instance's or can't be saved is not
// acknowledged: the control plane sends it again.
func (p *Poller) network(id, cluster, instance string, m interface{ Validate() error }, take func() error, answer func(any) error) error {
	log := p.cfg.Log.With(zap.String("message", id), zap.String("type", acs.TypeOf(m)))
	if p.cfg.Networks == nil {
		log.Warn("The control plane sent a message on tasks' networks; this host has none, so it is not acknowledged")
		return nil
	}
	if err := m.Validate(); err != nil {
		log.Warn("A message on tasks' networks that can't be understood is dropped", zap.Error(err))
		return nil
	}
	if !p.mine(instance) {
		log.Error("A message on the networks of another container instance is dropped", zap.String("instance", instance), zap.String("own", p.cfg.InstanceArn))
		return nil
	}
	if err := take(); err != nil {
		log.Error("A message on tasks' networks could not be saved; it is not acknowledged, and comes again", zap.Error(err))
		return nil
	}
	failpoint.Hit("poll/network-ack-before")
	err := answer(&acs.AckRequest{Cluster: cluster, ContainerInstance: instance, MessageID: id})
	failpoint.Hit("poll/network-ack-after")
	return err
}
