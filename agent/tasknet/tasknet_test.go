package tasknet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	taskArn    = "arn:aws:ecs:us-west-2:123456789012:task/default/0123456789abcdef"
	attachment = "arn:aws:ecs:us-west-2:123456789012:attachment/a1"
)

// eni is an interface that the agent makes.
func eni() *acs.ElasticNetworkInterface {
	return &acs.ElasticNetworkInterface{AttachmentArn: attachment, Ec2ID: "eni-1", MacAddress: "02:00:00:00:00:0A", InterfaceAssociationProtocol: acs.AssociationVeth,
		IPv4Addresses: []*acs.IPv4Address{{PrivateAddress: "10.0.0.5"}}, SubnetGatewayIpv4Address: "10.0.0.1/24",
		IPv6Addresses: []*acs.IPv6Address{{Address: "2001:db8::5"}}, SubnetGatewayIpv6Address: "2001:db8::1/120", SecurityGroups: []string{"web"}}
}

func groups(generation int64) *acs.SecurityGroupsMessage {
	return &acs.SecurityGroupsMessage{Generation: generation, Groups: []*acs.SecurityGroup{
		{GroupID: "web", Ingress: []*acs.SecurityGroupRule{{Protocol: "tcp", FromPort: 80, ToPort: 81, Cidrs: []string{"192.0.2.1/24"}, Groups: []string{"clients"}}}, Egress: []*acs.SecurityGroupRule{{Protocol: "-1", Cidrs: []string{"::/0"}}}},
		{GroupID: "clients", Members: []string{"10.0.0.9", "2001:db8::9"}}, {GroupID: "other", Members: []string{"10.0.0.10"}},
	}}
}

// memory is a State.
type memory struct {
	mu          sync.Mutex
	groups      *acs.SecurityGroupsMessage
	attachments map[string]Attachment
	told        []string // attachments that were queued to be reported
	err         error
}

func (m *memory) Groups() (*acs.SecurityGroupsMessage, error) { return m.groups, nil }
func (m *memory) SaveGroups(g *acs.SecurityGroupsMessage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.groups = g
	}
	return m.err
}
func (m *memory) Attachments() ([]Attachment, error) {
	return slices.Collect(maps.Values(m.attachments)), nil
}
func (m *memory) SaveAttachments(all ...Attachment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	for _, a := range all {
		if m.attachments[a.Arn].Attached.IsZero() && !a.Attached.IsZero() {
			m.told = append(m.told, a.Arn)
		}
		m.attachments[a.Arn] = a
	}
	return nil
}
func (m *memory) DropAttachments(arns ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, arn := range arns {
		delete(m.attachments, arn)
	}
	return m.err
}

// stage is a Networks and all around it. Namespaces are real, those of processes that sleep; what is made in them is not.
type stage struct {
	t        *testing.T
	state    *memory
	networks *Networks
	stop     func()

	mu      sync.Mutex
	wanted  []netns.Task
	forgot  []string
	removed []netns.Task
	swept   []string
	looked  []string // "owner: problem", in order
	last    error
	cards   map[string]bool
	served  map[string]int // by task: servers that run
	listen  error
}

func (s *stage) Want(t netns.Task) { s.mu.Lock(); defer s.mu.Unlock(); s.wanted = append(s.wanted, t) }
func (s *stage) Forget(id string)  { s.mu.Lock(); defer s.mu.Unlock(); s.forgot = append(s.forgot, id) }
func (s *stage) RemoveTask(_ context.Context, t netns.Task) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = append(s.removed, t)
	return []string{"its veth"}, nil
}
func (s *stage) Sweep(_ context.Context, keep []string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.swept = keep
	return nil, nil
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, state: &memory{attachments: map[string]Attachment{}}, served: map[string]int{}, cards: map[string]bool{}}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *stage) start() {
	s.t.Helper()
	n, err := New(Config{
		State: s.state, Keeper: s, Host: s, Made: netns.Bridged{Bridge: "br"}, BlockIMDS: true, Log: zap.NewNop(), Queued: func() {},
		Listen: func(context.Context, string, netip.AddrPort) (net.Listener, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return nil, s.listen
		},
		Serve: func(ctx context.Context, _ net.Listener, arn string) error {
			s.serves(arn, 1)
			defer s.serves(arn, -1)
			<-ctx.Done()
			return ctx.Err()
		},
		Cards: func() (map[string]bool, error) { s.mu.Lock(); defer s.mu.Unlock(); return maps.Clone(s.cards), nil },
		Looked: func(_, owner string, _ []string, problem error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.looked, s.last = append(s.looked, fmt.Sprint(owner, ": ", problem)), problem
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = n.Run(ctx) }()
	s.networks = n
	s.stop = func() { cancel(); <-done; s.stop = func() {} }
}

func (s *stage) serves(arn string, n int) { s.mu.Lock(); defer s.mu.Unlock(); s.served[arn] += n }

// until waits until something is so.
func (s *stage) until(what string, ok func() bool) {
	s.t.Helper()
	tick, limit := time.NewTicker(time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		s.mu.Lock()
		fine := ok()
		s.mu.Unlock()
		if fine {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			s.t.Fatalf("waited in vain: %s (%+v)", what, s.looked)
		}
	}
}

// drained waits until everything that was said before is done.
func (s *stage) drained() {
	done := make(chan struct{})
	s.networks.say(func() { close(done) })
	<-done
}

// process is one that sleeps in a network namespace of its own.
func process(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func (s *stage) want(pid int, owner string, interfaces ...*acs.ElasticNetworkInterface) {
	s.networks.Want(engine.Namespace{Task: &acs.Task{Arn: taskArn, ElasticNetworkInterfaces: interfaces}, Owner: owner, Pid: pid})
}

func TestANamespaceIsWantedAsTheInterfacesAndTheirGroupsSay(t *testing.T) {
	s := newStage(t)
	if err := s.networks.SecurityGroups(groups(1)); err != nil {
		t.Fatal(err)
	}
	s.want(process(t), "run 1", eni())
	s.until("netns is told", func() bool { return len(s.wanted) == 1 })
	want := netns.Task{ID: "0123456789abcdef", Endpoint: netip.MustParseAddr("169.254.170.2"), EndpointPort: 51679, BlockIMDS: true,
		Interfaces: []netns.Interface{{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 10}, Origin: netns.Bridged{Bridge: "br"},
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24"), netip.MustParsePrefix("2001:db8::5/120")},
			Gateways:  []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}}},
		Groups: []netns.SecurityGroup{{ID: "web", Ingress: []netns.GroupRule{{Protocol: 6, From: 80, To: 81, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Groups: []string{"clients"}}},
			Egress: []netns.GroupRule{{Protocol: -1, Networks: []netip.Prefix{netip.MustParsePrefix("::/0")}}}}},
		Members: netns.Members{"clients": {netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("2001:db8::9")}},
	}
	if d := cmp.Diff(want, s.wanted[0], cmpopts.IgnoreFields(netns.Task{}, "Namespace"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
	later := groups(2)
	later.Groups[1].Members = nil
	for _, m := range []*acs.SecurityGroupsMessage{groups(1), later} { // the first is not news
		if err := s.networks.SecurityGroups(m); err != nil {
			t.Fatal(err)
		}
	}
	s.drained()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wanted) != 2 || len(s.wanted[1].Members["clients"]) != 0 || len(s.wanted[1].Groups) != 1 {
		t.Errorf("%+v", s.wanted)
	}
}

func TestTheOriginOfAnInterfaceIsThatOfItsAssociation(t *testing.T) {
	for association, want := range map[string]netns.Origin{"": netns.Card{}, "default": netns.Card{}, "veth": netns.Macvlan{Parent: "p"}, "vlan": netns.Branch{Trunk: net.HardwareAddr{2, 0, 0, 0, 0, 1}, VLAN: 7}} {
		e := eni()
		e.InterfaceAssociationProtocol, e.InterfaceVlanProperties = association, &acs.InterfaceVlanProperties{VlanID: "7", TrunkInterfaceMacAddress: "02:00:00:00:00:01"}
		if i, err := interfaceOf(1, e, netns.Macvlan{Parent: "p"}); err != nil || cmp.Diff(want, i.Origin) != "" || i.Name != "eth1" {
			t.Errorf("%s: %+v %v", association, i, err)
		}
	}
	for what, change := range map[string]func(*acs.ElasticNetworkInterface){
		"macAddress": func(e *acs.ElasticNetworkInterface) { e.MacAddress = "x" }, "ipv4Addresses": func(e *acs.ElasticNetworkInterface) { e.IPv4Addresses[0].PrivateAddress = "x" },
		"ipv6Addresses": func(e *acs.ElasticNetworkInterface) { e.IPv6Addresses[0].Address = "x" }, "subnetGatewayIpv6Address": func(e *acs.ElasticNetworkInterface) { e.SubnetGatewayIpv6Address = "x" },
	} {
		e := eni()
		change(e)
		if _, err := interfaceOf(0, e, nil); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestNoInterfaceIsMadeBeforeItsGroupsRulesAreThere(t *testing.T) {
	s := newStage(t)
	pid := process(t)
	s.want(pid, "run 1", eni())
	s.until("it waits", func() bool {
		return len(s.looked) == 1 && strings.Contains(s.looked[0], "RulesMissing: waits for the rules of the security groups web")
	})
	if err := s.networks.SecurityGroups(groups(1)); err != nil {
		t.Fatal(err)
	}
	s.until("netns is told", func() bool { return len(s.wanted) == 1 })
	// A message that lacks the group of a task that has its network opens and closes nothing.
	if err := s.networks.SecurityGroups(&acs.SecurityGroupsMessage{Generation: 9}); err != nil {
		t.Fatal(err)
	}
	s.drained()
	bare := eni()
	bare.SecurityGroups = nil
	s.want(pid, "run 2", bare)
	s.until("an interface without groups is refused", func() bool {
		return len(s.looked) == 2 && strings.Contains(s.looked[1], "RulesMissing: the control plane names no security group")
	})
	if len(s.wanted) != 1 {
		t.Errorf("%+v", s.wanted)
	}
}

func TestGroupsThatCantBeSavedAreRefusedAndHoldOverARestart(t *testing.T) {
	s := newStage(t)
	s.state.err = errors.New("no space left on device")
	if err := s.networks.SecurityGroups(groups(3)); err == nil {
		t.Fatal("it would be acknowledged, and lost")
	}
	s.state.err = nil
	if err := s.networks.SecurityGroups(groups(3)); err != nil {
		t.Fatal(err)
	}
	s.stop()
	s.start()
	s.want(process(t), "run 1", eni())
	s.until("netns is told", func() bool { return len(s.wanted) == 1 && len(s.wanted[0].Groups) == 1 })
}

func TestATasksNetworkIsRightWhenTheAgentAnswersThere(t *testing.T) {
	s := newStage(t)
	_ = s.networks.SecurityGroups(groups(1))
	s.listen = syscall.EADDRINUSE
	s.want(process(t), "run 1", eni())
	s.until("netns is told", func() bool { return len(s.wanted) == 1 })
	s.networks.Looked("0123456789abcdef", []string{"eth0"}, nil)
	s.until("the port is taken", func() bool { return len(s.looked) == 1 && strings.Contains(s.looked[0], "has taken port 51679") })
	s.mu.Lock()
	s.listen = nil
	s.mu.Unlock()
	s.until("it is tried again", func() bool { return s.looked[len(s.looked)-1] == "run 1: <nil>" && s.served[taskArn] == 1 })
	s.networks.Looked("0123456789abcdef", nil, &netns.Fault{Kind: netns.ParentDown, Detail: "eth1"})
	s.until("the engine hears of a fault", func() bool { return strings.Contains(s.looked[len(s.looked)-1], "ParentDown") })
	s.networks.Looked("0123456789abcdef", nil, &netns.Fault{Kind: netns.Unsupported, Detail: "macvlan"})
	s.until("what can't ever be is final", func() bool { return errdefs.IsNotImplemented(s.last) })
	s.networks.Looked("0123456789abcdef", nil, nil)
	s.networks.Looked("not a task", nil, nil)
	s.drained()
	s.networks.Release(taskArn)
	s.networks.Release(taskArn)
	s.until("all is taken away", func() bool { return len(s.removed) == 2 && len(s.forgot) == 2 && s.served[taskArn] == 0 })
	if s.removed[0].ID != "0123456789abcdef" {
		t.Errorf("%+v", s.removed)
	}
}

func TestTheNamespaceOfTheHostIsNeverATasks(t *testing.T) {
	s := newStage(t)
	_ = s.networks.SecurityGroups(groups(1))
	s.want(os.Getpid(), "run 1", eni())
	s.until("it is refused", func() bool { return len(s.looked) == 1 && strings.Contains(s.looked[0], "it is the host's own") })
	s.want(1<<30, "run 2", eni())
	s.until("a process that is gone has none", func() bool {
		return len(s.looked) == 2 && strings.Contains(s.looked[1], "NamespaceGone: process 1073741824")
	})
	if len(s.wanted) != 0 {
		t.Errorf("%+v", s.wanted)
	}
}

func announce(s *stage, wait time.Duration, e *acs.ElasticNetworkInterface) {
	s.t.Helper()
	m := &acs.AttachTaskNetworkInterfacesMessage{TaskArn: taskArn, WaitTimeoutMs: wait.Milliseconds(), ElasticNetworkInterfaces: []*acs.ElasticNetworkInterface{e}}
	if err := s.networks.AttachTask(m); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) kept() map[string]Attachment {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return maps.Clone(s.state.attachments)
}

func (s *stage) told() []string {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return slices.Clone(s.state.told)
}

func TestACardIsReportedWhenItAppearsAndOnlyOnce(t *testing.T) {
	s := newStage(t)
	e := eni()
	e.InterfaceAssociationProtocol = acs.AssociationDefault
	announce(s, time.Hour, e)
	s.drained()
	if told := s.told(); len(told) != 0 {
		t.Fatalf("it is not on the host, and was reported: %v", told)
	}
	s.mu.Lock()
	s.cards["02:00:00:00:00:0a"] = true
	s.mu.Unlock()
	s.networks.say(s.networks.lookForCards)
	s.until("it is reported", func() bool { return len(s.told()) == 1 })
	announce(s, time.Hour, e)
	s.drained()
	s.stop()
	s.start()
	announce(s, time.Hour, e)
	s.drained()
	if told := s.told(); len(told) != 1 {
		t.Errorf("%v", told)
	}
	s.networks.Release(taskArn)
	s.until("it is forgotten with its task", func() bool { return len(s.kept()) == 0 })
}

func TestAnInterfaceThatTheAgentMakesIsReportedWhenTheTasksNetworkIsRight(t *testing.T) {
	for name, first := range map[string]bool{"announced first": true, "wanted first": false} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			_ = s.networks.SecurityGroups(groups(1))
			if first {
				announce(s, time.Hour, eni())
			}
			s.want(process(t), "run 1", eni())
			s.until("netns is told", func() bool { return len(s.wanted) == 1 })
			if told := s.told(); len(told) != 0 {
				t.Fatal(told)
			}
			s.networks.Looked("0123456789abcdef", nil, nil)
			s.until("it is right", func() bool { return len(s.looked) == 1 })
			if !first {
				announce(s, time.Hour, eni())
			}
			s.until("it is reported", func() bool { return len(s.told()) == 1 })
		})
	}
}

func TestNothingIsReportedAfterItsTime(t *testing.T) {
	s := newStage(t)
	e := eni()
	e.InterfaceAssociationProtocol = acs.AssociationDefault
	s.stop()
	s.cards["02:00:00:00:00:0a"] = true
	s.state.attachments[attachment] = Attachment{Arn: attachment, MAC: "02:00:00:00:00:0a", TaskArn: taskArn, ExpiresAt: time.Now().Add(-2 * time.Hour)}
	s.start()
	s.networks.say(s.networks.lookForCards)
	s.drained()
	if told := s.told(); len(told) != 0 {
		t.Fatal(told)
	}
	s.networks.Sweep(context.Background(), []string{"arn:aws:ecs:us-west-2:123456789012:task/default/ffff"})
	if kept := s.kept(); len(kept) != 0 || !slices.Equal(s.swept, []string{"ffff"}) {
		t.Errorf("%v %v", kept, s.swept)
	}
	trunk := &acs.AttachInstanceNetworkInterfacesMessage{WaitTimeoutMs: 60000, ElasticNetworkInterfaces: []*acs.ElasticNetworkInterface{e}}
	if err := s.networks.AttachInstance(trunk); err != nil {
		t.Fatal(err)
	}
	s.until("an interface of the instance is", func() bool { return len(s.told()) == 1 && s.kept()[attachment].TaskArn == "" })
}
