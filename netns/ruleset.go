package netns

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// TableName is the name of our nftables table.
const TableName = "longshore"

// Ruleset is our table as it should be: the rules, and apart from them the sets and maps whose elements change while the rules stay. One
// without chains is no table.
type Ruleset struct {
	Task   string // whose it is, for the comments beside the rules; empty: the host's
	Sets   []Set
	Chains []Chain
}

// Set is a named set of keys, or a map from keys to values.
type Set struct {
	Name string
	// Key are the types of a key's fields, and Value those of what a map has for it; without, it is a set.
	Key, Value []nftables.SetDatatype
	// Interval says that elements are boxes: each field of a key is from Key to End. They must not overlap; the kernel finds the one that
	// holds a packet in a time that hardly depends on their number.
	Interval bool
	Elements []Element
}

// Element is a key, or a box of them from Key to End, in the network's byte order. The fields of more than one are each filled up to four
// bytes.
type Element struct {
	Key, End, Value []byte
	Comment         string
}

// Chain is a list of rules. One with a hook is a base chain; one without is jumped to.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority nftables.ChainPriority
	Drop     bool // what no rule of a base chain decides
	Rules    []Rule
}

// Rule is one rule. Text is it in nft's words; a comment in the kernel has its fingerprint and the task's id, and a rule with another one is another
// rule.
type Rule struct {
	Text  string
	Exprs []expr.Any
}

// Assemble makes one ruleset of pieces. Chains of the same name are one, with the rules in the order of the pieces, and so are sets, with
// the elements of all.
func Assemble(pieces ...Ruleset) Ruleset {
	var all Ruleset
	for _, p := range pieces {
		for _, s := range p.Sets {
			if i := slices.IndexFunc(all.Sets, func(o Set) bool { return o.Name == s.Name }); i >= 0 {
				all.Sets[i].Elements = slices.Concat(all.Sets[i].Elements, s.Elements)
				continue
			}
			all.Sets = append(all.Sets, s)
		}
		for _, c := range p.Chains {
			if i := slices.IndexFunc(all.Chains, func(o Chain) bool { return o.Name == c.Name }); i >= 0 {
				all.Chains[i].Rules = slices.Concat(all.Chains[i].Rules, c.Rules)
				continue
			}
			all.Chains = append(all.Chains, c)
		}
	}
	for i := range all.Sets {
		all.Sets[i].Elements = sorted(all.Sets[i].Elements)
	}
	return all
}

// sorted are the elements in one order, each once.
func sorted(elements []Element) []Element {
	slices.SortFunc(elements, Element.compare)
	return slices.CompactFunc(elements, func(a, b Element) bool { return a.compare(b) == 0 })
}

func (e Element) compare(o Element) int {
	return cmp.Or(bytes.Compare(e.Key, o.Key), bytes.Compare(e.End, o.End), bytes.Compare(e.Value, o.Value), strings.Compare(e.Comment, o.Comment))
}

// String is the ruleset in nft's words: what nft -f would read.
func (r Ruleset) String() string {
	if len(r.Chains) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, s := range r.Sets {
		s.write(&b)
	}
	for _, c := range r.Chains {
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (s Set) write(b *strings.Builder) {
	kind, to := "set", ""
	if s.Value != nil {
		kind, to = "map", " : "+datatype(s.Value).Name
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s%s\n", kind, s.Name, datatype(s.Key).Name, to)
	if s.Interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(s.Elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, e := range s.Elements {
			fmt.Fprintf(b, "\t\t\t%s,\n", s.text(e))
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

// text is an element in nft's words.
func (s Set) text(e Element) string {
	text := written(s.Key, e.Key, e.End)
	if e.Comment != "" {
		text += fmt.Sprintf(" comment %q", e.Comment)
	}
	if s.Value != nil {
		text += " : " + written(s.Value, e.Value, nil)
	}
	return text
}

func (c Chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if c.Hook != nil {
		policy := "accept"
		if c.Drop {
			policy = "drop"
		}
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy %s;\n", c.Type, hookNames[*c.Hook], c.Priority, policy)
	}
	for _, rule := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", rule.Text)
	}
	b.WriteString("\t}\n")
}

var hookNames = map[nftables.ChainHook]string{
	*nftables.ChainHookPrerouting: "prerouting", *nftables.ChainHookInput: "input", *nftables.ChainHookForward: "forward",
	*nftables.ChainHookOutput: "output", *nftables.ChainHookPostrouting: "postrouting",
}

// mark is the comment beside a rule.
func (r Ruleset) mark(rule Rule) string {
	h := fnv.New32a()
	h.Write([]byte(rule.Text))
	mark := TableName + " " + hex.EncodeToString(h.Sum(nil))
	if r.Task != "" {
		mark += " task " + r.Task
	}
	return mark[:min(len(mark), maxComment)]
}

// maxComment is how long nft lets a comment be.
const maxComment = 127
