package netns

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// session is a conversation with the nftables of one network namespace, by one goroutine.
type session struct {
	conn   *nftables.Conn
	raw    *netlink.Conn // under conn
	table  *nftables.Table
	cookie uint64 // of the namespace: no other will have it until the machine is started again; 0 on kernels before 5.14
	ids    uint32
	queued bool
}

// bufferSize holds the largest transaction that is likely, and the kernel's words about each of its messages.
const bufferSize = 4 << 20

func open(namespace int) (*session, error) {
	s := &session{table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}}
	size := func(c *netlink.Conn) error {
		s.raw = c
		return errors.Join(c.SetReadBuffer(bufferSize), c.SetWriteBuffer(bufferSize))
	}
	var err error
	if s.conn, err = nftables.New(nftables.WithNetNSFd(namespace), nftables.AsLasting(), nftables.WithSockOptions(size)); err != nil {
		return nil, fmt.Errorf("open a netlink socket for nftables: %w", err)
	}
	raw, err := s.raw.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, s.conn.CloseLasting())
	}
	_ = raw.Control(func(fd uintptr) { s.cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) })
	return s, nil
}

func (s *session) close() { _ = s.conn.CloseLasting() }

// generation is that of the namespace's rules.
func (s *session) generation() (uint32, error) {
	answers, err := s.raw.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.NFPROTO_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of the nftables rules: %w", err)
	}
	for _, m := range answers {
		ad, err := netlink.NewAttributeDecoder(m.Data[min(4, len(m.Data)):])
		if err != nil {
			return 0, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				return ad.Uint32(), nil
			}
		}
	}
	return 0, errors.New("the kernel does not tell the generation of its nftables rules")
}

// flush sends what is queued as one transaction.
func (s *session) flush() error {
	if !s.queued {
		return nil
	}
	s.queued = false
	return s.conn.Flush()
}

// replace makes the whole table anew in one transaction: there is never a moment without it.
func (s *session) replace(want Ruleset, exists bool) ([]string, error) {
	if !exists && len(want.Chains) == 0 {
		return nil, nil
	}
	s.queued = true
	if exists {
		s.conn.DelTable(s.table)
	}
	if len(want.Chains) == 0 {
		return []string{"nftables table inet " + TableName + " removed"}, s.flush()
	}
	s.conn.AddTable(s.table)
	for _, set := range want.Sets {
		if err := s.conn.AddSet(s.set(set), nil); err != nil {
			return nil, fmt.Errorf("the set %s: %w", set.Name, err)
		}
		if err := s.change(set, set.Elements, nil); err != nil {
			return nil, err
		}
	}
	for _, ch := range want.Chains {
		chain := &nftables.Chain{Name: ch.Name, Table: s.table}
		if ch.Hook != nil {
			policy := ch.policy()
			chain.Type, chain.Hooknum, chain.Priority, chain.Policy = ch.Type, ch.Hook, &ch.Priority, &policy
		}
		s.conn.AddChain(chain)
		for _, rule := range ch.Rules {
			s.conn.AddRule(&nftables.Rule{Table: s.table, Chain: chain, Exprs: rule.Exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, want.mark(rule))})
		}
	}
	return []string{"nftables table inet " + TableName}, s.flush()
}

func (c Chain) policy() nftables.ChainPolicy {
	if c.Drop {
		return nftables.ChainPolicyDrop
	}
	return nftables.ChainPolicyAccept
}

// set is a set as the kernel is told of it.
func (s *session) set(want Set) *nftables.Set {
	s.ids++ // of its own, since the library's counter is shared and unguarded
	set := &nftables.Set{Table: s.table, ID: s.ids, Name: want.Name, KeyType: datatype(want.Key), Concatenation: len(want.Key) > 1, Interval: want.Interval}
	if want.Key[0] == nftables.TypeIFName {
		set.KeyByteOrder = binaryutil.NativeEndian
	}
	if want.Value != nil {
		set.IsMap, set.DataType = true, datatype(want.Value)
	}
	return set
}

// change queues that elements are added and removed.
func (s *session) change(set Set, add, remove []Element) error {
	for _, todo := range []struct {
		elements []Element
		do       func(*nftables.Set, []nftables.SetElement) error
	}{{remove, s.conn.SetDeleteElements}, {add, s.conn.SetAddElements}} {
		for _, some := range chunks(todo.elements) {
			var all []nftables.SetElement
			for _, e := range some {
				all = append(all, nftables.SetElement{Key: e.Key, KeyEnd: e.End, Val: e.Value, Comment: e.Comment})
			}
			s.queued = true
			if err := todo.do(&nftables.Set{Table: s.table, Name: set.Name, IsMap: set.Value != nil}, all); err != nil {
				return fmt.Errorf("the set %s: %w", set.Name, err)
			}
		}
	}
	return nil
}

// elements are those that the kernel has.
func (s *session) elements(set Set) ([]Element, error) {
	all, err := s.conn.GetSetElements(&nftables.Set{Table: s.table, Name: set.Name})
	if err != nil {
		return nil, fmt.Errorf("the set %s: %w", set.Name, err)
	}
	var now []Element
	for _, e := range all {
		now = append(now, Element{Key: e.Key, End: e.KeyEnd, Value: e.Val, Comment: e.Comment})
	}
	return sorted(now), nil
}

// shaped says whether the table has the wanted sets, chains and rules, and no others, and whether there is one. Elements of sets are not looked at.
func (s *session) shaped(want Ruleset) (right, exists bool, err error) {
	t, err := s.conn.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if err != nil || t == nil {
		return false, false, absent(err)
	}
	if right, err = s.setsAre(want.Sets); !right || err != nil {
		return false, true, absent(err)
	}
	right, err = s.chainsAre(want)
	return right && len(want.Chains) > 0, true, absent(err)
}

func (s *session) setsAre(want []Set) (bool, error) {
	sets, err := s.conn.GetSets(s.table)
	if err != nil || len(sets) != len(want) {
		return false, err
	}
	now := map[string]*nftables.Set{}
	for _, set := range sets {
		now[set.Name] = set
	}
	for i := range want {
		set, key, value := now[want[i].Name], datatype(want[i].Key), nftables.SetDatatype{}
		if want[i].Value != nil {
			value = datatype(want[i].Value)
		}
		if set == nil || set.KeyType.Name != key.Name || set.IsMap != (want[i].Value != nil) || set.IsMap && set.DataType.Name != value.Name || set.Interval != want[i].Interval || set.Dynamic || set.HasTimeout {
			return false, nil
		}
	}
	return true, nil
}

// chainsAre compares chains and rules. Of a rule the number of expressions and the text beside it count: who changes one makes another.
func (s *session) chainsAre(want Ruleset) (bool, error) {
	all, err := s.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	now := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name == TableName {
			now[ch.Name] = ch
		}
	}
	if len(now) != len(want.Chains) {
		return false, nil
	}
	for _, c := range want.Chains {
		rules, same, err := s.rulesOf(c, now[c.Name])
		if err != nil || !same || len(rules) != len(c.Rules) {
			return false, err
		}
		for i, rule := range c.Rules {
			if text, _ := userdata.GetString(rules[i].UserData, userdata.TypeComment); text != want.mark(rule) || len(rules[i].Exprs) != len(rule.Exprs) {
				return false, nil
			}
		}
	}
	return true, nil
}

// rulesOf are a chain's rules, if it is the wanted one.
func (s *session) rulesOf(want Chain, now *nftables.Chain) ([]*nftables.Rule, bool, error) {
	if now == nil || (now.Hooknum == nil) != (want.Hook == nil) {
		return nil, false, nil
	}
	if want.Hook != nil && (now.Type != want.Type || *now.Hooknum != *want.Hook || now.Priority == nil || *now.Priority != want.Priority ||
		now.Policy == nil || *now.Policy != want.policy()) {
		return nil, false, nil
	}
	rules, err := s.conn.GetRules(s.table, now)
	return rules, err == nil, err
}

// absent takes for absence what the kernel says about what is not there, or went while it was read.
func absent(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
