package netns

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	nsfd "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/sockets"
)

// PortTaken is the error for a host port that somebody else has.
type PortTaken struct {
	Protocol string
	Port     uint16
	By       string // a task, or a process
}

// Unwrap is the class of errors that a container meets where something is used up.
func (e *PortTaken) Unwrap() error { return errdefs.ErrResourceExhausted }

func (e *PortTaken) Error() string {
	return fmt.Sprintf("host port %s/%d is taken: %s; stop that, or choose another hostPort", e.Protocol, e.Port, e.By)
}

// hostPort is a port of the host.
type hostPort struct {
	protocol string
	port     uint16
}

// choose gives host ports for what a lease publishes. Those that it had it keeps where it may.
func (b *Bridge) choose(l, old *Lease) (given []Publish, err error) {
	if len(l.Ports) == 0 {
		return nil, nil
	}
	held := map[hostPort]string{}
	for _, o := range b.leases {
		for _, p := range o.Given {
			for i := range p.count() {
				if o.ID != l.ID {
					held[hostPort{p.Protocol, p.Host + uint16(i)}] = "task " + o.Task + " publishes it"
				}
			}
		}
	}
	mine := func(hostPort) bool { return false }
	if old != nil {
		mine = func(k hostPort) bool {
			for _, p := range old.Given {
				if p.Protocol == k.protocol && k.port >= p.Host && int(k.port) < int(p.Host)+p.count() {
					return true
				}
			}
			return false
		}
	}
	heard, err := b.listeners()
	if err != nil {
		return nil, err
	}
	takenBy := func(k hostPort) string {
		if by := held[k]; by != "" || mine(k) {
			return by
		}
		if s, ok := heard[k]; ok {
			return fmt.Sprintf("%s listens on %s", sockets.Owner("/proc", fmt.Sprint(s.INode)), netip.AddrPortFrom(address4in6(s.ID.Source), k.port))
		}
		return ""
	}
	for _, p := range l.Ports {
		if p.Host == 0 {
			if p.Host, err = b.dynamic(p, func(k hostPort) bool { _, listens := heard[k]; return held[k] == "" && !listens }); err != nil {
				return nil, err
			}
		}
		for i := range p.count() {
			k := hostPort{p.Protocol, p.Host + uint16(i)}
			if by := takenBy(k); by != "" {
				return nil, &PortTaken{k.protocol, k.port, by}
			}
			held[k] = "the container itself publishes it twice"
		}
		given = append(given, p)
	}
	return given, nil
}

// dynamic is the first of as many free ports in a row as are wanted, out of the range. The search goes on where the last one ended, so that
// a port rests before it is used again.
func (b *Bridge) dynamic(p Publish, free func(hostPort) bool) (uint16, error) {
	first, last := b.Ports[0], b.Ports[1]
	var reserved map[uint16]bool
	if err := b.network.inside(func() error {
		if first == 0 {
			first, last = numbers("net/ipv4/ip_local_port_range", 49153, 65535)
		}
		reserved = ranges("net/ipv4/ip_local_reserved_ports")
		return nil
	}); err != nil {
		return 0, err
	}
	if b.port < first || b.port > last {
		b.port = first
	}
	n := p.count()
	for _, from := range []int{int(b.port), int(first)} {
		run := 0
		for k := from; k <= int(last); k++ {
			if run++; reserved[uint16(k)] || !free(hostPort{p.Protocol, uint16(k)}) {
				run = 0
			}
			if run == n {
				b.port = uint16(min(k+1, 65535))
				return uint16(k - n + 1), nil
			}
		}
	}
	return 0, fmt.Errorf("no %d free %s ports in a row from %d to %d (ECS_DYNAMIC_HOST_PORT_RANGE) for the container port %d", n, p.Protocol, first, last, p.Container)
}

// numbers are the two numbers in a file below /proc/sys.
func numbers(file string, a, b uint16) (uint16, uint16) {
	raw, _ := os.ReadFile("/proc/sys/" + file)
	if f := strings.Fields(string(raw)); len(f) == 2 {
		x, err1 := strconv.ParseUint(f[0], 10, 16)
		y, err2 := strconv.ParseUint(f[1], 10, 16)
		if err1 == nil && err2 == nil && x > 0 && x <= y {
			return uint16(x), uint16(y)
		}
	}
	return a, b
}

// ranges are the ports in a file below /proc/sys, in the form 8080,9000-9010: its operator keeps them for somebody.
func ranges(file string) map[uint16]bool {
	raw, _ := os.ReadFile("/proc/sys/" + file)
	all := map[uint16]bool{}
	for _, r := range strings.Split(strings.TrimSpace(string(raw)), ",") {
		from, to, isRange := strings.Cut(r, "-")
		a, err := strconv.ParseUint(from, 10, 16)
		z := a
		if isRange && err == nil {
			z, err = strconv.ParseUint(to, 10, 16)
		}
		for p := a; err == nil && p <= z; p++ {
			all[uint16(p)] = true
		}
	}
	return all
}

// Socket states of the kernel that mean "takes what comes": TCP_LISTEN, and TCP_CLOSE for an unconnected UDP socket.
const (
	tcpListen = 10
	tcpClose  = 7
)

// listeners are the host's sockets that take connections or datagrams from elsewhere.
func (b *Bridge) listeners() (map[hostPort]*netlink.Socket, error) {
	h, err := netlinkAt(b.network.Namespace, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	all := map[hostPort]*netlink.Socket{}
	for _, f := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []struct {
			protocol string
			state    uint8
			list     func(uint8) ([]*netlink.Socket, error)
		}{{"tcp", tcpListen, h.SocketDiagTCP}, {"udp", tcpClose, h.SocketDiagUDP}} {
			found, err := kind.list(f)
			if err != nil {
				return nil, fmt.Errorf("list the host's %s sockets: %w", kind.protocol, err)
			}
			for _, s := range found {
				if s.State == kind.state && s.ID.SourcePort != 0 {
					all[hostPort{kind.protocol, s.ID.SourcePort}] = s
				}
			}
		}
	}
	return all, nil
}

func address4in6(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// netlinkAt is a handle of the kernel's in a namespace, by its file descriptor; 0 is the own one.
func netlinkAt(namespace int, families ...int) (*netlink.Handle, error) {
	if namespace == 0 {
		return netlink.NewHandle(families...)
	}
	return netlink.NewHandleAt(nsfd.NsHandle(namespace), families...)
}
