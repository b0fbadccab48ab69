package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// NoEngine is what a test says when no Docker engine answers.
const NoEngine = "no Docker engine answers at DOCKER_HOST or /var/run/docker.sock (%v); " +
	"install and start one with: apt-get install -y docker.io && (systemctl start docker || setsid dockerd >/var/log/dockerd.log 2>&1 &)"

// DockerClient returns a client for DOCKER_HOST or /var/run/docker.sock, closed with the test, which fails if no engine
// answers there.
func DockerClient(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatalf(NoEngine, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Ping(t.Context()); err != nil {
		t.Fatalf(NoEngine, err)
	}
	c.NegotiateAPIVersion(t.Context()) // now, for the client's first requests race when they are made side by side
	return c
}

// Load puts an image into a Docker engine under ref, without a registry.
func Load(ctx context.Context, c *client.Client, ref string, img v1.Image) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("image reference %s: %w", ref, err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(tag, img, &buf); err != nil {
		return fmt.Errorf("image %s: %w", ref, err)
	}
	answer, err := c.ImageLoad(ctx, &buf)
	if err != nil {
		return fmt.Errorf("load of %s: %w", ref, err)
	}
	defer func() { _ = answer.Body.Close() }()
	for messages := json.NewDecoder(answer.Body); ; {
		var m struct {
			Error string `json:"error"`
		}
		err := messages.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && m.Error != "" {
			err = errors.New(m.Error)
		}
		if err != nil {
			return fmt.Errorf("load of %s: %w", ref, err)
		}
	}
	if _, err := c.ImageInspect(ctx, ref); err != nil {
		return fmt.Errorf("load of %s: %w", ref, err)
	}
	return nil
}

// MustLoad builds an image, loads it under ref and removes the reference with the test.
func MustLoad(t testing.TB, c *client.Client, ref string, spec Spec) {
	t.Helper()
	if err := Load(t.Context(), c, ref, Must(t, spec)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = c.ImageRemove(context.WithoutCancel(t.Context()), ref, image.RemoveOptions{Force: true, PruneChildren: true})
	})
}
