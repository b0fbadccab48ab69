// Package hosts runs several whole hosts on one machine, each with namespaces and an engine of its own, Docker or containerd, for tests that
// need more than one host: hosts.sh does the work, and a person can use it directly.
//
// The machine's own network is not touched: the hosts' cables end in a bridge inside a namespace. What runs in the
// machine's own namespace (a control plane under test, a registry) is made reachable for the hosts at the LAN's address by
// [Forward].
package hosts

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/engine/cgroup"
)

// Farm is a set of hosts. Its methods are for one goroutine at a time.
type Farm struct {
	Dir  string // disks and sockets
	Name string // prefix of namespaces and hostnames, at most 8 letters
	Net  string // /24 prefix, such as 10.90.0
	Runs string // docker, which is what empty means, containerd, or both
}

// LAN is the address at which the hosts reach what runs beside them.
func (f *Farm) LAN() string { return f.Net + ".254" }

// Address is host i's own, counted from 1.
func (f *Farm) Address(i int) string { return f.Net + "." + strconv.Itoa(i) }

// LANNamespace is the path of the network namespace that holds the bridge.
func (f *Farm) LANNamespace() string { return "/run/netns/" + f.Name + "lan" }

// Engine is the Docker endpoint of host i, seen from outside.
func (f *Farm) Engine(i int) string {
	return "unix://" + filepath.Join(f.Dir, "h"+strconv.Itoa(i), "docker.sock")
}

// Disk is where the host's own directory dir lies on this machine.
func (f *Farm) Disk(i int, dir string) string {
	return filepath.Join(f.Dir, "h"+strconv.Itoa(i), "disk", dir)
}

// script is hosts.sh beside this file.
func script() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "hosts.sh")
}

// Command is hosts.sh with arguments, not started.
func (f *Farm) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", append([]string{script()}, args...)...)
	cmd.Env = append(os.Environ(), "HOSTS_DIR="+f.Dir, "HOSTS_NAME="+f.Name, "HOSTS_NET="+f.Net, "HOSTS_ENGINE="+cmp.Or(f.Runs, "docker"))
	return cmd
}

func (f *Farm) run(ctx context.Context, args ...string) error {
	var out bytes.Buffer
	cmd := f.Command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("hosts %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Up makes hosts 1 to n and waits for their engines. Hosts that are up stay as they are.
func (f *Farm) Up(ctx context.Context, n int) error {
	if os.Geteuid() != 0 {
		return errors.New("hosts: needs root")
	}
	return f.run(ctx, "up", strconv.Itoa(n))
}

// Cut is a power cut of host i.
func (f *Farm) Cut(ctx context.Context, i int) error { return f.run(ctx, "cut", strconv.Itoa(i)) }

// Boot starts host i again.
func (f *Farm) Boot(ctx context.Context, i int) error { return f.run(ctx, "boot", strconv.Itoa(i)) }

// Engines starts those of host i's engines that have ended, and waits until they answer.
func (f *Farm) Engines(ctx context.Context, i int) error {
	return f.run(ctx, "engines", strconv.Itoa(i))
}

// Unplug takes host i's cable out.
func (f *Farm) Unplug(ctx context.Context, i int) error { return f.run(ctx, "unplug", strconv.Itoa(i)) }

// Plug puts it back.
func (f *Farm) Plug(ctx context.Context, i int) error { return f.run(ctx, "plug", strconv.Itoa(i)) }

// Down ends and deletes everything. Repeating it does nothing. The hosts share the machine's control groups: those of their
// agents' tasks are swept as the agents themselves would.
func (f *Farm) Down(ctx context.Context) error {
	dirs, _ := filepath.Glob(filepath.Join(f.Dir, "h*/disk/var/lib/ecs/*"))
	owners := make([]string, len(dirs))
	for i, dir := range dirs {
		owners[i] = cgroup.OwnerOf(dir)
	}
	err := f.run(ctx, "down")
	for _, owner := range owners {
		err = errors.Join(err, sweep(ctx, owner))
	}
	return err
}

// sweep removes the control groups that an agent has made.
func sweep(ctx context.Context, owner string) error {
	for version := 1; version <= 2; version++ {
		groups, err := cgroup.New(cgroup.Options{Driver: "cgroupfs", Version: version, Owner: owner})
		if err != nil {
			continue // the machine has the other version
		}
		_, err = groups.Sweep(ctx, func(string) bool { return false })
		return err
	}
	return nil
}

// Start starts a command inside host i. The returned command is nsenter's, which ends with it; the process dies with the host.
func (f *Farm) Start(ctx context.Context, i int, argv ...string) *exec.Cmd {
	return f.Command(ctx, append([]string{"exec", strconv.Itoa(i)}, argv...)...)
}
