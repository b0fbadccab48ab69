package images_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/test/images"
)

// strangers are the containers of the machine's engine that belong to the test: nobody else's is touched.
type strangers struct {
	*docker.Runtime
	ids []string
}

// Foreign lists them.
func (s *strangers) Foreign(ctx context.Context, _ int) (out []imagecache.Container, _ error) {
	list, err := s.Runtime.Foreign(ctx, 100_000)
	for _, c := range list {
		if slices.Contains(s.ids, c.ID) {
			out = append(out, imagecache.Container{ID: c.ID, Name: c.Name, Image: c.Image, Status: string(c.Status), Created: c.CreatedAt, Ended: c.FinishedAt, Seen: c})
		}
	}
	return out, err
}

// RemoveForeign removes one.
func (s *strangers) RemoveForeign(ctx context.Context, c imagecache.Container) error {
	return s.Runtime.RemoveForeign(ctx, c.Seen.(engine.State))
}

func TestDockerLosesTheContainersThatNobodyRunsAndThenTheirImage(t *testing.T) {
	api := images.DockerClient(t)
	r, err := docker.New(docker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	ref := "longshore-test/" + unique() + ":1"
	images.MustLoad(t, api, ref, images.Spec{Cmd: []string{"sleep", "1000000"}, Files: []images.File{{Path: "/unique", Data: unique()}}})
	s := &strangers{Runtime: r}
	create := func(kind string, cmd []string, labels map[string]string) string {
		t.Helper()
		c, err := api.ContainerCreate(t.Context(), &container.Config{Image: ref, Cmd: cmd, Labels: labels, Volumes: map[string]struct{}{"/data": {}}}, nil, nil, nil, "longshore-test-"+kind+"-"+unique())
		if err != nil {
			t.Fatal(err)
		}
		s.ids = append(s.ids, c.ID)
		t.Cleanup(func() {
			_ = api.ContainerRemove(context.WithoutCancel(t.Context()), c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		})
		if kind != "created" {
			if err := api.ContainerStart(t.Context(), c.ID, container.StartOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return c.ID
	}
	created, ended := create("created", nil, nil), create("ended", []string{"true"}, nil)
	running := create("running", nil, nil)
	ours := create("ours", []string{"true"}, map[string]string{engine.LabelTaskArn: "arn:aws:ecs:us-west-2:123456789012:task/test/1"})
	for _, id := range []string{ended, ours} {
		await(t, api, id)
	}
	img, err := r.Image(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	anonymous := mount(t, api, ended)

	// One that has run again since it was looked at stays.
	seen, err := s.Foreign(t.Context(), 0)
	if err != nil || len(seen) != 2 {
		t.Fatalf("%+v, %v, want the created and the ended one", seen, err)
	}
	if err := api.ContainerStart(t.Context(), ended, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, api, ended)
	for _, c := range seen {
		if err := s.RemoveForeign(t.Context(), c); c.ID == ended && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("one that ran since was removed: %v", err)
		} else if c.ID == created && err != nil {
			t.Error(err)
		}
	}

	cache, err := imagecache.New(puller{r}, imagecache.Config{Collection: imagecache.Collection{
		Store: &shelf{Runtime: r, own: func(i imagecache.Local) bool { return i.ID == img.ID }}, Containers: s,
		Rules: imagecache.Rules{Foreign: true, ContainersPerCycle: 5, PerCycle: 5},
	}})
	if err != nil {
		t.Fatal(err)
	}
	report, err := cache.Collect(t.Context(), false)
	if err != nil || len(report.Containers) != 1 || !report.Containers[0].Delete || len(report.Failures) != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	for id, there := range map[string]bool{created: false, ended: false, running: true, ours: true} {
		if _, err := api.ContainerInspect(t.Context(), id); (err == nil) != there {
			t.Errorf("container %.12s: %v", id, err)
		}
	}
	if _, err := api.VolumeInspect(t.Context(), anonymous); !errdefs.IsNotFound(err) {
		t.Errorf("its anonymous volume: %v", err)
	}
	if _, err := r.Image(t.Context(), ref); err != nil {
		t.Errorf("an image that a container runs from: %v", err)
	}

	// When no container has the image any more, it goes too.
	for _, id := range []string{running, ours} {
		if err := api.ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			t.Fatal(err)
		}
	}
	if report, err := cache.Collect(t.Context(), false); err != nil || report.Freed == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := r.Image(t.Context(), ref); !errdefs.IsNotFound(err) {
		t.Errorf("the image: %v", err)
	}
}

// await waits until a container's process has ended.
func await(t *testing.T, api *client.Client, id string) {
	t.Helper()
	ended, failed := api.ContainerWait(t.Context(), id, container.WaitConditionNotRunning)
	select {
	case <-ended:
	case err := <-failed:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("the process does not end")
	}
}

// mount is the name of a container's anonymous volume.
func mount(t *testing.T, api *client.Client, id string) string {
	t.Helper()
	c, err := api.ContainerInspect(t.Context(), id)
	if err != nil || len(c.Mounts) != 1 || c.Mounts[0].Type != "volume" {
		t.Fatalf("%+v %v", c.Mounts, err)
	}
	return c.Mounts[0].Name
}
