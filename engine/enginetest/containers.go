package enginetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

func engineTests(t *testing.T, s *suite) {
	t.Run("Info names the engine, its version and its API", func(t *testing.T) {
		info, err := s.Runtime.Info(s.ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == "" || info.Version == "" || info.APIVersion == "" || info.Root == "" || info.CgroupVersion == 0 || len(info.LogDrivers) == 0 {
			t.Errorf("incomplete: %+v", info)
		}
		if !slices.Contains(info.APIVersions, info.APIVersion) {
			t.Errorf("the API version in use, %s, is not among those spoken, %v", info.APIVersion, info.APIVersions)
		}
	})
	t.Run("a call whose context has ended returns that context's error", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.Runtime.Info(ctx)
		class(t, "Info", err, errdefs.IsCanceled, "Canceled")
		class(t, "Start", s.Runtime.Start(ctx, "x"), errdefs.IsCanceled, "Canceled")
	})
}

func createTests(t *testing.T, s *suite) {
	t.Run("a created container is listed and does not run", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		id := s.create(t, spec)
		st, ok := s.listed(t, id)
		if !ok || st.Status != engine.StatusCreated || st.Name != spec.Name || st.Labels[engine.LabelTaskArn] != spec.Labels[engine.LabelTaskArn] {
			t.Errorf("listed %v as %+v", ok, st)
		}
		byID, byName := s.inspect(t, id), s.inspect(t, spec.Name)
		if byID.ID != id || byName.ID != id || byID.Pid != 0 || !byID.StartedAt.IsZero() || byID.CreatedAt.IsZero() || byID.Partial {
			t.Errorf("inspected as %+v, by name as %s", byID, byName.ID)
		}
		if byID.Image != spec.Image || byID.ImageID == "" {
			t.Errorf("image %q with id %q, want %q", byID.Image, byID.ImageID, spec.Image)
		}
	})
	t.Run("creating it again finds it", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		id := s.create(t, spec)
		spec.Env = []string{"OTHER=1"}
		again, err := s.Runtime.Create(s.ctx(t), spec)
		if err != nil || again != id {
			t.Errorf("got %s, %v, want %s", again, err, id)
		}
	})
	t.Run("creating it many times at once makes one", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		s.cleanUp(t, spec.Name)
		ids := make([]string, 6)
		together(len(ids), func(i int) {
			var err error
			if ids[i], err = s.Runtime.Create(s.ctx(t), spec); err != nil {
				t.Error(err)
			}
		})
		if len(slices.Compact(ids)) != 1 {
			t.Errorf("got the ids %v", ids)
		}
	})
	t.Run("a name that another task's container has is refused", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		s.create(t, spec)
		spec.Labels = map[string]string{engine.LabelTaskArn: "another"}
		_, err := s.Runtime.Create(s.ctx(t), spec)
		class(t, "create", err, errdefs.IsAlreadyExists, "AlreadyExists")
	})
	t.Run("what can't be created is refused", func(t *testing.T) {
		cases := map[string]struct {
			change func(*engine.Spec)
			is     func(error) bool
			class  string
		}{
			"a missing image":         {func(p *engine.Spec) { p.Image = "longshore-test/none:1" }, errdefs.IsNotFound, "NotFound"},
			"no task label":           {func(p *engine.Spec) { p.Labels = nil }, errdefs.IsInvalidArgument, "InvalidArgument"},
			"no name":                 {func(p *engine.Spec) { p.Name = "" }, errdefs.IsInvalidArgument, "InvalidArgument"},
			"a relative mount target": {func(p *engine.Spec) { p.Mounts = []engine.Mount{{Type: "tmpfs", Target: "x"}} }, errdefs.IsInvalidArgument, "InvalidArgument"},
		}
		for name, c := range cases {
			spec := s.spec(ScriptServe)
			c.change(&spec)
			id, err := s.Runtime.Create(s.ctx(t), spec)
			if err == nil {
				s.cleanUp(t, id)
			}
			class(t, name, err, c.is, c.class)
		}
	})
}

func startTests(t *testing.T, s *suite) {
	t.Run("a started container runs, and starting it again changes nothing", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptServe))
		st := s.inspect(t, id)
		if st.Status != engine.StatusRunning || st.Pid == 0 || st.StartedAt.IsZero() || !st.FinishedAt.IsZero() {
			t.Errorf("after the start: %+v", st)
		}
		ok(t, "second start", s.Runtime.Start(s.ctx(t), id))
		if again := s.inspect(t, id); again.Pid != st.Pid || !again.StartedAt.Equal(st.StartedAt) {
			t.Errorf("the second start made another process: %+v", again)
		}
		if l, found := s.listed(t, id); !found || l.Status != engine.StatusRunning {
			t.Errorf("listed %v as %+v", found, l)
		}
	})
	t.Run("starting it many times at once starts it once", func(t *testing.T) {
		spec := s.spec(ScriptLines)
		id := s.create(t, spec)
		errs := make([]error, 5)
		together(len(errs), func(i int) { errs[i] = s.Runtime.Start(s.ctx(t), id) })
		for _, err := range errs {
			if err != nil && !errdefs.IsFailedPrecondition(err) { // it may have ended already
				t.Error(err)
			}
		}
		s.ended(t, id)
		if out := s.logs(t, id, 0); out != "one\ntwo\nthree\n" {
			t.Errorf("it wrote %q", out)
		}
	})
	t.Run("what has run is not run again", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptExit7))
		first := s.ended(t, id)
		class(t, "start", s.Runtime.Start(s.ctx(t), id), errdefs.IsFailedPrecondition, "FailedPrecondition")
		if st := s.inspect(t, id); st.Status != engine.StatusExited || st.ExitCode != 7 || !st.StartedAt.Equal(first.StartedAt) {
			t.Errorf("afterwards: %+v", st)
		}
	})
	t.Run("a missing container can't be started", func(t *testing.T) {
		class(t, "start", s.Runtime.Start(s.ctx(t), "longshore-test-none"), errdefs.IsNotFound, "NotFound")
	})
	t.Run("a command that does not exist is refused and leaves the container as created", func(t *testing.T) {
		spec := s.spec("")
		spec.EntryPoint, spec.Command = []string{"/bin/longshore-none"}, nil
		id := s.create(t, spec)
		for range 2 {
			class(t, "start", s.Runtime.Start(s.ctx(t), id), errdefs.IsInvalidArgument, "InvalidArgument")
			if st := s.inspect(t, id); st.Status != engine.StatusCreated || st.Error == "" || st.ExitCode == 0 {
				t.Errorf("afterwards: %+v", st)
			}
		}
	})
}

// restartTests hold for Runtimes that can do what engine.Restarter says.
func restartTests(t *testing.T, s *suite) {
	r, can := s.Runtime.(interface {
		Restart(ctx context.Context, id string) error
	})
	if !can {
		return
	}
	id := s.start(t, s.spec(ScriptCount))
	first := s.ended(t, id)
	ok(t, "restart", r.Restart(s.ctx(t), id))
	again := s.until(t, id, "the second end", func(st engine.State) bool {
		return st.Status == engine.StatusExited && st.StartedAt.After(first.StartedAt)
	})
	if again.ExitCode != 3 || again.ID != id || again.FinishedAt.Before(again.StartedAt) {
		t.Errorf("ended again as %+v", again)
	}
	if out := strings.ReplaceAll(s.logs(t, id, 0), " ", ""); out != "1\n2\n" {
		t.Errorf("it wrote %q, want that the second run sees the file of the first", out)
	}
	running := s.start(t, s.spec(ScriptServe))
	before := s.inspect(t, running)
	ok(t, "restart of a running one", r.Restart(s.ctx(t), running))
	if st := s.inspect(t, running); st.Pid != before.Pid {
		t.Errorf("a running container was started again: %+v", st)
	}
	class(t, "restart of a missing one", r.Restart(s.ctx(t), "longshore-test-none"), errdefs.IsNotFound, "NotFound")
}

func stopTests(t *testing.T, s *suite) {
	t.Run("a process ends at its stop signal", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptServe))
		s.saying(t, id, "serving")
		ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, 20*time.Second))
		st := s.inspect(t, id)
		if st.Status != engine.StatusExited || st.ExitCode != 143 || st.Pid != 0 || st.FinishedAt.IsZero() || st.OOMKilled {
			t.Errorf("afterwards: %+v", st)
		}
		ok(t, "second stop", s.Runtime.Stop(s.ctx(t), id, time.Second))
		if l, _ := s.listed(t, id); l.Status != engine.StatusExited {
			t.Errorf("listed as %+v", l)
		}
	})
	t.Run("a process that ignores it is killed after the grace period", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptStubborn))
		s.saying(t, id, "stubborn")
		began := time.Now()
		ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, time.Second))
		if st := s.inspect(t, id); st.Status != engine.StatusExited || st.ExitCode != 137 || time.Since(began) < time.Second {
			t.Errorf("after %s: %+v", time.Since(began), st)
		}
	})
	t.Run("the signal is the definition's, else the image's", func(t *testing.T) {
		own, images := s.spec(ScriptUSR1), s.spec(ScriptUSR1)
		own.Config.StopSignal = "SIGUSR1"
		images.Image = s.Images["entry"]
		for _, spec := range []engine.Spec{own, images} {
			id := s.start(t, spec)
			s.saying(t, id, "waiting")
			ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, 20*time.Second))
			if st := s.inspect(t, id); st.ExitCode != 5 {
				t.Errorf("exit code %d, want 5", st.ExitCode)
			}
		}
	})
	t.Run("stopping what does not run, or is not there, does nothing", func(t *testing.T) {
		id := s.create(t, s.spec(ScriptServe))
		ok(t, "a created one", s.Runtime.Stop(s.ctx(t), id, time.Second))
		if st := s.inspect(t, id); st.Status != engine.StatusCreated {
			t.Errorf("afterwards: %+v", st)
		}
		ok(t, "a missing one", s.Runtime.Stop(s.ctx(t), "longshore-test-none", time.Second))
	})
	t.Run("many stops at once all end when the process is gone", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptServe))
		s.saying(t, id, "serving")
		together(4, func(int) {
			ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, 20*time.Second))
			if st, err := s.Runtime.Inspect(s.ctx(t), id); err != nil || st.Status != engine.StatusExited {
				t.Errorf("after its stop: %v, %+v", err, st)
			}
		})
	})
	t.Run("a stop ends with its context, and a repeated one can still stop", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptStubborn))
		s.saying(t, id, "stubborn")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		class(t, "stop", s.Runtime.Stop(ctx, id, time.Hour), errdefs.IsDeadlineExceeded, "DeadlineExceeded")
		if st := s.inspect(t, id); st.Status != engine.StatusRunning {
			t.Errorf("afterwards: %+v", st)
		}
		ok(t, "repeated stop", s.Runtime.Stop(s.ctx(t), id, 0))
		if st := s.inspect(t, id); st.ExitCode != 137 {
			t.Errorf("exit code %d, want 137", st.ExitCode)
		}
	})
}

func removeTests(t *testing.T, s *suite) {
	t.Run("a removed container is gone and its name is free", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		id := s.create(t, spec)
		ok(t, "remove", s.Runtime.Remove(s.ctx(t), id))
		_, err := s.Runtime.Inspect(s.ctx(t), id)
		class(t, "inspect", err, errdefs.IsNotFound, "NotFound")
		if _, found := s.listed(t, id); found {
			t.Error("it is still listed")
		}
		again, err := s.Runtime.Create(s.ctx(t), spec)
		if err != nil || again == id {
			t.Errorf("created again: %s, %v", again, err)
		}
	})
	t.Run("a running container is not removed", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptServe))
		class(t, "remove", s.Runtime.Remove(s.ctx(t), id), errdefs.IsFailedPrecondition, "FailedPrecondition")
		if st := s.inspect(t, id); st.Status != engine.StatusRunning {
			t.Errorf("afterwards: %+v", st)
		}
	})
	t.Run("removing what is not there does nothing", func(t *testing.T) {
		ok(t, "a name", s.Runtime.Remove(s.ctx(t), "longshore-test-none"))
		id := s.create(t, s.spec(ScriptServe))
		ok(t, "first", s.Runtime.Remove(s.ctx(t), id))
		ok(t, "second", s.Runtime.Remove(s.ctx(t), id))
	})
	t.Run("many removals at once all end when it is gone", func(t *testing.T) {
		id := s.create(t, s.spec(ScriptServe))
		together(4, func(int) {
			ok(t, "remove", s.Runtime.Remove(s.ctx(t), id))
			_, err := s.Runtime.Inspect(s.ctx(t), id)
			class(t, "inspect after it", err, errdefs.IsNotFound, "NotFound")
		})
	})
}

func foreignTests(t *testing.T, s *suite) {
	id, name, untouched := s.Foreign(t)
	ctx := s.ctx(t)
	if _, found := s.listed(t, id); found {
		t.Error("a foreign container is listed")
	}
	for _, ref := range []string{id, name} {
		_, err := s.Runtime.Inspect(ctx, ref)
		class(t, "inspect", err, errdefs.IsNotFound, "NotFound")
		class(t, "start", s.Runtime.Start(ctx, ref), errdefs.IsNotFound, "NotFound")
		ok(t, "stop", s.Runtime.Stop(ctx, ref, 0))
		ok(t, "remove", s.Runtime.Remove(ctx, ref))
	}
	spec := s.spec(ScriptServe)
	spec.Name = name
	_, err := s.Runtime.Create(ctx, spec)
	class(t, "create under its name", err, errdefs.IsAlreadyExists, "AlreadyExists")
	if !untouched() {
		t.Error("the foreign container was touched")
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func eventsTests(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	var mu sync.Mutex
	seen := map[string][]string{}
	go func() {
		done <- s.Runtime.Events(ctx, func() { close(ready) }, func(e engine.Event) {
			mu.Lock()
			defer mu.Unlock()
			seen[e.ContainerID+" "+e.TaskArn] = append(seen[e.ContainerID+" "+e.TaskArn], e.Action)
			if e.Time.IsZero() {
				t.Errorf("an event without time: %+v", e)
			}
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("the stream did not stand: %v", err)
	}
	foreign, _, _ := s.Foreign(t)
	spec := s.spec(ScriptServe)
	id := s.start(t, spec)
	ok(t, "stop", s.Runtime.Stop(s.ctx(t), id, 0))
	ok(t, "remove", s.Runtime.Remove(s.ctx(t), id))
	eventually(t, "the events of a life", func() bool {
		mu.Lock()
		defer mu.Unlock()
		at := 0
		want := []string{"create", "start", "die", "destroy"}
		for _, action := range seen[id+" "+spec.Labels[engine.LabelTaskArn]] {
			if at < len(want) && action == want[at] {
				at++
			}
		}
		return at == len(want)
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("a stream whose context ended: %v", err)
	}
	if len(seen[foreign+" "]) > 0 {
		t.Error("events of a foreign container arrived")
	}
}

// failureTests call every method of an engine that does not answer.
func failureTests(t *testing.T, s *suite) {
	calls := map[string]func(context.Context, engine.Runtime) error{
		"Info":    func(ctx context.Context, r engine.Runtime) error { _, err := r.Info(ctx); return err },
		"List":    func(ctx context.Context, r engine.Runtime) error { _, err := r.List(ctx); return err },
		"Inspect": func(ctx context.Context, r engine.Runtime) error { _, err := r.Inspect(ctx, "x"); return err },
		"Create": func(ctx context.Context, r engine.Runtime) error {
			_, err := r.Create(ctx, s.spec(ScriptServe))
			return err
		},
		"Start":  func(ctx context.Context, r engine.Runtime) error { return r.Start(ctx, "x") },
		"Stop":   func(ctx context.Context, r engine.Runtime) error { return r.Stop(ctx, "x", time.Second) },
		"Remove": func(ctx context.Context, r engine.Runtime) error { return r.Remove(ctx, "x") },
		"Logs": func(ctx context.Context, r engine.Runtime) error {
			return r.Logs(ctx, "x", engine.LogOptions{Lines: 1}, discard{})
		},
		"Exec": func(ctx context.Context, r engine.Runtime) error {
			_, err := r.Exec(ctx, "x", engine.Exec{Args: []string{"true"}})
			return err
		},
		"Image":       func(ctx context.Context, r engine.Runtime) error { _, err := r.Image(ctx, "x"); return err },
		"Images":      func(ctx context.Context, r engine.Runtime) error { _, err := r.Images(ctx); return err },
		"Pull":        func(ctx context.Context, r engine.Runtime) error { _, err := r.Pull(ctx, s.Open, nil, nil); return err },
		"RemoveImage": func(ctx context.Context, r engine.Runtime) error { return r.RemoveImage(ctx, "x") },
		"ReadFile":    func(ctx context.Context, r engine.Runtime) error { _, err := r.ReadFile(ctx, "x", "/x", 1); return err },
		"Stat":        func(ctx context.Context, r engine.Runtime) error { _, err := r.Stat(ctx, "x", "/x"); return err },
	}
	if _, can := s.Runtime.(engine.VolumeKeeper); can {
		calls["CreateVolume"] = func(ctx context.Context, r engine.Runtime) error {
			return r.(engine.VolumeKeeper).CreateVolume(ctx, engine.EngineVolume{Name: "x"})
		}
		calls["InspectVolume"] = func(ctx context.Context, r engine.Runtime) error {
			_, err := r.(engine.VolumeKeeper).InspectVolume(ctx, "x")
			return err
		}
		calls["RemoveVolume"] = func(ctx context.Context, r engine.Runtime) error {
			return r.(engine.VolumeKeeper).RemoveVolume(ctx, "x")
		}
	}
	if _, can := s.Runtime.(engine.Importer); can {
		calls["Import"] = func(ctx context.Context, r engine.Runtime) error {
			_, err := r.(engine.Importer).Import(ctx, "x:1", strings.NewReader(""), engine.ImageConfig{})
			return err
		}
	}
	t.Run("an engine that is down is Unavailable", func(t *testing.T) {
		down := s.Down(t)
		for name, call := range calls {
			class(t, name, call(s.ctx(t), down), errdefs.IsUnavailable, "Unavailable")
		}
		class(t, "Events", down.Events(s.ctx(t), nil, func(engine.Event) {}), errdefs.IsUnavailable, "Unavailable")
	})
	t.Run("every call to an engine that hangs ends with its deadline", func(t *testing.T) {
		hung := s.Hung(t)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for name, call := range calls {
			wg.Go(func() { class(t, name, call(ctx, hung), errdefs.IsDeadlineExceeded, "DeadlineExceeded") })
		}
		wg.Go(func() {
			err := hung.Events(ctx, func() { t.Error("Events of a hanging engine said that it is ready") }, func(engine.Event) {})
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Events: %v", err)
			}
		})
		wg.Wait()
	})
}
