package docker_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/engine/enginetest/real"
	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runtime is the machine's Docker engine.
func runtime(t *testing.T, cfg docker.Config) *docker.Runtime {
	t.Helper()
	r, err := docker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestDockerPassesTheSuite(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Subject { return subject(t, images.DockerClient(t)) })
}

func subject(t *testing.T, api *client.Client) enginetest.Subject {
	registry := images.NewRegistry(t)
	closed := images.NewRegistry(t)
	s := enginetest.Subject{
		Runtime: runtime(t, docker.Config{}), Images: map[string]string{}, Missing: registry.Addr + "/missing:1", Unreachable: "127.0.0.1:1/x:1",
		Auth: engine.RegistryAuth{Username: "me", Password: "s3cret", ServerAddress: closed.Addr},
	}
	for name, img := range enginetest.Images() {
		ref := "longshore-test/" + strings.ToLower(rand.Text()) + ":1"
		images.MustLoad(t, api, ref, real.Image(img))
		s.Images[name] = ref
	}
	base := enginetest.Images()["base"]
	base.Config.Env = append(base.Config.Env, "COPY="+rand.Text()) // so that it is another image than the local one
	s.Open, s.OpenDigest = registry.MustPush(t, "open:1", real.Image(base))
	closed.RequireAuth(s.Auth.Username, s.Auth.Password)
	base.Config.Env = append(base.Config.Env, "CLOSED=1")
	s.Closed, _ = closed.MustPush(t, "closed:1", real.Image(base))
	s.Foreign = func(t *testing.T) (string, string, func() bool) { return foreign(t, api, s.Images["base"]) }
	s.Down = func(t *testing.T) engine.Runtime {
		return runtime(t, docker.Config{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock")})
	}
	s.Hung = func(t *testing.T) engine.Runtime { return runtime(t, docker.Config{Host: "unix://" + real.Hung(t)}) }
	return s
}

func foreign(t *testing.T, api *client.Client, ref string) (id, name string, untouched func() bool) {
	t.Helper()
	name = "longshore-test-foreign-" + rand.Text()
	made, err := api.ContainerCreate(t.Context(), &container.Config{Image: ref, Cmd: []string{"sh", "-c", enginetest.ScriptServe}}, nil, nil, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = api.ContainerRemove(context.WithoutCancel(t.Context()), made.ID, container.RemoveOptions{Force: true})
	})
	if err := api.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return made.ID, name, func() bool {
		c, err := api.ContainerInspect(t.Context(), made.ID)
		return err == nil && c.State.Running
	}
}
