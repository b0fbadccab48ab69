package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// answerTime is how long the kernel may take for one answer.
const answerTime = 10 * time.Second

// Host is the host's side of tasks' networks. Its methods may be called at once for different tasks; those for one task must
// follow each other, which [Keeper] sees to.
type Host struct {
	// Namespace is the file descriptor of the host's network namespace; 0 is the own one.
	Namespace int
	// Tables writes the tasks' rules, and remembers them; nil: nothing is remembered.
	Tables *Tables
}

// sides are the host's network and a task's, open for reading and writing.
type sides struct {
	host, task     *netlink.Handle
	hostNS, taskNS *os.File
	ask            bool // for addresses that are in use, too
	changed        []string
}

// did notes what was changed.
func (s *sides) did(format string, args ...any) {
	failpoint.Hit("netns/step")
	s.changed = append(s.changed, fmt.Sprintf(format, args...))
}

func (s *sides) close() {
	for _, h := range []*netlink.Handle{s.host, s.task} {
		if h != nil {
			h.Close()
		}
	}
	for _, f := range []*os.File{s.hostNS, s.taskNS} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// open opens both sides.
func (h Host) open(namespace string) (*sides, error) {
	s, err := h.openHost()
	if err != nil {
		return nil, err
	}
	if err := s.openTask(namespace); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sides) openTask(namespace string) (err error) {
	if s.taskNS, err = openNamespace(namespace); err != nil {
		return err
	}
	same, err := sameFile(s.hostNS, s.taskNS)
	if err != nil {
		return err
	}
	if same { // the process of the task has ended, and one of the host's has got its id
		return fault(NamespaceGone, "%s is the host's own network namespace", namespace)
	}
	s.task, err = handle(s.taskNS)
	return err
}

// openHost opens the host's side alone.
func (h Host) openHost() (*sides, error) {
	s := &sides{}
	var err error
	if h.Namespace == 0 {
		s.hostNS, err = openNamespace("/proc/thread-self/ns/net")
	} else {
		s.hostNS, err = openNamespace(fmt.Sprintf("/proc/self/fd/%d", h.Namespace))
	}
	if err != nil {
		return nil, err
	}
	if s.host, err = handle(s.hostNS); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func handle(ns *os.File) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	if err := h.SetSocketTimeout(answerTime); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	if err != nil {
		return false, err
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y), err
}

// EnsureTask makes the task's namespace what t says, and says what it had to change, in words for the log: nothing when all
// was as it should be. It may be repeated at any time, also after a crash in the middle. An error is a [Fault] where its cause
// has a name; what could be done in spite of it is done, but an interface is never brought up before its security groups hold.
//
// New addresses on [Bridged] and [Macvlan] interfaces are asked for on the network before they are used, which takes probeTime.
func (h Host) EnsureTask(ctx context.Context, t Task) (changed []string, err error) {
	return h.look(ctx, t, nil, false)
}

// look is [Host.EnsureTask] for who looks again and again: the task's namespace gets an id, for telling its events from others'. With
// ask, others on the network are asked for the addresses that are in use, too.
func (h Host) look(ctx context.Context, t Task, id *atomic.Int32, ask bool) (changed []string, err error) {
	s, err := h.open(t.Namespace)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if id != nil {
		if err := s.identify(id); err != nil {
			return nil, err
		}
	}
	s.ask = ask
	err = s.ensure(ctx, h.Tables, t)
	return s.changed, err
}

// ensure is the order of the steps: what the task is denied comes first, and what it may use last.
func (s *sides) ensure(ctx context.Context, tables *Tables, t Task) error {
	if tables == nil {
		tables = new(Tables)
	}
	n := t.wanted()
	if err := s.loopback(n.loopback); err != nil {
		return err
	}
	rules, err := tables.Ensure(int(s.taskNS.Fd()), t.Rules(t.Members))
	if err != nil {
		return &Fault{Kind: RulesFailed, Detail: "write the security groups' rules", Err: err}
	}
	s.changed = append(s.changed, rules...)
	var faults []error
	for _, l := range n.links {
		if err := ctx.Err(); err != nil {
			return err
		}
		faults = append(faults, s.link(ctx, l))
	}
	fault, routes := errors.Join(faults...), s.routes(n.routes)
	if fault != nil && (errors.Is(routes, unix.ENETUNREACH) || errors.Is(routes, unix.EHOSTUNREACH) || errors.Is(routes, unix.ENETDOWN)) {
		return fault // of which it is a consequence
	}
	return errors.Join(fault, routes)
}
