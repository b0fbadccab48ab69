// Package tasknet is the agent's side of tasks' own networks: between what the control plane says (interfaces in payloads,
// attachments, security groups), what the engine asks (the namespace of a task's pause container), and netns, which knows the kernel.
//
// # Model
//
// A task's network is right when its namespace is what its interfaces and their security groups ask for, and the agent itself
// listens inside of it, at the address where containers ask for credentials and metadata: who asks there is of this task. The
// engine wants a namespace ([Networks.Want]); netns makes it and keeps it; each time that how it stands has changed the engine is told. When
// the task has no process left, all that the host holds for it goes, off everybody's path.
//
// The security groups are one message of the control plane, which is durable before it is acknowledged and holds until the next
// one, also while the control plane is away. An interface whose groups it does not describe is not made: a task never
// starts open.
//
// An attachment is announced ([Networks.AttachTask], [Networks.AttachInstance]), durable before it is acknowledged, and reported ATTACHED once:
// when the card with its MAC is seen on the host, or when the task's network is right; never after its time is over.
//
// One goroutine owns all of this; what others say waits in its mailbox, so that nobody waits for the kernel.
//
// Source: agent-protocol sections 3.8, 4.7 and 5.5; the messages on security groups are Longshore's own.
package tasknet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Endpoint is where the agent listens in a task's namespace; containers ask port 80 of the address, which leads there.
var Endpoint = netip.AddrPortFrom(netip.AddrFrom4([4]byte{169, 254, 170, 2}), 51679)

// Keeper keeps namespaces as they should be; *netns.Keeper does.
type Keeper interface {
	Want(t netns.Task)
	Forget(id string)
}

// Host removes what tasks have on the host; netns.Host does.
type Host interface {
	RemoveTask(ctx context.Context, t netns.Task) (removed []string, err error)
	Sweep(ctx context.Context, keep []string) (removed []string, err error)
}

// State is what is durable. Each call is on the disk when it returns nil.
type State interface {
	// Groups returns the last message that was saved, nil if there was none.
	Groups() (*acs.SecurityGroupsMessage, error)
	SaveGroups(m *acs.SecurityGroupsMessage) error
	Attachments() ([]Attachment, error)
	// SaveAttachments puts attachments, and queues that those which are attached now are.
	SaveAttachments(all ...Attachment) error
	DropAttachments(arns ...string) error
}

// Config configures [Networks]. All fields but Serve are required.
type Config struct {
	State  State
	Keeper Keeper
	Host   Host
	// Made is where the interfaces come from that the agent makes.
	Made      netns.Origin
	BlockIMDS bool
	// Listen listens inside a namespace; netns.Listen does.
	Listen func(ctx context.Context, namespace string, at netip.AddrPort) (net.Listener, error)
	// Serve answers the containers of a task until ctx ends; nil: nothing is served to containers.
	Serve func(ctx context.Context, l net.Listener, taskArn string) error
	// Cards are the MACs of the host's interfaces.
	Cards func() (map[string]bool, error)
	// Looked tells the engine how a namespace stands.
	Looked func(taskArn, owner string, changed []string, problem error)
	// Queued says that State has something new to report; it returns at once.
	Queued func()
	Log    *zap.Logger
	// Proc is where the host's processes are; "/proc" if empty.
	Proc string
}

// Networks is an engine.Networks. Make it with [New].
type Networks struct {
	cfg Config

	mail struct {
		sync.Mutex
		list []func()
	}
	awake chan struct{}

	// What follows is owned by Run's goroutine.
	ctx      context.Context
	tasks    map[string]*task // by ARN
	groups   *acs.SecurityGroupsMessage
	leftover sync.WaitGroup

	saved struct { // guards what is durable against each other's updates
		sync.Mutex
		generation  int64
		attachments map[string]Attachment // by ARN
	}
}

// task is a task whose namespace is wanted.
type task struct {
	arn, id   string
	owner     string
	payload   *acs.Task
	namespace *os.File
	right     bool // as netns has it
	listening context.CancelFunc
	wanted    bool // netns was told
}

// New reads what is durable. Nothing is done before [Networks.Run].
func New(c Config) (*Networks, error) {
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	n := &Networks{cfg: c, awake: make(chan struct{}, 1), tasks: map[string]*task{}}
	var err error
	if n.groups, err = c.State.Groups(); err != nil {
		return nil, fmt.Errorf("read the security groups: %w", err)
	}
	if n.groups != nil {
		n.saved.generation = n.groups.Generation
	}
	all, err := c.State.Attachments()
	if err != nil {
		return nil, fmt.Errorf("read the attachments: %w", err)
	}
	n.saved.attachments = map[string]Attachment{}
	for _, a := range all {
		n.saved.attachments[a.Arn] = a
	}
	return n, nil
}

// say has something done by Run's goroutine.
func (n *Networks) say(f func()) {
	n.mail.Lock()
	n.mail.list = append(n.mail.list, f)
	n.mail.Unlock()
	select {
	case n.awake <- struct{}{}:
	default:
	}
}

// cardsInterval is between looks for cards that are announced and not there.
const cardsInterval = 5 * time.Second

// Run works until ctx ends. The namespaces then stay as they are; nobody listens in them until the next Run.
func (n *Networks) Run(ctx context.Context) error {
	n.ctx = ctx
	defer func() {
		for _, t := range n.tasks {
			t.close()
		}
		n.leftover.Wait()
	}()
	tick := time.NewTicker(cardsInterval)
	defer tick.Stop()
	for {
		n.mail.Lock()
		list := n.mail.list
		n.mail.list = nil
		n.mail.Unlock()
		for _, f := range list {
			f()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.awake:
		case <-tick.C:
			n.lookForCards()
		}
	}
}

// Want has the namespace of a task made and kept.
func (n *Networks) Want(ns engine.Namespace) { n.say(func() { n.want(ns) }) }

// Release takes away what the host holds for a task.
func (n *Networks) Release(taskArn string) { n.say(func() { n.release(taskArn) }) }

// Looked takes in what netns says of a task; it is [netns.Keeper]'s Looked.
func (n *Networks) Looked(id string, changed []string, err error) {
	n.say(func() { n.looked(id, changed, err) })
}

// Sweep takes away what the host holds for tasks that are none of these.
func (n *Networks) Sweep(ctx context.Context, taskArns []string) {
	var keep []string
	for _, arn := range taskArns {
		keep = append(keep, idOf(arn))
	}
	removed, err := n.cfg.Host.Sweep(ctx, keep)
	if err != nil && ctx.Err() == nil {
		n.cfg.Log.Warn("What tasks of the past have left in the host's network could not all be removed; the agent's next start tries again", zap.Error(err))
	}
	if len(removed) > 0 {
		n.cfg.Log.Info("Removed what tasks of the past had left in the host's network", zap.Strings("removed", removed))
	}
	n.prune(taskArns)
}

func idOf(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

func (n *Networks) want(ns engine.Namespace) {
	t := n.tasks[ns.Task.Arn]
	if t == nil {
		t = &task{arn: ns.Task.Arn, id: idOf(ns.Task.Arn)}
		n.tasks[t.arn] = t
	}
	if t.owner != ns.Owner {
		t.close()
		t.right, t.wanted = false, false
	}
	t.owner, t.payload = ns.Owner, ns.Task
	if t.namespace == nil {
		var err error
		if t.namespace, err = openNamespace(n.cfg.Proc, ns.Pid); err != nil {
			n.cfg.Looked(t.arn, t.owner, nil, err)
			return
		}
	}
	n.tell(t)
}

// openNamespace opens the network namespace of a pause container's process, and keeps it from being another's by the time
// that it is used: process numbers come again. That of the agent itself is the host's, and never a task's.
func openNamespace(proc string, pid int) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("%s/%d/ns/net", proc, pid))
	if err != nil {
		return nil, &netns.Fault{Kind: netns.NamespaceGone, Detail: fmt.Sprintf("process %d, which owned the task's network, has ended", pid), Err: err}
	}
	own, err := os.Stat("/proc/self/ns/net")
	if err == nil {
		var theirs os.FileInfo
		if theirs, err = f.Stat(); err == nil && os.SameFile(own, theirs) {
			err = errors.New("it is the host's own")
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, &netns.Fault{Kind: netns.NamespaceGone, Detail: fmt.Sprintf("the network namespace of process %d is not the task's", pid), Err: err}
	}
	return f, nil
}

// path is the namespace's file for as long as it is open here.
func (t *task) path() string { return fmt.Sprintf("/proc/self/fd/%d", t.namespace.Fd()) }

// close lets go of the namespace.
func (t *task) close() {
	if t.listening != nil {
		t.listening()
		t.listening = nil
	}
	if t.namespace != nil {
		_ = t.namespace.Close()
		t.namespace = nil
	}
}

// final is an error that no wait heals.
type final struct{ error }

func (f final) Unwrap() []error { return []error{f.error, errdefs.ErrNotImplemented} }

// invalid is an interface that can't be understood.
type invalid struct{ error }

func (i invalid) Unwrap() []error { return []error{i.error, errdefs.ErrInvalidArgument} }

// tell tells netns what the task's namespace is to be, if that can be said.
func (n *Networks) tell(t *task) {
	want, err := n.wanted(t)
	switch {
	case err == nil:
		t.wanted = true
		n.cfg.Keeper.Want(want)
	case !t.wanted: // one that is made already stays as it is until that can be said
		n.cfg.Looked(t.arn, t.owner, nil, err)
	default:
		n.cfg.Log.Error("What the task's network is to be can't be told from what the control plane said last; it stays as it is", zap.String("task", t.arn), zap.Error(err))
	}
}

func (n *Networks) wanted(t *task) (netns.Task, error) {
	want := netns.Task{ID: t.id, Namespace: t.path(), BlockIMDS: n.cfg.BlockIMDS}
	if n.cfg.Serve != nil {
		want.Endpoint, want.EndpointPort = Endpoint.Addr(), Endpoint.Port()
	}
	var groups []string
	for i, e := range t.payload.ElasticNetworkInterfaces {
		made, err := interfaceOf(i, e, n.cfg.Made)
		if err != nil {
			return want, invalid{fmt.Errorf("elasticNetworkInterfaces[%d]: %w", i, err)}
		}
		want.Interfaces = append(want.Interfaces, made)
		if e.InterfaceAssociationProtocol == acs.AssociationVeth && len(e.SecurityGroups) == 0 {
			return want, &netns.Fault{Kind: netns.RulesMissing, Detail: "the control plane names no security group for the interface " + e.Ec2ID + ", and nobody but the agent would enforce one"}
		}
		groups = append(groups, e.SecurityGroups...)
	}
	if len(groups) == 0 {
		return want, nil
	}
	var missing []string
	want.Groups, want.Members, missing = groupsOf(n.groups, groups)
	if len(missing) > 0 {
		return want, &netns.Fault{Kind: netns.RulesMissing, Detail: "waits for the rules of the security groups " + strings.Join(missing, ", ") + ", which the control plane has not sent yet"}
	}
	return want, nil
}

// looked takes in how a namespace stands.
func (n *Networks) looked(id string, changed []string, err error) {
	var t *task
	for _, other := range n.tasks {
		if other.id == id {
			t = other
		}
	}
	if t == nil || t.namespace == nil {
		return
	}
	var f *netns.Fault
	if errors.As(err, &f) && f.Kind == netns.Unsupported {
		err = final{err}
	}
	if t.right = err == nil; t.right {
		err = n.listen(t)
	}
	if err == nil {
		n.attached(t.payload)
	}
	n.cfg.Looked(t.arn, t.owner, changed, err)
}

// listenRetry is between tries to listen in a namespace.
const listenRetry = time.Second

// listen answers the task's containers from now on.
func (n *Networks) listen(t *task) error {
	if n.cfg.Serve == nil || t.listening != nil {
		return nil
	}
	l, err := n.cfg.Listen(n.ctx, t.path(), Endpoint)
	if err != nil {
		owner := t.owner
		time.AfterFunc(listenRetry, func() {
			n.say(func() {
				if t.owner == owner && t.right {
					n.looked(t.id, nil, nil)
				}
			})
		})
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("a container of the task has taken port %d of %s, where the agent answers: %w", Endpoint.Port(), Endpoint.Addr(), err)
		}
		return fmt.Errorf("the agent can't listen at %s in the task's network: %w", Endpoint, err)
	}
	ctx, cancel := context.WithCancel(n.ctx)
	t.listening = cancel
	n.leftover.Go(func() {
		if err := n.cfg.Serve(ctx, l, t.arn); ctx.Err() == nil {
			n.cfg.Log.Error("The agent answers the task's containers no more; it tries again", zap.String("task", t.arn), zap.Error(err))
			n.say(func() { n.listenAgain(t, cancel) })
		}
	})
	return nil
}

// listenAgain listens anew where a server has ended by itself.
func (n *Networks) listenAgain(t *task, ended context.CancelFunc) {
	ended()
	if n.tasks[t.arn] == t && t.namespace != nil {
		t.listening = nil
		n.looked(t.id, nil, nil)
	}
}

// release takes away what the host holds for a task.
func (n *Networks) release(taskArn string) {
	t := n.tasks[taskArn]
	delete(n.tasks, taskArn)
	n.dropOf(taskArn)
	gone := netns.Task{ID: idOf(taskArn)}
	if t == nil {
		t = &task{}
	} else if t.namespace != nil {
		gone.Namespace = t.path()
	}
	if t.listening != nil {
		t.listening()
		t.listening = nil
	}
	ctx := n.ctx
	n.leftover.Go(func() {
		defer t.close()
		n.cfg.Keeper.Forget(gone.ID)
		removed, err := n.cfg.Host.RemoveTask(ctx, gone)
		log := n.cfg.Log.With(zap.String("task", taskArn), zap.String("step", "network"))
		if err != nil && ctx.Err() == nil {
			log.Warn("What the task had in the host's network could not be removed; the agent's next start tries again", zap.Error(err))
		}
		if len(removed) > 0 {
			log.Info("Removed what the task had in the host's network", zap.Strings("removed", removed))
		}
	})
}

// SecurityGroups takes what the control plane says about them. When it returns nil that is durable, or older than what is.
func (n *Networks) SecurityGroups(m *acs.SecurityGroupsMessage) error {
	n.saved.Lock()
	defer n.saved.Unlock()
	if m.Generation <= n.saved.generation {
		n.cfg.Log.Info("What the control plane says about security groups is older than what is known already; it is ignored", zap.Int64("generation", m.Generation), zap.Int64("known", n.saved.generation))
		return nil
	}
	if err := n.cfg.State.SaveGroups(m); err != nil {
		return err
	}
	n.saved.generation = m.Generation
	n.say(func() {
		n.groups = m
		for _, t := range n.tasks {
			if t.namespace != nil {
				n.tell(t)
			}
		}
	})
	return nil
}
