package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

// smallDisk is a directory on a disk of 64 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("disk", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatalf("mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill writes a file until the disk is full, and returns its name.
func fill(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4<<10); err == nil; {
		_, err = f.Write(chunk)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestAnAgentStartsAndBecomesAnInstanceOnAFullDisk(t *testing.T) {
	dir := smallDisk(t)
	a := &Agent{cfg: &config.Config{DataDir: dir, Cluster: "c"}, log: zap.NewNop(), host: Host{BootID: "boot-1"}}
	done, err := a.openState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done()
	fill(t, dir)
	if done, err = a.openState(t.Context()); err != nil {
		t.Fatalf("the database could not be opened: %v", err)
	}
	fill(t, dir)
	var token string
	if err := a.reserve.try(func() (err error) { token, err = keptToken(dir); return err }); err != nil || token == "" {
		t.Errorf("the token of the registration: %v", err)
	}
	fill(t, dir)
	if err := a.saveIdentity(statemgr.Identity{Cluster: "c", ContainerInstanceArn: "arn:i", BootID: "boot-1"}); err != nil {
		t.Errorf("the identity: %v", err)
	}
	done()
	a.host.BootID = "boot-2" // and over a reboot
	fill(t, dir)
	if done, err = a.openState(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer done()
	if id, err := statemgr.LoadIdentity(dir); err != nil || id.ContainerInstanceArn != "arn:i" || id.BootID != "boot-2" {
		t.Errorf("%+v, %v", id, err)
	}
	if why := a.reserve.pressure(); !strings.Contains(why, "MiB are left: 32 MiB must be free") {
		t.Errorf("%q", why)
	}
}

func TestStateIsStillWrittenOnAFullDiskOutOfTheReserve(t *testing.T) {
	dir := smallDisk(t)
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
	filler := fill(t, dir)
	for i := range 20 {
		rec := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: fmt.Sprint("arn:", i), Overrides: strings.Repeat("x", 64<<10)}}
		if err := s.Save(rec, &engine.StateChange{TaskArn: rec.Task.Arn, Status: "RUNNING"}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	if info, err := os.Stat(kept); err != nil || info.Size() >= reserveSize || info.Size() < reserveSize/2 || s.reserve.pressure() == "" {
		t.Errorf("the reserve was not needed, or given up as a whole: %v", err)
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
