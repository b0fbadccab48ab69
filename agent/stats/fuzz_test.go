package stats

import (
	"os"
	"strings"
	"testing"
)

// seed gives a fuzz target every file of testdata.
func seed(f *testing.F) {
	for _, name := range []string{"v1", "hybrid", "v2"} {
		data, err := os.ReadFile("testdata/" + name + ".txtar")
		if err != nil {
			f.Fatal(err)
		}
		for part := range strings.SplitSeq(string(data), "\n-- ") {
			_, text, _ := strings.Cut(part, " --\n")
			f.Add([]byte(text))
		}
	}
	f.Add([]byte("max\n"))
	f.Add([]byte("18446744073709551616"))
	f.Add([]byte("cpu  18446744073709551615 1 1 1 1 1 1 1\ncpu0"))
}

// Whatever the kernel, or somebody who mounts something over its files, writes there: it is read or refused, and bounded.
func FuzzFiles(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = number(data)
		keyed(data)
		keyOf(data, "total_cache")
		if n := len(blkio(data)); n > 8*maxDevices {
			t.Error(n)
		}
		sizes, counts := ioStat(data)
		if len(sizes) > 4*maxDevices || len(counts) > 4*maxDevices*4 {
			t.Error(len(sizes), len(counts))
		}
		readAndWritten(sizes)
		if n := netDev(data); len(n) > maxInterfaces {
			t.Error(len(n))
		}
		pressure(data)
		numbers(data)
		_, _ = procStat(data)
		_, _, _ = memInfo(data)
	})
}

func FuzzWhichGroups(f *testing.F) {
	seed(f)
	mounts := []byte("60 31 0:60 / /sys/cpu rw - cgroup cgroup rw,cpu,cpuacct,memory,blkio\n61 31 0:61 / /sys/unified rw - cgroup2 cgroup2 rw\n")
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, l := range []layout{parseLayout(data, "/sys"), parseLayout(mounts, "/sys")} {
			g, err := l.find(data, webID)
			if err != nil {
				continue
			}
			for controller, group := range g.of {
				if !strings.Contains(group.dir, webID) {
					t.Errorf("%s: %s is not the container's", controller, group.dir)
				}
			}
		}
	})
}
