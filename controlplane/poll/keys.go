package poll

import (
	"time"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
)

// What a key means to the sockets that were opened with it. A socket is admitted by what is known of its key then; what is
// learned of the key later ends it, on every replica as soon as it sees the change. Agents connect again at once after
// going-away, and are admitted by what holds then.

// keyChanged ends the sockets of a key that is revoked or deleted, or that means something else now; the caller holds mu.
func (s *Server) keyChanged(old, is *store.Key) {
	switch {
	case old == nil: // no socket was opened with it
	case is == nil || !is.Revoked.IsZero() && old.Revoked.IsZero():
		s.endKey(old.AccessKeyID, statusRefused, "the access key was revoked")
	case !is.Expires.Equal(old.Expires):
		s.endKey(is.AccessKeyID, statusGoingAway, "the access key has an end now")
	case is.Instance != old.Instance && old.Instance != "":
		s.endKey(is.AccessKeyID, statusGoingAway, "the access key is that of another container instance now")
	}
}

// signerChanged ends the sockets of an instance that a key of its own speaks for now, and not the one they were opened with;
// the caller holds mu.
func (s *Server) signerChanged(old, is *store.Instance) {
	if old == nil || is == nil || old.RegisteredBy == is.RegisteredBy {
		return
	}
	at := place{is.Cluster, is.ID}
	if c := s.acs[at]; c != nil && c.key == old.RegisteredBy {
		c.end(statusGoingAway, "the container instance has an access key of its own now")
	}
	if c := s.tcs[at]; c != nil && c.key == old.RegisteredBy {
		c.end(statusGoingAway, "the container instance has an access key of its own now")
	}
}

func (s *Server) endKey(id string, code status, reason string) {
	for _, group := range s.sockets {
		for c := range group {
			if c.key == id {
				c.end(code, reason)
			}
		}
	}
}

// recheck looks at the key of a socket that was just added: what changed before that was told to nobody. A key with an end
// ends the socket then.
func (s *Server) recheck(c *socket) {
	var k *store.Key
	var i *store.Instance
	s.cfg.Store.Peek(func(v *store.View) { k, i = v.Key(c.key), v.Instance(c.at.cluster, c.at.id) })
	now := time.Now()
	switch {
	case k == nil || !k.Usable(now):
		c.end(statusRefused, "the access key does not count any more")
	case i != nil && !(&auth.Identity{AccessKeyID: k.AccessKeyID, Role: k.Role, Instance: k.Instance}).SpeaksFor(i):
		c.end(statusGoingAway, "another access key speaks for the container instance now")
	case !k.Expires.Equal(c.expires):
		c.end(statusGoingAway, "the access key has another end now")
	case !k.Expires.IsZero():
		expiry := time.AfterFunc(k.Expires.Sub(now), func() { c.end(statusRefused, "the access key has expired") })
		c.onEnd(func() { expiry.Stop() })
	}
}
