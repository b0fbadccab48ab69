package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

func TestWhileNoAgentRunsItsStateAndItsLogExplainTasks(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	arn, at, code := "arn:aws:ecs:us-west-2:000000000000:task/daemonset/"+id, time.Now().Add(-time.Minute), 3
	dir := t.TempDir()
	db, _, err := statemgr.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewState(db, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	failed := &engine.TaskRecord{Version: 1, AcceptedAt: at, StoppedAt: at, Desired: "RUNNING", Known: "STOPPED",
		Task:       &acs.Task{Arn: arn, Family: "web", Version: "3", ServiceName: "shop", Containers: []*acs.Container{{Name: "app", Image: "app:1", Essential: true}}},
		Cause:      &engine.Cause{Container: "app", Step: "run", Text: "essential container app ended by itself with exit code 3", At: at},
		Containers: []*engine.ContainerRecord{{Name: "app", Attempt: 1, StartedAt: at, Final: &engine.Final{ExitCode: &code, FinishedAt: at}}}}
	well := &engine.TaskRecord{Version: 1, AcceptedAt: at, Desired: "RUNNING", Known: "RUNNING", Task: &acs.Task{Arn: "arn:aws:ecs:us-west-2:000000000000:task/daemonset/f", Family: "well", Version: "1"}}
	for _, rec := range []*engine.TaskRecord{failed, well} {
		if err := s.Save(rec); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &config.Config{DataDir: dir}
	cfg.Log.File = filepath.Join(dir, "agent.log")
	if err := os.WriteFile(cfg.Log.File, []byte("level=info msg=other\nlevel=error msg=\"the task failed\" task="+arn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ExplainOffline(cfg, "", time.Now()); err == nil {
		t.Error("the state of an agent that runs was read past it")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "web", "web:3", "shop", id[:8], id, arn} {
		e, err := ExplainOffline(cfg, name, time.Now())
		if err != nil || len(e.Tasks) != 1 || e.Tasks[0].Task.Arn != arn {
			t.Errorf("%q: %+v, %v", name, e, err)
			continue
		}
		var out strings.Builder
		if err := e.Print(&out); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"The agent does not run", "essential container app ended by itself with exit code 3", "What to do:\n  - See its output", "From the agent's log:\n  level=error"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q: there is no %q in\n%s", name, want, out.String())
			}
		}
	}
	if _, err := ExplainOffline(cfg, "ffff", time.Now()); err == nil || !strings.Contains(err.Error(), `there is no task "ffff"`) {
		t.Error(err)
	}
	if e, err := ExplainOffline(&config.Config{DataDir: t.TempDir()}, "", time.Now()); err == nil {
		t.Errorf("%+v of a host that never had an agent", e)
	}
}
