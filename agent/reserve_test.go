package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

func TestStateIsStillWrittenOnAFullDiskOutOfTheReserve(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("disk", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	db, _, err := statemgr.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	s, err := NewState(db, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	s.reserve = newReserve(dir, zap.NewNop())
	kept := filepath.Join(dir, reserveName)
	if info, err := os.Stat(kept); err != nil || info.Size() != reserveSize || s.reserve.pressure() != "" {
		t.Fatalf("no reserve: %v, %q", err, s.reserve.pressure())
	}
	filler := filepath.Join(dir, "filler")
	full, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4<<10); err == nil; {
		_, err = full.Write(chunk)
	}
	if err := full.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		rec := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: fmt.Sprint("arn:", i), Overrides: strings.Repeat("x", 64<<10)}}
		if err := s.Save(rec, &engine.StateChange{TaskArn: rec.Task.Arn, Status: "RUNNING"}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	if _, err := os.Stat(kept); err == nil || s.reserve.pressure() == "" {
		t.Errorf("the reserve was not needed: %v", err)
	}
	if records, err := s.Load(); err != nil || len(records) != 20 {
		t.Errorf("%d records, %v", len(records), err)
	}
	if changes, err := s.Changes(); err != nil || len(changes) != 20 {
		t.Errorf("%d changes, %v", len(changes), err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if why := s.reserve.pressure(); why != "" {
		t.Error(why)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error("it was not laid in again")
	}
}
