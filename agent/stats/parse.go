package stats

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxFile bounds what is read of one file of the kernel's. The largest, a memory.stat with every key, has some KiB; a
// net/dev has 120 bytes an interface.
const maxFile = 1 << 20

// number reads a file with one number; "max", which stands for no limit, is the largest there is.
func number(data []byte) (uint64, error) {
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a number", text)
	}
	return n, nil
}

// keyed reads a file of lines "key number". Lines of another form are left out: kernels add some.
func keyed(data []byte) map[string]uint64 {
	out := map[string]uint64{}
	for line := range bytes.Lines(data) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(string(value), 10, 64); err == nil {
			out[string(key)] = n
		}
	}
	return out
}

// keyOf is one value of such a file, without making all of them; 0 when there is none.
func keyOf(data []byte, key string) uint64 {
	for line := range bytes.Lines(data) {
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(line[len(key):])), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// numbers reads a line of numbers, such as cpuacct.usage_percpu.
func numbers(data []byte) []uint64 {
	var out []uint64
	for _, f := range bytes.Fields(data) {
		n, err := strconv.ParseUint(string(f), 10, 64)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// maxDevices bounds the block devices of a container.
const maxDevices = 1024

// blkio reads blkio.*_recursive of v1: lines "major:minor Operation number" and a total.
func blkio(data []byte) []BlkioEntry {
	out := []BlkioEntry{}
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) != 3 || len(out) >= 8*maxDevices {
			continue
		}
		major, minor, ok := device(f[0])
		n, err := strconv.ParseUint(f[2], 10, 64)
		if ok && err == nil {
			out = append(out, BlkioEntry{Major: major, Minor: minor, Op: f[1], Value: n})
		}
	}
	return out
}

// ioStat reads io.stat of v2: lines "major:minor rbytes=1 wbytes=2 rios=3 wios=4 …".
func ioStat(data []byte) (sizes, counts []BlkioEntry) {
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 || len(sizes) >= 2*maxDevices {
			continue
		}
		major, minor, ok := device(f[0])
		if !ok {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				sizes = append(sizes, BlkioEntry{major, minor, "read", n})
			case "wbytes":
				sizes = append(sizes, BlkioEntry{major, minor, "write", n})
			case "rios":
				counts = append(counts, BlkioEntry{major, minor, "read", n})
			case "wios":
				counts = append(counts, BlkioEntry{major, minor, "write", n})
			}
		}
	}
	return sizes, counts
}

func device(text string) (major, minor uint64, ok bool) {
	a, b, found := strings.Cut(text, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, found && err1 == nil && err2 == nil
}

// readAndWritten sums up the bytes of all devices.
func readAndWritten(entries []BlkioEntry) (read, written uint64) {
	for _, e := range entries {
		switch {
		case strings.EqualFold(e.Op, "read"):
			read += e.Value
		case strings.EqualFold(e.Op, "write"):
			written += e.Value
		}
	}
	return read, written
}

// maxInterfaces bounds the interfaces of a network namespace that are looked at.
const maxInterfaces = 256

// netDev reads /proc/<pid>/net/dev, without the loopback interface.
func netDev(data []byte) map[string]Network {
	out := map[string]Network{}
	for line := range bytes.Lines(data) {
		name, rest, ok := strings.Cut(string(line), ":")
		name = strings.TrimSpace(name)
		f := strings.Fields(rest)
		if !ok || name == "lo" || len(f) < 12 || len(out) >= maxInterfaces {
			continue
		}
		var n [12]uint64
		good := true
		for i := range n {
			var err error
			if n[i], err = strconv.ParseUint(f[i], 10, 64); err != nil {
				good = false
			}
		}
		if good {
			out[name] = Network{RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3], TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11]}
		}
	}
	return out
}

// pressure reads the microseconds of a PSI file (Documentation/accounting/psi.rst) in which some, and all, processes waited.
func pressure(data []byte) (some, full uint64) {
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		text, ok := strings.CutPrefix(f[len(f)-1], "total=")
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case !ok || err != nil:
		case f[0] == "some":
			some = n
		case f[0] == "full":
			full = n
		}
	}
	return some, full
}

// cpuTimes are the first lines of /proc/stat, in clock ticks of 10 ms.
type cpuTimes struct {
	total, idle, steal uint64
	cpus               int
}

// procStat reads /proc/stat. What is counted is what Docker counts as system_cpu_usage: user to steal, without the guests',
// which are in user already.
func procStat(data []byte) (cpuTimes, error) {
	var t cpuTimes
	found := false
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte("cpu")) {
			break
		}
		f := strings.Fields(string(line))
		if f[0] != "cpu" {
			t.cpus++
			continue
		}
		if len(f) < 8 {
			return t, fmt.Errorf("the line %.80q has too few times", line)
		}
		for i, text := range f[1:min(len(f), 9)] {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return t, fmt.Errorf("%.40q is not a time", text)
			}
			t.total += n
			switch i {
			case 3, 4: // idle and waiting for a disk
				t.idle += n
			case 7:
				t.steal = n
			}
		}
		found = true
	}
	if !found {
		return t, fmt.Errorf("there is no line of all CPUs")
	}
	return t, nil
}

// memInfo reads total and available memory, in bytes, of /proc/meminfo.
func memInfo(data []byte) (total, available uint64, err error) {
	seen := 0
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[0] != "MemTotal:" && f[0] != "MemAvailable:" {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 54)
		if err != nil {
			return 0, 0, fmt.Errorf("%.40q is not an amount of memory", f[1])
		}
		if f[0] == "MemTotal:" {
			total = n << 10
		} else {
			available = n << 10
		}
		seen++
	}
	if seen < 2 {
		return 0, 0, fmt.Errorf("there is no MemTotal or no MemAvailable")
	}
	return total, available, nil
}
