package imagecache

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// lastRest is how long at most a registry is left alone that limits the rate and does not say for how long.
const lastRest = 5 * time.Minute

// rests are the registries that want to be left alone, by host. All tasks share them: what one pull was told holds for the
// others too.
type rests struct {
	first time.Duration // the shortest; it doubles with each refusal in a row
	mu    sync.Mutex
	of    map[string]*rest
}

type rest struct {
	until time.Time
	why   string
	row   int // refusals since the last pull that the registry served
}

// until says how long a registry is to be left alone, and why; the zero time: it may be asked.
func (r *rests) until(host string) (time.Time, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.of[host]; x != nil && x.until.After(time.Now()) {
		return x.until, x.why
	}
	return time.Time{}, ""
}

// refused notes that a registry limits the rate. after is what it asked for, 0 if it did not say.
func (r *rests) refused(host string, after time.Duration, why string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]*rest{}
	}
	x := r.of[host]
	if x == nil {
		x = &rest{}
		r.of[host] = x
	}
	x.row++
	if after <= 0 {
		after = min(r.first<<min(x.row-1, 10), lastRest)
	}
	after += time.Duration(0.1 * rand.Float64() * float64(after)) // so that hosts don't come back all at once
	if until := time.Now().Add(after); until.After(x.until) {
		x.until, x.why = until, why
	}
	return x.until
}

// served notes that a registry served a pull.
func (r *rests) served(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.of, host)
}

// saidAfter is how a registry's answer, as an engine quotes it, names the time to wait: "retry-after: 1.5s" or "retry after 30".
var saidAfter = regexp.MustCompile(`(?i)retry[- ]after:? *([0-9.]+ *(?:ms|s|m|h)?)`)

// limits reports whether an error of an engine says that the registry limits the rate or is not well, and for how long, 0 if
// it does not say so.
func limits(err error) (after time.Duration, limited bool) {
	text := strings.ToLower(err.Error())
	switch {
	case errdefs.IsResourceExhausted(err) && !strings.Contains(text, "no space left"):
	case errdefs.IsUnavailable(err) && (strings.Contains(text, "503 service") || strings.Contains(text, "502 bad") || strings.Contains(text, "500 internal") || strings.Contains(text, "504 gateway")):
	default:
		return 0, false
	}
	if m := saidAfter.FindStringSubmatch(text); m != nil {
		spec := strings.ReplaceAll(m[1], " ", "")
		if d, err := time.ParseDuration(spec); err == nil {
			return min(d, longestRetryAfter), true
		}
		return retryAfter(spec, time.Now()), true
	}
	return 0, true
}

// backOff notes a registry's refusal and says until when it rests; the zero time: err is no refusal of that kind. An engine
// that does not quote Retry-After makes the cache ask the registry itself, with a HEAD, which does not count as a pull.
func (c *Cache[I]) backOff(ctx context.Context, f *flight[I], err error) time.Time {
	after, limited := limits(err)
	if !limited {
		return time.Time{}
	}
	if after == 0 {
		after = c.askRest(ctx, f)
	}
	return c.rests.refused(f.name.host(), after, err.Error())
}

// askRest asks a registry how long it wants to be left alone; 0 if it does not say.
func (c *Cache[I]) askRest(ctx context.Context, f *flight[I]) time.Duration {
	if c.cfg.HTTPClient == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err := newRegistry(c.cfg.HTTPClient, f.name.repository, f.auth).get(ctx, http.MethodHead, "manifests/"+tag(f.name.given), 0)
	var l *limitedError
	if errors.As(err, &l) {
		return l.after
	}
	return 0
}

// awaitRest waits until a registry may be asked.
func (c *Cache[I]) awaitRest(f *flight[I]) bool {
	for {
		until, why := c.rests.until(f.name.host())
		if until.IsZero() {
			return true
		}
		pause := time.Until(until)
		f.tell(func(r *Request) {
			r.note("%s wants to be left alone for %s: %s", f.name.registry, pause.Round(time.Millisecond), why)
		})
		if !sleep(f.ctx, pause) {
			return false
		}
	}
}
