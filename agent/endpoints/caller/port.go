package caller

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSockets bounds what is read of the kernel's table of sockets, in bytes.
const maxSockets = 16 << 20

// Listener names the process of the host that listens on a TCP port at an IPv4 address or at all of them, as "name (pid 1)";
// empty if there is none, or it is not to be found out.
func (f *Finder) Listener(address [4]byte, port uint16) string {
	for _, table := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join(f.cfg.Proc, "net", table))
		if err != nil {
			continue
		}
		inode := listeningAt(file, address, port)
		_ = file.Close()
		if inode == "" {
			continue
		}
		if pid := f.holder("socket:[" + inode + "]"); pid != 0 {
			return fmt.Sprintf("%s (pid %d)", f.comm(pid), pid)
		}
	}
	return ""
}

// listeningAt is the inode of the socket that listens at an address, or at all, from /proc/net/tcp or tcp6 (proc_net_tcp(5)):
// sl local_address rem_address st queues tr:when retrnsmt uid timeout inode. Words of addresses are in the host's order, which is
// little-endian on what this runs on.
func listeningAt(table io.Reader, address [4]byte, port uint16) (inode string) {
	const listens = "0A" // TCP_LISTEN
	own := hex.EncodeToString([]byte{address[3], address[2], address[1], address[0]})
	lines := bufio.NewScanner(io.LimitReader(table, maxSockets))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != listens {
			continue
		}
		at, p, _ := strings.Cut(strings.ToLower(fields[1]), ":")
		n, err := strconv.ParseUint(p, 16, 16)
		if err != nil || uint16(n) != port {
			continue
		}
		if strings.Trim(at, "0") == "" || strings.HasSuffix(at, own) && (len(at) == 8 || strings.HasPrefix(at, "0000000000000000ffff0000")) {
			return fields[9]
		}
	}
	return ""
}
