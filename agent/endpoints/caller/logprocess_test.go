package caller

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// logProcess makes a process of longshore-log.
func (b *box) logProcess(pid, inode int, uid, exe, namespace, settings string) {
	b.Helper()
	b.process(pid, "longshore-log", "/system.slice/containerd.service", inode)
	at := "proc/" + strconv.Itoa(pid)
	b.file(at+"/status", "Name:\tlongshore-log\nUid:\t"+uid+"\nGid:\t0\t0\t0\t0\n")
	b.file(at+"/cmdline", strings.Join([]string{"/usr/libexec/longshore/longshore-log", "settings", settings, ""}, "\x00"))
	b.link(at+"/exe", exe)
	b.link(at+"/ns/mnt", namespace)
}

func (b *box) link(name, to string) {
	b.Helper()
	name = filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Symlink(to, name); err != nil {
		b.Fatal(err)
	}
}

func TestALogProcessIsKnownWithItsContainerAndNobodyElseIsTakenForOne(t *testing.T) {
	const (
		root, program, host = "0\t0\t0\t0", "/usr/libexec/longshore/longshore-log", "mnt:[1]"
		settings            = "/var/lib/ecs/data/containerd/containers/" + idA + "/log.json"
	)
	b := newBox(t)
	b.finder.cfg.LogProcesses = LogProcesses{Program: program, Containers: "/var/lib/ecs/data/containerd/containers"}
	b.link("proc/self/ns/mnt", "mnt:[2]") // an agent with files of its own, as systemd gives it
	b.link("proc/1/ns/mnt", host)
	b.logProcess(60, 900, root, program, host, settings)
	b.logProcess(61, 901, root, program+" (deleted)", "mnt:[2]", settings)
	for pid, inode := range map[int]uint32{60: 900, 61: 901} {
		b.inode = inode
		if c, err := b.finder.Find(b.request("169.254.170.2")); err != nil || c != (Caller{TaskArn: taskA, Container: "web", RuntimeID: idA, Engine: true, Pid: pid}) {
			t.Errorf("%+v, %v", c, err)
		}
		_, err := b.finder.Is(b.request("169.254.170.2"), taskA) // it is no process of the task
		b.refused(err, "the caller is the container engine")
	}
	b.logProcess(62, 902, "1000\t1000\t1000\t1000", program, host, settings)
	b.logProcess(63, 903, "1000\t0\t0\t0", program, host, settings)
	b.logProcess(64, 904, root, "/home/me/longshore-log", host, settings)
	b.logProcess(65, 905, root, program, "mnt:[3]", settings) // a container's own file of that name
	b.logProcess(66, 906, root, program, host, "/tmp/"+idA+"/log.json")
	b.logProcess(67, 907, root, program, host, strings.Replace(settings, idA, "cccccccccccc", 1))
	for inode := uint32(902); inode <= 907; inode++ {
		b.inode = inode
		_, err := b.finder.Find(b.request("169.254.170.2"))
		b.refused(err, "is in no container")
	}
	b.finder.cfg.LogProcesses = LogProcesses{}
	b.inode = 900
	_, err := b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, "is in no container")
}
