package storm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/engine/enginetest/remote"
	"github.com/longshore-project/longshore/statemgr"
)

const (
	inFlight = 50
	gust     = 10 * time.Millisecond // between two looks at the weather
	patience = 5 * time.Minute       // bounds a wait; it is reached only when the test fails
)

// victim is the agent's binary, built once for all worlds.
var victim = sync.OnceValues(func() (string, error) {
	f, err := os.CreateTemp("", "longshore-victim")
	if err != nil {
		return "", err
	}
	_ = f.Close()
	args := []string{"build", "-tags", "failpoint,grpcnotrace", "-o", f.Name()}
	if os.Getenv("STORM_RACE") != "" {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, "./victim")...).CombinedOutput(); err != nil {
		_ = os.Remove(f.Name())
		return "", fmt.Errorf("building the agent: %w: %s", err, out)
	}
	return f.Name(), nil
})

// world is a host, its control plane, and the agent that is killed there. It is for one goroutine.
type world struct {
	t      *testing.T
	seed   uint64
	season season
	bin    string
	dir    string
	random *rand.Rand
	fake   *enginetest.Fake
	plane  *plane
	judge  *judge
	server *http.Server
	served chan error
	jobs   int
	lives  int
	agent  *process // nil: none was started yet
	undo   []func() // what ends the present weather
	late   atomic.Bool
	counts *counts
	does   sync.Map // arn/container: enginetest.Behaviour
	beside string   // a foreign container
	killed bool     // the engine has ended every process, foreign ones too
}

type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func newWorld(t *testing.T, bin string, seed uint64, s season, c *counts) (*world, error) {
	dir, err := os.MkdirTemp("", "storm")
	if err != nil {
		return nil, err
	}
	f := enginetest.NewFake()
	w := &world{t: t, seed: seed, season: s, bin: bin, dir: dir, random: rand.New(rand.NewPCG(seed, 1)), fake: f, judge: newJudge(f), counts: c}
	f.AddImage(enginetest.FakeImage{Ref: "app:1"})
	f.Publish(enginetest.FakeImage{Ref: "app:1", Size: 1 << 20})
	f.Behave(func(spec engine.Spec) enginetest.Behaviour {
		b, _ := w.does.Load(spec.Labels[engine.LabelTaskArn] + "/" + spec.Labels[engine.LabelContainerName])
		known, _ := b.(enginetest.Behaviour)
		return known
	})
	w.beside = f.AddForeign("somebody-elses")
	w.plane = newPlane(seed, w.judge)
	if err := w.lay(); err != nil {
		w.close()
		return nil, err
	}
	l, err := net.Listen("unix", w.socket())
	if err != nil {
		w.close()
		return nil, err
	}
	w.server = &http.Server{ReadHeaderTimeout: patience, Handler: remote.Handler(enginetest.Restarter{Fake: f},
		remote.Options{Late: func(string) bool { return w.late.Load() }, Left: w.judge.left})}
	w.served = make(chan error, 1)
	go func() { w.served <- w.server.Serve(l) }()
	return w, nil
}

func (w *world) socket() string { return filepath.Join(w.dir, "engine") }
func (w *world) data() string   { return filepath.Join(w.dir, "data") }
func (w *world) root() string   { return filepath.Join(w.dir, "root") }

// lay makes the host's files, and the small file system of the agent's state.
func (w *world) lay() error {
	for name, content := range map[string]string{
		"proc/meminfo": "MemTotal:       65536000 kB\n", "etc/machine-id": "0123456789abcdef0123456789abcdef\n", "ecs.config": "",
		"proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n", "proc/sys/kernel/random/boot_id": "boot-0\n",
	} {
		path := filepath.Join(w.root(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	if err := os.Mkdir(w.data(), 0o700); err != nil {
		return err
	}
	if err := unix.Mount("storm", w.data(), "tmpfs", 0, "size=48m"); err != nil {
		return fmt.Errorf("mount a file system for the agent's state, which takes root: %w", err)
	}
	return nil
}

func (w *world) close() {
	if w.agent != nil {
		_ = w.agent.cmd.Process.Kill()
		<-w.agent.ended
	}
	w.fake.Heal("")
	if w.server != nil {
		_ = w.server.Close()
		<-w.served
	}
	w.plane.close()
	_ = unix.Unmount(w.data(), unix.MNT_DETACH)
	_ = os.RemoveAll(w.dir)
}

// start begins a life of the agent.
func (w *world) start(env ...string) error {
	w.lives++
	cmd := exec.Command(w.bin, "-engine", w.socket(), "-root", w.root(), "-life", fmt.Sprintf("1.%d.%d", w.judge.memory(), w.lives))
	level := "warn"
	if v := os.Getenv("STORM_LOG"); v != "" {
		level = v
	}
	cmd.Env = append([]string{"GOGC=400", "PATH=" + os.Getenv("PATH"), "HOME=/root", "ECS_CLUSTER=storm", "ECS_BACKEND_HOST=" + w.plane.server.URL, "AWS_DEFAULT_REGION=us-west-2",
		"AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=s", "AWS_EC2_METADATA_DISABLED=true", "ECS_DATADIR=" + w.data(), "ECS_LOGFILE=" + filepath.Join(w.dir, "agent.log"),
		"ECS_LOGLEVEL=" + level, "ECS_IMAGE_PULL_BEHAVIOR=default", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false", "ECS_ORPHAN_POLICY=remove",
		"ECS_HOST_POLICY_FILE=" + filepath.Join(w.root(), "policy"), "ECS_DISK_PRESSURE_PERCENT=0", "ECS_DISABLE_TASK_ENDPOINTS=true"}, env...)
	out, err := os.OpenFile(filepath.Join(w.dir, "agent.err"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	w.agent = p
	return nil
}

// kill ends the present life, if it has not ended by itself, and says how it ended.
func (w *world) kill() syscall.WaitStatus {
	_ = w.agent.cmd.Process.Kill()
	<-w.agent.ended
	status, _ := w.agent.cmd.ProcessState.Sys().(syscall.WaitStatus)
	w.agent = nil
	return status
}

// live is one life of the agent and its end, at a failpoint or, where point is empty, at a random instant. Most instants are
// counted from the agent's first call of the engine, so that a busy machine has it die no younger.
func (w *world) live(point string) error {
	w.assign()
	left := 10*time.Millisecond + time.Duration(w.random.Int64N(int64(200*time.Millisecond)))
	var env []string
	if point != "" {
		left = 500 * time.Millisecond
		env = []string{"LONGSHORE_FAILPOINT=" + point}
	}
	calls, awake := w.fake.Calls("Info"), point == "" && w.random.IntN(4) == 0
	if err := w.start(env...); err != nil {
		return err
	}
	tick := time.NewTicker(gust)
	defer tick.Stop()
	for begun := time.Now(); left > 0 && time.Since(begun) < patience; {
		select {
		case <-w.agent.ended:
			if status := w.kill(); status.Signal() != syscall.SIGKILL {
				return fmt.Errorf("the agent ended by itself: %v\n%s", status.ExitStatus(), w.tail("agent.err"))
			}
			w.counts.kill(w.season.name, point, true)
			return nil
		case <-tick.C:
			if awake = awake || w.fake.Calls("Info") > calls; awake {
				left -= gust
			}
			w.blow()
		}
	}
	w.kill()
	w.counts.kill(w.season.name, point, false)
	return nil
}

// assign keeps enough tasks on their way, and tells some to stop.
func (w *world) assign() {
	open := w.judge.open()
	var more, stops []*job
	for range inFlight - len(open) {
		j := drawJob(w.random, w.jobs)
		w.jobs++
		for name, b := range j.behaviour {
			w.does.Store(j.Arn+"/"+name, b)
		}
		more = append(more, j)
	}
	for _, j := range open {
		if w.random.IntN(12) == 0 {
			stops = append(stops, j)
		}
	}
	w.judge.begin(more...)
	w.judge.stop(stops...)
	w.plane.want("RUNNING", more...)
	w.plane.want("STOPPED", stops...)
}

// settle clears the sky, lets everything come to its end, and judges.
func (w *world) settle() error {
	w.clear()
	if err := w.start(); err != nil {
		return err
	}
	if err := w.until("tasks that last run", w.lasting); err != nil {
		return err
	}
	open := w.judge.open()
	w.judge.stop(open...)
	w.plane.want("STOPPED", open...)
	if err := w.until("every task is over", func() error {
		if open := w.judge.open(); len(open) > 0 {
			return fmt.Errorf("%d are not, such as %s: %s", len(open), open[0].Arn, w.told(open[0].Arn))
		}
		return nil
	}); err != nil {
		return err
	}
	if err := w.until("every container is removed", func() error {
		left, err := w.fake.List(context.Background())
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d are left, such as %s (%s)", len(left), left[0].Name, left[0].Status)
		}
		return err
	}); err != nil {
		return err
	}
	if err := w.leave(); err != nil {
		return err
	}
	w.judge.verify()
	if exists, running := w.fake.Foreign(w.beside); !exists || !running && !w.killed {
		w.judge.complain("the foreign container was touched")
	}
	return w.empty()
}

// lasting reports what keeps tasks that nothing ends from being RUNNING. Those with a host port may wait for it.
func (w *world) lasting() error {
	for _, j := range w.judge.open() {
		if !j.lasts || slices.ContainsFunc(j.ports(), func(int64) bool { return true }) || w.judge.excused(j.Arn) {
			continue
		}
		if s := w.told(j.Arn); s != "RUNNING" {
			return fmt.Errorf("%s is %q", j.Arn, s)
		}
		for _, c := range j.Containers {
			if st, ok := w.fake.Container(j.Arn, c.Name); !ok || st.Status != engine.StatusRunning {
				return fmt.Errorf("container %s of %s does not run", c.Name, j.Arn)
			}
		}
	}
	return nil
}

func (j *job) ports() (ports []int64) {
	for _, c := range j.Containers {
		for _, m := range c.PortMappings {
			ports = append(ports, m.HostPort)
		}
	}
	return ports
}

// excused reports whether a task was told to stop, or hit by weather.
func (j *judge) excused(arn string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tasks[arn].ordered || j.tasks[arn].hit
}

// told is the status that was accepted last.
func (w *world) told(arn string) string {
	w.judge.mu.Lock()
	defer w.judge.mu.Unlock()
	return w.judge.tasks[arn].status()
}

// until waits for a condition in the world's last life. What is not acknowledged is sent again now and then.
func (w *world) until(what string, holds func() error) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-w.agent.ended:
			status := w.kill()
			return fmt.Errorf("the agent ended by itself while this was waited for: %s: %v\n%s", what, status, w.tail("agent.err"))
		case <-limit.C:
			return fmt.Errorf("%v went by in vain: %s: %w", patience, what, err)
		}
		if n%25 == 0 {
			w.plane.mu.Lock()
			w.plane.push()
			w.plane.mu.Unlock()
			w.plane.list()
		}
	}
}

// leave ends the agent as systemd does.
func (w *world) leave() error {
	p := w.agent
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		return errors.New("the agent does not leave")
	}
	w.agent = nil
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("the agent left with %v\n%s", p.cmd.ProcessState, w.tail("agent.err"))
	}
	return nil
}

// empty looks into the state that the agent left: nothing waits there any more.
func (w *world) empty() error {
	db, aside, err := statemgr.Open(w.data())
	if err != nil || aside != nil {
		return fmt.Errorf("the state: %w, set aside %+v", err, aside)
	}
	defer func() { _ = db.Close() }()
	state, err := agent.NewState(db, zap.NewNop())
	if err != nil {
		return err
	}
	changes, err := state.Changes()
	if err != nil || len(changes) > 0 {
		return fmt.Errorf("%d state changes wait that were accepted: %w", len(changes), err)
	}
	return nil
}

// tail is the end of a file of the world.
func (w *world) tail(name string) string {
	b, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-25):], []byte("\n")))
}

// about are the lines of the agent's log that name a task.
func (w *world) about(arn string) string {
	b, err := os.ReadFile(filepath.Join(w.dir, "agent.log"))
	if err != nil {
		return err.Error()
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, arn) {
			out = append(out, line)
		}
	}
	return strings.Join(out[max(0, len(out)-60):], "")
}
