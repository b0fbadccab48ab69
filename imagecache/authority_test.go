package imagecache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
)

// authority hands out passwords in order, the last one again and again.
type authority struct {
	passwords []string
	err       error
	asked     []string // what each call brought: the task, the type, the stale password
}

func (a *authority) Registry(_ context.Context, task string, auth *acs.RegistryAuthentication, stale *imagecache.Credentials) (*imagecache.Credentials, error) {
	old := ""
	if stale != nil {
		old = stale.Password
	}
	a.asked = append(a.asked, strings.TrimSpace(task+" "+auth.Type+" "+old))
	if a.err != nil {
		return nil, a.err
	}
	p := a.passwords[0]
	if len(a.passwords) > 1 {
		a.passwords = a.passwords[1:]
	}
	return &imagecache.Credentials{Username: "AWS", Password: p}, nil
}

func refused(n int) (errs []error) {
	for range n {
		errs = append(errs, fmt.Errorf("pull access denied for secret-1: %w", errdefs.ErrUnauthenticated))
	}
	return errs
}

func ask(kind string) imagecache.Request {
	return imagecache.Request{TaskArn: "t", Ref: "r.example/app:1", Auth: &acs.RegistryAuthentication{Type: kind}}
}

func TestATasksOwnCredentialsAreUsedForItsPull(t *testing.T) {
	hosts, err := imagecache.ParseKeyring("docker", `{"r.example": {"username": "host", "password": "host"}}`)
	if err != nil {
		t.Fatal(err)
	}
	w, a := newWorld(), &authority{passwords: []string{"secret-1"}}
	w.registry["r.example/app:1"] = "id"
	c := cache(t, w, imagecache.Config{Authority: a, Credentials: hosts})
	if _, _, err := c.Ensure(t.Context(), ask("asm")); err != nil || w.auth[0].Password != "secret-1" {
		t.Errorf("%v %v", w.auth, err)
	}
	if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "r.example/app:1"}); err != nil || w.auth[1].Username != "host" {
		t.Errorf("%v %v", w.auth, err)
	}
	if !slices.Equal(a.asked, []string{"t asm"}) {
		t.Error(a.asked)
	}
}

func TestALocalImageNeedsNoCredentials(t *testing.T) {
	w, a := newWorld(), &authority{err: errors.New("never asked")}
	w.local["r.example/app:1"] = "id"
	if _, _, err := cache(t, w, imagecache.Config{Authority: a, Behaviour: imagecache.PreferCached}).Ensure(t.Context(), ask("ecr")); err != nil || len(a.asked) != 0 {
		t.Error(err, a.asked)
	}
}

func TestCredentialsThatExpiredDuringAPullAreRenewedOnceAndThePullGoesOn(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	w, a := newWorld(), &authority{passwords: []string{"secret-1", "secret-2"}}
	w.registry["r.example/app:1"] = "id"
	w.errs["r.example/app:1"] = refused(1)
	var notes []string
	req := ask("ecr")
	req.Note = func(n string) { notes = append(notes, n) }
	if _, _, err := cache(t, w, imagecache.Config{Authority: a, Log: zap.New(core)}).Ensure(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if w.count() != 2 || w.auth[1].Password != "secret-2" || !slices.Equal(a.asked, []string{"t ecr", "t ecr secret-1"}) || len(notes) != 1 {
		t.Error(w.auth[1].Password, a.asked, notes)
	}
	for _, l := range logs.All() {
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "secret-") {
			t.Error("the log shows credentials: " + text)
		}
	}
}

func TestCredentialsThatAreRefusedAgainEndThePullWithAHint(t *testing.T) {
	for kind, want := range map[string][2]string{"ecr": {"CannotPullECRContainerError: ", "execution role"}, "asm": {"CannotPullContainerAuthError: ", "repositoryCredentials"}} {
		w, a := newWorld(), &authority{passwords: []string{"secret-1", "secret-2"}}
		w.errs["r.example/app:1"] = refused(5)
		_, _, err := cache(t, w, imagecache.Config{Authority: a}).Ensure(t.Context(), ask(kind))
		if err == nil || !strings.HasPrefix(err.Error(), want[0]) || !strings.Contains(err.Error(), want[1]) || w.count() != 2 || !errdefs.IsUnauthorized(err) {
			t.Errorf("%s: %v after %d pulls", kind, err, w.count())
		}
	}
	w, a := newWorld(), &authority{passwords: []string{"secret-1"}}
	w.errs["r.example/app:1"] = refused(5)
	if _, _, err := cache(t, w, imagecache.Config{Authority: a}).Ensure(t.Context(), ask("asm")); err == nil || w.count() != 1 {
		t.Errorf("the same credentials were tried again: %v after %d pulls", err, w.count())
	}
}

func TestCredentialsThatCannotBeHadAreTheReason(t *testing.T) {
	w, a := newWorld(), &authority{err: errdefs.ErrUnauthenticated.WithMessage("a token: AccessDeniedException")}
	_, _, err := cache(t, w, imagecache.Config{Authority: a}).Ensure(t.Context(), ask("ecr"))
	if err == nil || err.Error() != "CannotPullECRContainerError: image r.example/app:1 can't be pulled from r.example: a token: AccessDeniedException" || w.count() != 0 {
		t.Errorf("%v after %d pulls", err, w.count())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := cache(t, w, imagecache.Config{Authority: a}).Ensure(ctx, ask("ecr")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
