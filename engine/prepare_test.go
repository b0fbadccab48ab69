package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestWhatTheAgentAddsIsInTheContainerAndCredentialsAreNotOnRecord(t *testing.T) {
	prepare := func(got *acs.Task, container string, s *engine.Spec) error {
		s.AddEnv("URI=/v2/credentials/"+got.RoleCredentials.CredentialsID+"/"+container, "OURS=2")
		return nil
	}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", func(c *acs.Container) { c.Environment = map[string]string{"OURS": "1", "OURS_TOO": "1"} }))
		a.PidMode = "task" // which has a container of the engine's own
		a.RoleCredentials = &acs.IAMRoleCredentials{CredentialsID: "id-1", RoleArn: "arn", AccessKeyID: "AK", SecretAccessKey: "planted", SessionToken: "planted"}
		w.accept(a)
		w.settled()
		spec, _ := w.fake.Spec(w.id(a, "app"))
		for _, want := range []string{"URI=/v2/credentials/id-1/app", "OURS=2", "OURS_TOO=1"} {
			if !slices.Contains(spec.Env, want) {
				t.Errorf("%s is not in %q", want, spec.Env)
			}
		}
		if slices.Contains(spec.Env, "OURS=1") {
			t.Errorf("two of one name: %q", spec.Env)
		}
		all, err := w.fake.List(t.Context())
		if err != nil || len(all) != 2 {
			t.Fatalf("%d containers, %v", len(all), err)
		}
		for _, c := range all {
			if other, _ := w.fake.Spec(c.ID); c.ID != w.id(a, "app") && slices.ContainsFunc(other.Env, func(e string) bool { return strings.HasPrefix(e, "URI=") }) {
				t.Errorf("the engine's own container was prepared: %q", other.Env)
			}
		}
		for arn, raw := range w.disk.records {
			if strings.Contains(string(raw), "planted") || strings.Contains(string(raw), `"AK"`) || !strings.Contains(string(raw), "id-1") {
				t.Errorf("the record of %s: %s", arn, raw)
			}
		}
	}, func(c *engine.Config) { c.Prepare = []engine.Prepare{prepare} })
}

func TestAnAdditionThatFailsIsTheTasksReason(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		if s := w.status(a.Arn); s.Known != "STOPPED" || !strings.Contains(s.Containers[0].Reason, "CannotCreateContainerError: no credentials here") {
			t.Errorf("%s\n%s", s.Known, w.explain(a.Arn))
		}
	}, func(c *engine.Config) {
		c.Prepare = []engine.Prepare{func(*acs.Task, string, *engine.Spec) error { return errors.New("no credentials here") }}
	})
}
