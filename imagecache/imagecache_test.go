package imagecache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is an engine and a registry behind it. Images are their own ids.
type world struct {
	mu       sync.Mutex
	local    map[string]string // id by reference
	registry map[string]string
	errs     map[string][]error // by reference, one for each pull
	takes    time.Duration      // a pull, reporting progress every second
	stalls   map[string]int     // how many pulls of a reference never move
	mutes    map[string]int     // … and for which the registry does not even give the manifest
	quiet    map[string]time.Duration
	pulls    []string
	auth     []*imagecache.Credentials
	now, max int
}

func newWorld() *world {
	return &world{local: map[string]string{}, registry: map[string]string{}, errs: map[string][]error{}, stalls: map[string]int{}, mutes: map[string]int{}, quiet: map[string]time.Duration{}}
}

func (w *world) Identity(id string) (string, string) { return id, "digest of " + id }

func (w *world) Image(ctx context.Context, ref string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id := w.local[ref]; id != "" {
		return id, ctx.Err()
	}
	return "", fmt.Errorf("no such image: %s: %w", ref, errdefs.ErrNotFound)
}

func (w *world) Pull(ctx context.Context, ref string, c *imagecache.Credentials, progress func(imagecache.Progress)) (string, error) {
	w.mu.Lock()
	w.pulls, w.auth = append(w.pulls, ref), append(w.auth, c)
	var err error
	if list := w.errs[ref]; len(list) > 0 {
		err, w.errs[ref] = list[0], list[1:]
	}
	stall, mute := w.stalls[ref] > 0, w.mutes[ref] > 0
	w.stalls[ref]--
	w.mutes[ref]--
	w.now++
	w.max = max(w.max, w.now)
	takes, quiet := w.takes, w.quiet[ref]
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	if err != nil {
		return "", err
	}
	if mute {
		<-ctx.Done()
		return "", ctx.Err()
	}
	progress(imagecache.Progress{Layers: 2, Phase: "downloading"})
	if stall {
		<-ctx.Done()
		return "", ctx.Err()
	}
	if !wait(ctx, quiet) {
		return "", ctx.Err()
	}
	for done := time.Duration(0); done < takes; done += time.Second {
		if !wait(ctx, time.Second) {
			return "", ctx.Err()
		}
		progress(imagecache.Progress{Current: int64(done), Total: int64(takes), Layers: 2, Phase: "downloading"})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id := w.registry[ref]
	if id == "" {
		return "", fmt.Errorf("manifest for %s not found: %w", ref, errdefs.ErrNotFound)
	}
	w.local[ref] = id
	return id, nil
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.pulls)
}

func cache(t *testing.T, w *world, cfg imagecache.Config) *imagecache.Cache[string] {
	t.Helper()
	c, err := imagecache.New(w, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var errDown = fmt.Errorf("dial tcp: connection refused: %w", errdefs.ErrUnavailable)

func TestPullBehavioursAreThoseOfECS(t *testing.T) {
	always := []error{errDown, errDown, errDown, errDown, errDown}
	for _, c := range []struct {
		behaviour     imagecache.Behaviour
		local, pulled bool
		fails         bool
		pulls         int
		image         string // empty: an error
	}{
		{imagecache.Default, false, false, false, 1, "new"},
		{imagecache.Default, true, false, false, 1, "new"},
		{imagecache.Default, true, false, true, 5, "old"},
		{imagecache.Default, false, false, true, 5, ""},
		{imagecache.Always, true, false, false, 1, "new"},
		{imagecache.Always, true, false, true, 5, ""},
		{imagecache.Once, true, false, false, 1, "new"},
		{imagecache.Once, true, true, false, 0, "old"},
		{imagecache.Once, true, false, true, 5, ""},
		{imagecache.Once, false, true, false, 1, "new"},
		{imagecache.PreferCached, true, false, false, 0, "old"},
		{imagecache.PreferCached, true, false, true, 0, "old"},
		{imagecache.PreferCached, false, false, false, 1, "new"},
		{imagecache.PreferCached, false, false, true, 5, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.registry["app:1"] = "new"
			if c.local {
				w.local["app:1"] = "old"
			}
			if c.fails {
				w.errs["app:1"] = slices.Clone(always)
			}
			ledger := memory{}
			if c.pulled {
				ledger["docker.io/library/app:1"] = true
			}
			progress := 0
			img, release, err := cache(t, w, imagecache.Config{Behaviour: c.behaviour, Ledger: ledger}).Ensure(t.Context(), imagecache.Request{
				Ref: "app:1", Progress: func(imagecache.Progress) { progress++ },
			})
			if img != c.image || (err == nil) != (c.image != "") || w.count() != c.pulls {
				t.Errorf("%+v: got %q, %v after %d pulls", c, img, err, w.count())
			}
			if err == nil {
				release()
			}
			if c.pulls == 0 && progress > 0 {
				t.Errorf("%+v: progress of a pull that was not made", c)
			}
			if c.behaviour == imagecache.Once && !c.fails && !ledger["docker.io/library/app:1"] {
				t.Errorf("%+v: that it was pulled is not remembered", c)
			}
		})
	}
}

type memory map[string]bool

func (m memory) Pulled(ref string) bool     { return m[ref] }
func (m memory) SetPulled(ref string) error { m[ref] = true; return nil }
func TestAnUnknownBehaviourIsRefused(t *testing.T) {
	if _, err := imagecache.New(newWorld(), imagecache.Config{Behaviour: "sometimes"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestOnePullServesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"], w.registry["app:latest"], w.takes = "id", "other", 10*time.Second
		c := cache(t, w, imagecache.Config{})
		var wg sync.WaitGroup
		seen := make([]int, 5)
		for i := range seen {
			wg.Go(func() {
				wait(t.Context(), time.Duration(i)*time.Second)
				ref := "app:1"
				if i%2 == 0 {
					ref = "docker.io/library/app:1" // another spelling of the same
				}
				w.mu.Lock()
				w.registry[ref] = "id"
				w.mu.Unlock()
				img, release, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref, Progress: func(imagecache.Progress) { seen[i]++ }})
				if img != "id" || err != nil {
					t.Errorf("waiter %d: %q, %v", i, img, err)
					return
				}
				release()
			})
		}
		wg.Wait()
		if w.count() != 1 || slices.Min(seen) == 0 {
			t.Errorf("%d pulls, progress seen %v times", w.count(), seen)
		}
	})
}

func TestAPullEndsWhenNobodyWaitsForItAndOnlyThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"], w.takes = "id", time.Minute
		c := cache(t, w, imagecache.Config{})
		results := make(chan error, 3)
		ensure := func(ctx context.Context) {
			_, _, err := c.Ensure(ctx, imagecache.Request{Ref: "app:1"})
			results <- err
		}
		first, leaveFirst := context.WithCancel(t.Context())
		go ensure(first)
		synctest.Wait()
		go ensure(t.Context())
		synctest.Wait()
		leaveFirst()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		if err := <-results; err != nil || w.count() != 1 {
			t.Errorf("who stayed got %v after %d pulls", err, w.count())
		}
		alone, leave := context.WithTimeout(t.Context(), 3*time.Second)
		defer leave()
		go ensure(alone)
		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if w.now != 0 {
			t.Error("a pull for which nobody waits goes on")
		}
	})
}

func TestPullsAreBoundedAndTheImportantOnesGoFirst(t *testing.T) {
	for places := range 3 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			w.takes = 5 * time.Second
			c := cache(t, w, imagecache.Config{Places: places + 1, PerRegistry: places + 1})
			var wg sync.WaitGroup
			ensure := func(ref string, priority int) {
				wg.Go(func() {
					if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref, Priority: priority}); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait() // so that they come one after the other
			}
			for i, priority := range []int{5, 5, 3, 1, 2, 1} {
				ref := fmt.Sprintf("app:%d", i)
				w.registry[ref] = ref
				ensure(ref, priority)
			}
			ensure("app:2", 0) // joins a waiting pull and lends it its priority
			wg.Wait()
			if w.max != places+1 || len(w.pulls) != 6 {
				t.Errorf("%d pulls, %d at once, want 6, %d at once", len(w.pulls), w.max, places+1)
			}
			if want := []string{"app:0", "app:2", "app:3", "app:5", "app:4", "app:1"}; places == 0 && !slices.Equal(w.pulls, want) {
				t.Errorf("pulled %v, want %v", w.pulls, want)
			}
		})
	}
}

func TestFaultsThatMayPassAreTriedAgainWithGrowingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"] = "id"
		w.errs["app:1"] = []error{errDown, fmt.Errorf("toomanyrequests: %w", errdefs.ErrResourceExhausted), errDown, errDown}
		began := time.Now()
		var notes []string
		core, logged := observer.New(zap.InfoLevel)
		_, _, err := cache(t, w, imagecache.Config{Log: zap.New(core)}).Ensure(t.Context(), imagecache.Request{TaskArn: "arn:t", Ref: "app:1", Note: func(s string) { notes = append(notes, s) }})
		// 1.1 + 5 (because of the limit) + 4.4 + 5 s, each 20 % more or less
		if took := time.Since(began); err != nil || w.count() != 5 || took < 12*time.Second || took > 19*time.Second {
			t.Errorf("%v after %d pulls in %s", err, w.count(), took)
		}
		if len(notes) != 4 || !strings.Contains(notes[1], "toomanyrequests") {
			t.Errorf("the timeline got %q", notes)
		}
		for _, l := range logged.All() {
			if l.ContextMap()["task"] != "arn:t" {
				t.Errorf("%q does not say for which task: %v", l.Message, l.ContextMap())
			}
		}
	})
}

func TestFaultsThatStayAreNotTriedAgainAndSayWhatToDo(t *testing.T) {
	keys, err := imagecache.ParseKeyring("docker", `{"registry.example:5000": {"username": "u", "password": "hunter22"}}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		class error
		ref   string
		name  string
		parts []string
	}{
		{errdefs.ErrNotFound, "registry.example:5000/app:1", "CannotPullContainerError", []string{"image registry.example:5000/app:1", "from registry.example:5000", "the engine's words", "1 try", "check its name and tag"}},
		{fmt.Errorf("no matching manifest for linux/amd64: %w", errdefs.ErrNotFound), "app:1", "CannotPullContainerError", []string{"; it is there, and not for this host's architecture"}},
		{fmt.Errorf("no match for platform in manifest: %w", errdefs.ErrNotFound), "app:1", "CannotPullContainerError", []string{"; it is there, and not for this host's architecture"}},
		{errdefs.ErrUnauthenticated, "registry.example:5000/app:1", "CannotPullContainerAuthError", []string{"check the credentials", "ECS_ENGINE_AUTH_DATA", "registry.example:5000"}},
		{errdefs.ErrPermissionDenied, "app:1", "CannotPullContainerAuthError", []string{"Docker Hub", "no credentials for it are configured"}},
		{errdefs.ErrInvalidArgument, "app:1", "CannotPullContainerError", nil},
	} {
		w := newWorld()
		w.errs[c.ref] = []error{fmt.Errorf("the engine's words, with hunter22: %w", c.class)}
		_, release, err := cache(t, w, imagecache.Config{Credentials: keys}).Ensure(t.Context(), imagecache.Request{Ref: c.ref})
		var failed *imagecache.PullError
		if !errors.As(err, &failed) || !errors.Is(err, c.class) || w.count() != 1 || release != nil {
			t.Fatalf("got %v after %d pulls", err, w.count())
		}
		for _, part := range append(c.parts, c.name+": image ") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
		if strings.HasPrefix(c.ref, "registry") && strings.Contains(err.Error(), "hunter22") {
			t.Errorf("the password stands in %q", err)
		}
	}
}

func TestAPullThatDoesNotMoveIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"], w.stalls["app:1"] = "id", 1
		c := cache(t, w, imagecache.Config{})
		began := time.Now()
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"}); err != nil || time.Since(began) > 63*time.Second {
			t.Errorf("the second try gave %v after %s", err, time.Since(began))
		}
		w.stalls["app:1"], w.local = 9, map[string]string{}
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"})
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no progress for 1m0s") || !strings.Contains(err.Error(), "5 tries") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAManifestThatDoesNotComeInTimeIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"], w.mutes["app:1"] = "id", 1
		c := cache(t, w, imagecache.Config{Manifest: 30 * time.Second})
		began := time.Now()
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"}); err != nil || time.Since(began) > 33*time.Second {
			t.Errorf("the second try gave %v after %s", err, time.Since(began))
		}
		w.mutes["app:1"], w.local = 9, map[string]string{}
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"})
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the registry has not given the manifest within 30s (ECS_MANIFEST_PULL_TIMEOUT)") {
			t.Errorf("got %v", err)
		}
		w.mutes["app:1"], w.takes, w.local = 0, time.Hour, map[string]string{} // a pull whose manifest has come has all its time
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"}); err != nil {
			t.Error(err)
		}
	})
}

func TestASlowPullThatMovesIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["app:1"], w.takes = "id", time.Hour
		if _, _, err := cache(t, w, imagecache.Config{}).Ensure(t.Context(), imagecache.Request{Ref: "app:1"}); err != nil || w.count() != 1 {
			t.Errorf("%v after %d pulls", err, w.count())
		}
		w.takes, w.local = 3*time.Hour, map[string]string{}
		_, _, err := cache(t, w, imagecache.Config{}).Ensure(t.Context(), imagecache.Request{Ref: "app:1"})
		if err == nil || !strings.Contains(err.Error(), "did not end within 2h0m0s") {
			t.Errorf("a pull without end: %v", err)
		}
	})
}

func TestASilentPullHasMorePatienceWhileOthersMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.registry["big:1"], w.registry["app:1"] = "big", "id"
		w.takes, w.quiet["app:1"] = 4*time.Minute, 3*time.Minute
		c := cache(t, w, imagecache.Config{})
		var wg sync.WaitGroup
		for _, ref := range []string{"big:1", "app:1"} {
			wg.Go(func() {
				if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if w.count() != 2 {
			t.Errorf("%d pulls, want 2", w.count())
		}
	})
}

func TestAnImageIsHeldUntilItIsReleasedByAll(t *testing.T) {
	w := newWorld()
	w.registry["app:1"] = "id"
	c := cache(t, w, imagecache.Config{})
	_, first, err1 := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"})
	_, second, err2 := c.Ensure(t.Context(), imagecache.Request{Ref: "app:1"})
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	first()
	first()
	if !c.Held("id") {
		t.Error("the image is not held any more after the first of two releases")
	}
	second()
	if c.Held("id") {
		t.Error("the image is held for ever")
	}
}

func TestCredentialsThatNobodyFetchesAreRefusedByName(t *testing.T) {
	for kind, part := range map[string]string{"ecr": `type "ecr"`, "asm": `type "asm"`, "other": `type "other"`} {
		w := newWorld()
		_, _, err := cache(t, w, imagecache.Config{}).Ensure(t.Context(), imagecache.Request{Ref: "app:1", Auth: &acs.RegistryAuthentication{Type: kind}})
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), part) || w.count() != 0 {
			t.Errorf("%s: got %v after %d pulls", kind, err, w.count())
		}
	}
}

func TestWhatIsNoReferenceIsRefused(t *testing.T) {
	for _, ref := range []string{"", "App:1", "a b", "app@sha256:12", strings.Repeat("a", 5000)} {
		w := newWorld()
		_, _, err := cache(t, w, imagecache.Config{}).Ensure(t.Context(), imagecache.Request{Ref: ref})
		if !errdefs.IsInvalidArgument(err) || w.count() != 0 {
			t.Errorf("%.20q: got %v after %d pulls", ref, err, w.count())
		}
	}
}

func TestDifferentCredentialsDoNotShareAPullAndNoLogShowsThem(t *testing.T) {
	keys, err := imagecache.ParseKeyring("docker", `{"r.example": {"username": "user1", "password": "password1"}, "r.example/team": {"username": "user2", "password": "password2"}}`)
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.DebugLevel)
	w := newWorld()
	c := cache(t, w, imagecache.Config{Credentials: keys, Log: zap.New(core), Tries: 1})
	for _, ref := range []string{"r.example/app:1", "r.example/team/app:1", "r.example/teams:1", "other.example/app:1"} {
		w.errs[ref] = []error{fmt.Errorf("refused user2:password2: %w", errdefs.ErrUnavailable)}
		_, _, _ = c.Ensure(t.Context(), imagecache.Request{Ref: ref})
	}
	var users []string
	for _, a := range w.auth {
		if a == nil {
			users = append(users, "")
			continue
		}
		users = append(users, a.Username)
		if shown := fmt.Sprintf("%v %+v %#v %s", a, a, *a, a); strings.Contains(shown, "assword") || strings.Contains(shown, "user") {
			t.Errorf("credentials are shown as %s", shown)
		}
	}
	if want := []string{"user1", "user2", "user1", ""}; !slices.Equal(users, want) {
		t.Errorf("credentials of %q were used, want %q", users, want)
	}
	for _, l := range logs.All() {
		// password2 came back from the registry, where password1 was presented it is not ours to know
		if text := fmt.Sprint(l.Message, l.ContextMap()); strings.Contains(text, "password1") {
			t.Errorf("the log shows credentials: %s", text)
		}
	}
}
