package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/longshore-project/longshore/statemgr"
)

func TestAStateFileThatIsDamagedIsSetAsideAndItsTaskFoundByItsLabels(t *testing.T) {
	for name, damage := range map[string]func(path string, size int64) error{
		"truncated": func(path string, size int64) error { return os.Truncate(path, size/2) },
		"overwritten": func(path string, size int64) error {
			return os.WriteFile(path, bytes.Repeat([]byte{0xa5}, int(size)), 0o600)
		},
		"gone": func(path string, _ int64) error { return os.Remove(path) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newControlPlane(t)
			h := newTestHost(t, c)
			leave := h.start()
			c.expect("connected " + first)
			c.send(first, task1, "RUNNING")
			c.expect("submit " + task1 + " RUNNING")
			if err := leave(); err != nil {
				t.Fatal(err)
			}
			before, _ := h.engine.Container(task1, "web")
			path := filepath.Join(h.dir, statemgr.DatabaseName)
			info, err := os.Stat(path)
			if err == nil {
				err = damage(path, info.Size())
			}
			if err != nil {
				t.Fatal(err)
			}
			c.quiet()
			leave = h.start()
			c.expect("connected "+first, "submit "+task1+" RUNNING")
			aside, err := filepath.Glob(path + ".corrupt-*")
			if err != nil || (len(aside) == 1) != (name != "gone") {
				t.Errorf("set aside: %v %v", aside, err)
			}
			if said := strings.Contains(h.log(), "The state database could not be used and was set aside"); said != (name != "gone") {
				t.Errorf("it was said: %v\n%s", said, h.log())
			}
			if after, _ := h.engine.Container(task1, "web"); after.ID != before.ID || after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) {
				t.Errorf("the container was %+v and is %+v", before, after)
			}
			c.send(first, task1, "STOPPED")
			c.expect("submit " + task1 + " STOPPED")
			if err := leave(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestAStateFileOfANewerVersionIsRefusedByNameAndLeftAlone(t *testing.T) {
	h := newTestHost(t, nil)
	frozen, err := os.ReadFile("testdata/agent-v1.db")
	path := filepath.Join(h.dir, statemgr.DatabaseName)
	if err == nil {
		err = os.WriteFile(path, frozen, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("longshore")).Put([]byte("version"), []byte("2")) })
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var terminal *TerminalError
	if err := h.run(); !errors.As(err, &terminal) || !strings.Contains(err.Error(), path+" has version 2, and this agent knows versions up to 1") {
		t.Errorf("%v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}
