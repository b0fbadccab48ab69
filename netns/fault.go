package netns

import "fmt"

// Kind names why a task's network is not what it should be. It is what explain, the log and the metrics call that state.
type Kind string

// The kinds. All but [Unsupported] heal by themselves once the cause is gone: the next look (see [Keeper]) finds it so.
const (
	// NamespaceGone: the file leads to no network namespace; its process has ended.
	NamespaceGone Kind = "NamespaceGone"
	// CardMissing: no card of the host has the MAC. It is late, has another MAC, or was taken away in use.
	CardMissing Kind = "CardMissing"
	// ParentMissing: what the interface hangs on (uplink, macvlan's parent, trunk) is not on the host.
	ParentMissing Kind = "ParentMissing"
	// ParentDown: it is there and administratively down. Whoever took it down has a reason, so it is not set up.
	ParentDown Kind = "ParentDown"
	// ParentBusy: the uplink has the host's own addresses, or is a port of another bridge: taking it would cut the host off.
	ParentBusy Kind = "ParentBusy"
	// NameTaken: something else has the bridge's or the interface's name.
	NameTaken Kind = "NameTaken"
	// AddressConflict: somebody else on the network answers for the address. It is not used as long as he does; one that is in use
	// already stays.
	AddressConflict Kind = "AddressConflict"
	// RulesMissing: a security group's rules have not arrived. The interface stays down until they have.
	RulesMissing Kind = "RulesMissing"
	// RulesFailed: the security groups' rules can't be written. The interface stays down until they can.
	RulesFailed Kind = "RulesFailed"
	// Unsupported: the kernel can't make what is wanted.
	Unsupported Kind = "Unsupported"
)

// Fault is an error whose cause has a name. Get at the first with [errors.As]; whether one of a kind is among several says
//
//	errors.Is(err, &netns.Fault{Kind: netns.CardMissing})
type Fault struct {
	Kind   Kind
	Detail string // what failed, on what, and what to do
	Err    error  // the kernel's word, if it had one
}

func (f *Fault) Error() string {
	if f.Err == nil {
		return fmt.Sprintf("%s: %s", f.Kind, f.Detail)
	}
	return fmt.Sprintf("%s: %s: %v", f.Kind, f.Detail, f.Err)
}

// Is says whether the target is a fault of the same kind.
func (f *Fault) Is(target error) bool {
	t, ok := target.(*Fault)
	return ok && t.Kind == f.Kind
}

func (f *Fault) Unwrap() error { return f.Err }

// fault is a [Fault] without a word of the kernel.
func fault(k Kind, format string, args ...any) *Fault {
	return &Fault{Kind: k, Detail: fmt.Sprintf(format, args...)}
}
