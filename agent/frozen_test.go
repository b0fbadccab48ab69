package agent

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

var freeze = flag.Bool("freeze", false, "write testdata's frozen state database of the present version, when a version is released")

// frozenRecords are a running daemon and what is left of a task that was cleaned up.
func frozenRecords() []*engine.TaskRecord {
	at, code := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC), 3
	running := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: "arn:a", Family: "f", Version: "1", DesiredStatus: "RUNNING", SchedulingStrategy: "DAEMON",
		Containers: []*acs.Container{{Name: "app", Image: "app:1", Essential: true, Environment: map[string]string{"K": "v"}}}},
		AcceptedAt: at, Desired: "RUNNING", Known: "RUNNING", PullStartedAt: at, PullStoppedAt: at,
		Containers: []*engine.ContainerRecord{{Name: "app", Attempt: 1, RuntimeID: "abc", ImageDigest: "sha256:1", Intent: &engine.StartIntent{At: at, From: at, Boot: "boot"}, Restarts: 2,
			StartedAt: at, Bindings: []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}}, Reported: "RUNNING", ReportedDigest: "sha256:1"}}}
	cleaned := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: "arn:b", Family: "f", DesiredStatus: "STOPPED"}, AcceptedAt: at, Desired: "STOPPED", Known: "STOPPED", Reason: "why",
		ExecutionStoppedAt: at, StoppedAt: at, CleanedAt: at, Timeline: []engine.Step{{Container: "app", Name: "exit", Start: at, End: at, Outcome: "done", Detail: "exit code 3"}},
		Containers: []*engine.ContainerRecord{{Name: "app", Attempt: 1, Fault: "why", FaultExit: &code, Final: &engine.Final{ExitCode: &code, Reason: "why", FinishedAt: at}, Log: &engine.LogTail{Text: "last words\n"}}}}
	return []*engine.TaskRecord{running, cleaned}
}

func TestTheFrozenStateOfThisVersionIsReadWhole(t *testing.T) {
	const frozen = "testdata/agent-v1.db"
	dir := t.TempDir()
	if !*freeze {
		data, err := os.ReadFile(frozen)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, statemgr.DatabaseName), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, aside, err := statemgr.Open(dir)
	if err != nil || aside != nil {
		t.Fatal(err, aside)
	}
	defer func() { _ = db.Close() }()
	s, err := NewState(db, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	want := frozenRecords()
	if *freeze {
		for _, rec := range want {
			if err := s.Save(rec, &engine.StateChange{TaskArn: rec.Task.Arn, Status: rec.Known, Time: rec.AcceptedAt}); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(filepath.Join(dir, statemgr.DatabaseName))
		if err == nil {
			err = os.MkdirAll("testdata", 0o755)
		}
		if err == nil {
			err = os.WriteFile(frozen, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("read %s\nwant %s", a, b)
	}
	if changes, err := s.Changes(); err != nil || len(changes) != 2 || changes[0].TaskArn != "arn:a" {
		t.Errorf("%+v %v", changes, err)
	}
}
