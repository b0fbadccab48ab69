package caller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The layout of the messages of sock_diag(7): struct inet_diag_req_v2 and struct inet_diag_msg of linux/inet_diag.h.
const (
	header      = 16 // struct nlmsghdr
	requestSize = header + 56
	answerSize  = 72
	stateListen = 10 // TCP_LISTEN
)

// published is the port that containers connect to; the connection arrives at the port behind it.
const published = 80

// ownSocket is the inode of the other end of a connection, if that is a socket of this process's network namespace; 0 if it
// is not. local is this end, which a rule may have put in place of the address that the other one has connected to.
func ownSocket(local, remote netip.AddrPort) (uint32, error) {
	s, err := openDiag()
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	for _, to := range []netip.AddrPort{local, netip.AddrPortFrom(local.Addr(), published)} {
		inode, err := diagnose(s, remote, to)
		if inode != 0 || err != nil {
			return inode, err
		}
	}
	return 0, nil
}

func openDiag() (int, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return -1, fmt.Errorf("the kernel's sock_diag: %w", err)
	}
	patience := unix.NsecToTimeval(int64(2 * time.Second))
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		_ = unix.Close(s)
		return -1, fmt.Errorf("the kernel's sock_diag: %w", err)
	}
	return s, nil
}

// diagnose asks for the socket that is bound to one address and connected to the other. The answer may be the socket that listens
// there, which is nobody's connection.
func diagnose(s int, own, peer netip.AddrPort) (inode uint32, err error) {
	if own.Addr().Is4() != peer.Addr().Is4() {
		return 0, nil
	}
	if err := unix.Sendto(s, question(own, peer), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("the kernel's sock_diag: %w", err)
	}
	buffer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, buffer, 0)
	if err != nil {
		return 0, fmt.Errorf("the kernel's sock_diag: %w", err)
	}
	return answer(buffer[:n])
}

func question(own, peer netip.AddrPort) []byte {
	b := make([]byte, requestSize)
	binary.NativeEndian.PutUint32(b[0:], requestSize)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	r := b[header:]
	r[0], r[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if own.Addr().Is4() {
		r[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(r[4:], ^uint32(0)) // every state
	id := r[8:]
	binary.BigEndian.PutUint16(id[0:], own.Port())
	binary.BigEndian.PutUint16(id[2:], peer.Port())
	copy(id[4:20], own.Addr().AsSlice())
	copy(id[20:36], peer.Addr().AsSlice())
	binary.NativeEndian.PutUint32(id[40:], ^uint32(0)) // INET_DIAG_NOCOOKIE
	binary.NativeEndian.PutUint32(id[44:], ^uint32(0))
	return b
}

// answer reads what the kernel said.
func answer(b []byte) (inode uint32, err error) {
	if len(b) < header {
		return 0, errors.New("the kernel's sock_diag: a short answer")
	}
	body := b[header:]
	switch kind := binary.NativeEndian.Uint16(b[4:]); {
	case kind == unix.NLMSG_ERROR && len(body) >= 4:
		code := -int32(binary.NativeEndian.Uint32(body))
		if unix.Errno(code) == unix.ENOENT {
			return 0, nil
		}
		return 0, os.NewSyscallError("the kernel's sock_diag", unix.Errno(code))
	case kind == unix.SOCK_DIAG_BY_FAMILY && len(body) >= answerSize:
		if body[1] == stateListen {
			return 0, nil
		}
		return binary.NativeEndian.Uint32(body[68:]), nil
	}
	return 0, errors.New("the kernel's sock_diag: an answer that can't be read")
}

// Supported says why callers in the host network mode can't be told apart on this host; nil: they can.
func Supported() error {
	s, err := openDiag()
	if err != nil {
		return err
	}
	defer unix.Close(s)
	nowhere := netip.MustParseAddrPort("127.0.0.1:1")
	_, err = diagnose(s, nowhere, nowhere)
	return err
}
