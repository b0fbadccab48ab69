package sockets

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxTable bounds what is read of one of the kernel's lists of sockets.
const maxTable = 64 << 20

// Listened reports whether a socket of this network namespace listens on a TCP port, at whatever address; proc is /proc/thread-self. A port that nobody
// listens on can still be in use: as the near end of a connection, where it is among those that the kernel gives away (ip(7), ip_local_port_range).
func Listened(proc string, port uint16) bool {
	_, listens := listener(filepath.Join(proc, "net"), port)
	return listens
}

// Listener names the process that listens on a TCP port in this network namespace, for a message; empty if none does. proc is /proc.
func Listener(proc string, port uint16) string {
	inode, listens := listener(filepath.Join(proc, "thread-self", "net"), port)
	if !listens {
		return ""
	}
	return Owner(proc, inode)
}

func listener(tables string, port uint16) (inode string, listens bool) {
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(tables, name))
		if err != nil {
			continue
		}
		inode, listens := listenedIn(f, port)
		_ = f.Close()
		if listens {
			return inode, true
		}
	}
	return "", false
}

// listenedIn reads /proc/net/tcp or tcp6 (proc_pid_net(5)): sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …, the
// addresses in hexadecimal.
func listenedIn(table io.Reader, port uint16) (inode string, listens bool) {
	const listen = "0A" // TCP_LISTEN
	lines := bufio.NewScanner(io.LimitReader(table, maxTable))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[3] != listen {
			continue
		}
		_, p, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(p, 16, 16); err == nil && uint16(n) == port {
			if len(f) > 9 {
				inode = f[9]
			}
			return inode, true
		}
	}
	return "", false
}
