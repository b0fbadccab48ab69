package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/protocol/acs"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// scene is a task with two containers, web depending on db, at a moment that a case describes.
type scene struct {
	task *Task
	rec  *TaskRecord
	obs  *Observed
	now  time.Time
}

func newScene(t *testing.T) *scene {
	t.Helper()
	p := &acs.Task{Arn: "arn:t", DesiredStatus: "RUNNING", Family: "f", Version: "1", Containers: []*acs.Container{
		{Name: "web", Image: "i", Essential: true, DependsOn: []*acs.ContainerDependency{{ContainerName: "db", Condition: "START"}}},
		{Name: "db", Image: "i", StopTimeout: 7, RestartPolicy: &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 60, IgnoredExitCodes: []int64{3}}},
	}}
	task, err := ParseTask(p, Host{})
	if err != nil {
		t.Fatal(err)
	}
	return &scene{task: task, rec: newRecord(task, "RUNNING", noon.Add(-time.Minute)), now: noon, obs: &Observed{
		Engine: EngineObserved{Available: true, LookedAt: noon.Add(-time.Second)}, Grant: Grant{State: GrantHeld},
		Containers: map[string]*ContainerObserved{"web": {Failures: map[Verb]Failure{}}, "db": {Failures: map[Verb]Failure{}}}}}
}

func (s *scene) created(name string) *ContainerObserved {
	co := s.obs.Containers[name]
	co.Image, co.Checked, co.State = &Image{ID: "sha256:1"}, true, &State{ID: "id-" + name, Status: StatusCreated}
	return co
}

func (s *scene) runs(name string, since time.Duration) *ContainerObserved {
	co := s.created(name)
	s.rec.container(name).Intent = &StartIntent{At: s.now.Add(-since)}
	co.State.Status, co.State.StartedAt = StatusRunning, s.now.Add(-since)
	return co
}

func (s *scene) exited(name string, ran time.Duration, code int) {
	co := s.runs(name, ran)
	co.State.Status, co.State.ExitCode, co.State.FinishedAt = StatusExited, code, s.now
}

// decide settles and plans, and tells it in short.
func (s *scene) decide() (actions, finals []string, p Plan) {
	set := Settings{StopTimeout: 30 * time.Second, CreateTimeout: 4 * time.Minute, StartTimeout: 3 * time.Minute, CleanupWait: time.Hour}
	next := settle(s.task, s.rec, s.obs, set, s.now)
	p = plan(s.task, next, s.obs, set, s.now)
	for _, a := range p.Actions {
		text := strings.TrimSpace(string(a.Verb) + " " + a.Container)
		if a.Verb == VerbStop {
			text += " " + a.Grace.String()
		}
		actions = append(actions, text)
	}
	for _, cr := range next.Containers {
		if cr.Final != nil {
			text := cr.Name
			if cr.Final.ExitCode != nil {
				text += fmt.Sprintf(" %d", *cr.Final.ExitCode)
			}
			name, _, _ := strings.Cut(cr.Final.Reason, ":")
			finals = append(finals, strings.TrimSpace(text+" "+name))
		}
	}
	return actions, finals, p
}

func TestPlanOrdersWhatMayRunNow(t *testing.T) {
	away := fmt.Errorf("away: %w", errdefs.ErrUnavailable)
	for _, c := range []struct {
		name            string
		scene           func(s *scene)
		actions, finals []string
		waits           string
	}{
		{"nothing is known of the engine", func(s *scene) { s.obs.Engine = EngineObserved{Cause: "no socket"} }, nil, nil, "first look at the container engine: no socket"},
		{"a new task", func(s *scene) { s.obs.Grant = Grant{} }, []string{"admit", "pull web", "pull db"}, nil, ""},
		{"waiting for room it pulls already", func(s *scene) { s.obs.Grant = Grant{GrantWaiting, "cpu"} }, []string{"pull web", "pull db"}, nil, "cpu"},
		{"images are there", func(s *scene) {
			s.obs.Containers["web"].Image, s.obs.Containers["db"].Image = &Image{}, &Image{}
		}, []string{"create db"}, nil, "web waits: its dependency db has not reached START"},
		{"with a host volume", func(s *scene) {
			s.obs.Containers["db"].Image, s.obs.Containers["web"].Busy, s.task.container("db").Binds = &Image{}, VerbPull, true
		}, []string{"check-volumes db"}, nil, "pull of container web"},
		{"with a host volume that was checked", func(s *scene) {
			s.obs.Containers["db"].Image, s.obs.Containers["db"].Checked, s.obs.Containers["web"].Busy, s.task.container("db").Binds = &Image{}, true, VerbPull, true
		}, []string{"create db"}, nil, "pull of container web"},
		{"created", func(s *scene) { s.created("db"); s.obs.Containers["web"].Busy = VerbPull }, []string{"start db"}, nil, ""},
		{"dependency runs", func(s *scene) { s.runs("db", time.Minute); s.created("web") }, []string{"start web"}, nil, ""},
		{"all run", func(s *scene) { s.runs("db", time.Minute); s.runs("web", time.Minute) }, nil, nil, ""},
		{"an event was heard", func(s *scene) { s.runs("db", time.Minute).Stale = true; s.runs("web", time.Minute) }, []string{"look db"}, nil, ""},
		{"the engine is away", func(s *scene) { s.created("db"); s.obs.Engine.Available = false }, nil, nil, "the container engine"},
		{"the engine was away a moment ago", func(s *scene) {
			s.created("db").Failures[VerbStart] = Failure{away, 1, noon.Add(-100 * time.Millisecond)}
			s.obs.Containers["web"].Busy = VerbPull
		}, nil, nil, "another try to start container db"},
		{"the engine was away and answers now", func(s *scene) {
			s.created("db").Failures[VerbStart] = Failure{away, 1, noon.Add(-2 * time.Second)}
			s.obs.Containers["web"].Busy = VerbPull
		}, []string{"start db"}, nil, ""},
		{"there is an intent and nothing is known of the container", func(s *scene) { s.rec.container("db").Intent = &StartIntent{}; s.runs("web", 0) }, []string{"look db"}, nil, ""},
		{"there is an intent and no container", func(s *scene) {
			s.rec.container("db").Intent, s.obs.Containers["db"].Absent = &StartIntent{}, true
			s.runs("web", 0)
		}, nil, []string{"db ContainerVanishedError"}, ""},
		{"restarted after a long run", func(s *scene) { s.exited("db", time.Hour, 1); s.runs("web", 0) }, []string{"start db"}, nil, ""},
		{"not restarted after a short run", func(s *scene) { s.exited("db", time.Second, 1); s.runs("web", 0) }, nil, []string{"db 1"}, ""},
		{"not restarted after an ignored code", func(s *scene) { s.exited("db", time.Hour, 3); s.runs("web", 0) }, nil, []string{"db 3"}, ""},
		{"the restart is ordered and was not performed", func(s *scene) {
			s.exited("db", time.Hour, 1)
			s.rec.container("db").Intent.From = s.obs.Containers["db"].State.StartedAt
			s.runs("web", 0)
		}, []string{"start db"}, nil, ""},
		{"an essential end stops the others", func(s *scene) { s.runs("db", time.Hour); s.exited("web", time.Hour, 2) }, []string{"stop db 7s"}, []string{"web 2"}, ""},
		{"a stop that was asked for goes in reverse", func(s *scene) {
			s.runs("db", time.Hour)
			s.runs("web", time.Hour)
			s.rec.Desired = "STOPPED"
		}, []string{"stop web 30s"}, nil, "container db stops after container web"},
		{"an end while stopping is final whatever the restart policy", func(s *scene) {
			s.exited("db", time.Hour, 1)
			s.runs("web", time.Hour)
			s.rec.Desired = "STOPPED"
		}, []string{"stop web 30s"}, []string{"db 1"}, ""},
		{"a task that never ran stops at once", func(s *scene) { s.rec.Desired = "STOPPED" }, nil, []string{"web", "db"}, ""},
		{"a stop waits for a start at work", func(s *scene) {
			s.created("db").Busy = VerbStart
			s.rec.Desired = "STOPPED"
		}, nil, []string{"web"}, "start of container db"},
		{"a pull nobody wants is cancelled", func(s *scene) {
			s.obs.Containers["db"].Busy = VerbPull
			s.rec.Desired = "STOPPED"
		}, []string{"cancel db"}, []string{"web"}, ""},
		{"a refused create ends an essential container's task", func(s *scene) {
			s.obs.Containers["web"].Failures[VerbCreate] = Failure{errors.New("bad"), 1, noon}
			s.runs("db", time.Hour)
		}, []string{"stop db 7s"}, []string{"web CannotCreateContainerError"}, ""},
		{"desired CREATED waits", func(s *scene) { s.rec.Desired = "CREATED" }, nil, nil, "desiredStatus RUNNING"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.scene(s)
			actions, finals, p := s.decide()
			if !slices.Equal(actions, c.actions) || !slices.Equal(finals, c.finals) || !strings.Contains(strings.Join(p.Waits, "; "), c.waits) {
				t.Errorf("actions %q, want %q; finals %q, want %q; waits %q, want %q", actions, c.actions, finals, c.finals, p.Waits, c.waits)
			}
			again, _, _ := s.decide()
			if !slices.Equal(actions, again) {
				t.Errorf("planned again: %q, before %q", again, actions)
			}
		})
	}
}

func TestAWaitThatTimeEndsWakesThePlan(t *testing.T) {
	s := newScene(t)
	s.created("db").Failures[VerbStart] = Failure{fmt.Errorf("away: %w", errdefs.ErrUnavailable), 3, noon}
	if _, _, p := s.decide(); !p.Wake.Equal(noon.Add(4 * time.Second)) {
		t.Errorf("wakes at %s, want 4 s after the third failure", p.Wake)
	}
	s = newScene(t)
	s.rec.StoppedAt = noon
	if _, _, p := s.decide(); p.Wake.Before(noon.Add(time.Hour)) || p.Wake.After(noon.Add(66*time.Minute)) {
		t.Errorf("clean-up at %s", p.Wake)
	}
}
