package poll

import (
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// authorities saves what the control plane wants to be trusted from now on, and answers when that is durable. What can't be saved is told
// again with the next connection.
func (p *Poller) authorities(m *acs.AuthoritiesMessage, answer func(any) error) error {
	err := m.Validate()
	var saved []string
	if err == nil && p.cfg.Trust != nil {
		saved, err = p.cfg.Trust([]byte(m.Certificates))
	}
	if err != nil || saved == nil {
		p.cfg.Log.Warn("The control plane's certificates that are to be trusted could not be saved; it tells them again", zap.String("message", m.MessageID), zap.Error(err))
		return nil
	}
	return answer(&acs.AuthoritiesSavedMessage{MessageID: m.MessageID, Fingerprints: saved})
}
