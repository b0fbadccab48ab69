package enginetest

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

func imageTests(t *testing.T, s *suite) {
	ref := s.Images["entry"]
	img, err := s.Runtime.Image(s.ctx(t), ref)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("an image is found by reference and by id, with its configuration", func(t *testing.T) {
		byID, err := s.Runtime.Image(s.ctx(t), img.ID)
		if err != nil || byID.ID != img.ID {
			t.Errorf("by id: %v, %s, want %s", err, byID.ID, img.ID)
		}
		want, got := Images()["entry"].Config, img.Config
		if got.User != want.User || !slices.Equal(got.EntryPoint, want.EntryPoint) || !slices.Equal(got.Command, want.Command) ||
			got.StopSignal != want.StopSignal || !slices.Equal(got.Env, want.Env) {
			t.Errorf("configuration %+v, want %+v", got, want)
		}
		if !slices.Contains(img.Names, ref) || img.Size == 0 || img.Created.IsZero() {
			t.Errorf("got %+v", img)
		}
	})
	t.Run("images are listed", func(t *testing.T) {
		all, err := s.Runtime.Images(s.ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(all, func(i engine.Image) bool { return i.ID == img.ID && slices.Contains(i.Names, ref) }) {
			t.Errorf("%s is not among %d images", ref, len(all))
		}
	})
	t.Run("what is not local is NotFound", func(t *testing.T) {
		for _, ref := range []string{s.Missing, s.Closed, "sha256:0000000000000000000000000000000000000000000000000000000000000000"} {
			_, err := s.Runtime.Image(s.ctx(t), ref)
			class(t, ref, err, errdefs.IsNotFound, "NotFound")
			ok(t, "remove of "+ref, s.Runtime.RemoveImage(s.ctx(t), ref))
		}
	})
}

func (s *suite) pull(t *testing.T, ref string, auth *engine.RegistryAuth) (engine.Image, error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := s.Runtime.RemoveImage(ctx, ref); err != nil {
			t.Errorf("clean-up: remove image %s: %v", ref, err)
		}
	})
	return s.Runtime.Pull(s.ctx(t), ref, auth, nil)
}

func pullTests(t *testing.T, s *suite) {
	t.Run("a pulled image is local, with the registry's digest", func(t *testing.T) {
		img, err := s.pull(t, s.Open, nil)
		if err != nil {
			t.Fatal(err)
		}
		if img.Digest != s.OpenDigest || !slices.Contains(img.Names, s.Open) {
			t.Errorf("got digest %s and names %v, want %s of %s", img.Digest, img.Names, s.OpenDigest, s.Open)
		}
		local, err := s.Runtime.Image(s.ctx(t), s.Open)
		if err != nil || local.ID != img.ID || local.Digest != img.Digest {
			t.Errorf("locally: %v, %+v", err, local)
		}
		if byDigest, err := s.Runtime.Image(s.ctx(t), img.Digest); err != nil || byDigest.ID != img.ID {
			t.Errorf("by digest: %v, %+v", err, byDigest)
		}
		again, err := s.pull(t, s.Open, nil)
		if err != nil || again.ID != img.ID {
			t.Errorf("pulled again: %v, %s, want %s", err, again.ID, img.ID)
		}
		spec := s.spec(ScriptServe)
		spec.Image = s.Open
		id := s.create(t, spec)
		class(t, "remove while in use", s.Runtime.RemoveImage(s.ctx(t), s.Open), errdefs.IsFailedPrecondition, "FailedPrecondition")
		ok(t, "remove container", s.Runtime.Remove(s.ctx(t), id))
		ok(t, "remove", s.Runtime.RemoveImage(s.ctx(t), s.Open))
		_, err = s.Runtime.Image(s.ctx(t), s.Open)
		class(t, "after its removal", err, errdefs.IsNotFound, "NotFound")
	})
	t.Run("a digest is pulled and used by every spelling", func(t *testing.T) {
		repo := s.Open[:strings.LastIndex(s.Open, ":")]
		for _, ref := range []string{repo + "@" + s.OpenDigest, s.Open + "@" + s.OpenDigest} {
			img, err := s.pull(t, ref, nil)
			if err != nil || img.Digest != s.OpenDigest {
				t.Errorf("pull of %s: %v, %+v", ref, err, img)
				continue
			}
			if local, err := s.Runtime.Image(s.ctx(t), ref); err != nil || local.ID != img.ID {
				t.Errorf("locally %s: %v, %+v", ref, err, local)
			}
			spec := s.spec(ScriptServe)
			spec.Image = ref
			ok(t, "remove container of "+ref, s.Runtime.Remove(s.ctx(t), s.create(t, spec)))
			ok(t, "remove "+ref, s.Runtime.RemoveImage(s.ctx(t), ref))
		}
	})
	t.Run("a pull reports rising progress, and nothing after its end", func(t *testing.T) {
		var last engine.Progress
		var over atomic.Bool
		reports := 0
		t.Cleanup(func() { ok(t, "clean-up", s.Runtime.RemoveImage(context.WithoutCancel(t.Context()), s.Open)) })
		_, err := s.Runtime.Pull(s.ctx(t), s.Open, nil, func(p engine.Progress) {
			reports++
			if p.Current < last.Current || p.Done < last.Done || p.Phase == "" || over.Load() {
				t.Errorf("progress went from %+v to %+v (pull over: %v)", last, p, over.Load())
			}
			last = p
		})
		over.Store(true)
		if err != nil || reports == 0 {
			t.Errorf("%v, %d reports", err, reports)
		}
	})
	t.Run("many pulls at once all succeed", func(t *testing.T) {
		together(4, func(int) {
			if img, err := s.pull(t, s.Open, nil); err != nil || img.Digest != s.OpenDigest {
				t.Errorf("%v, digest %s", err, img.Digest)
			}
		})
	})
	t.Run("credentials are presented, and refused ones are Unauthenticated or PermissionDenied", func(t *testing.T) {
		denied := func(err error) bool { return errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) }
		_, err := s.pull(t, s.Closed, nil)
		class(t, "without", err, denied, "Unauthenticated")
		wrong := s.Auth
		wrong.Password += "x"
		_, err = s.pull(t, s.Closed, &wrong)
		class(t, "wrong", err, denied, "Unauthenticated")
		if _, err = s.pull(t, s.Closed, &s.Auth); err != nil {
			t.Errorf("right ones: %v", err)
		}
	})
	t.Run("what can't be pulled says why", func(t *testing.T) {
		_, err := s.pull(t, s.Missing, nil)
		class(t, "missing", err, errdefs.IsNotFound, "NotFound")
		_, err = s.pull(t, s.Unreachable, nil)
		class(t, "unreachable", err, errdefs.IsUnavailable, "Unavailable")
		_, err = s.Runtime.Pull(s.ctx(t), "Not::A Reference", nil, nil)
		class(t, "nonsense", err, errdefs.IsInvalidArgument, "InvalidArgument")
	})
}

func fileTests(t *testing.T, s *suite) {
	img, err := s.Runtime.Image(s.ctx(t), s.Images["base"])
	if err != nil {
		t.Fatal(err)
	}
	files := Images()["base"].Files
	t.Run("files are read, through symlinks that never leave the image", func(t *testing.T) {
		for path, want := range map[string]string{
			"/etc/passwd": files["/etc/passwd"].Data, "/files/own": "secret", "/files/link": "secret",
			"/files/abs": files["/etc/group"].Data, "/files/out": files["/etc/passwd"].Data, "/files/sub/up": "near",
			"/files/deep": "far",
		} {
			got, err := s.Runtime.ReadFile(s.ctx(t), img.ID, path, 1<<16)
			if err != nil || string(got) != want {
				t.Errorf("%s: %v, %q, want %q", path, err, got, want)
			}
		}
	})
	t.Run("what is no readable file is refused", func(t *testing.T) {
		for path, want := range map[string]struct {
			is    func(error) bool
			class string
		}{
			"/none":         {errdefs.IsNotFound, "NotFound"},
			"/etc/passwd/x": {errdefs.IsNotFound, "NotFound"},
			"/files/dead":   {errdefs.IsNotFound, "NotFound"},
			"/files":        {errdefs.IsFailedPrecondition, "FailedPrecondition"},
		} {
			_, err := s.Runtime.ReadFile(s.ctx(t), img.ID, path, 1<<16)
			class(t, path, err, want.is, want.class)
		}
		if _, err := s.Runtime.ReadFile(s.ctx(t), img.ID, "/files/loop", 1<<16); err == nil {
			t.Error("a symlink to itself was read")
		}
		_, err := s.Runtime.ReadFile(s.ctx(t), img.ID, "/etc/passwd", 5)
		class(t, "too large", err, errdefs.IsOutOfRange, "OutOfRange")
		_, err = s.Runtime.ReadFile(s.ctx(t), s.Missing, "/etc/passwd", 5)
		class(t, "no image", err, errdefs.IsNotFound, "NotFound")
	})
	t.Run("paths are described", func(t *testing.T) {
		for path, want := range map[string]engine.FileInfo{
			"/files/own":    {Mode: typeReg | 0o4640, UID: 1000, GID: 1001},
			"/files/sub/up": {Mode: typeLink | 0o777, Link: "../near"},
			"/work":         {Mode: typeDir | 0o755, UID: 1000, GID: 1001},
			"/files":        {Mode: typeDir | 0o755},
			"/":             {Mode: typeDir | 0o755},
			"/files/link":   {Mode: typeLink | 0o777, Link: "own"},
			"/files/dead":   {Mode: typeLink | 0o777, Link: "nothing"},
		} {
			got, err := s.Runtime.Stat(s.ctx(t), img.ID, path)
			if err != nil || got != want {
				t.Errorf("%s: %v, %+v, want %+v", path, err, got, want)
			}
		}
		_, err := s.Runtime.Stat(s.ctx(t), img.ID, "/none")
		class(t, "missing", err, errdefs.IsNotFound, "NotFound")
		_, err = s.Runtime.Stat(s.ctx(t), img.ID, "/etc/passwd/x")
		class(t, "below a file", err, errdefs.IsNotFound, "NotFound")
	})
	t.Run("many at once agree", func(t *testing.T) {
		together(6, func(int) {
			if got, err := s.Runtime.ReadFile(s.ctx(t), img.ID, "/files/own", 1<<16); err != nil || string(got) != "secret" {
				t.Errorf("%v, %q", err, got)
			}
		})
	})
	t.Run("a deadline that has passed is kept", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := s.Runtime.ReadFile(ctx, img.ID, "/files/own", 1<<16)
		class(t, "read", err, errdefs.IsDeadlineExceeded, "DeadlineExceeded")
	})
}
