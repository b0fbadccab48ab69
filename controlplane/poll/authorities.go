package poll

import (
	"slices"
	"sync"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// trusted is what agents are to trust: the own CA and the next one. It is the same pointer for as long as it is the same.
type trusted struct {
	certificates string
	fingerprints []string
}

// trust follows the own CAs in the store.
type trust struct {
	mu    sync.Mutex
	stale bool
	is    *trusted
}

// trusted is what agents are to trust now; nil for nothing.
func (s *Server) trusted() *trusted {
	if !s.cfg.Authorities {
		return nil
	}
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	if !s.trust.stale {
		return s.trust.is
	}
	var bundle []byte
	s.cfg.Store.Peek(func(v *store.View) { bundle = certs.Bundle(v) })
	s.trust.stale, s.trust.is = false, nil
	if len(bundle) > 0 {
		s.trust.is = &trusted{string(bundle), certs.Fingerprints(bundle)}
	}
	return s.trust.is
}

// authoritiesChanged has all sessions tell; the caller holds mu.
func (s *Server) authoritiesChanged() {
	s.trust.mu.Lock()
	s.trust.stale = true
	s.trust.mu.Unlock()
	for _, c := range s.acs {
		c.notify()
	}
}

// sendAuthorities tells an agent that can be told what it is to trust, once, if that is not what it has. One that could not save it is told
// again when it connects again. False when the socket has ended.
func (c *acsSession) sendAuthorities() bool {
	is := c.server.trusted()
	if is == nil || c.trusts == nil || is == c.toldTrust {
		return true
	}
	c.toldTrust = is
	if slices.Equal(is.fingerprints, c.trusts) {
		return true
	}
	return c.send(&acs.AuthoritiesMessage{MessageID: uuid.NewString(), Certificates: is.certificates}) == nil
}

// authoritiesSaved takes the agent's answer.
func (c *acsSession) authoritiesSaved(m *acs.AuthoritiesSavedMessage) {
	if err := m.Validate(); err != nil || c.trusts == nil {
		c.log().Warn("an answer about certificates was ignored", zap.Error(err))
		return
	}
	c.trusts = m.Fingerprints
	err := c.server.changeInstance(c.ctx, c.at, func(i *store.Instance) bool {
		if slices.Equal(i.Trusts, m.Fingerprints) {
			return false
		}
		i.Trusts = m.Fingerprints
		return true
	})
	if err != nil {
		c.log().Warn("what an agent trusts could not be recorded; it says so again when it connects again", zap.Error(err))
	}
}
