package docker_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/test/images"
)

// muted is the machine's Docker engine behind a socket that gives no answer to some calls, which do not reach the engine.
type muted struct {
	host string
	to   atomic.Pointer[[]string] // how the paths end
}

func newMuted(t *testing.T) *muted {
	t.Helper()
	dir, err := os.MkdirTemp("", "muted") // short: a unix socket lies below
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	m := &muted{host: "unix://" + l.Addr().String()}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(client.DefaultDockerHost, "unix://"))
	}}
	onward := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, ErrorLog: zap.NewStdLog(zap.NewNop()),
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker" }}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if to := m.to.Load(); to != nil {
			for _, end := range *to {
				if strings.HasSuffix(r.URL.Path, end) {
					<-r.Context().Done()
					return
				}
			}
		}
		onward.ServeHTTP(rw, r)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
		transport.CloseIdleConnections()
		_ = os.RemoveAll(dir)
	})
	return m
}

// mute makes the engine not answer calls whose paths end so.
func (m *muted) mute(ends ...string) { m.to.Store(&ends) }

// memory is a TaskState that is lost with the test, and an image cache of what is local.
type memory struct {
	runtime engine.Runtime

	mu    sync.Mutex
	tasks map[string][]byte
	said  []*engine.StateChange
}

func (m *memory) Save(rec *engine.TaskRecord, changes ...*engine.StateChange) error {
	raw, err := json.Marshal(rec)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tasks[rec.Task.Arn], m.said = raw, append(m.said, changes...)
	return err
}
func (m *memory) Load() ([]*engine.TaskRecord, error) { return nil, nil }
func (m *memory) Delete(string) error                 { return nil }
func (m *memory) Unsent(string) (bool, error)         { return false, nil }
func (m *memory) Ensure(ctx context.Context, req engine.ImageRequest) (engine.Image, func(), error) {
	img, err := m.runtime.Image(ctx, req.Ref)
	return img, nil, err
}
func (m *memory) Check(context.Context, engine.VolumeRequest) engine.VolumeResult {
	return engine.VolumeResult{}
}

// last is the last thing that was said of the task.
func (m *memory) last() engine.StateChange {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.said) == 0 {
		return engine.StateChange{}
	}
	return *m.said[len(m.said)-1]
}

func TestARealContainerEndsAlthoughTheEngineDoesNotSayAnythingAboutIt(t *testing.T) {
	for name, c := range map[string]struct {
		muted []string
		ends  bool // its process ends by itself
		exit  int  // negative: not known
	}{
		"the kernel kills what the engine does not stop": {[]string{"/stop"}, false, 137},
		"its process is gone and the engine hangs":       {[]string{"/stop", "/json"}, true, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := images.DockerClient(t)
			ref := "longshore-test/" + strings.ToLower(rand.Text()) + ":1"
			images.MustLoad(t, api, ref, images.Spec{Cmd: []string{"sh", "-c", enginetest.ScriptStubborn}})
			proxy, cluster := newMuted(t), rand.Text()
			r := runtime(t, docker.Config{Host: proxy.host})
			state := &memory{runtime: r, tasks: map[string][]byte{}}
			e, err := engine.New(engine.Config{Runtime: r, Images: state, Volumes: state, State: state, Log: zap.NewNop(), AnswerMargin: time.Second, ListTimeout: 2 * time.Second, RelistInterval: time.Second,
				Host: engine.Host{Cluster: cluster, CPU: 1024, Memory: 1024}, CleanupWait: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(context.Background())
			var running sync.WaitGroup
			running.Go(func() { _ = e.Run(ctx) })
			t.Cleanup(running.Wait)
			t.Cleanup(end)
			task := &acs.Task{Arn: "arn:aws:ecs:us-west-2:123456789012:task/" + cluster + "/" + rand.Text(), TaskClusterArn: cluster, DesiredStatus: "RUNNING", Family: "muted", Version: "1",
				Containers: []*acs.Container{{Name: "app", Image: ref, Essential: true, CPU: 10, Memory: 16, StopTimeout: 1}}}
			accept(t, e, task)
			await(t, "it runs", func() bool { s, _ := e.Task(task.Arn); return s.Known == "RUNNING" })
			s, _ := e.Task(task.Arn)
			id, pid := s.Containers[0].RuntimeID, s.Containers[0].Pid
			t.Cleanup(func() { remove(t, api, id) })
			for i := range c.muted {
				c.muted[i] = id + c.muted[i]
			}
			proxy.mute(c.muted...)
			if c.ends {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			accept(t, e, &acs.Task{Arn: task.Arn, DesiredStatus: "STOPPED"})
			await(t, "it is said to have stopped", func() bool { return state.last().Status == "STOPPED" })
			if err := syscall.Kill(pid, 0); err == nil {
				t.Errorf("process %d is still there", pid)
			}
			said := state.last().Containers[0]
			if got := said.ExitCode; c.exit < 0 && (got != nil || !strings.HasPrefix(said.Reason, "ContainerEngineError: ")) || c.exit >= 0 && (got == nil || *got != c.exit) {
				t.Errorf("said: %+v", said)
			}
			proxy.mute()
			await(t, "it is removed", func() bool { _, err := api.ContainerInspect(t.Context(), id); return errdefs.IsNotFound(err) })
			await(t, "the engine is well", func() bool { return !e.Health().Impaired })
		})
	}
}

func accept(t *testing.T, e *engine.Engine, task *acs.Task) {
	t.Helper()
	<-e.Ready()
	if err := e.Accept(t.Context(), task); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, api *client.Client, id string) {
	t.Helper()
	if err := api.ContainerRemove(context.WithoutCancel(t.Context()), id, container.RemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// await waits for what comes soon on a machine that is not busy.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not in a minute: %s", what)
		}
	}
}
