package imagecache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Store is the engine's store of images, and what the host knows about their use. All methods honour their context.
type Store interface {
	// Images lists all local images.
	Images(ctx context.Context) ([]Local, error)
	// Uses says who uses what now: by image id the containers of any kind, in any state; by image id or reference the tasks that
	// are not STOPPED. It fails as long as that is not known, and nothing is removed then.
	Uses(ctx context.Context) (Uses, error)
	// Remove removes a reference, and the image with its last one; an image without references by its id. Removing what no longer
	// exists does nothing; an image that a container uses is an error.
	Remove(ctx context.Context, ref string) error
	// Disk looks at the engine's data root; the zero Disk where it is not on this host.
	Disk() Disk
}

// Uses are the images that stay, by id or reference in any spelling, each with the reason.
type Uses struct {
	By   map[string]string // whoever uses it
	Ours map[string]bool   // by image id: containers of tasks were made from it
	Pins map[string]string
}

// Journal keeps what must survive a restart of the agent about images.
type Journal interface {
	// Load returns what was saved; nothing if there is none or it can't be read.
	Load() Tracks
	// Save is durable when it returns nil.
	Save(Tracks) error
}

// Tracks are which images were pulled here for tasks. Ages and last uses come from them; whether an image is in use never
// does.
type Tracks struct {
	Images map[string]Track `json:"images,omitempty"` // by id
	// Pulling are references whose pull was begun and whose image is not in Images yet: an image of such a name was pulled for a
	// task, although a crash kept that from being written.
	Pulling []string `json:"pulling,omitempty"`
}

// Collection configures the removal of images that nobody uses.
type Collection struct {
	Store Store // nil: there is none
	// Containers are those of others; nil: they are left alone whatever the rules say.
	Containers Containers
	Journal    Journal
	Rules      Rules
	Interval   time.Duration // ECS_IMAGE_CLEANUP_INTERVAL; 0: never by itself
}

// glance is how often the disk is looked at between two collections.
const glance = time.Minute

// Report is what a collection did, or would do.
type Report struct {
	DryRun   bool
	Disk     Disk // before it
	Verdicts []Verdict
	// Containers are those of others, where they may be removed.
	Containers []ContainerVerdict
	Freed      int64 // bytes, by the images' sizes
	Failures   []string
}

// collector is the part of a Cache that remembers and removes. The Cache's mutex guards what is below it.
type collector struct {
	cfg   Collection
	turn  chan struct{} // of one: held while a collection is under way
	saves chan struct{} // of one: held while the journal is written

	tracks   map[string]Track
	pulling  map[string]bool
	begun    map[string]bool          // those of pulling that an earlier agent began: their image may be here, unnoted
	deleting map[string]chan struct{} // by image id and by reference: closed when it is gone, or stays
	moving   map[string]int           // by reference: pulls under way that may take the name to another image
	asking   int                      // calls of Ensure that are under way
	serial   uint64                   // of removals
	gone     map[string]uint64        // by image id: the serial of its removal, as long as somebody asks for images
	pins     map[string]time.Time     // by image id: until when
	dirty    bool                     // there is something to write
	unsaved  bool                     // … an image among it, which the next pull could take the name from
}

func newCollector(cfg Collection) collector {
	k := collector{cfg: cfg, turn: make(chan struct{}, 1), saves: make(chan struct{}, 1), tracks: map[string]Track{}, pulling: map[string]bool{}, begun: map[string]bool{}, deleting: map[string]chan struct{}{}, moving: map[string]int{}, gone: map[string]uint64{}, pins: map[string]time.Time{}}
	if cfg.Journal == nil {
		return k
	}
	saved := cfg.Journal.Load()
	maps.Copy(k.tracks, saved.Images)
	for _, ref := range saved.Pulling {
		k.pulling[ref], k.begun[ref] = true, true
	}
	return k
}

// Collects reports whether the cache removes images at all.
func (c *Cache[I]) Collects() bool { return c.collector.cfg.Store != nil }

// Collect removes the images that nobody uses, by the rules; with dryRun it only says which. It waits for a collection that is
// under way. The error is about what could not be found out; single removals that failed are in the report.
func (c *Cache[I]) Collect(ctx context.Context, dryRun bool) (*Report, error) {
	return c.collect(ctx, dryRun, Room{})
}

func (c *Cache[I]) collect(ctx context.Context, dryRun bool, want Room) (*Report, error) {
	if !c.Collects() {
		return nil, errors.New("images are not collected here: the container engine does not say what uses them")
	}
	select {
	case c.collector.turn <- struct{}{}:
		defer func() { <-c.collector.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out, rules := &Report{DryRun: dryRun}, c.collector.cfg.Rules
	c.collectContainers(ctx, out)
	for round := 0; ; round++ {
		s, err := c.situation(ctx)
		if err != nil {
			return out, err
		}
		s.Want = want
		verdicts := Decide(s, rules)
		if round == 0 {
			out.Disk, out.Verdicts = s.Disk, verdicts
		}
		if dryRun {
			return out, nil
		}
		removed, again := c.removeAll(ctx, &s, rules, verdicts, out)
		if round > 0 {
			out.Verdicts = append(slices.DeleteFunc(out.Verdicts, func(v Verdict) bool {
				return slices.ContainsFunc(removed, func(r Verdict) bool { return r.ID == v.ID })
			}), removed...)
		}
		if err := c.remember(false); err != nil {
			c.cfg.Log.Warn("which images were pulled for tasks can't be saved; after a restart their ages count from then", zap.Error(err))
		}
		if !again || len(removed) == 0 || ctx.Err() != nil {
			return out, ctx.Err()
		}
		if rules.High > 0 && s.Disk.fuller(rules.High) { // begun at the high watermark, it goes on to the low one
			rules.High = rules.Low
		}
	}
}

// removeAll removes what a decision says. again is true when the disk was short: what has become free is measured, not
// believed, so that it stops early or decides anew.
func (c *Cache[I]) removeAll(ctx context.Context, s *Situation, rules Rules, verdicts []Verdict, out *Report) (removed []Verdict, again bool) {
	short, _ := s.short(rules)
	for _, v := range verdicts {
		if !v.Delete || ctx.Err() != nil {
			break
		}
		begun := time.Now()
		fields := []zap.Field{zap.String("step", "collect"), zap.String("id", v.ID), zap.Strings("names", v.Names), zap.String("reason", v.Reason),
			zap.Duration("age", v.Age.Round(time.Second)), zap.Time("lastUse", v.UsedAt), zap.Int64("bytes", v.Size)}
		held, err := c.remove(ctx, v)
		switch {
		case held:
			continue
		case err != nil:
			out.Failures = append(out.Failures, fmt.Sprintf("%s: %v", v.title(), err))
			c.cfg.Log.Warn("an image could not be removed", append(fields, zap.Error(err))...)
			continue
		}
		out.Freed += v.Size
		removed = append(removed, v)
		c.cfg.Log.Info("removed an image", append(fields, zap.Duration("duration", time.Since(begun)))...)
		if short == "" {
			continue
		}
		now := *s
		now.Disk = c.collector.cfg.Store.Disk()
		if _, missing := now.short(Rules{High: rules.Low, Low: rules.Low}); missing.Bytes <= 0 && missing.Inodes <= 0 {
			return removed, false
		}
	}
	return removed, short != ""
}

// title is what people call an image.
func (v *Verdict) title() string {
	if len(v.Names) > 0 {
		return v.Names[0]
	}
	return v.ID
}

// remove removes one image by the names that it still has, unless somebody has got it meanwhile or pulls one of them. Who gets it while it is being removed waits, and pulls it
// again ([Cache.Ensure]).
func (c *Cache[I]) remove(ctx context.Context, v Verdict) (held bool, err error) {
	done := make(chan struct{})
	c.mu.Lock()
	if c.holds[v.ID] > 0 || c.pinned(v.ID) || slices.ContainsFunc(v.Names, func(n string) bool { return c.collector.moving[normalise(n)] > 0 }) {
		c.mu.Unlock()
		return true, nil
	}
	c.collector.deleting[v.ID] = done
	for _, n := range v.Names {
		c.collector.deleting[normalise(n)] = done
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.collector.deleting, v.ID)
		for _, n := range v.Names {
			delete(c.collector.deleting, normalise(n))
		}
		c.collector.serial++
		if c.collector.asking > 0 {
			c.collector.gone[v.ID] = c.collector.serial
		}
		if err == nil && !held {
			delete(c.collector.tracks, v.ID)
			c.collector.dirty = true
		}
		close(done)
	}()
	names, gone := v.Names, 0
	if len(names) == 0 {
		names = []string{v.ID}
	}
	for _, n := range names {
		if img, err := c.engine.Image(ctx, n); err == nil {
			if id, _ := c.engine.Identity(img); id != v.ID {
				continue // since it was looked at, the name has gone to another image
			}
		}
		if err := c.collector.cfg.Store.Remove(ctx, n); err != nil {
			return false, err
		}
		gone++
	}
	return gone == 0, nil // one that has lost all its names is removed by its id the next time
}

// move begins a pull, which may take a reference from one image to another: it waits until no image is being removed by that
// name, and until the returned function is called none is.
func (c *Cache[I]) move(ctx context.Context, ref string) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.collector.deleting[ref] != nil {
		going := c.collector.deleting[ref]
		c.mu.Unlock()
		select {
		case <-going:
			c.mu.Lock()
		case <-ctx.Done():
			c.mu.Lock()
			return nil, context.Cause(ctx)
		}
	}
	c.collector.moving[ref]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.collector.moving[ref]--; c.collector.moving[ref] == 0 {
			delete(c.collector.moving, ref)
		}
	}, nil
}

// situation looks at engine and host. What is in use is found out anew each time.
func (c *Cache[I]) situation(ctx context.Context) (s Situation, err error) {
	store, begun := c.collector.cfg.Store, time.Now()
	if s.Images, err = store.Images(ctx); err != nil {
		return s, fmt.Errorf("the engine's images: %w", err)
	}
	uses, err := store.Uses(ctx)
	if err != nil {
		return s, fmt.Errorf("who uses which image: %w", err)
	}
	s.Now, s.Disk = time.Now(), store.Disk()
	s.Uses, s.Pins, s.Held = normalised(uses.By), normalised(uses.Pins), map[string]bool{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.holds {
		s.Held[id] = true
	}
	for id, until := range c.collector.pins {
		if c.pinned(id) {
			s.Pins[id] = "it was prepared for a task that is to come, and is kept until " + until.UTC().Format(time.RFC3339)
		} else {
			delete(c.collector.pins, id)
		}
	}
	c.collector.follow(&s, uses.Ours, begun)
	s.Tracks = maps.Clone(c.collector.tracks)
	return s, nil
}

func normalised(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for name, text := range m {
		if text != "" {
			out[name], out[normalise(name)] = text, text
		}
	}
	return out
}

// follow brings the tracks up to date with what is there: images that a crash kept from being noted, or that a task's
// container was made from, are tracked from now on; those that are gone no longer. What no registry gave can't be had again:
// it stays foreign, whoever uses it. What was pulled or used since the look began may have come after it.
func (k *collector) follow(s *Situation, ours map[string]bool, begun time.Time) {
	refs := maps.Clone(k.pulling)
	for _, t := range k.tracks {
		for _, ref := range t.Refs {
			refs[ref] = true
		}
	}
	there := map[string]bool{}
	for _, img := range s.Images {
		there[img.ID] = true
		t, tracked := k.tracks[img.ID]
		if !tracked && hasDigest(img.Names) && (ours[img.ID] || slices.ContainsFunc(img.Names, func(n string) bool { return refs[normalise(n)] })) {
			t, tracked = Track{PulledAt: s.Now, UsedAt: s.Now}, true
			k.tracks[img.ID], k.dirty = t, true
		}
		if tracked && (s.Held[img.ID] || why(s.Uses, img) != "") {
			t.UsedAt = s.Now
			k.tracks[img.ID], k.dirty = t, true
		}
	}
	for id, t := range k.tracks {
		if !there[id] && t.UsedAt.Before(begun) {
			delete(k.tracks, id)
			k.dirty = true
		}
	}
}

// intend notes durably, before a pull, that its reference is pulled for tasks, and which images earlier pulls gave, an earlier
// agent's too: this one may take their name.
func (c *Cache[I]) intend(ctx context.Context, ref, given string) {
	c.mu.Lock()
	begun := c.collector.begun[ref]
	c.mu.Unlock()
	if begun {
		if img, err := c.engine.Image(ctx, given); err == nil {
			id, _ := c.engine.Identity(img)
			c.pulled(ref, id)
		}
	}
	c.mu.Lock()
	delete(c.collector.begun, ref)
	known := c.collector.cfg.Journal == nil || c.collector.pulling[ref]
	for _, t := range c.collector.tracks {
		known = known || slices.Contains(t.Refs, ref)
	}
	if !known {
		c.collector.pulling[ref] = true
	}
	must := !known || c.collector.unsaved
	c.mu.Unlock()
	if !must {
		return
	}
	if err := c.remember(true); err != nil {
		c.cfg.Log.Warn("that an image is pulled for tasks can't be saved; after a crash it counts as foreign", zap.String("image", ref), zap.Error(err))
	}
}

// pulled notes an image that a pull gave. It is written before the next pull: until then the reference stands for it.
func (c *Cache[I]) pulled(ref, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.collector.cfg.Journal == nil {
		return
	}
	t, now := c.collector.tracks[id], time.Now()
	if t.PulledAt.IsZero() {
		t.PulledAt = now
	}
	t.UsedAt = now
	if t.Refs = slices.Clone(t.Refs); !slices.Contains(t.Refs, ref) {
		t.Refs = append(t.Refs, ref)
		c.collector.unsaved = true
	}
	c.collector.tracks[id], c.collector.dirty = t, true
	delete(c.collector.pulling, ref)
}

// ask begins a request for an image and returns the serial of the last removal, and what ends the request.
func (c *Cache[I]) ask() (uint64, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.collector.asking++
	return c.collector.serial, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.collector.asking--; c.collector.asking == 0 {
			clear(c.collector.gone)
		}
	}
}

// touch notes a use. The mutex is held.
func (k *collector) touch(id string) {
	if t, ok := k.tracks[id]; ok {
		t.UsedAt = time.Now()
		k.tracks[id], k.dirty = t, true
	}
}

// remember writes the journal if there is something new; must, or one write that is under way, waits for its turn.
func (c *Cache[I]) remember(must bool) error {
	if c.collector.cfg.Journal == nil {
		return nil
	}
	c.collector.saves <- struct{}{}
	defer func() { <-c.collector.saves }()
	c.mu.Lock()
	if !c.collector.dirty && !must {
		c.mu.Unlock()
		return nil
	}
	c.collector.dirty, c.collector.unsaved = false, false
	tracks := Tracks{Images: maps.Clone(c.collector.tracks), Pulling: slices.Sorted(maps.Keys(c.collector.pulling))}
	c.mu.Unlock()
	err := c.collector.cfg.Journal.Save(tracks)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.collector.dirty, c.collector.unsaved = true, true
	}
	return err
}

// Pin keeps an image until a time, whoever uses it. A pin does not outlive the process.
func (c *Cache[I]) Pin(id string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until.After(c.collector.pins[id]) {
		c.collector.pins[id] = until
	}
}

// pinned reports whether a pin keeps an image. The mutex is held.
func (c *Cache[I]) pinned(id string) bool { return c.collector.pins[id].After(time.Now()) }

// Run collects, at intervals and whenever the disk is found short, until ctx ends. It writes the journal at its end.
func (c *Cache[I]) Run(ctx context.Context) error {
	defer func() {
		if err := c.remember(false); err != nil {
			c.cfg.Log.Warn("when images were used last can't be saved", zap.Error(err))
		}
	}()
	if !c.Collects() || c.collector.cfg.Interval <= 0 {
		<-ctx.Done()
		return nil
	}
	interval, rules := c.collector.cfg.Interval, c.collector.cfg.Rules
	ticker := time.NewTicker(min(glance, interval))
	defer ticker.Stop()
	due, fruitless := time.Now().Add(interval), time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			short := rules.High > 0 && c.collector.cfg.Store.Disk().fuller(rules.High)
			if now.Before(due) && (!short || now.Before(fruitless)) {
				continue
			}
			if !now.Before(due) {
				due = now.Add(interval)
			}
			if c.cycle(ctx) && short {
				fruitless = now.Add(interval) // until then the same images would be looked at in vain
			}
		}
	}
}

// cycle collects once and says what came of it; true if nothing could be removed.
func (c *Cache[I]) cycle(ctx context.Context) (fruitless bool) {
	begun := time.Now()
	r, err := c.Collect(ctx, false)
	if ctx.Err() != nil {
		return true
	}
	if err != nil {
		c.cfg.Log.Warn("images could not be collected; the next cycle tries again", zap.Error(err))
		return true
	}
	after := c.collector.cfg.Store.Disk()
	level := c.cfg.Log.Debug
	if r.Freed > 0 {
		level = c.cfg.Log.Info
	} else if c.collector.cfg.Rules.High > 0 && after.fuller(c.collector.cfg.Rules.High) {
		level = c.cfg.Log.Warn
	}
	level("images were collected", zap.String("step", "collect"), zap.Int("images", len(r.Verdicts)), zap.Int64("bytes", r.Freed), zap.Stringer("disk", after), zap.Duration("duration", time.Since(begun)))
	return r.Freed == 0
}
