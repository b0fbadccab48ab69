package caller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	taskA, taskB = "arn:aws:ecs:us-west-2:123456789012:task/c/a", "arn:aws:ecs:us-west-2:123456789012:task/c/b"
	idA, idB     = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
)

// box is a host with two tasks, whose processes and control groups are files.
type box struct {
	*testing.T
	dir    string
	tasks  []engine.TaskStatus
	now    map[string]engine.State // what Inspect answers
	looks  int
	inode  uint32 // of the peer's socket; 0: it is not the host's own
	finder *Finder
}

func newBox(t *testing.T) *box {
	b := &box{T: t, dir: t.TempDir(), now: map[string]engine.State{}}
	b.tasks = []engine.TaskStatus{
		{Arn: taskA, Containers: []engine.ContainerStatus{{Name: "web", RuntimeID: idA, Known: "RUNNING", Addresses: []string{"172.17.0.2"}, Pid: 10}}},
		{Arn: taskB, Containers: []engine.ContainerStatus{{Name: "agent", RuntimeID: idB, Known: "RUNNING", NetworkMode: "host", Pid: 20}}},
	}
	b.finder = New(Config{
		Tasks: func() []engine.TaskStatus { return b.tasks },
		Inspect: func(_ context.Context, id string) (engine.State, error) {
			b.looks++
			st, ok := b.now[id]
			if !ok {
				return st, errors.New("no such container")
			}
			return st, nil
		},
		EngineSocket: filepath.Join(b.dir, "run", "docker.sock"), Proc: filepath.Join(b.dir, "proc"), Cgroups: filepath.Join(b.dir, "cgroup"),
	})
	b.finder.sockets = func(netip.AddrPort, netip.AddrPort) (uint32, error) { return b.inode, nil }
	b.process(10, "web", "/docker/"+idA)
	b.process(20, "agent", "/docker/"+idB)
	b.process(99, "sshd", "/user.slice")
	b.file("run/docker.sock", "")
	b.file("proc/net/unix", "Num RefCount Protocol Flags Type St Inode Path\n"+
		"0000: 00000002 00000000 00010000 0001 01 4000 "+filepath.Join(b.dir, "run", "docker.sock")+"\n0000: 00000003 00000000 00000000 0001 03 4001 "+filepath.Join(b.dir, "run", "docker.sock")+"\n")
	return b
}

func (b *box) file(name, text string) {
	b.Helper()
	name = filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// process makes a process in a control group, with open sockets.
func (b *box) process(pid int, comm, group string, inodes ...int) {
	b.Helper()
	at := "proc/" + strconv.Itoa(pid)
	b.file(at+"/cgroup", "3:memory:"+group+"\n1:name=systemd:/\n0::/\n")
	b.file(at+"/comm", comm+"\n")
	procs := filepath.Join("cgroup/memory", group, "cgroup.procs")
	old, _ := os.ReadFile(filepath.Join(b.dir, procs))
	b.file(procs, string(old)+strconv.Itoa(pid)+"\n")
	if err := os.MkdirAll(filepath.Join(b.dir, at, "fd"), 0o755); err != nil {
		b.Fatal(err)
	}
	for i, inode := range inodes {
		if err := os.Symlink(fmt.Sprintf("socket:[%d]", inode), filepath.Join(b.dir, at, "fd", strconv.Itoa(i+3))); err != nil {
			b.Fatal(err)
		}
	}
}

func (b *box) request(from string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = from + ":40000"
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.ParseIP("169.254.170.2"), Port: 51679})))
}

func (b *box) refused(err error, want string) {
	b.Helper()
	var r *Refused
	if !errors.As(err, &r) || !strings.Contains(r.Reason, want) {
		b.Errorf("%v, want a refusal with %q", err, want)
	}
}

func TestAContainerOnABridgeIsKnownByItsAddress(t *testing.T) {
	b := newBox(t)
	c, err := b.finder.Is(b.request("172.17.0.2"), taskA)
	if err != nil || c != (Caller{TaskArn: taskA, Container: "web", RuntimeID: idA}) || b.looks != 0 {
		t.Errorf("%+v, %v, %d looks", c, err, b.looks)
	}
	b.now[idB] = engine.State{ID: idB, Status: engine.StatusRunning, Pid: 20}
	_, err = b.finder.Is(b.request("172.17.0.2"), taskB)
	b.refused(err, "is the container web of another task, "+taskA)
	_, err = b.finder.Find(b.request("10.0.0.9"))
	b.refused(err, "10.0.0.9 is that of no running container of a task")
}

func TestWhoWasStartedOrMovedAMomentAgoIsLookedAtBeforeARefusal(t *testing.T) {
	b := newBox(t)
	b.tasks[0].Containers[0] = engine.ContainerStatus{Name: "web", RuntimeName: "ecs-web", Known: "CREATED"}
	b.now["ecs-web"] = engine.State{ID: idA, Status: engine.StatusRunning, Addresses: []string{"172.17.0.7"}, Pid: 10}
	if c, err := b.finder.Find(b.request("172.17.0.7")); err != nil || c.TaskArn != taskA || c.RuntimeID != idA {
		t.Errorf("%+v, %v", c, err)
	}
	// The address was another's until a moment ago.
	b.tasks[0].Containers[0] = engine.ContainerStatus{Name: "web", RuntimeID: idA, Known: "RUNNING", Addresses: []string{"172.17.0.2"}, Pid: 10}
	b.tasks[1].Containers[0] = engine.ContainerStatus{Name: "agent", RuntimeID: idB, Known: "RUNNING", Addresses: []string{"172.17.0.3"}, Pid: 20}
	b.now[idB] = engine.State{ID: idB, Status: engine.StatusRunning, Addresses: []string{"172.17.0.2"}, Pid: 20}
	if c, err := b.finder.Is(b.request("172.17.0.2"), taskB); err != nil || c.TaskArn != taskB {
		t.Errorf("%+v, %v", c, err)
	}
	// One that has ended is nobody's.
	b.tasks[0].Containers[0].Known = "STOPPED"
	delete(b.now, idB)
	_, err := b.finder.Is(b.request("172.17.0.2"), taskA)
	b.refused(err, "no running container")
}

func TestAContainerInHostModeIsKnownByItsControlGroup(t *testing.T) {
	b := newBox(t)
	b.inode = 777
	b.process(21, "curl", "/docker/"+idB+"/inner", 5, 777)
	for _, from := range []string{"169.254.170.2", "127.0.0.1"} {
		if c, err := b.finder.Is(b.request(from), taskB); err != nil || c != (Caller{TaskArn: taskB, Container: "agent", RuntimeID: idB, Pid: 21}) {
			t.Errorf("%+v, %v", c, err)
		}
	}
	b.now[idA] = engine.State{ID: idA, Status: engine.StatusRunning, Addresses: []string{"172.17.0.2"}, Pid: 10}
	_, err := b.finder.Is(b.request("169.254.170.2"), taskA)
	b.refused(err, "of another task, "+taskB)
}

func TestAProcessOfTheHostIsNobody(t *testing.T) {
	b := newBox(t)
	b.inode = 778
	_, err := b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, "the process that asks from 169.254.170.2:40000 is gone")
	b.process(98, "nc", "/user.slice", 778)
	_, err = b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, `the process 98 ("nc") is in no container`)
}

func TestAControlGroupWithAContainersNameIsNotTheContainers(t *testing.T) {
	b := newBox(t)
	b.inode = 779
	b.process(97, "nc", "/user.slice/user-1000.slice/docker-"+idB+".scope", 779)
	_, err := b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, "the process 97")
}

func TestTheEngineIsTheProcessThatListensOnItsSocket(t *testing.T) {
	b := newBox(t)
	b.inode = 780
	b.process(50, "dockerd", "/system.slice/docker.service", 4000, 780)
	if c, err := b.finder.Find(b.request("169.254.170.2")); err != nil || !c.Engine || c.Pid != 50 || c.TaskArn != "" {
		t.Errorf("%+v, %v", c, err)
	}
	b.now[idB] = engine.State{ID: idB, Status: engine.StatusRunning, Pid: 20}
	_, err := b.finder.Is(b.request("169.254.170.2"), taskB)
	b.refused(err, "the caller is the container engine")
	b.inode = 781
	b.process(51, "docker", "/user.slice", 4001, 781) // is connected to it
	_, err = b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, "the process 51")
}

func TestAKernelThatDoesNotTellIsARefusal(t *testing.T) {
	b := newBox(t)
	b.finder.sockets = func(netip.AddrPort, netip.AddrPort) (uint32, error) { return 0, errors.New("no sock_diag") }
	_, err := b.finder.Find(b.request("169.254.170.2"))
	b.refused(err, "no sock_diag")
}

// TestTheKernelTellsWhoseSocketAConnectionComesFrom asks the real kernel about connections of this process and of a child.
func TestTheKernelTellsWhoseSocketAConnectionComesFrom(t *testing.T) {
	if err := Supported(); err != nil {
		t.Fatal(err)
	}
	f := New(Config{Tasks: func() []engine.TaskStatus { return nil }})
	seen := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := f.Find(r)
		seen <- err
	}))
	defer server.Close()
	child := exec.Command("busybox", "wget", "-q", "-O", "-", server.URL)
	if err := child.Start(); err != nil {
		t.Fatalf("%v: apt-get install -y busybox-static", err)
	}
	for _, want := range []string{fmt.Sprintf("the process %d (\"busybox\")", child.Process.Pid), fmt.Sprintf("the process %d", os.Getpid())} {
		select {
		case err := <-seen:
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nobody asked")
		}
		if strings.Contains(want, "busybox") {
			_ = child.Wait()
			if r, err := server.Client().Get(server.URL); err == nil {
				_ = r.Body.Close()
			}
		}
	}
}

func FuzzAnAnswerOfTheKernel(f *testing.F) {
	f.Add([]byte{})
	f.Add(question(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")))
	f.Add(make([]byte, header+answerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if inode, err := answer(b); err != nil && inode != 0 {
			t.Errorf("%d and %v", inode, err)
		}
	})
}
