package poll

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// prepare hands on a request to make images local. Its answer comes later, and for one that is dropped none: the control
// plane asks again.
func (p *Poller) prepare(m *acs.PrepareImagesMessage) {
	log := p.cfg.Log.With(zap.String("message", m.MessageID), zap.String("preparation", m.Preparation))
	switch err := m.Validate(); {
	case err != nil:
		log.Warn("A request for images that lacks a required member is dropped", zap.Error(err))
	case !p.mine(m.ContainerInstanceArn):
		log.Error("A request for images of another container instance is dropped", zap.String("instance", m.ContainerInstanceArn), zap.String("own", p.cfg.InstanceArn))
	case p.cfg.Prepare != nil:
		p.cfg.Prepare(m)
	}
}

// errNotConnected is that nothing can be said now.
var errNotConnected = errors.New("there is no connection with the control plane")

// Say sends a message that is no answer to the one just read. It fails when there is no connection.
func (p *Poller) Say(ctx context.Context, m any) error {
	c := p.current.Load()
	if c == nil {
		return errNotConnected
	}
	data, err := acs.Encode(m)
	if err != nil {
		return err
	}
	return c.Write(ctx, data)
}
