package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Who has an address answers within a millisecond on a network that works, so a short wait finds all but those that are asleep.
const (
	probeTime  = 20 * time.Millisecond
	probeTimes = 2 // questions in that time, since one may get lost
)

// The kernel tells bridges of a carrier at once, or where it thinks that there is no hurry, once a second.
const (
	carrierTime = 1200 * time.Millisecond
	carrierLook = 2 * time.Millisecond
)

// carrier waits until the bridge passes on what the link sends. One that doesn't in time is no error: then nobody can be asked.
func (s *sides) carrier(ctx context.Context, l link) error {
	tick := time.NewTicker(carrierLook)
	defer tick.Stop()
	for deadline := time.Now().Add(carrierTime); l.outer != "" && time.Now().Before(deadline); {
		outer, err := s.host.LinkByName(l.outer)
		if err != nil {
			return fmt.Errorf("the interface %s: %w", l.outer, err)
		}
		if outer.Attrs().OperState == netlink.OperUp {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// prober asks and tells other hosts about addresses, on an interface that is up.
type prober struct {
	fd   int
	name string
	mac  net.HardwareAddr
}

// prober opens an interface of the task for sending and receiving frames.
func (s *sides) prober(index int, name string, mac net.HardwareAddr) (*prober, error) {
	p := &prober{fd: -1, name: name, mac: mac}
	err := inside(int(s.taskNS.Fd()), func() (err error) {
		const everything = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		if p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: everything & 0xffff, Ifindex: index})
	})
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open %s for asking who has its addresses: %w", name, err)
	}
	return p, nil
}

// close closes it, which takes the kernel some 15 ms that nobody need wait for.
func (p *prober) close() {
	if p.fd >= 0 {
		go func() { _ = unix.Close(p.fd) }()
	}
}

// ask asks whether the addresses are anybody else's; the error then is a [Fault].
func (p *prober) ask(addresses []netip.Prefix) error {
	for range probeTimes {
		for _, a := range addresses {
			if err := p.send(questionFrame(p.mac, a.Addr())); err != nil {
				return err
			}
		}
		if err := p.listen(addresses, time.Now().Add(probeTime/probeTimes)); err != nil {
			return err
		}
	}
	return nil
}

// listen hears until the deadline whether somebody has one of the addresses.
func (p *prober) listen(addresses []netip.Prefix, deadline time.Time) error {
	frame := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(p.fd, frame, 0)
		switch {
		case err == nil:
			for _, a := range addresses {
				if by, is := claimed(frame[:n], p.mac, a.Addr()); is {
					return fault(AddressConflict, "%s on %s is in use by the machine with the MAC %s", a.Addr(), p.name, by)
				}
			}
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ENETDOWN):
			return fmt.Errorf("hear on %s who has its addresses: %w", p.name, err)
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		wait := unix.NsecToTimespec(int64(left))
		if _, err := unix.Ppoll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, &wait, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait on %s: %w", p.name, err)
		}
	}
}

// announce tells everybody on the network that the addresses are here.
func (p *prober) announce(addresses []netip.Prefix) error {
	for _, a := range addresses {
		if err := p.send(claimFrame(p.mac, a.Addr())); err != nil {
			return err
		}
	}
	return nil
}

// send sends a frame. An interface that is down or has no carrier sends nothing, which is no error of the address.
func (p *prober) send(frame []byte) error {
	_, err := unix.Write(p.fd, frame)
	if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
		return fmt.Errorf("send on %s: %w", p.name, err)
	}
	return nil
}
