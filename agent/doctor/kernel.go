package doctor

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/config"
)

// Kernel looks at what the agent and the engine need of the kernel, and at nothing else. root is "/" but in tests.
func Kernel(cfg *config.Config, root string) []Check {
	e := &examination{Patient: &Patient{Config: cfg, Root: root}, Report: &Report{}}
	e.kernel()
	return e.Checks
}

// kernel looks at what the agent and the engine need of the kernel.
func (e *examination) kernel() {
	e.clock()
	e.cgroups()
	if e.Root == "/" {
		if err := askNftables(); err != nil {
			e.add(Fail, "nftables", "Load it: modprobe nf_tables; it needs CAP_NET_ADMIN.", "the kernel does not take nftables requests: %v", err)
		} else {
			e.add(OK, "nftables", "", "the kernel takes nftables requests")
		}
	}
	if filesystems := e.read("proc/filesystems"); strings.Contains(filesystems, "\toverlay\n") {
		e.add(OK, "overlay", "", "the kernel has the overlay file system")
	} else {
		e.add(Warn, "overlay", "Load it: modprobe overlay", "the kernel does not show the overlay file system, which engines keep images with")
	}
	switch n, err := strconv.Atoi(strings.TrimSpace(e.read("proc/sys/user/max_user_namespaces"))); {
	case err != nil:
		e.add(Warn, "user namespaces", "Nothing, unless the engine is to map users (userns-remap).", "the kernel has none")
	case n == 0:
		e.add(Warn, "user namespaces", "sysctl user.max_user_namespaces=15000, if the engine is to map users (userns-remap).", "they are switched off")
	default:
		e.add(OK, "user namespaces", "", "at most %d", n)
	}
	e.capabilities()
}

func (e *examination) read(name string) string {
	data, err := os.ReadFile(filepath.Join(e.Root, name))
	if err != nil {
		return ""
	}
	return string(data)
}

// clock asks the kernel whether something keeps its clock right.
func (e *examination) clock() {
	if e.Root != "/" {
		return
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		e.add(Warn, "time service", "", "the kernel does not say whether its clock is kept right: %v", err)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		e.add(Warn, "time service", "Run chrony, ntpd or systemd-timesyncd; in a container or virtual machine the host's clock may be kept right for it.", "no service on this host keeps the kernel's clock right")
	default:
		e.add(OK, "time service", "", "the clock is kept right, within %s", (time.Duration(t.Maxerror) * time.Microsecond).Round(time.Millisecond))
	}
}

// cgroups looks for the controllers that limits need.
func (e *examination) cgroups() {
	wanted := []string{"cpu", "memory", "pids"}
	version, have := 2, strings.Fields(e.read("sys/fs/cgroup/cgroup.controllers"))
	if !slices.Contains(have, "memory") {
		version, have = 1, nil
		for line := range strings.Lines(e.read("proc/cgroups")) {
			if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
				have = append(have, f[0])
			}
		}
	}
	var missing []string
	for _, w := range wanted {
		if !slices.Contains(have, w) {
			missing = append(missing, w)
		}
	}
	if len(missing) > 0 {
		e.add(Fail, "cgroups", "Enable them on the kernel's command line: cgroup_enable=memory; or mount them: systemctl status sys-fs-cgroup.mount", "version %d, and the controllers %s are missing: limits of tasks can't hold", version, strings.Join(missing, ", "))
		return
	}
	e.add(OK, "cgroups", "", "version %d with the controllers %s", version, strings.Join(wanted, ", "))
}

// needed are the capabilities that the agent uses, by their bit (capabilities(7)).
var needed = map[uint]string{0: "CAP_CHOWN", 1: "CAP_DAC_OVERRIDE", 5: "CAP_KILL", 6: "CAP_SETGID", 7: "CAP_SETUID", 12: "CAP_NET_ADMIN", 19: "CAP_SYS_PTRACE", 21: "CAP_SYS_ADMIN"}

// capabilities looks at those of the running agent, or else at one's own.
func (e *examination) capabilities() {
	who, status := "this command", "proc/self/status"
	if e.status != nil {
		who, status = "the agent", fmt.Sprintf("proc/%d/status", e.status.PID)
	}
	for line := range strings.Lines(e.read(status)) {
		text, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			break
		}
		var missing []string
		for bit, name := range needed {
			if bits&(1<<bit) == 0 {
				missing = append(missing, name)
			}
		}
		slices.Sort(missing)
		if len(missing) > 0 {
			e.add(Fail, "capabilities", "Run it as root, with these in CapabilityBoundingSet of its unit.", "%s lacks %s", who, strings.Join(missing, ", "))
		} else {
			e.add(OK, "capabilities", "", "%s has all that it uses", who)
		}
		return
	}
	e.add(Warn, "capabilities", "Look at CapEff in /"+status+".", "those of %s can't be read", who)
}

// askNftables asks the kernel for the generation of its nftables rules, which changes nothing
// (include/uapi/linux/netfilter/nf_tables.h, NFT_MSG_GETGEN).
func askNftables() error {
	const getGeneration = 10<<8 | 16 // NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}); err != nil {
		return err
	}
	const size = unix.SizeofNlMsghdr + 4 // and struct nfgenmsg
	m := make([]byte, size)
	binary.NativeEndian.PutUint32(m[0:], size)
	binary.NativeEndian.PutUint16(m[4:], getGeneration)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code < 0 {
			return unix.Errno(-code)
		}
	}
	return nil
}
