package imagecache_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/imagecache"
)

const gib = 1 << 30

func TestWhichImagesMayGo(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	tracked := func(pulled, used time.Duration) imagecache.Track {
		return imagecache.Track{PulledAt: ago(pulled), UsedAt: ago(used)}
	}
	img := func(id string, names ...string) imagecache.Local {
		return imagecache.Local{ID: id, Names: names, Size: gib, Created: ago(100 * time.Hour)}
	}
	rules := imagecache.Rules{MinimumAge: time.Hour, ForeignAge: time.Hour, PerCycle: 5}
	foreign := rules
	foreign.Foreign = true
	full := imagecache.Disk{Path: "/d", Free: imagecache.Room{Bytes: 1 * gib, Inodes: 900}, Total: imagecache.Room{Bytes: 10 * gib, Inodes: 1000}}
	noInodes := imagecache.Disk{Path: "/d", Free: imagecache.Room{Bytes: 9 * gib, Inodes: 10}, Total: imagecache.Room{Bytes: 10 * gib, Inodes: 1000}}
	watched := rules
	watched.High, watched.Low = 85, 80
	one := func(x imagecache.Local) []imagecache.Local { return []imagecache.Local{x} }
	for name, c := range map[string]struct {
		s      imagecache.Situation
		r      imagecache.Rules
		goes   []string
		reason string // a part of that of the first verdict
	}{
		"nobody uses it":              {imagecache.Situation{Images: one(img("a")), Tracks: map[string]imagecache.Track{"a": tracked(2*time.Hour, 2*time.Hour)}}, rules, []string{"a"}, "no container and no task"},
		"it is young":                 {imagecache.Situation{Images: one(img("a")), Tracks: map[string]imagecache.Track{"a": tracked(time.Minute, time.Minute)}}, rules, nil, "pulled 1m0s ago, less than 1h0m0s"},
		"a container uses it":         {imagecache.Situation{Images: one(img("a")), Tracks: map[string]imagecache.Track{"a": tracked(9*time.Hour, 9*time.Hour)}, Uses: map[string]string{"a": "container x"}}, rules, nil, "container x"},
		"a task wants it by name":     {imagecache.Situation{Images: one(img("a", "app:1")), Tracks: map[string]imagecache.Track{"a": tracked(9*time.Hour, 9*time.Hour)}, Uses: map[string]string{"docker.io/library/app:1": "task t"}}, rules, nil, "task t"},
		"it is held":                  {imagecache.Situation{Images: one(img("a")), Tracks: map[string]imagecache.Track{"a": tracked(9*time.Hour, 9*time.Hour)}, Held: map[string]bool{"a": true}}, rules, nil, "holds it"},
		"it is pinned":                {imagecache.Situation{Images: one(img("a")), Tracks: map[string]imagecache.Track{"a": tracked(9*time.Hour, 9*time.Hour)}, Pins: map[string]string{"a": "a daemon's"}}, rules, nil, "a daemon's"},
		"it is foreign":               {imagecache.Situation{Images: one(img("a"))}, rules, nil, "foreign"},
		"foreign ones go where asked": {imagecache.Situation{Images: one(img("a"))}, foreign, []string{"a"}, "no container"},
		"it is on the list": {imagecache.Situation{Images: one(img("a", "r.example/team/app:1"))}, func() imagecache.Rules {
			r := foreign
			r.Keep = []string{"r.example/team/*"}
			return r
		}(), nil, "never removed"},
		"tracked ones first, the longest unused first, then the smallest": {imagecache.Situation{Images: []imagecache.Local{img("f1"), {ID: "f2", Size: 5, Created: ago(9 * time.Hour)}, img("new"), img("old")},
			Tracks: map[string]imagecache.Track{"new": tracked(9*time.Hour, 2*time.Hour), "old": tracked(9*time.Hour, 5*time.Hour)}}, foreign, []string{"old", "new", "f2", "f1"}, ""},
		"a cycle is bounded": {imagecache.Situation{Images: []imagecache.Local{img("a"), img("b"), img("c"), img("d"), img("e"), img("f")}}, foreign, []string{"a", "b", "c", "d", "e"}, ""},
		"a full disk: neither age nor number count, and no more than is needed": {imagecache.Situation{Images: []imagecache.Local{img("a"), img("b")}, Disk: full,
			Tracks: map[string]imagecache.Track{"a": tracked(time.Minute, 50*time.Second), "b": tracked(time.Minute, 40*time.Second)}}, watched, []string{"a"}, "the disk is short: 90 % of its bytes"},
		"inodes count as bytes do": {imagecache.Situation{Images: one(img("a")), Disk: noInodes, Tracks: map[string]imagecache.Track{"a": tracked(time.Minute, time.Minute)}}, watched, []string{"a"}, "99 % of its inodes"},
		"a pull wants room": {imagecache.Situation{Images: []imagecache.Local{img("a"), img("b"), img("c")}, Disk: full, Want: imagecache.Room{Bytes: 3 * gib},
			Tracks: map[string]imagecache.Track{"a": tracked(time.Minute, 3*time.Second), "b": tracked(time.Minute, 2*time.Second), "c": tracked(time.Minute, time.Second)}}, rules, []string{"a", "b"}, "a pull wants 3072 MiB"},
		"a full disk takes nothing that is used": {imagecache.Situation{Images: one(img("a")), Disk: full, Uses: map[string]string{"a": "container x"}}, watched, nil, "container x"},
	} {
		c.s.Now = now
		verdicts := imagecache.Decide(c.s, c.r)
		var goes []string
		for _, v := range verdicts {
			if v.Delete {
				goes = append(goes, v.ID)
			}
		}
		if !slices.Equal(goes, c.goes) || len(verdicts) != len(c.s.Images) || !strings.Contains(verdicts[0].Reason, c.reason) {
			t.Errorf("%s: %v go, want %v; %+v", name, goes, c.goes, verdicts)
		}
	}
}

// host is an engine with images, containers and tasks, and the agent's journal on its disk. Whatever it is told to remove
// that is in use, held or pinned it remembers as wrong.
type host struct {
	mu         sync.Mutex
	images     map[string]*imagecache.Local
	registry   map[string]string // id by reference
	containers map[string]string // image id by name; those of tasks are called after them
	tasks      map[string]*need  // that are not STOPPED
	pins       map[string]time.Time
	journal    imagecache.Tracks
	wrong      []string
	meanwhile  func() // once, during the next removal
	looked     func() // once, when the next collection has seen which images there are
	cache      *imagecache.Cache[string]
	rules      imagecache.Rules
	behaviour  imagecache.Behaviour
	crash      bool // during the next pull
}

type need struct {
	ref, id string // id: it was given the image
	release func()
}

func (h *host) Identity(id string) (string, string) { return id, "sha256:" + id }

func (h *host) find(ref string) *imagecache.Local {
	for _, img := range h.images {
		if img.ID == ref || slices.Contains(img.Names, ref) {
			return img
		}
	}
	return nil
}

func (h *host) Image(_ context.Context, ref string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if img := h.find(ref); img != nil {
		return img.ID, nil
	}
	return "", errdefs.ErrNotFound
}

func (h *host) Pull(_ context.Context, ref string, _ *imagecache.Credentials, _ func(imagecache.Progress)) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.store(ref, true)
	if h.crash { // the agent does not live to see it
		return "", errdefs.ErrNotFound
	}
	return id, nil
}

func (h *host) store(ref string, digest bool) string {
	id := h.registry[ref]
	for _, img := range h.images {
		img.Names = slices.DeleteFunc(img.Names, func(n string) bool { return n == ref })
	}
	img := h.images[id]
	if img == nil {
		img = &imagecache.Local{ID: id, Size: 1, Created: time.Now()}
		h.images[id] = img
	}
	img.Names = append(img.Names, ref)
	if repo, _, _ := strings.Cut(ref, ":"); digest && !slices.ContainsFunc(img.Names, func(n string) bool { return strings.HasPrefix(n, repo+"@") }) {
		img.Names = append(img.Names, fmt.Sprintf("%s@sha256:%064s", repo, strings.Map(func(r rune) rune { return 'a' + r%6 }, id)))
	}
	return id
}

func (h *host) Images(context.Context) (out []imagecache.Local, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, img := range h.images {
		c := *img
		c.Names = slices.Clone(img.Names)
		out = append(out, c)
	}
	return out, nil
}

func (h *host) Uses(context.Context) (imagecache.Uses, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := imagecache.Uses{By: map[string]string{}, Ours: map[string]bool{}, Pins: map[string]string{}}
	for name, id := range h.containers {
		u.By[id] = "container " + name
		u.Ours[id] = u.Ours[id] || !strings.HasPrefix(name, "foreign")
	}
	for name, n := range h.tasks {
		u.By[n.ref] = "task " + name
	}
	return u, nil
}

func (h *host) Disk() imagecache.Disk {
	if f := h.looked; f != nil {
		h.looked = nil
		f()
	}
	return imagecache.Disk{}
}

func (h *host) Remove(_ context.Context, ref string) error {
	h.mu.Lock()
	if f := h.meanwhile; f != nil {
		h.meanwhile = nil
		h.mu.Unlock()
		f()
		h.mu.Lock()
	}
	defer h.mu.Unlock()
	img := h.find(ref)
	if img == nil {
		return nil
	}
	img.Names = slices.DeleteFunc(img.Names, func(n string) bool { return n == ref })
	if slices.ContainsFunc(img.Names, func(n string) bool { return !strings.Contains(n, "@") }) {
		return nil
	}
	for name, id := range h.containers {
		if id == img.ID {
			h.wrong = append(h.wrong, fmt.Sprintf("%s was removed, and container %s uses it", img.ID, name))
		}
	}
	for name, n := range h.tasks {
		if n.id == img.ID {
			h.wrong = append(h.wrong, fmt.Sprintf("%s was removed, and task %s has it", img.ID, name))
		}
	}
	if h.pins[img.ID].After(time.Now()) {
		h.wrong = append(h.wrong, img.ID+" was removed, and is pinned")
	}
	delete(h.images, img.ID)
	return nil
}

func (h *host) Load() imagecache.Tracks { return h.journal }

func (h *host) Save(t imagecache.Tracks) error { h.journal = t; return nil }

// restart makes a new agent, which knows what its journal, the engine and the tasks on record say.
func (h *host) restart() {
	c, err := imagecache.New(h, imagecache.Config{Behaviour: h.behaviour, Collection: imagecache.Collection{Store: h, Journal: h, Rules: h.rules}})
	if err != nil {
		panic(err)
	}
	h.cache, h.pins = c, map[string]time.Time{}
	for name, n := range h.tasks {
		n.release = func() {}
		if h.containers[name] == "" { // what was pulled for it and not used yet is on no record: it is pulled again
			n.id = ""
		}
	}
}

func (h *host) ensure(ctx context.Context, task, ref string) {
	h.mu.Lock()
	if h.tasks[task] != nil {
		h.mu.Unlock()
		return
	}
	n := &need{ref: ref, release: func() {}}
	h.tasks[task] = n
	h.mu.Unlock()
	id, release, err := h.cache.Ensure(ctx, imagecache.Request{Ref: ref})
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || h.find(id) == nil {
		h.wrong = append(h.wrong, fmt.Sprintf("task %s got %s, %v, which is not there", task, id, err))
		return
	}
	n.id, n.release = id, release
}

// step is one event of a history.
type step struct{ What, Task, Ref int }

// do does what a step says. It returns when nothing that it began goes on, but for a removal that waits for its end.
func (h *host) do(ctx context.Context, s step) {
	task, ref := fmt.Sprintf("t%d", s.Task), fmt.Sprintf("r.example/app%d:1", s.Ref)
	switch s.What {
	case 0:
		h.ensure(ctx, task, ref)
	case 1: // a container of the task is created
		if n := h.tasks[task]; n != nil {
			h.containers[task] = n.id
		}
	case 2: // the task is STOPPED; its container stays for a while
		if n := h.tasks[task]; n != nil {
			n.release()
			delete(h.tasks, task)
		}
	case 3:
		if h.tasks[task] == nil {
			delete(h.containers, task)
		}
	case 4:
		_, err := h.cache.Collect(ctx, false)
		if err != nil {
			h.wrong = append(h.wrong, err.Error())
		}
	case 5:
		h.restart()
	case 6: // the reference names another image from now on
		h.registry[ref] += "'"
	case 7: // a pull, and a crash before anything of it is noted but that it was begun
		h.crash = true
		if _, release, err := h.cache.Ensure(ctx, imagecache.Request{Ref: ref}); err == nil {
			release()
		}
		h.crash = false
		h.restart()
	case 8: // somebody else's image, perhaps with a container
		h.registry[fmt.Sprintf("foreign%d:1", s.Ref)] = fmt.Sprintf("foreign%d", s.Ref)
		id := h.store(fmt.Sprintf("foreign%d:1", s.Ref), s.Ref%2 == 0)
		if s.Task%2 == 0 {
			h.containers["foreign"+id] = id
		}
	case 9: // a task gets an image at the very moment at which one is removed
		h.mu.Lock()
		h.meanwhile = func() { go h.ensure(ctx, task, ref); synctest.Wait() }
		h.mu.Unlock()
		_, _ = h.cache.Collect(ctx, false)
		h.mu.Lock()
		h.meanwhile = nil
		h.mu.Unlock()
		synctest.Wait()
	case 13: // a task gets an image after the collection has looked and before it removes
		h.looked = func() { h.ensure(ctx, task, ref) }
		_, _ = h.cache.Collect(ctx, false)
		h.looked = nil
	case 10:
		if img := h.find(ref); img != nil {
			h.pins[img.ID] = time.Now().Add(3 * time.Hour)
			h.cache.Pin(img.ID, h.pins[img.ID])
		}
	default:
		wait(ctx, time.Duration(s.Task+1)*30*time.Minute)
	}
}

// end stops and removes everything, and collects until nothing more goes.
func (h *host) end(ctx context.Context) {
	for _, n := range h.tasks {
		n.release()
	}
	h.tasks, h.containers = map[string]*need{}, map[string]string{}
	for range 30 {
		wait(ctx, 2*time.Hour)
		h.do(ctx, step{What: 4})
	}
	for id, img := range h.images {
		loaded := !slices.ContainsFunc(img.Names, func(n string) bool { return strings.Contains(n, "@") })
		if h.rules.Foreign || !strings.HasPrefix(id, "foreign") && !loaded {
			h.wrong = append(h.wrong, fmt.Sprintf("%s %v stays for ever, and nobody uses it", id, img.Names))
		}
	}
}

func TestAnImageInUseIsNeverRemovedAndAnUnusedOneInTheEnd(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 13).Draw(rt, "what"), rapid.IntRange(0, 4).Draw(rt, "task"), rapid.IntRange(0, 3).Draw(rt, "ref")}
		}), 1, 60).Draw(rt, "history")
		foreign, perCycle := rapid.Bool().Draw(rt, "foreign"), rapid.IntRange(1, 3).Draw(rt, "perCycle")
		behaviour := rapid.SampledFrom([]imagecache.Behaviour{imagecache.PreferCached, imagecache.Always}).Draw(rt, "behaviour")
		var wrong []string
		synctest.Test(t, func(t *testing.T) {
			h := &host{images: map[string]*imagecache.Local{}, registry: map[string]string{}, containers: map[string]string{}, tasks: map[string]*need{}, behaviour: behaviour,
				rules: imagecache.Rules{MinimumAge: time.Hour, ForeignAge: time.Hour, PerCycle: perCycle, Foreign: foreign}}
			for i := range 4 {
				h.registry[fmt.Sprintf("r.example/app%d:1", i)] = fmt.Sprintf("app%d", i)
			}
			h.restart()
			for i, s := range steps {
				h.do(t.Context(), s)
				if len(h.wrong) > 0 {
					wrong = append(h.wrong, fmt.Sprintf("after step %d, %+v", i, s))
					return
				}
			}
			h.end(t.Context())
			wrong = h.wrong
		})
		if len(wrong) > 0 {
			rt.Fatal(strings.Join(wrong, "; "))
		}
	})
}

func TestANameThatAPullMovesDuringACollectionKeepsItsNewImage(t *testing.T) {
	for when, what := range map[string]int{"during the removal": 9, "between look and removal": 13} {
		t.Run(when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{images: map[string]*imagecache.Local{}, registry: map[string]string{"r.example/app0:1": "app0"}, containers: map[string]string{}, tasks: map[string]*need{},
					behaviour: imagecache.Always, rules: imagecache.Rules{MinimumAge: time.Hour, ForeignAge: time.Hour, PerCycle: 1}}
				h.restart()
				for _, s := range []step{{What: 0, Task: 1}, {What: 2, Task: 1}, {What: 6}, {What: 11, Task: 4}, {What: what}} {
					h.do(t.Context(), s)
				}
				if len(h.wrong) > 0 {
					t.Error(h.wrong)
				}
				if img := h.find("r.example/app0:1"); img == nil || img.ID != "app0'" {
					t.Errorf("the name stands for %+v, want the image that was pulled last", img)
				}
				h.end(t.Context())
				if len(h.wrong) > 0 || len(h.images) > 0 {
					t.Errorf("%v; %d images stay", h.wrong, len(h.images))
				}
			})
		})
	}
}

func TestAFullDiskIsCollectedUntilItIsBelowTheLowWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{tracks: imagecache.Tracks{Images: map[string]imagecache.Track{}}}
		for i := range 40 {
			id := fmt.Sprintf("i%02d", i)
			s.images = append(s.images, imagecache.Local{ID: id, Size: gib, Names: []string{id + ":1"}})
			s.tracks.Images[id] = imagecache.Track{PulledAt: time.Now(), UsedAt: time.Now().Add(time.Duration(i) * time.Second)}
		}
		c := cache(t, newWorld(), imagecache.Config{Collection: imagecache.Collection{Store: s, Journal: s, Interval: 30 * time.Minute,
			Rules: imagecache.Rules{MinimumAge: time.Hour, PerCycle: 5, High: 85, Low: 80}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		wait(ctx, 61*time.Second)
		synctest.Wait()
		// Each gives back half its size, because images share layers, so it takes more rounds than one.
		if len(s.images) != 23 || s.images[0].ID != "i17" {
			t.Errorf("%d images are left, the first is %s; the disk: %s", len(s.images), s.images[0].ID, s.Disk())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(s.saved.Images) != len(s.images) {
			t.Errorf("%d images are remembered, %d are there", len(s.saved.Images), len(s.images))
		}
	})
}

// shelf is a disk of 40 GiB with images of which each takes half its size for itself.
type shelf struct {
	images        []imagecache.Local
	tracks, saved imagecache.Tracks
}

func (s *shelf) Images(context.Context) ([]imagecache.Local, error) {
	return slices.Clone(s.images), nil
}
func (s *shelf) Uses(context.Context) (imagecache.Uses, error) { return imagecache.Uses{}, nil }
func (s *shelf) Remove(_ context.Context, ref string) error {
	s.images = slices.DeleteFunc(s.images, func(i imagecache.Local) bool { return i.Names[0] == ref })
	return nil
}
func (s *shelf) Disk() imagecache.Disk {
	return imagecache.Disk{Path: "/d", Total: imagecache.Room{Bytes: 40 * gib, Inodes: 1 << 40}, Free: imagecache.Room{Bytes: 19.5*gib - int64(len(s.images))*gib/2, Inodes: 1 << 39}}
}
func (s *shelf) Load() imagecache.Tracks { return s.tracks }
func (s *shelf) Save(t imagecache.Tracks) error {
	s.saved = imagecache.Tracks{Images: maps.Clone(t.Images)}
	return nil
}

func TestAnImageThatLosesItsOnlyNameDuringACollectionIsNotCalledRemovedAndGoesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{images: map[string]*imagecache.Local{}, registry: map[string]string{"tool:1": "old"}, containers: map[string]string{}, tasks: map[string]*need{},
			rules: imagecache.Rules{Foreign: true, ForeignAge: time.Hour, PerCycle: 5}}
		h.restart()
		h.store("tool:1", false)
		<-time.After(2 * time.Hour)
		h.looked = func() { // somebody builds it anew
			h.registry["tool:1"] = "new"
			h.store("tool:1", false)
		}
		report, err := h.cache.Collect(t.Context(), false)
		if err != nil || report.Freed != 0 || h.images["old"] == nil || h.find("tool:1") == nil || h.find("tool:1").ID != "new" {
			t.Errorf("%+v, %v, left are %v", report, err, h.images)
		}
		if report, err = h.cache.Collect(t.Context(), false); err != nil || report.Freed != 1 || h.images["old"] != nil || h.images["new"] == nil {
			t.Errorf("%+v, %v, left are %v", report, err, h.images)
		}
	})
}
