// Package network is what the control plane knows of the networks of tasks in network mode awsvpc: the subnets and security
// groups that its operator configured, and the addresses that tasks have.
//
// # Model
//
//	file       subnets and security groups, read again whenever it changes ([Config]); every replica has one
//	store      an [store.Address] for each address that a task has, created in the transaction that places the task and deleted in
//	           the one that records it STOPPED
//	Network    both, in memory: how much of a subnet is taken, which address comes next, who is in which group
//	Claim      what the tasks of one request want of it
//
// That no two tasks ever have one address does not depend on anything here: the address is the key of its record, and a
// transaction that creates a record which is there already is refused by the store, whatever replica it comes from and whatever
// has become of the file. What is in memory only makes that rare. Addresses are given out next-fit: one that came free rests
// until all that follow it in its subnet were had.
//
// A file that has changed and can't be used changes nothing, and is told in the log. Interfaces are made from the file as it is
// when their task is placed, and stay as they are: a change of a subnet concerns tasks that are placed later. Rules of security
// groups hold for all that runs, as soon as hosts have heard of them.
package network

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/durable"
)

// DefaultInterval is how often the file is looked at.
const DefaultInterval = 2 * time.Second

// maxFile bounds the file, in bytes.
const maxFile = 16 << 20

// Network is safe for concurrent use.
type Network struct {
	file string // empty: there is none
	log  *zap.Logger
	seen os.FileInfo // of the file when it was read last, with or without success; [Network.Run]'s

	mu       sync.Mutex
	config   *Config
	version  int64 // of config
	taken    map[netip.Addr]*store.Address
	used     map[netip.Prefix]uint64     // how many of a block's usable addresses are taken
	next     map[netip.Prefix]netip.Addr // where the search for the next address of a block begins
	members  map[string]map[netip.Addr]struct{}
	ruled    map[string]int64 // by group: the version in which its rules changed last
	changed  map[string]int64 // by group: how often its members changed
	states   map[groupKey]GroupState
	onReload []func()
}

// Open reads a file, empty for none. The error names the file and what is wrong in it.
func Open(file string, log *zap.Logger) (*Network, error) {
	if log == nil {
		log = zap.NewNop()
	}
	n := &Network{file: file, log: log, config: new(Config), taken: map[netip.Addr]*store.Address{},
		next: map[netip.Prefix]netip.Addr{}, members: map[string]map[netip.Addr]struct{}{},
		ruled: map[string]int64{}, changed: map[string]int64{}, states: map[groupKey]GroupState{}}
	if file != "" {
		config, err := n.read()
		if err != nil {
			return nil, err
		}
		n.config = config
	}
	n.count()
	return n, nil
}

// Follow has the network know the addresses of a store, for as long as that lives. It is called once, before anything is placed.
func (n *Network) Follow(st *store.Store) {
	st.OnChange(n.note)
	n.mu.Lock() // so that what is noted next is newer than what is loaded
	defer n.mu.Unlock()
	st.Peek(n.load)
}

// Config is the configuration as it is now.
func (n *Network) Config() *Config {
	if n == nil {
		return new(Config)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.config
}

// Version rises with each change of the configuration.
func (n *Network) Version() int64 {
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.version
}

// File is the file's name, empty without one.
func (n *Network) File() string {
	if n == nil {
		return ""
	}
	return n.file
}

// OnReload has f called after each change of the configuration. f must return at once.
func (n *Network) OnReload(f func()) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.onReload = append(n.onReload, f)
}

// Run reads the file again whenever it changes, until ctx ends; it looks at every interval.
func (n *Network) Run(ctx context.Context, interval time.Duration) error {
	if n.file == "" {
		return nil
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			n.look()
		}
	}
}

// look reads the file again if it has changed.
func (n *Network) look() {
	info, err := os.Stat(n.file)
	switch {
	case err == nil && n.seen != nil && os.SameFile(info, n.seen) && info.ModTime().Equal(n.seen.ModTime()) && info.Size() == n.seen.Size():
		return
	case err != nil && n.seen == nil: // told already
		return
	}
	config, err := n.read()
	if err == nil {
		err = n.inUse(config)
	}
	if err != nil {
		n.log.Error("the file of the subnets and security groups has changed and can't be used; they stay as they were", zap.String("file", n.file), zap.Error(err))
		return
	}
	n.Set(config)
	n.log.Info("the subnets and security groups were read again", zap.String("file", n.file), zap.Int("subnets", len(config.Subnets)), zap.Int("security_groups", len(config.Groups)))
}

// inUse refuses a configuration that lacks groups which interfaces are in: these would be cut off.
func (n *Network) inUse(config *Config) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(n.members)) {
		if config.Group(name) == nil && n.config.Group(name) != nil {
			return fmt.Errorf("security group %s is gone, and %d addresses are in it: stop their tasks first", name, len(n.members[name]))
		}
	}
	return nil
}

// Set replaces the configuration.
func (n *Network) Set(config *Config) {
	n.mu.Lock()
	old := n.config
	n.config = config
	n.version++
	for _, groups := range []map[string]*Group{old.Groups, config.Groups} {
		for name := range groups {
			if !reflect.DeepEqual(old.Group(name), config.Group(name)) {
				n.ruled[name] = n.version
			}
		}
	}
	n.count()
	told := slices.Clone(n.onReload)
	n.mu.Unlock()
	for _, f := range told {
		f()
	}
}

func (n *Network) read() (*Config, error) {
	n.seen = nil
	data, err := durable.Read(n.file, maxFile, func(info fs.FileInfo) error {
		n.seen = info
		return nil
	})
	if err != nil {
		return nil, err
	}
	config, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.file, err)
	}
	return config, nil
}
