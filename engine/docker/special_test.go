package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/test/images"
)

// ref is a reference that nobody else uses.
func ref() string { return "longshore-test/" + strings.ToLower(rand.Text()) + ":1" }

// loaded is an image of spec, local for the length of the test.
func loaded(t *testing.T, api *client.Client, spec images.Spec) string {
	t.Helper()
	name := ref()
	images.MustLoad(t, api, name, spec)
	return name
}

// run makes and starts a container of a new task, and removes it with the test.
func run(t *testing.T, r *docker.Runtime, spec engine.Spec) engine.State {
	t.Helper()
	task := rand.Text()
	spec.Name = "longshore-test-" + task
	spec.Labels = map[string]string{engine.LabelTaskArn: "arn:aws:ecs:us-west-2:123456789012:task/test/" + task}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(r.Stop(ctx, spec.Name, 0), r.Remove(ctx, spec.Name)); err != nil {
			t.Error(err)
		}
	})
	id, err := r.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	st, err := r.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestAPublishedPortReachesTheProcess(t *testing.T) {
	api, r := images.DockerClient(t), runtime(t, docker.Config{})
	spec := engine.Spec{
		Image:       loaded(t, api, images.Spec{Cmd: []string{"sh", "-c", "while :; do echo hello | nc -l -p 7000; done"}}),
		NetworkMode: "bridge", Ports: []engine.Port{{Container: 7000, Protocol: "tcp"}},
	}
	st := run(t, r, spec)
	if st.Ports[0].HostIP != "0.0.0.0" {
		t.Errorf("the IPv4 binding must come first: %+v", st.Ports)
	}
	var got string
	for deadline := time.Now().Add(20 * time.Second); got != "hello\n" && time.Now().Before(deadline); {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(st.Ports[0].Host))), time.Second)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		data, _ := io.ReadAll(conn)
		_ = conn.Close()
		got = string(data)
	}
	if got != "hello\n" {
		t.Errorf("the port answers %q", got)
	}
}

func TestAFaultyRegistryIsToldApart(t *testing.T) {
	api, r, registry := images.DockerClient(t), runtime(t, docker.Config{}), images.NewRegistry(t)
	name, _ := registry.MustPush(t, strings.ToLower(rand.Text())+":1", images.Spec{Files: []images.File{{Path: "/unique", Data: rand.Text()}}})
	t.Cleanup(func() {
		_, _ = api.ImageRemove(context.WithoutCancel(t.Context()), name, image.RemoveOptions{Force: true})
	})
	pull := func(ctx context.Context) error {
		_, err := r.Pull(ctx, name, nil, nil)
		return err
	}
	registry.Fault(images.TooManyRequests)
	if err := pull(t.Context()); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a limited rate: %v", err)
	}
	registry.Fault(images.Stall)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := pull(ctx); !errdefs.IsDeadlineExceeded(err) {
		t.Errorf("a stalled registry: %v", err)
	}
	// Docker 20.10 does not give up the stalled request itself: until the registry's end of it is closed, every further
	// pull of that layer waits too.
}

func TestNothingIsLeftOfReadingImagesFiles(t *testing.T) {
	api := images.DockerClient(t)
	name := loaded(t, api, images.Spec{Volumes: []string{"/data"}, Files: []images.File{images.Passwd}})
	img, err := api.ImageInspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	volumes := map[string]bool{}
	count := func() int {
		t.Helper()
		mine, err := api.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", docker.LabelReader+"="+img.ID))})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range mine {
			for _, m := range c.Mounts {
				volumes[m.Name] = true
			}
		}
		return len(mine)
	}
	r, err := docker.New(docker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile(t.Context(), img.ID, "/etc/passwd", 1<<16); err != nil {
		t.Error(err)
	}
	if n := count(); n != 0 && img.GraphDriver.Name == "overlay2" { // elsewhere, as in Docker's image store, layers are no plain directories
		t.Errorf("reading layers made %d containers", n)
	}
	r.ReadByContainer()
	for range 3 {
		if data, err := r.ReadFile(t.Context(), img.ID, "/etc/passwd", 1<<16); err != nil || string(data) != images.Passwd.Data {
			t.Errorf("%v, %q", err, data)
		}
	}
	if n := count(); n != 1 {
		t.Errorf("%d helper containers for one image", n)
	}
	all, err := r.List(t.Context())
	for _, st := range all {
		if st.ImageID == img.ID {
			t.Errorf("a helper is listed: %+v", st)
		}
	}
	if err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := count(); n != 0 || len(volumes) != 1 {
		t.Errorf("after Close %d helpers are left; of volumes they had %v, want one", n, volumes)
	}
	for v := range volumes {
		if _, err := api.VolumeInspect(t.Context(), v); !errdefs.IsNotFound(err) {
			t.Errorf("the volume %s of the helper is left: %v", v, err)
		}
	}
}

func TestAnImageWhoseFilesWereReadCanBeRemoved(t *testing.T) {
	api, r := images.DockerClient(t), runtime(t, docker.Config{})
	r.ReadByContainer()
	name := loaded(t, api, images.Spec{Files: []images.File{{Path: "/unique", Data: rand.Text()}}})
	img, err := r.Image(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Stat(t.Context(), img.ID, "/unique"); err != nil {
		t.Error(err)
	}
	second := ref()
	if err := api.ImageTag(t.Context(), name, second); err != nil {
		t.Fatal(err)
	}
	if err := r.RemoveImage(t.Context(), img.ID); err != nil {
		t.Error(err)
	}
	for _, gone := range []string{name, second, img.ID} {
		if _, err := r.Image(t.Context(), gone); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", gone, err)
		}
	}
}

func TestAHelperContainerThatSomebodyRemovesIsMadeAgain(t *testing.T) {
	api, r := images.DockerClient(t), runtime(t, docker.Config{})
	r.ReadByContainer()
	img, err := api.ImageInspect(t.Context(), loaded(t, api, images.Spec{Files: []images.File{images.Passwd, {Path: "/unique", Data: rand.Text()}}}))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Stat(t.Context(), img.ID, "/etc/passwd"); err != nil {
			t.Error(err)
		}
		helpers, err := api.ContainerList(t.Context(), container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", docker.LabelReader+"="+img.ID))})
		if err != nil || len(helpers) != 1 {
			t.Fatalf("%d helpers, %v", len(helpers), err)
		}
		if err := api.ContainerRemove(t.Context(), helpers[0].ID, container.RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}

// TestLayersAreReadAsTheKernelWouldMergeThem compares both ways of reading an image with deleted and replaced files.
func TestLayersAreReadAsTheKernelWouldMergeThem(t *testing.T) {
	api := images.DockerClient(t)
	base := images.Must(t, images.Spec{Files: []images.File{
		{Path: "/keep/a", Data: "a"}, {Path: "/gone/file", Data: "x"}, {Path: "/opaque/old", Data: "old"}, {Path: "/was-dir/x", Data: "x"},
		{Path: "/was-file", Data: "file"}, {Path: "/changed", Data: "old"}, {Path: "/mode", Data: "m", Mode: 0o600}, {Path: "/to-link", Data: "x"},
		{Path: "/link-dir", Link: "keep"}, {Path: "/deep/1/2/3/4", Data: "deep"},
	}})
	img, err := mutate.AppendLayers(base,
		layer(t, map[string]string{
			"gone/.wh.file": "", "opaque/.wh..wh..opq": "", "opaque/new": "new", ".wh.was-dir": "", "was-dir": "now a file",
			".wh.was-file": "", "changed": "new", "keep/b": "b", "to-link": "->keep/a", "deep/1/2/3/.wh.4": "",
		}),
		layer(t, map[string]string{"was-file/in": "now a directory", "keep/c": "c", "link-dir": "->opaque"}))
	if err != nil {
		t.Fatal(err)
	}
	name := ref()
	if err := images.Load(t.Context(), api, name, img); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = api.ImageRemove(context.WithoutCancel(t.Context()), name, image.RemoveOptions{Force: true})
	})
	direct, helped := runtime(t, docker.Config{}), runtime(t, docker.Config{})
	helped.ReadByContainer()
	for _, path := range []string{
		"/", "/keep/a", "/keep/b", "/keep/c", "/gone", "/gone/file", "/opaque", "/opaque/old", "/opaque/new", "/was-dir", "/was-dir/x", "/was-file", "/was-file/in",
		"/changed", "/mode", "/to-link", "/link-dir", "/link-dir/new", "/link-dir/a", "/deep/1/2/3", "/deep/1/2/3/4", "/keep/../changed", "/none", "/" + strings.Repeat("n", 300),
	} {
		a, aerr := direct.Stat(t.Context(), name, path)
		b, berr := helped.Stat(t.Context(), name, path)
		if a != b || errdefs.IsNotFound(aerr) != errdefs.IsNotFound(berr) {
			t.Errorf("stat %.20s: layers say %+v, %v; the engine says %+v, %v", path, a, aerr, b, berr)
		}
		c, cerr := direct.ReadFile(t.Context(), name, path, 100)
		d, derr := helped.ReadFile(t.Context(), name, path, 100)
		if !bytes.Equal(c, d) || (cerr == nil) != (derr == nil) {
			t.Errorf("read %.20s: layers say %q, %v; the engine says %q, %v", path, c, cerr, d, derr)
		}
	}
}

// layer packs files; a value "->x" is a symlink to x.
func layer(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) { // whiteouts first, as the format wants
		data := files[name]
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}
		if target, isLink := strings.CutPrefix(data, "->"); isLink {
			h.Typeflag, h.Linkname, h.Size, data = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestTheDemonstrationsLoggingAgentCollectsLines(t *testing.T) {
	api, r := images.DockerClient(t), runtime(t, docker.Config{})
	spec := engine.Spec{Image: loaded(t, api, images.LoggingAgent()), NetworkMode: "host", Env: []string{"INTERVAL=1"}}
	dir := logDir(t)
	spec.Mounts = []engine.Mount{{Type: "bind", Source: dir, Target: "/logs"}}
	st := run(t, r, spec)
	want := []string{"app: first line", "logging-agent on", "started as uid 1000"}
	text := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline) && !containsAll(text, want); {
		text = collected(t, dir)
	}
	if !containsAll(text, want) {
		t.Errorf("collected %q", text)
	}
	if err := r.Stop(t.Context(), st.ID, 10*time.Second); err != nil {
		t.Error(err)
	}
	if st, err := r.Inspect(t.Context(), st.ID); err != nil || st.ExitCode != 0 {
		t.Errorf("stopped: %v, exit code %d", err, st.ExitCode)
	}
	if text := collected(t, dir); !strings.Contains(text, "stopped after") {
		t.Errorf("collected %q", text)
	}
}

func containsAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

func TestAnEngineThatGoesAwayWhileItAnswersIsUnavailable(t *testing.T) {
	for name, answer := range map[string]string{
		"no answer":   "",
		"half a head": "HTTP/1.1 200 OK\r\nContent-Le",
		"half a body": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n[{\"Id\":",
		"half chunks": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{\"status\":",
	} {
		r := runtime(t, docker.Config{Host: "unix://" + speaking(t, answer)})
		if _, err := r.List(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: List: %v", name, err)
		}
		if _, err := r.Pull(t.Context(), "127.0.0.1:1/x:1", nil, nil); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: Pull: %v", name, err)
		}
		if err := r.Events(t.Context(), nil, func(engine.Event) {}); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: Events: %v", name, err)
		}
	}
}

func TestNonsenseFromTheEngineIsAnErrorAndNoPanic(t *testing.T) {
	for _, body := range []string{"null", "{}", "[]", "[null]", `"x"`, "<html>", "{\"Config\": null}", "[{}]"} {
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		r := runtime(t, docker.Config{Host: "unix://" + speaking(t, answer)})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, _ = r.Info(ctx)
		_, _ = r.List(ctx)
		if _, err := r.Inspect(ctx, "x"); err == nil {
			t.Errorf("%s was taken for a container", body)
		}
		_ = r.Start(ctx, "x")
		_ = r.Logs(ctx, "x", engine.LogOptions{}, io.Discard)
		_, _ = r.Exec(ctx, "x", engine.Exec{Args: []string{"x"}})
		_, _ = r.Image(ctx, "x")
		_, _ = r.Images(ctx)
		_, _ = r.Pull(ctx, "x", nil, func(engine.Progress) {})
		_, _ = r.ReadFile(ctx, "x", "/x", 1)
		_, _ = r.Create(ctx, engine.Spec{Name: "x", Labels: map[string]string{engine.LabelTaskArn: "x"}})
		cancel()
	}
}
