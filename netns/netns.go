// Package netns is the host's networking, as far as Longshore and not the container engine makes it. In this version that is
// one piece: the address at which containers ask the agent (see [LinkLocal]). The modes of tasks' own networks will be further
// pieces.
//
// # Model
//
// Each piece is a pure function from what is asked for to the wanted kernel state, and a step that compares what is with what
// is wanted and does only what differs. So a step may be repeated at any time: at a start, after somebody flushed the rules, every so
// often. Events of the kernel are hints to look at once; losing them costs time only.
//
// All rules are in one nftables table of our own, "longshore" of the family inet, which is replaced as a whole in one
// transaction: there is never a moment with half of it. Nothing in any other table is read or changed, and what is ours can be told from
// what is not by that name, and for addresses by their label. Removal takes away all that is ours and nothing else; it can be repeated,
// and needs nobody to remember what was made.
package netns

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// TableName is the name of our nftables table.
const TableName = "longshore"

// Ruleset is a table as it should be.
type Ruleset struct {
	Interfaces []InterfaceSet
	Chains     []Chain
}

// InterfaceSet is a named set of interfaces' names.
type InterfaceSet struct {
	Name  string
	Names []string // sorted
}

// Chain is a base chain, which accepts what its rules don't decide.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority nftables.ChainPriority
	Rules    []Rule
}

// Rule is one rule. Text is it in nft's words; a comment in the kernel has its fingerprint, and a rule with another one is another rule.
type Rule struct {
	Text  string
	Exprs []expr.Any
}

// String is the ruleset as nft would list it.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, s := range r.Interfaces {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype ifname\n\t\telements = { %s }\n\t}\n", s.Name, strings.Join(s.Names, ", "))
	}
	for _, c := range r.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.Name, c.Type, hookNames[*c.Hook], c.Priority)
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule.Text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookOutput: "output", *nftables.ChainHookInput: "input",
}

// ensure makes the kernel's table what it should be, and says whether it was something else.
func (r Ruleset) ensure(c *nftables.Conn) (changed bool, err error) {
	same, err := r.is(c)
	if err != nil || same {
		return false, err
	}
	t := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	for _, s := range r.Interfaces {
		set := &nftables.Set{Table: t, Name: s.Name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
		if err := c.AddSet(set, s.elements()); err != nil {
			return false, fmt.Errorf("the set %s: %w", s.Name, err)
		}
	}
	for _, ch := range r.Chains {
		policy := nftables.ChainPolicyAccept
		chain := c.AddChain(&nftables.Chain{Name: ch.Name, Table: t, Type: ch.Type, Hooknum: ch.Hook, Priority: &ch.Priority, Policy: &policy})
		for _, rule := range ch.Rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rule.Exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, rule.mark())})
		}
	}
	if err := c.Flush(); err != nil {
		return false, fmt.Errorf("write the nftables table %s: %w", TableName, err)
	}
	return true, nil
}

func (s InterfaceSet) elements() []nftables.SetElement {
	var all []nftables.SetElement
	for _, n := range s.Names {
		all = append(all, nftables.SetElement{Key: interfaceName(n)})
	}
	return all
}

func interfaceName(n string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, n)
	return b
}

// mark is the comment beside the rule.
func (r Rule) mark() string {
	sum := sha256.Sum256([]byte(r.Text))
	return TableName + " " + hex.EncodeToString(sum[:4])
}

// is compares the kernel's table with what it should be.
func (r Ruleset) is(c *nftables.Conn) (bool, error) {
	t, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if err != nil || t == nil {
		return false, absent(err)
	}
	if same, err := r.setsAre(c, t); !same || err != nil {
		return false, absent(err)
	}
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, absent(err)
	}
	chains := map[string]*nftables.Chain{}
	for _, ch := range all {
		if ch.Table.Name == TableName {
			chains[ch.Name] = ch
		}
	}
	if len(chains) != len(r.Chains) {
		return false, nil
	}
	for i := range r.Chains {
		if same, err := r.Chains[i].is(c, t, chains[r.Chains[i].Name]); !same || err != nil {
			return false, absent(err)
		}
	}
	return true, nil
}

// absent takes for absence what the kernel says about what is not there, or went while it was read.
func absent(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (r Ruleset) setsAre(c *nftables.Conn, t *nftables.Table) (bool, error) {
	for _, s := range r.Interfaces {
		set, err := c.GetSetByName(t, s.Name)
		if err != nil {
			return false, err
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return false, err
		}
		var names []string
		for _, e := range elements {
			names = append(names, unix.ByteSliceToString(e.Key))
		}
		slices.Sort(names)
		if !slices.Equal(names, s.Names) {
			return false, nil
		}
	}
	return true, nil
}

// is compares a chain. Of the rules the number of expressions and the text beside them count: who changes a rule makes another.
func (ch *Chain) is(c *nftables.Conn, t *nftables.Table, now *nftables.Chain) (bool, error) {
	if now == nil || now.Type != ch.Type || now.Hooknum == nil || *now.Hooknum != *ch.Hook || now.Priority == nil || *now.Priority != ch.Priority ||
		now.Policy == nil || *now.Policy != nftables.ChainPolicyAccept {
		return false, nil
	}
	rules, err := c.GetRules(t, now)
	if err != nil || len(rules) != len(ch.Rules) {
		return false, err
	}
	for i, rule := range ch.Rules {
		if text, _ := userdata.GetString(rules[i].UserData, userdata.TypeComment); text != rule.mark() || len(rules[i].Exprs) != len(rule.Exprs) {
			return false, nil
		}
	}
	return true, nil
}

// removeTable removes our table. Removing what is not there does nothing.
func removeTable(c *nftables.Conn) (removed bool, err error) {
	t, err := c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if err != nil || t == nil {
		return false, absent(err)
	}
	c.DelTable(t)
	if err := absent(c.Flush()); err != nil {
		return false, fmt.Errorf("remove the nftables table %s: %w", TableName, err)
	}
	return true, nil
}
