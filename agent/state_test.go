package agent_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openState(t *testing.T, dir string) (*agent.State, *statemgr.DB) {
	t.Helper()
	db, aside, err := statemgr.Open(dir)
	if err != nil || aside != nil {
		t.Fatal(err, aside)
	}
	s, err := agent.NewState(db, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return s, db
}

func record(arn string) *engine.TaskRecord {
	code := 137
	at := time.Date(2026, 11, 20, 6, 0, 0, 123456789, time.UTC)
	return &engine.TaskRecord{Version: engine.RecordVersion, Desired: "RUNNING", Known: "RUNNING", AcceptedAt: at, PullStartedAt: at,
		Task: &acs.Task{Arn: arn, DesiredStatus: "RUNNING", Containers: []*acs.Container{{Name: "a", Image: "i", Environment: map[string]string{"K": "v"}}}},
		Containers: []*engine.ContainerRecord{{Name: "a", Attempt: 1, RuntimeID: "id", Intent: &engine.StartIntent{At: at}, StartedAt: at,
			Final: &engine.Final{ExitCode: &code, Reason: "OutOfMemoryError: Container killed due to memory usage", FinishedAt: at}}}}
}

func sequences(t *testing.T, s *agent.State) []uint64 {
	t.Helper()
	changes, err := s.Changes()
	if err != nil {
		t.Fatal(err)
	}
	var n []uint64
	for _, c := range changes {
		n = append(n, c.Sequence)
	}
	return n
}

func TestRecordsAndChangesAreKeptTogetherAndComeBackInOrder(t *testing.T) {
	dir := t.TempDir()
	s, db := openState(t, dir)
	a, b := record("arn:a"), record("arn:b")
	if err := s.Save(a, &engine.StateChange{TaskArn: "arn:a", Status: "PENDING"}, &engine.StateChange{TaskArn: "arn:a", Status: "RUNNING"}); err != nil {
		t.Fatal(err)
	}
	change := &engine.StateChange{TaskArn: "arn:b", Status: "STOPPED", Reason: "why", Time: a.AcceptedAt}
	if err := s.Save(b, change); err != nil || change.Sequence != 3 {
		t.Fatal(err, change.Sequence)
	}
	if err := s.SaveSequence(42); err != nil {
		t.Fatal(err)
	}
	if err := s.Accepted(1); err != nil {
		t.Fatal(err)
	}
	db.Close()

	s, db = openState(t, dir)
	defer db.Close()
	if got := sequences(t, s); !slices.Equal(got, []uint64{2, 3}) {
		t.Fatalf("waiting changes %v, want 2 and 3", got)
	}
	changes, _ := s.Changes()
	if d := cmp.Diff(change, changes[1]); d != "" {
		t.Error(d)
	}
	records, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]*engine.TaskRecord{a, b}, records); d != "" {
		t.Error(d)
	}
	if n, err := s.LoadSequence(); n != 42 || err != nil {
		t.Error(n, err)
	}
}

func TestAChangeIsUnsentUntilItIsAccepted(t *testing.T) {
	s, db := openState(t, t.TempDir())
	defer db.Close()
	if n, err := s.LoadSequence(); n != -1 || err != nil {
		t.Error(n, err)
	}
	if err := s.Save(record("arn:a"), &engine.StateChange{TaskArn: "arn:a", Status: "STOPPED"}); err != nil {
		t.Fatal(err)
	}
	if unsent, _ := s.Unsent("arn:a"); !unsent {
		t.Error("the change counts as sent")
	}
	if unsent, _ := s.Unsent("arn:b"); unsent {
		t.Error("another task has unsent changes")
	}
	for range 2 {
		if err := s.Accepted(1); err != nil {
			t.Fatal(err)
		}
	}
	if unsent, _ := s.Unsent("arn:a"); unsent {
		t.Error("the change counts as unsent")
	}
	if err := s.Delete("arn:a"); err != nil {
		t.Fatal(err)
	}
	if records, _ := s.Load(); len(records) != 0 {
		t.Errorf("%d records", len(records))
	}
}

func TestARecordThatCannotBeReadDoesNotKeepTheOthersFromTheEngine(t *testing.T) {
	dir := t.TempDir()
	s, db := openState(t, dir)
	if err := s.Save(record("arn:a")); err != nil {
		t.Fatal(err)
	}
	broken := statemgr.NewBucket[string]("tasks")
	if err := db.Update(func(tx *statemgr.Tx) error { return broken.Put(tx, "arn:b", "no record") }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	s, db = openState(t, dir)
	defer db.Close()
	records, err := s.Load()
	if err != nil || len(records) != 1 || records[0].Task.Arn != "arn:a" {
		t.Fatal(records, err)
	}
}
