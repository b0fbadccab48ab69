package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/durable"
)

// While containerd is away its shims are asked themselves how their processes end: a containerd since 1.7 does away with a shim that it finds
// without a process when it comes up, and with it goes the exit code.

// end is how a process ended, as its shim has told it.
type end struct {
	At   time.Time `json:"at"`
	Code int       `json:"code"`
	OOM  bool      `json:"oom,omitempty"`
}

// shims are those that are asked, by the ids of their containers; a channel is closed when one has answered, or is gone.
type shims struct {
	mu    sync.Mutex
	asked map[string]chan struct{}
}

// begin says that a shim is asked.
func (s *shims) begin(id string) (over func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[string]chan struct{}{}
	}
	done := make(chan struct{})
	s.asked[id] = done
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asked, id)
		close(done)
	}
}

// lastWord is how long it is waited for what a shim says before it goes.
const lastWord = time.Second

// await waits for the answer of a shim that is asked; it is there by the time that the shim is gone.
func (s *shims) await(ctx context.Context, id string) {
	s.mu.Lock()
	done := s.asked[id]
	s.mu.Unlock()
	if done == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastWord)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// askShims asks the shims of all that runs how it ends, until the returned function is called. Nothing is started meanwhile.
func (r *Runtime) askShims(ctx context.Context) (back func()) {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	dirs, err := os.ReadDir(filepath.Join(r.cfg.Root, "containers"))
	if err != nil {
		r.log.Warn("The containers' folders can't be read; how processes end while containerd is away is not known", zap.Error(err))
	}
	for _, d := range dirs {
		if was, err := r.readRun(d.Name()); err != nil || !was.running() || was.End != nil {
			continue
		}
		over := r.shims.begin(d.Name())
		asking.Go(func() {
			defer over()
			if err := r.askShim(ctx, d.Name()); err != nil && ctx.Err() == nil {
				r.log.Debug("A shim does not say how its process ends", zap.String("container", d.Name()), zap.Error(err))
			}
		})
	}
	return func() {
		cancel()
		asking.Wait()
	}
}

// askShim waits for the end of a container's process, and writes down how it was. That it has ended is said by who looks next, when
// containerd is there.
func (r *Runtime) askShim(ctx context.Context, id string) error {
	was, err := r.readRun(id)
	if err != nil {
		return err
	}
	address, version, err := shimAddress(was.Bundle)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", address)
	if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn)
	defer func() { _ = c.Close() }()
	var answer taskapi.WaitResponse // of version 2 it is the same
	if err := c.Call(ctx, fmt.Sprintf("containerd.task.v%d.Task", version), "Wait", &taskapi.WaitRequest{ID: id}, &answer); err != nil {
		return err
	}
	ended := &end{At: answer.ExitedAt.AsTime(), Code: int(answer.ExitStatus)}
	ended.OOM = ended.Code != 0 && killedForMemory(was.Group)
	unlock, err := r.known.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := r.readRun(id)
	if err != nil || !now.running() || !now.StartedAt.Equal(was.StartedAt) {
		return err
	}
	now.End = ended
	return r.writeRun(id, now)
}

// bundleOf is the folder of the shim that has made a process: it is where the shim runs.
func bundleOf(pid int) string {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // proc_pid_stat(5): pid (comm) state ppid
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return ""
	}
	dir, _ := os.Readlink(filepath.Join("/proc", fields[1], "cwd"))
	return dir
}

// maxAddress bounds a file that says where a shim answers.
const maxAddress = 64 << 10

// shimAddress is the socket of a shim, and the version of the task service that it speaks. containerd writes both into the shim's folder:
// before 1.7 the address alone.
func shimAddress(bundle string) (string, int, error) {
	if bundle == "" {
		return "", 0, errors.New("it is not known where its shim is")
	}
	b, err := durable.Read(filepath.Join(bundle, "bootstrap.json"), maxAddress)
	if errors.Is(err, os.ErrNotExist) {
		b, err = durable.Read(filepath.Join(bundle, "address"), maxAddress)
	}
	if err != nil {
		return "", 0, err
	}
	return parseAddress(b)
}

func parseAddress(text []byte) (string, int, error) {
	said := struct {
		Version  int    `json:"version"`
		Address  string `json:"address"`
		Protocol string `json:"protocol"`
	}{2, strings.TrimSpace(string(text)), "ttrpc"}
	if strings.HasPrefix(said.Address, "{") {
		if err := json.Unmarshal(text, &said); err != nil {
			return "", 0, err
		}
	}
	path, unix := strings.CutPrefix(said.Address, "unix://")
	if !unix || !strings.EqualFold(said.Protocol, "ttrpc") || said.Version < 2 || said.Version > 3 {
		return "", 0, fmt.Errorf("the shim answers with %s, version %d, at %q; what is known is ttrpc, versions 2 and 3, at unix sockets", said.Protocol, said.Version, said.Address)
	}
	return path, said.Version, nil
}
