package agent

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/imagecache"
)

// gc asks the agent until its answer is as wanted.
func (h *testHost) gc(query string, good func(*local.Collection) bool) *local.Collection {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	var last string
	for {
		var c local.Collection
		if err := (local.Client{Dir: h.dir}).Call(ctx, http.MethodPost, "/v1/gc"+query, nil, &c); err != nil {
			last = err.Error()
		} else if good(&c) {
			return &c
		} else {
			var b strings.Builder
			_ = c.Print(&b)
			last = b.String()
		}
		select {
		case <-ctx.Done():
			h.t.Fatalf("gc%s does not answer as it should; it says: %s", query, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func fate(c *local.Collection, name string) local.CollectedImage {
	for _, i := range c.Images {
		if slices.Contains(i.Names, name) {
			return i
		}
	}
	return local.CollectedImage{Reason: "it is not there"}
}

func TestAnImageIsCollectedWhenTheLastContainerIsGoneAlsoByAnotherAgent(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.env = append(h.env, "ECS_IMAGE_PULL_BEHAVIOR=always", "ECS_IMAGE_MINIMUM_CLEANUP_AGE=0s", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s", "ECS_IMAGE_CLEANUP_HIGH_PERCENT=0")
	h.engine = enginetest.NewFake()
	h.engine.Publish(enginetest.FakeImage{Ref: "web:1", Size: 5 << 20})
	h.engine.AddImage(enginetest.FakeImage{Ref: "somebody/else:1", Files: map[string]enginetest.FakeFile{"/x": {}}})
	leave := h.start()
	c.expect("connected " + first)
	c.send(first, task1, "RUNNING")
	c.expect("submit " + task1 + " RUNNING")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	h.start()
	c.expect("connected " + first)
	h.gc("", func(c *local.Collection) bool {
		return !fate(c, "web:1").Remove && strings.Contains(fate(c, "web:1").Reason, "(running) was made from it") && fate(c, "web:1").Tracked
	})
	c.send(first, task1, "STOPPED")
	c.expect("submit " + task1 + " STOPPED")
	h.gc("?dryRun=true", func(c *local.Collection) bool { return fate(c, "web:1").Remove })
	h.gc("?dryRun=true", func(c *local.Collection) bool { return fate(c, "web:1").Remove })
	h.gc("", func(c *local.Collection) bool { return fate(c, "web:1").Remove && c.Freed == 5<<20 })
	got := h.gc("", func(c *local.Collection) bool { return fate(c, "web:1").ID == "" })
	if v := fate(got, "somebody/else:1"); v.Remove || !strings.Contains(v.Reason, "foreign") {
		t.Error(v)
	}
	if !strings.Contains(h.log(), `msg="removed an image"`) || !strings.Contains(h.log(), "reason=") || !strings.Contains(h.log(), "lastUse=") {
		t.Error(h.log())
	}
}

func TestWhatIsRememberedOfImagesIsReadBackAndABrokenFileIsNone(t *testing.T) {
	j := &imageJournal{path: filepath.Join(t.TempDir(), imagesName), log: nopLog}
	if got := j.Load(); got.Images != nil {
		t.Error(got)
	}
	want := imagecache.Tracks{Images: map[string]imagecache.Track{"sha256:1": {PulledAt: time.Unix(1, 0).UTC(), UsedAt: time.Unix(2, 0).UTC(), Refs: []string{"a"}}}, Pulling: []string{"b"}}
	if err := j.Save(want); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, j.Load()); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(j.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := j.Load(); got.Images != nil {
		t.Error("a broken file was believed", got)
	}
}
