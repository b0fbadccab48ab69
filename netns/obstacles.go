package netns

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Obstacles are other people's rules that keep from forwarding what ours let through, each with the command that lets it pass: a verdict of our
// table can't overrule a drop in another, and nothing of anyone else's is changed. What is looked for is a chain for all that is
// forwarded that drops by default, in a table where no rule speaks of the bridge. Docker makes such a one where it has switched
// forwarding on, and with br_netfilter it takes what goes from port to port of a bridge, too.
func (n *HostNetwork) Obstacles() (all []string, err error) {
	bridges, err := n.forwarding()
	if err != nil || len(bridges) == 0 {
		return nil, err
	}
	c, err := nftables.New(nftables.WithNetNSFd(n.Namespace))
	if err != nil {
		return nil, err
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list the nftables chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name == TableName || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			continue
		}
		program, ok := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "iptables", nftables.TableFamilyIPv6: "ip6tables", nftables.TableFamilyINet: ""}[ch.Table.Family]
		if !ok {
			continue
		}
		for _, b := range bridges {
			if spoken, err := speaksOf(c, chains, ch.Table, b); err != nil || spoken {
				continue // what can't be read was removed meanwhile
			}
			what := fmt.Sprintf("the nftables chain %s %s drops what is forwarded over %s", ch.Table.Name, ch.Name, b)
			if program == "" {
				all = append(all, fmt.Sprintf("%s; let it pass: nft insert rule inet %s %s iifname %s accept; nft insert rule inet %[2]s %[3]s oifname %[4]s accept", what, ch.Table.Name, ch.Name, b))
				continue
			}
			into := ch.Name
			for _, o := range chains {
				if o.Name == "DOCKER-USER" && o.Table.Name == ch.Table.Name && o.Table.Family == ch.Table.Family {
					into = o.Name
				}
			}
			all = append(all, fmt.Sprintf("%s (%s); let it pass: %[2]s -I %[3]s -i %[4]s -j ACCEPT; %[2]s -I %[3]s -o %[4]s -j ACCEPT", what, program, into, b))
		}
	}
	return all, nil
}

// forwarding are the bridges of ours whose traffic goes through the rules for what is forwarded: the host's own one always, and that of
// tasks where br_netfilter hands bridges' frames to IP's rules.
func (n *HostNetwork) forwarding() (bridges []string, err error) {
	n.mu.Lock()
	for _, p := range n.pieces {
		if b, ok := p.(*Bridge); ok {
			bridges = append(bridges, b.Name)
		}
	}
	n.mu.Unlock()
	h, err := n.links()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if l, err := linkByName(h, DefaultBridge); err != nil || l == nil {
		return bridges, err
	}
	err = n.inside(func() error {
		if on, _ := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"); strings.TrimSpace(string(on)) == "1" {
			bridges = append(bridges, DefaultBridge)
		}
		return nil
	})
	return bridges, err
}

// speaksOf says whether a rule of a table names an interface.
func speaksOf(c *nftables.Conn, chains []*nftables.Chain, t *nftables.Table, name string) (bool, error) {
	for _, ch := range chains {
		if ch.Table.Name != t.Name || ch.Table.Family != t.Family {
			continue
		}
		rules, err := c.GetRules(t, ch)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok && string(bytes.TrimRight(cmp.Data, "\x00")) == name {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
