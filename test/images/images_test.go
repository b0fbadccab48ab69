package images_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheSameSpecGivesTheSameDigest(t *testing.T) {
	first, _ := images.Must(t, images.WithUsers("app")).Digest()
	second, _ := images.Must(t, images.WithUsers("app")).Digest()
	other, _ := images.Must(t, images.WithUsers("dog")).Digest()
	if first != second || first == other {
		t.Errorf("digests: %s, %s and, of another Spec, %s", first, second, other)
	}
}

func TestARegistryServesAnEngineItsImagesAndAsksForCredentials(t *testing.T) {
	c, r := images.DockerClient(t), images.NewRegistry(t)
	r.RequireAuth("me", "secret")
	ref, digest := r.MustPush(t, "test/"+uuid.NewString()+":1", images.Serving())
	pull := func(auth string) (string, error) {
		body, err := c.ImagePull(t.Context(), ref, image.PullOptions{RegistryAuth: auth})
		if err != nil {
			return "", err
		}
		defer func() { _ = body.Close() }()
		text, err := io.ReadAll(body)
		return string(text), err
	}
	if text, err := pull(""); err == nil && !strings.Contains(text, "error") {
		t.Errorf("a pull without credentials succeeded: %s", text)
	}
	auth, err := registry.EncodeAuthConfig(registry.AuthConfig{Username: "me", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := pull(auth)
	if err != nil || !strings.Contains(text, digest) {
		t.Fatalf("pull with credentials: %v, %s", err, text)
	}
	if _, err := c.ImageRemove(t.Context(), ref, image.RemoveOptions{PruneChildren: true}); err != nil {
		t.Error(err)
	}
	if r.Requests("manifests") == 0 || r.Requests("blobs") == 0 {
		t.Error("requests were not counted")
	}
}

func TestAnImageIsLoadedWithoutARegistry(t *testing.T) {
	c := images.DockerClient(t)
	ref := "longshore-test/" + uuid.NewString() + ":1"
	images.MustLoad(t, c, ref, images.LoggingAgent())
	img, err := c.ImageInspect(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if img.Config.User != "1000:1000" {
		t.Errorf("the image's user is %q", img.Config.User)
	}
}

func TestFaultsAnswerInTheRegistrysPlace(t *testing.T) {
	r := images.NewRegistry(t)
	r.Fault(images.TooManyRequests)
	_, _, err := r.Push(t.Context(), "x:1", images.Must(t, images.Serving()))
	if err == nil || !strings.Contains(err.Error(), "TOOMANYREQUESTS") {
		t.Errorf("got %v", err)
	}
	r.Fault(images.Truncate)
	answer, err := http.Get("http://" + r.Addr + "/v2/x/blobs/sha256:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := io.ReadAll(answer.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want a truncated body", err)
	}
	http.DefaultClient.CloseIdleConnections()
}
