package netns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"github.com/vishvananda/netlink"
)

// Local is a veth pair whose other end is a port of a bridge that has no way to other hosts but through this one (see [Bridge]).
// Nobody else can have its addresses.
type Local struct{ Bridge string }

func (o Local) String() string { return "veth on the host's own bridge " + o.Bridge }

func (o Local) ensure(s *sides, l link) (netlink.Link, error) {
	bridge, err := linkByName(s.host, o.Bridge)
	if err != nil {
		return nil, err
	}
	if bridge == nil {
		return nil, fault(ParentMissing, "the bridge %s is not there yet", o.Bridge)
	}
	now, err := Bridged{Bridge: o.Bridge}.pair(s, l, bridge.Attrs())
	if err != nil {
		return now, err
	}
	return now, o.hairpin(s, l.outer)
}

// hairpin lets what comes from a container go back to it. It asks for its own published port at the host, and where bridges' frames
// go through IP's rules (br_netfilter, which Docker loads), the answer to where that leads never leaves the bridge.
func (o Local) hairpin(s *sides, outer string) error {
	l, err := s.host.LinkByName(outer)
	if err != nil {
		return fmt.Errorf("the interface %s: %w", outer, err)
	}
	if p, err := s.host.LinkGetProtinfo(l); err == nil && p.Hairpin {
		return nil
	}
	if err := s.host.LinkSetHairpin(l, true); err != nil {
		return fmt.Errorf("set the port %s of %s to hairpin: %w", outer, o.Bridge, err)
	}
	return nil
}

// localAlias begins what is written on a container's interface on the host.
const localAlias = "longshore container "

// localName is the name on the host of a container's interface.
func localName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "lc" + hex.EncodeToString(sum[:])[:13]
}
