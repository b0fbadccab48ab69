package poll

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Two things are asked whether an agent is there. Its machine's kernel, by this one's: that costs neither process anything, and
// finds a machine that is off or cut off, unless a proxy between the two answers in its place. And the agent itself, by pings:
// each is a system call at both ends, which with ten thousand agents is more than all else that is done for them, so the more
// there are the longer is the pause between two.
const (
	// mostPings is how many pings a second are sent, until the pause is Config.PongTimeout; from then on they are more again.
	mostPings = 3000
	// pingSlots is into how many groups the sockets are divided, so that they are not looked at all at once.
	pingSlots = 16
	// machineGone is how long an agent's machine may acknowledge nothing. Probes begin when it was silent for half of that.
	machineGone = 4 * time.Second
)

// pingPause is the pause between two pings of one of so many sockets.
func (c *Config) pingPause(sockets int) time.Duration {
	return max(c.Ping, min(time.Duration(sockets)*time.Second/mostPings, c.PongTimeout))
}

// pingAll looks after each socket once in a pause.
func (s *Server) pingAll(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var group []*socket
	for slot := 0; ; slot = (slot + 1) % pingSlots {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.mu.Lock()
		group = slices.AppendSeq(group[:0], maps.Keys(s.sockets[slot]))
		pause := s.cfg.pingPause(len(s.acs) + len(s.tcs))
		s.mu.Unlock()
		timer.Reset(max(pause/pingSlots, time.Millisecond))
		for _, c := range group {
			c.live(time.Now(), pause)
		}
		clear(group)
	}
}

// live looks whether the peer was heard since the last look, and if not whether it should have been; then it asks for the
// next sign of life. The looks are a pause apart, not to the millisecond.
func (c *socket) live(now time.Time, pause time.Duration) {
	heard := c.wire.heard.Swap(false)
	switch late := now.Sub(c.pinged) >= c.cfg.PongTimeout-pause/4; {
	case heard || c.pinged.IsZero():
		c.pinged = time.Time{}
		sent, err := c.wire.ping()
		if err != nil {
			c.fail(c.ended(err))
		}
		if sent {
			c.pinged = now
		}
	case late:
		c.fail(fmt.Errorf("the agent did not answer a ping within %s", c.cfg.PongTimeout))
	}
}

// endWhenGone has the kernel end a connection whose other end's kernel acknowledges nothing for so long: RFC 1122, section
// 4.2.3.6, and tcp(7), TCP_USER_TIMEOUT.
func endWhenGone(conn net.Conn, after time.Duration) error {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: after / 2, Interval: time.Second})
	raw, rawErr := c.SyscallConn()
	if rawErr != nil {
		return errors.Join(err, rawErr)
	}
	var set error
	rawErr = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after/time.Millisecond))
	})
	return errors.Join(err, rawErr, set)
}
