package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// One socket in the host's namespace hears of all tasks' (NETLINK_LISTEN_ALL_NSID, see netlink(7)), so their number costs nothing. The
// kernel says with each message where it happened, by the id that a namespace has as seen from the host's.

// noNamespace is the id of a namespace that has none, and of the host's own.
const noNamespace = -1

// events are those of one netlink protocol, and what is done with each.
type events struct {
	protocol int
	groups   []int
	heard    func(namespace int32, m message)
	lost     func() // some were
}

// message is one of netlink's.
type message struct {
	kind uint16
	data []byte
}

// sources are the events that concern tasks' networks.
func (k *Keeper) sources() []events {
	host := hostLinks{}
	inTask := func(namespace int32, _ message) {
		k.each(func(t *kept) bool { return namespace != noNamespace && t.namespace.Load() == namespace })
	}
	everybody := func() { k.each(func(*kept) bool { return true }) }
	return []events{
		{unix.NETLINK_ROUTE, []int{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE}, func(namespace int32, m message) {
			if namespace != noNamespace {
				inTask(namespace, m)
			} else if l, news := host.hear(m); news {
				k.each(func(t *kept) bool { return t.get().hangsOn(l) })
			}
		}, everybody},
		{unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES}, inTask, everybody},
	}
}

// each hints at the tasks that are concerned.
func (k *Keeper) each(concerned func(*kept) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.tasks {
		if concerned(t) {
			poke(t.hints)
		}
	}
}

// hostLink is what tasks depend on of an interface of the host.
type hostLink struct {
	name   string
	mac    string
	up     bool
	master uint32
}

// hostLinks are the host's, by their index, as last heard of. The kernel tells of bridges whenever one of their ports changes: only what is
// news concerns tasks.
type hostLinks map[int32]hostLink

func (all hostLinks) hear(m message) (l hostLink, news bool) {
	if m.kind != unix.RTM_NEWLINK && m.kind != unix.RTM_DELLINK || len(m.data) < unix.SizeofIfInfomsg {
		return hostLink{}, false
	}
	info := nl.DeserializeIfInfomsg(m.data)
	if info.Family != unix.AF_UNSPEC { // of a bridge about its port
		return hostLink{}, false
	}
	attributes, err := nl.ParseRouteAttr(m.data[unix.SizeofIfInfomsg:])
	if err != nil {
		return hostLink{}, false
	}
	l.up = info.Flags&unix.IFF_UP != 0
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_ADDRESS:
			l.mac = string(a.Value)
		case unix.IFLA_MASTER:
			if len(a.Value) == 4 {
				l.master = binary.NativeEndian.Uint32(a.Value)
			}
		}
	}
	if m.kind == unix.RTM_DELLINK {
		delete(all, info.Index)
		return l, true
	}
	before, known := all[info.Index]
	all[info.Index] = l
	return l, !known || before != l
}

// hangsOn says whether the task's network depends on the host's interface.
func (t Task) hangsOn(l hostLink) bool {
	if strings.HasPrefix(l.name, outersOf(t.ID)) {
		return true
	}
	for _, i := range t.Interfaces {
		switch o := i.Origin.(type) {
		case Bridged:
			if l.name == o.Bridge || l.name == o.Uplink {
				return true
			}
		case Macvlan:
			if l.name == o.Parent {
				return true
			}
		case Card:
			if l.mac == string(i.MAC) {
				return true
			}
		case Branch:
			if l.mac == string(o.Trunk) {
				return true
			}
		}
	}
	return false
}

// listen hears until ctx ends.
func (s events) listen(ctx context.Context, h Host) error {
	socket, err := s.open(h)
	if err != nil {
		return err
	}
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() })
	defer stop()
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	s.lost() // what happened before the socket heard
	b, oob := make([]byte, 1<<16), make([]byte, 64)
	for {
		n, oobn := 0, 0
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, failed = unix.Recvmsg(int(fd), b, oob, 0)
			return !errors.Is(failed, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case errors.Is(failed, unix.ENOBUFS): // more than the socket holds
			s.lost()
		case errors.Is(failed, unix.EINTR):
		case failed != nil:
			return failed
		default:
			s.dispatch(b[:n], namespaceOf(oob[:oobn]))
		}
	}
}

// dispatch hands on each message of a datagram.
func (s events) dispatch(b []byte, namespace int32) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return
		}
		s.heard(namespace, message{kind: binary.NativeEndian.Uint16(b[4:]), data: b[unix.SizeofNlMsghdr:size]})
		b = b[min(len(b), (size+3)&^3):]
	}
}

// namespaceOf is where a datagram's messages happened.
func namespaceOf(oob []byte) int32 {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return noNamespace
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return noNamespace
}

// open opens the socket in the host's namespace.
func (s events) open(h Host) (*os.File, error) {
	host, err := h.openHost()
	if err != nil {
		return nil, err
	}
	defer host.close()
	fd := -1
	err = inside(int(host.hostNS.Fd()), func() (err error) {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.protocol); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for _, g := range s.groups {
			if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
				return err
			}
		}
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1)
	})
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("subscribe to the kernel's events: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// identify has the kernel give the task's namespace an id as seen from the host's.
func (s *sides) identify(as *atomic.Int32) error {
	fd := int(s.taskNS.Fd())
	id, err := s.host.GetNetNsIdByFd(fd)
	if err == nil && id == noNamespace {
		if err = s.host.SetNetNsIdByFd(fd, noNamespace); err == nil || errors.Is(err, unix.EEXIST) {
			id, err = s.host.GetNetNsIdByFd(fd)
		}
	}
	if err != nil {
		return fmt.Errorf("number the task's network namespace: %w", err)
	}
	as.Store(int32(id))
	return nil
}
