package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// A lease's file is called by the container's id and leaseFile; while it is written, unfinished comes behind.
const leaseFile, unfinished = ".lease", ".new"

var leaseID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$`)

// leaseRecord is a lease in its file.
type leaseRecord struct {
	ID        string         `json:"id"`
	Task      string         `json:"task"`
	Namespace string         `json:"namespace"`
	Ports     []Publish      `json:"ports,omitempty"`
	Addresses []netip.Prefix `json:"addresses"`
	Given     []Publish      `json:"given,omitempty"`
}

var errLeaving = errors.New("it is being disconnected")

const maxLease = 64 << 10

// parseLease reads a lease's file.
func parseLease(raw []byte) (*Lease, error) {
	if len(raw) > maxLease {
		return nil, fmt.Errorf("it has %d bytes; a lease has at most %d", len(raw), maxLease)
	}
	var r leaseRecord
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, err
	}
	l := &Lease{Connection: Connection{r.ID, r.Task, r.Namespace, r.Ports}, Addresses: r.Addresses, Given: r.Given}
	if err := l.check(); err != nil {
		return nil, err
	}
	if len(l.Addresses) == 0 || slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return !p.IsValid() || p.Addr().Is4In6() }) {
		return nil, errors.New("it has no usable addresses")
	}
	for _, p := range l.Given {
		if p.Host == 0 {
			return nil, errors.New("a host port is 0")
		}
	}
	return l, checkPorts(l.Given)
}

// check says what a container can't want.
func (c Connection) check() error {
	switch {
	case !leaseID.MatchString(c.ID):
		return fmt.Errorf("the id %.140q is not letters, digits and _.:- up to 128", c.ID)
	case c.Namespace == "":
		return errors.New("it has no network namespace")
	case len(c.Task) > 128:
		return fmt.Errorf("the task id has %d bytes, more than 128", len(c.Task))
	}
	return checkPorts(c.Ports)
}

func checkPorts(all []Publish) error {
	for _, p := range all {
		switch {
		case p.Protocol != "tcp" && p.Protocol != "udp":
			return fmt.Errorf("the protocol %.20q of a published port is neither tcp nor udp", p.Protocol)
		case p.Container == 0 || int(p.Container)+p.count() > 65536 || int(p.Host)+p.count() > 65536:
			return fmt.Errorf("%d ports from %d on, published from %d on, are not all from 1 to 65535", p.count(), p.Container, p.Host)
		}
	}
	return nil
}

// read knows the leases again that there are files of. What can't be read is set aside and told: its container is connected anew.
func (b *Bridge) read() (map[string]*Lease, error) {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory of the bridge's leases: %w", err)
	}
	files, err := os.ReadDir(b.Dir)
	if err != nil {
		return nil, fmt.Errorf("the directory of the bridge's leases: %w", err)
	}
	leases := map[string]*Lease{}
	for _, f := range files {
		path := filepath.Join(b.Dir, f.Name())
		if strings.HasSuffix(f.Name(), unfinished) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
		id, ok := strings.CutSuffix(f.Name(), leaseFile)
		if !ok {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("a lease of the bridge: %w", err)
		}
		l, err := parseLease(raw)
		if err == nil && l.ID != id {
			err = fmt.Errorf("it is of %s", l.ID)
		}
		if err != nil {
			b.Log.Error("A lease of the bridge can't be read; it is set aside, and its container must be connected anew", zap.String("file", path), zap.Error(err))
			if err := os.Rename(path, path+".unreadable"); err != nil {
				return nil, err
			}
			continue
		}
		leases[id] = l
	}
	return leases, nil
}

// keep writes a lease's file; at no time there is half of one.
func (b *Bridge) keep(l *Lease) error {
	raw, err := json.Marshal(leaseRecord{l.ID, l.Task, l.Namespace, l.Ports, l.Addresses, l.Given})
	if err != nil {
		return err
	}
	path := filepath.Join(b.Dir, l.ID+leaseFile)
	if err := os.WriteFile(path+unfinished, raw, 0o600); err != nil {
		return fmt.Errorf("write a lease of the bridge: %w", err)
	}
	return os.Rename(path+unfinished, path)
}

// drop gives a lease back.
func (b *Bridge) drop(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := os.Remove(filepath.Join(b.Dir, id+leaseFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a lease of the bridge: %w", err)
	}
	delete(b.leases, id)
	return nil
}

// lease is what the container has or gets, and whether something of it is new.
func (b *Bridge) lease(c Connection) (l Lease, fresh bool, err error) {
	if err := c.check(); err != nil {
		return Lease{}, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.leases[c.ID]
	if old != nil && !old.leaving && old.Task == c.Task && old.Namespace == c.Namespace && slices.Equal(old.Ports, c.Ports) {
		return *old, false, nil
	}
	now := &Lease{Connection: c}
	if old != nil {
		if old.leaving {
			return Lease{}, false, errLeaving
		}
		now.Addresses = old.Addresses
	} else if now.Addresses, err = b.addresses(); err != nil {
		return Lease{}, false, err
	}
	if now.Given, err = b.choose(now, old); err != nil {
		return Lease{}, false, err
	}
	if err := b.keep(now); err != nil {
		return Lease{}, false, err
	}
	b.leases[c.ID] = now
	return *now, true, nil
}

// addresses are an unused one of each subnet. An address rests before it is used again.
func (b *Bridge) addresses() (all []netip.Prefix, err error) {
	used := map[netip.Addr]bool{}
	for _, l := range b.leases {
		for _, a := range l.Addresses {
			used[a.Addr()] = true
		}
	}
	for _, s := range b.Subnets {
		f := familyOf(s.Addr())
		a, ok := nextFree(s, b.last[f], used)
		if !ok {
			return nil, fmt.Errorf("all addresses of %s are in use, by %d containers", s.Masked(), len(b.leases))
		}
		b.last[f] = a
		all = append(all, netip.PrefixFrom(a, s.Bits()))
	}
	return all, nil
}

// nextFree is the first address of a subnet after last that is not used. The first and the last of the subnet, and its own, are not to be had.
func nextFree(s netip.Prefix, last netip.Addr, used map[netip.Addr]bool) (netip.Addr, bool) {
	first, end := s.Masked().Addr(), lastOf(s.Masked())
	if !last.IsValid() {
		last = first
	}
	for range len(used) + 4 {
		last = last.Next()
		if !s.Masked().Contains(last) || string(last.AsSlice()) == string(end) {
			last = first.Next()
		}
		if last != s.Addr() && !used[last] {
			return last, true
		}
	}
	return netip.Addr{}, false
}
