// Package imagecache makes the images of tasks local, and keeps those that are in use.
//
// [Cache.Ensure] follows the pull behaviour (ECS_IMAGE_PULL_BEHAVIOR). A pull is a flight: whoever needs the same
// reference with the same credentials joins the one that is under way, and it is given up when the last of them has left.
// Flights share a bounded number of places, those from one registry a smaller one; waiting ones get them by priority. A flight tries again after faults that may
// pass, and ends one that shows no progress. What a failure says is a [PullError].
//
//	imagecache.go    Config, Request, Ensure, holds
//	flight.go        one pull: tries, inactivity, progress to everyone who waits
//	dockerconfig.go  ~/.docker/config.json
//	helper.go        … and the credential helpers that it names
//	places.go        who may pull now
//	credentials.go   ECS_ENGINE_AUTH_TYPE and ECS_ENGINE_AUTH_DATA
//	collect.go       which images may go: a pure decision
//	collector.go     … and their removal
//	space.go         is there room for an image?
//	registry.go      what the cache asks registries itself
//	backoff.go       registries that limit the rate
//	authority.go     credentials that a task asks for: fetched, and renewed once when a registry refuses them
//	errors.go        what a failed pull says
//
// # Collection
//
// Who uses an image is never counted: each collection asks the engine for its containers, those of others too, and the agent
// for its tasks that are not STOPPED. What [Cache.Ensure] gives is held from the pull to the end of the task, so nothing is
// removed between the pull and the create; an image that is being removed while somebody gets it is waited for and pulled
// again. Only ages and "a task had it pulled" are remembered ([Journal]), and what is lost of them makes images stay longer.
//
// The cache pulls by an [Engine], and the engine room asks for images by an interface of its own; neither imports the
// other, and agent joins them. The cache never looks into an image, so it is generic over the caller's type.
package imagecache

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Engine is what the cache asks of a container engine, whose type of an image is I. All methods honour their context
// and may be called concurrently; errors have classes of errdefs.
type Engine[I any] interface {
	// Image returns a local image. NotFound if it is not local.
	Image(ctx context.Context, ref string) (I, error)
	// Pull pulls an image, calling progress whenever the pull moves, and never after it has returned. credentials may be nil.
	Pull(ctx context.Context, ref string, credentials *Credentials, progress func(Progress)) (I, error)
	// Identity returns an image's id and the digest of its manifest.
	Identity(I) (id, digest string)
}

// Ledger remembers, across restarts, which references were pulled successfully; for the behaviour "once" only.
type Ledger interface {
	Pulled(ref string) bool
	SetPulled(ref string) error
}

// Progress is how far a pull has come, in bytes; Total is 0 while it is unknown.
type Progress struct {
	Current, Total int64
	Layers, Done   int
	Phase          string // resolving, downloading, extracting
}

// Resolving is the first phase of a pull: the registry has not given the manifest yet.
const Resolving = "resolving"

// String is for the log and the timeline: "downloading, 12.0 of 24.0 MiB, 2 of 5 layers".
func (p Progress) String() string {
	if p.Layers == 0 {
		return p.Phase
	}
	const mib = 1 << 20
	return fmt.Sprintf("%s, %.1f of %.1f MiB, %d of %d layers", p.Phase, float64(p.Current)/mib, float64(p.Total)/mib, p.Done, p.Layers)
}

// Behaviour is a value of ECS_IMAGE_PULL_BEHAVIOR.
type Behaviour string

// The pull behaviours of Amazon ECS.
const (
	Default      Behaviour = "default"       // always try to pull; if that fails, use what is local
	Always       Behaviour = "always"        // always pull; a failure is final
	Once         Behaviour = "once"          // pull what was not pulled by this agent before; a failure is final
	PreferCached Behaviour = "prefer-cached" // pull only what is not local
)

// Config configures a [Cache]. Zero values mean the default in the comment.
type Config struct {
	Behaviour    Behaviour
	Credentials  *Keyring      // none
	DockerConfig *DockerConfig // none; asked about registries for which Credentials has none
	Authority    Authority     // none: what a task asks for by RegistryAuthentication is refused
	Ledger       Ledger        // in memory
	Places       int           // pulls at the same time: 4
	PerRegistry  int           // of them from one registry: one less than Places, at least 1
	Inactivity   time.Duration // how long a pull may show no progress: 1 min (ECS_IMAGE_PULL_INACTIVITY_TIMEOUT)
	Manifest     time.Duration // that a registry has to give the manifest, in each try: 1 min (ECS_MANIFEST_PULL_TIMEOUT)
	Timeout      time.Duration // for a pull with all its tries: 2 h (ECS_IMAGE_PULL_TIMEOUT)
	Tries        int           // 5
	FirstDelay   time.Duration // before the second try, doubled for each further one: 1.1 s
	LastDelay    time.Duration // at most: 5 s
	Rest         time.Duration // of a registry that limits the rate and does not say for how long, doubled with each time: 5 s
	Collection   Collection    // none
	HTTPClient   *http.Client  // for questions to registries about sizes and limits: none are asked
	Log          *zap.Logger   // no log
}

func (c *Config) setDefaults() error {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&c.Inactivity, time.Minute)
	set(&c.Manifest, time.Minute)
	set(&c.Timeout, 2*time.Hour)
	set(&c.FirstDelay, 1100*time.Millisecond)
	set(&c.LastDelay, 5*time.Second)
	set(&c.Rest, 5*time.Second)
	if c.Places <= 0 {
		c.Places = 4
	}
	if c.PerRegistry <= 0 {
		c.PerRegistry = max(1, c.Places-1)
	}
	if c.Tries <= 0 {
		c.Tries = 5
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Ledger == nil {
		c.Ledger = &memory{}
	}
	switch c.Behaviour {
	case "":
		c.Behaviour = Default
	case Default, Always, Once, PreferCached:
	default:
		return fmt.Errorf("image pull behaviour %q is none of default, always, once and prefer-cached: %w", c.Behaviour, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Cache makes images local. All methods may be called concurrently. It has no goroutines but those of pulls for which
// somebody waits.
type Cache[I any] struct {
	engine Engine[I]
	cfg    Config
	places *places

	mu        sync.Mutex
	flights   map[string]*flight[I] // by reference and credentials
	holds     map[string]int        // by image id
	moved     time.Time             // when any pull last showed progress
	collector collector
	rests     rests
}

// New returns a Cache that pulls by engine.
func New[I any](engine Engine[I], cfg Config) (*Cache[I], error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Cache[I]{
		engine: engine, cfg: cfg, places: newPlaces(cfg.Places, cfg.PerRegistry), flights: map[string]*flight[I]{}, holds: map[string]int{},
		collector: newCollector(cfg.Collection), rests: rests{first: cfg.Rest},
	}, nil
}

// Request is one container's need for an image.
type Request struct {
	TaskArn   string
	Container string
	Ref       string
	Priority  int // lower goes first
	Auth      *acs.RegistryAuthentication
	// Progress, if set, is called while a pull for this request moves, one call at a time, and never after Ensure has
	// returned; never when nothing is pulled. It must return at once.
	Progress func(Progress)
	// Note, if set, is called like Progress with what belongs in the task's timeline: a try that failed, a pull that was joined,
	// a local image used instead.
	Note func(string)
}

func (r *Request) note(format string, args ...any) {
	if r.Note != nil {
		r.Note(fmt.Sprintf(format, args...))
	}
}

// Ensure makes the image local following the pull behaviour and holds it: until release has been called, Held reports
// its id. release may be called more than once, and is nil with an error. Ensure ends with ctx; the error is then ctx's.
// Other errors are a [*PullError].
func (c *Cache[I]) Ensure(ctx context.Context, req Request) (img I, release func(), err error) {
	began := time.Now()
	log := c.cfg.Log.With(zap.String("task", req.TaskArn), zap.String("container", req.Container), zap.String("step", "pull"), zap.String("image", req.Ref))
	for {
		serial, done := c.ask()
		img, pulled, err := c.ensure(ctx, &req)
		if err != nil {
			done()
			if ctx.Err() == nil { // else nobody wants it any more
				log.Warn("the image is not available", zap.Duration("duration", time.Since(began)), zap.Error(err))
			}
			return img, nil, err
		}
		id, digest := c.engine.Identity(img)
		release, going := c.hold(id, serial)
		done()
		if going == nil {
			log.Info("the image is available", zap.Bool("pulled", pulled), zap.String("id", id), zap.String("digest", digest),
				zap.Duration("duration", time.Since(began)))
			return img, release, nil
		}
		release() // it was being removed when it was found
		select {
		case <-going:
		case <-ctx.Done():
			return img, nil, ctx.Err()
		}
	}
}

func (c *Cache[I]) ensure(ctx context.Context, req *Request) (img I, pulled bool, err error) {
	name, err := parse(req.Ref)
	if err != nil {
		return img, false, err
	}
	if req.Auth != nil && c.cfg.Authority == nil {
		return img, false, unsupported(name, req.Auth)
	}
	if c.cfg.Behaviour == PreferCached || c.cfg.Behaviour == Once && c.cfg.Ledger.Pulled(name.String()) {
		if img, err = c.engine.Image(ctx, req.Ref); err == nil {
			return img, false, nil
		}
		if !errdefs.IsNotFound(err) {
			return img, false, c.localError(ctx, name, err)
		}
	}
	if until, why := c.rests.until(name.host()); !until.IsZero() && c.cfg.Behaviour == Default {
		if local, lerr := c.engine.Image(ctx, req.Ref); lerr == nil {
			id, _ := c.engine.Identity(local)
			req.note("the local image %s is used, because %s wants to be left alone until %s: %s", id, name.registry, until.UTC().Format(time.RFC3339), why)
			c.cfg.Log.Warn("the registry limits the rate, the local image is used", zap.String("task", req.TaskArn), zap.String("container", req.Container),
				zap.String("step", "pull"), zap.String("image", req.Ref), zap.String("id", id), zap.Time("until", until))
			return local, false, nil
		}
	}
	img, err = c.pull(ctx, name, req)
	if err == nil {
		if c.cfg.Behaviour == Once {
			if lerr := c.cfg.Ledger.SetPulled(name.String()); lerr != nil {
				c.cfg.Log.Warn("that an image was pulled can't be remembered, so after a restart it will be pulled again",
					zap.String("image", req.Ref), zap.Error(lerr))
			}
		}
		return img, true, nil
	}
	if c.cfg.Behaviour != Default || ctx.Err() != nil {
		return img, false, err
	}
	local, lerr := c.engine.Image(ctx, req.Ref)
	if lerr != nil {
		return img, false, err
	}
	id, _ := c.engine.Identity(local)
	req.note("the local image %s is used, because the pull failed: %v", id, err)
	c.cfg.Log.Warn("the pull failed, the local image is used", zap.String("task", req.TaskArn), zap.String("container", req.Container),
		zap.String("step", "pull"), zap.String("image", req.Ref), zap.String("id", id), zap.Error(err))
	return local, false, nil
}

// localError is a failure to look for a local image.
func (c *Cache[I]) localError(ctx context.Context, name name, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &PullError{Image: name.given, Registry: name.registry, Cause: err, Hint: "the container engine could not be asked for local images"}
}

// hold counts a user of an image until release is called. going, unless nil, says that the image may be gone: a removal of
// it ended since the one with the serial, or is under way. It is closed when that has ended.
func (c *Cache[I]) hold(id string, serial uint64) (release func(), going chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds[id]++
	c.collector.touch(id)
	going = c.collector.deleting[id]
	if going == nil && c.collector.gone[id] > serial {
		going = make(chan struct{})
		close(going)
	}
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.collector.touch(id)
		if c.holds[id]--; c.holds[id] == 0 {
			delete(c.holds, id)
		}
	}), going
}

// Held reports whether an image is held by a request that has not been released.
func (c *Cache[I]) Held(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holds[id] > 0
}

// name is a parsed reference.
type name struct {
	given      string // as in the task definition
	normalised string // with registry and tag or digest
	registry   string // for people
	repository string // registry host and path, for credentials
}

func (n name) String() string { return n.normalised }

// host is the registry's.
func (n name) host() string { host, _, _ := strings.Cut(n.repository, "/"); return host }

// key is the reference as images' names are compared.
func (n name) key() string { return normalise(n.given) }

func parse(ref string) (name, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return name{}, &PullError{
			Image: ref, Cause: &classed{errdefs.ErrInvalidArgument, strings.TrimSpace(err.Error())},
			Hint: "write it as [registry/]repository[:tag] or [registry/]repository@digest",
		}
	}
	named = reference.TagNameOnly(named)
	registry := reference.Domain(named)
	if registry == dockerHub {
		registry = "Docker Hub (docker.io)"
	}
	return name{given: ref, normalised: named.String(), registry: registry, repository: named.Name()}, nil
}

// memory is a Ledger that forgets when the process ends.
type memory struct {
	mu     sync.Mutex
	pulled map[string]bool
}

func (m *memory) Pulled(ref string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pulled[ref]
}

func (m *memory) SetPulled(ref string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pulled == nil {
		m.pulled = map[string]bool{}
	}
	m.pulled[ref] = true
	return nil
}
