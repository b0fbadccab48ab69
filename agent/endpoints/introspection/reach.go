package introspection

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/sockets"
)

// A Reach is a port of this host that its own processes and its containers can connect to, and nobody else, whatever address of
// the host they use. There is a listening socket for each device over which they come, bound to it (SO_BINDTODEVICE), so that
// the kernel compares the device over which a connection really arrives and not what is written in it:
//
//	lo           the host's own processes, and containers in the host network mode, at 127.0.0.1 and ::1
//	each bridge  whose ports all lead into other network namespaces: containers, at the gateway's address or any other of the
//	             host; and the host's own processes at the gateway's
//
// A packet for the gateway's address that another machine sends over a cable arrives at another device, where nobody
// listens. A bridge that has a port of another kind, such as a cable or a virtual machine, is another machine's too. That is
// looked at when a link changes, every so often, and again when a connection comes, whose peer must also have an
// address of the bridge's own networks: a container may pass on what others sent to it.
//
// Bridges come and go; so do the sockets.
type Reach struct {
	port   int
	log    *zap.Logger
	links  *netlink.Handle
	accept chan net.Conn
	done   chan struct{}

	mu      sync.Mutex
	sockets map[int]*socket // by the device's index
	closed  bool
	accepts sync.WaitGroup
}

// socket listens on one device.
type socket struct {
	net.Listener
	device device
	now    device    // as it was at the last look; the socket's own goroutine's
	err    error     // why it is not a bridge of containers then
	looked time.Time // when that was
}

// freshFor is how long a look at a bridge is good for the connections that come: somebody who connects over and over must not
// have the host's devices listed each time.
const freshFor = 250 * time.Millisecond

// How long a connection that has the port as its near end is waited for, and how often it is looked whether it has ended.
const (
	passing      = time.Minute
	passingPause = 100 * time.Millisecond
)

// device is lo, or a bridge.
type device struct {
	index    int
	name     string
	loopback bool
	networks []netip.Prefix
}

// lookEvery is the longest time between two looks at the host's links.
const lookEvery = 30 * time.Second

// NewReach takes a port on the loopback device. A port that is taken is an error that says so. Call [Reach.Watch] for the
// bridges.
func NewReach(port int, log *zap.Logger) (*Reach, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: the kernel's network devices can't be asked for: %w", port, err)
	}
	r := &Reach{port: port, log: log, links: links, accept: make(chan net.Conn), done: make(chan struct{}), sockets: map[int]*socket{}}
	if err := r.listen(device{index: 1, name: "lo", loopback: true}); err != nil {
		links.Close()
		return nil, err
	}
	return r, nil
}

// listen opens the socket of a device. With port 0 the first one chooses.
func (r *Reach) listen(d device) error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), d.name) })
		return errors.Join(err, failed)
	}}
	l, err := config.Listen(context.Background(), "tcp", ":"+strconv.Itoa(r.port))
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < passing && !sockets.Listened("/proc/thread-self", uint16(r.port)); {
		// The kernel has given the port to somebody's connection: it is among those that it gives away.
		<-time.After(passingPause)
		l, err = config.Listen(context.Background(), "tcp", ":"+strconv.Itoa(r.port))
	}
	if err != nil {
		return taken(err, "port "+strconv.Itoa(r.port), r.port)
	}
	s := &socket{Listener: l, device: d}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = l.Close()
		return net.ErrClosed
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && r.port == 0 {
		r.port = a.Port
	}
	r.sockets[d.index] = s
	r.accepts.Go(func() { r.take(s) })
	return nil
}

// take passes on the connections of a device.
func (r *Reach) take(s *socket) {
	for {
		c, err := s.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files; the device is going away
			select {
			case <-r.done:
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		if why := r.refuses(s, c.RemoteAddr()); why != "" {
			r.log.Warn("A connection was refused: it is for this host and its containers only", zap.Int("port", r.port), zap.String("from", c.RemoteAddr().String()), zap.String("device", s.device.name), zap.String("reason", why))
			_ = c.Close()
			continue
		}
		select {
		case r.accept <- c:
		case <-r.done:
			_ = c.Close()
			return
		}
	}
}

// refuses says why a connection over the device is not taken; empty if it is.
func (r *Reach) refuses(s *socket, from net.Addr) string {
	d := s.device
	if d.loopback {
		return ""
	}
	if time.Since(s.looked) > freshFor {
		s.now, s.err = r.bridge(d.index)
		s.looked = time.Now()
	}
	if s.err != nil {
		return s.err.Error()
	}
	address, ok := from.(*net.TCPAddr)
	if !ok {
		return "it has no address"
	}
	ip := address.AddrPort().Addr().Unmap()
	if ip.Is6() && ip.IsLinkLocalUnicast() && (ip.Zone() == d.name || ip.Zone() == strconv.Itoa(d.index)) {
		return ""
	}
	for _, p := range s.now.networks {
		if p.Contains(ip.WithZone("")) {
			return ""
		}
	}
	return "its address is in none of the device's networks"
}

// Watch keeps the sockets those of the bridges there are, until ctx ends.
func (r *Reach) Watch(ctx context.Context) error {
	changes := make(chan netlink.LinkUpdate, 64)
	stop := make(chan struct{})
	defer close(stop)
	if err := netlink.LinkSubscribeWithOptions(changes, stop, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}}); err != nil {
		r.log.Warn("Changes of network devices are not heard of; they are looked for", zap.Error(err), zap.Duration("interval", lookEvery))
		changes = nil
	}
	for {
		r.look()
		timer := time.NewTimer(lookEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case _, ok := <-changes:
			timer.Stop()
			if !ok {
				changes = nil
			}
			settle(ctx, changes)
		}
	}
}

// settle waits until a burst of changes is over, for a moment at the most.
func settle(ctx context.Context, changes <-chan netlink.LinkUpdate) {
	quiet := time.NewTimer(50 * time.Millisecond)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-quiet.C:
			return
		case _, ok := <-changes:
			if !ok {
				return
			}
		}
	}
}

// look opens the sockets that are missing, and closes those of devices that are no bridge of containers any more.
func (r *Reach) look() {
	found, err := r.bridges()
	if err != nil {
		r.log.Warn("The host's bridges could not be looked for", zap.Error(err))
		return
	}
	var missing []device
	r.mu.Lock()
	for _, d := range found {
		if r.sockets[d.index] == nil {
			missing = append(missing, d)
		}
	}
	for index, s := range r.sockets {
		if !s.device.loopback && !slices.ContainsFunc(found, func(d device) bool { return d.index == index && d.name == s.device.name }) {
			_ = s.Close()
			delete(r.sockets, index)
			r.log.Info("No longer served on a bridge", zap.String("device", s.device.name), zap.Int("port", r.port))
		}
	}
	r.mu.Unlock()
	for _, d := range missing {
		if err := r.listen(d); err != nil {
			r.log.Warn("Containers on a bridge can't be served", zap.String("device", d.name), zap.Error(err))
			continue
		}
		r.log.Info("Containers on a bridge are served", zap.String("device", d.name), zap.Int("port", r.port))
	}
}

// bridges are those whose ports are all containers'.
func (r *Reach) bridges() ([]device, error) {
	all, err := r.all()
	if err != nil {
		return nil, err
	}
	var out []device
	for _, l := range all {
		if l.Type() != "bridge" {
			continue
		}
		if foreign(all, l.Attrs().Index) != "" {
			continue
		}
		d, err := r.withNetworks(l)
		if err != nil {
			continue // it has just gone
		}
		out = append(out, d)
	}
	return out, nil
}

// bridge looks at one bridge now; the error says why it is not one of containers only.
func (r *Reach) bridge(index int) (device, error) {
	all, err := r.all()
	if err != nil {
		return device{}, err
	}
	for _, l := range all {
		if l.Attrs().Index != index {
			continue
		}
		if l.Type() != "bridge" {
			return device{}, fmt.Errorf("%s is no bridge", l.Attrs().Name)
		}
		if name := foreign(all, index); name != "" {
			return device{}, fmt.Errorf("the bridge %s has the port %s, which is no container's", l.Attrs().Name, name)
		}
		return r.withNetworks(l)
	}
	return device{}, errors.New("the device is gone")
}

// foreign is a port of a bridge that does not lead into another network namespace of this machine; empty if there is none. A
// veth device whose other end is in this one may lead anywhere, unless that end is down: an engine is about to move it.
func foreign(all []netlink.Link, bridge int) string {
	for _, l := range all {
		a := l.Attrs()
		if a.MasterIndex != bridge || l.Type() == "veth" && (a.NetNsID >= 0 || idle(all, a.ParentIndex)) {
			continue
		}
		return a.Name
	}
	return ""
}

// idle says whether a device passes nothing on now.
func idle(all []netlink.Link, index int) bool {
	for _, l := range all {
		if a := l.Attrs(); a.Index == index {
			return a.Flags&net.FlagUp == 0 && a.MasterIndex == 0
		}
	}
	return true
}

// links are all of the host's. A list during which one changed is still a list.
func (r *Reach) all() ([]netlink.Link, error) {
	all, err := r.links.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("the network devices: %w", err)
	}
	return all, nil
}

func (r *Reach) withNetworks(l netlink.Link) (device, error) {
	d := device{index: l.Attrs().Index, name: l.Attrs().Name}
	addresses, err := r.links.AddrList(l, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return d, fmt.Errorf("the addresses of %s: %w", d.name, err)
	}
	for _, a := range addresses {
		if a.IPNet == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			ones, _ := a.Mask.Size()
			d.networks = append(d.networks, netip.PrefixFrom(ip.Unmap(), ones).Masked())
		}
	}
	return d, nil
}

// Accept waits for the next connection.
func (r *Reach) Accept() (net.Conn, error) {
	select {
	case c := <-r.accept:
		return c, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

// Close closes all sockets.
func (r *Reach) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	close(r.done)
	for _, s := range r.sockets {
		_ = s.Close()
	}
	r.mu.Unlock()
	r.accepts.Wait()
	r.links.Close()
	return nil
}

// Addr is the loopback's.
func (r *Reach) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: r.port} }

// taken says that an address is in use.
func taken(err error, what string, port int) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		if !sockets.Listened("/proc/thread-self", uint16(port)) {
			return fmt.Errorf("%s is taken by a connection, as its near end; find it with: ss -tnp 'sport = :%d', and keep the port free with: sysctl net.ipv4.ip_local_reserved_ports=%d", what, port, port)
		}
		return fmt.Errorf("%s is taken: another container agent seems to run on this host; stop it, or find who listens with: ss -ltnp 'sport = :%d'", what, port)
	}
	return fmt.Errorf("listen on %s: %w", what, err)
}
