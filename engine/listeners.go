package engine

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/internal/sockets"
)

// listener is a socket of the host that takes connections or datagrams.
type listener struct {
	PortKey
	addr  netip.Addr
	inode string
}

// listeners reads the sockets of the agent's network namespace (proc(5), /proc/net/tcp and its siblings). What can't be
// read counts as no listener: the engine finds it out then.
func listeners(proc string) []listener {
	var all []listener
	for file, protocol := range map[string]string{"tcp": "tcp", "tcp6": "tcp", "udp": "udp", "udp6": "udp"} {
		f, err := os.Open(filepath.Join(proc, "net", file))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if l, ok := parseSocket(lines.Text(), protocol); ok {
				all = append(all, l)
			}
		}
		_ = f.Close()
	}
	return all
}

// Socket states of the kernel that mean "takes what comes": TCP_LISTEN, and TCP_CLOSE for an unconnected UDP socket.
var listening = map[string]string{"tcp": "0A", "udp": "07"}

func parseSocket(line, protocol string) (listener, bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listening[protocol] {
		return listener{}, false
	}
	host, port, ok := strings.Cut(fields[1], ":")
	if !ok {
		return listener{}, false
	}
	number, err := strconv.ParseUint(port, 16, 16)
	raw, hexErr := hex.DecodeString(host)
	if err != nil || hexErr != nil || len(raw)%4 != 0 {
		return listener{}, false
	}
	for i := 0; i < len(raw); i += 4 { // the kernel prints each 32-bit word in host order, which is little-endian here
		slices.Reverse(raw[i : i+4])
	}
	addr, ok := netip.AddrFromSlice(raw)
	return listener{PortKey{int32(number), protocol}, addr.Unmap(), fields[9]}, ok
}

// foreign names the first listener that keeps a container from one of its static host ports; empty if there is none. A
// container on the host's network may bind another address of the port, so that only a listener on all addresses is in
// its way.
func foreign(proc string, c *Container) string {
	var all []listener
	for _, p := range c.Ports {
		if p.Host == 0 {
			continue
		}
		if all == nil {
			all = listeners(proc)
		}
		for _, l := range all {
			if l.PortKey == (PortKey{p.Host, p.Protocol}) && (c.NetworkMode != "host" || l.addr.IsUnspecified()) {
				return fmt.Sprintf("host port %s is taken: %s listens on %s; stop it, or choose another hostPort",
					l.PortKey, sockets.Owner(proc, l.inode), netip.AddrPortFrom(l.addr, uint16(l.Port)))
			}
		}
	}
	return ""
}
