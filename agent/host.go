package agent

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/agent/config"
)

// Host is what this host is and has, as far as it is the same for every task.
type Host struct {
	CPU          int64 // CPU units: logical CPUs × 1024
	Memory       int64 // MiB, without ECS_RESERVED_MEMORY
	Architecture string
	BootID       string // the kernel's id of this boot; empty when there is none
	MachineID    string // hashed, see machineID; empty when the host has none
	Name         string
	Address      string // primary address, empty when it has none
	Ephemeral    [2]int32
}

// hostFacts looks at the host below root, which is "/" but in tests.
func hostFacts(root string, cfg *config.Config) (Host, error) {
	memory, err := memoryMiB(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return Host{}, fmt.Errorf("how much memory the host has: %w", err)
	}
	if cfg.ReservedMemory >= memory {
		return Host{}, &TerminalError{fmt.Errorf("ECS_RESERVED_MEMORY is %d MiB, and the host has %d MiB: nothing is left for tasks; lower it in %s", cfg.ReservedMemory, memory, config.DefaultFile)}
	}
	h := Host{
		CPU: int64(runtime.NumCPU()) * 1024, Memory: memory - cfg.ReservedMemory, Architecture: architecture(runtime.GOARCH),
		MachineID: machineID(filepath.Join(root, "etc/machine-id")), Name: cfg.InstanceName, Address: cfg.InstanceAddress,
		BootID:    bootID(filepath.Join(root, "proc/sys/kernel/random/boot_id")),
		Ephemeral: ephemeralPorts(filepath.Join(root, "proc/sys/net/ipv4/ip_local_port_range")),
	}
	if h.Name == "" {
		if name, err := os.Hostname(); err == nil {
			h.Name = name
		}
	}
	if h.Address == "" {
		h.Address = primaryAddress()
	}
	return h, nil
}

// memoryMiB is MemTotal.
func memoryMiB(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		return kib / 1024, nil
	}
	return 0, fmt.Errorf("%s has no MemTotal", name)
}

// architecture is the ECS name of a CPU.
func architecture(goarch string) string {
	if goarch == "amd64" {
		return "x86_64"
	}
	return goarch
}

// machineIDKey makes the id that the agent shows another one than /etc/machine-id, which machine-id(5) asks to keep
// confidential, and the same one at every start.
const machineIDKey = "longshore container instance"

// machineID is a stable id of the host, "lh-" and 17 hexadecimal digits as EC2's ids have; empty without a machine id.
func machineID(name string) string {
	data, err := os.ReadFile(name)
	id := strings.TrimSpace(string(data))
	if err != nil || len(id) != 32 {
		return ""
	}
	mac := hmac.New(sha256.New, []byte(id))
	mac.Write([]byte(machineIDKey))
	return "lh-" + hex.EncodeToString(mac.Sum(nil))[:17]
}

// bootID is another one after each boot of the kernel; empty if it can't be read.
func bootID(name string) string {
	data, err := os.ReadFile(name)
	id := strings.TrimSpace(string(data))
	if err != nil || len(id) > 64 {
		return ""
	}
	return id
}

// ephemeralPorts is the kernel's range of ephemeral ports, zero if it can't be read.
func ephemeralPorts(name string) [2]int32 {
	data, err := os.ReadFile(name)
	if err != nil {
		return [2]int32{}
	}
	fields := strings.Fields(string(data))
	if len(fields) != 2 {
		return [2]int32{}
	}
	first, err1 := strconv.ParseInt(fields[0], 10, 32)
	last, err2 := strconv.ParseInt(fields[1], 10, 32)
	if err1 != nil || err2 != nil || first < 1 || last > 65535 || first > last {
		return [2]int32{}
	}
	return [2]int32{int32(first), int32(last)}
}

// primaryAddress is the source address of the default route; without one, the first address of an interface that no
// container engine made. Nothing is sent to find it.
func primaryAddress() string {
	for _, elsewhere := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // documentation addresses
		if c, err := net.Dial("udp", elsewhere); err == nil {
			address, ok := c.LocalAddr().(*net.UDPAddr)
			_ = c.Close()
			if ok && address.IP.IsGlobalUnicast() {
				return address.IP.String()
			}
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || madeByEngine(i.Name) {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				return n.IP.String()
			}
		}
	}
	return ""
}

func madeByEngine(name string) bool {
	for _, prefix := range []string{"docker", "br-", "veth", "cni", "virbr"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
