package statemgr_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/statemgr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var freeze = flag.Bool("freeze", false, "write testdata's frozen database of the present version, when a version is released")

type record struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

var (
	tasks   = statemgr.NewBucket[record]("tasks")
	changes = statemgr.NewQueue[record]("changes")
	session = statemgr.NewBucket[int64]("session")
)

func open(t *testing.T, dir string) *statemgr.DB {
	t.Helper()
	db, aside, err := statemgr.Open(dir)
	if err != nil || aside != nil {
		t.Fatalf("open: %v, set aside: %+v", err, aside)
	}
	return db
}

func fill(t *testing.T, db *statemgr.DB) {
	t.Helper()
	err := db.Update(func(tx *statemgr.Tx) error {
		for i := range 50 {
			if err := tasks.Put(tx, fmt.Sprintf("task-%02d", i), record{"t", i}); err != nil {
				return err
			}
		}
		for range 3 {
			if _, err := changes.Append(tx, func(n uint64) record { return record{"c", int(n)} }); err != nil {
				return err
			}
		}
		return session.Put(tx, "manifest-sequence", 7)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// holds fails unless the database has what fill wrote.
func holds(t *testing.T, db *statemgr.DB) {
	t.Helper()
	err := db.View(func(tx *statemgr.Tx) error {
		n := 0
		err := tasks.Each(tx, func(key string, v record, err error) error {
			if err != nil || key != fmt.Sprintf("task-%02d", n) || v.Count != n {
				t.Errorf("%d: %s %+v %v", n, key, v, err)
			}
			n++
			return nil
		})
		if n != 50 {
			t.Errorf("%d tasks, want 50", n)
		}
		var sequences []uint64
		_ = changes.Each(tx, func(s uint64, v record, err error) error {
			sequences = append(sequences, s)
			return err
		})
		if fmt.Sprint(sequences) != "[1 2 3]" {
			t.Errorf("changes %v", sequences)
		}
		if v, found, err := session.Get(tx, "manifest-sequence"); v != 7 || !found || err != nil {
			t.Errorf("session %d %v %v", v, found, err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatWasUpdatedIsThereAfterReopening(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	fill(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = open(t, dir)
	defer db.Close()
	holds(t, db)
	if info, err := os.Stat(db.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestNumbersOfAQueueNeverComeBack(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	fill(t, db)
	if err := db.Update(func(tx *statemgr.Tx) error { return changes.Delete(tx, 3) }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, dir)
	defer db.Close()
	var got uint64
	if err := db.Update(func(tx *statemgr.Tx) (err error) {
		got, err = changes.Append(tx, func(uint64) record { return record{} })
		return err
	}); err != nil || got != 4 {
		t.Fatalf("the next number is %d (%v), want 4", got, err)
	}
}

func TestAFrozenDatabaseOfEachVersionCanBeRead(t *testing.T) {
	frozen := fmt.Sprintf("testdata/agent-v%d.db", statemgr.Version)
	if *freeze {
		dir := t.TempDir()
		db := open(t, dir)
		fill(t, db)
		db.Close()
		copyFile(t, filepath.Join(dir, statemgr.DatabaseName), frozen)
	}
	files, err := filepath.Glob("testdata/agent-v*.db")
	if err != nil || len(files) != statemgr.Version {
		t.Fatalf("%v (%v): every version up to %d needs its frozen file", files, err, statemgr.Version)
	}
	for _, f := range files {
		dir := t.TempDir()
		copyFile(t, f, filepath.Join(dir, statemgr.DatabaseName))
		db := open(t, dir)
		holds(t, db)
		db.Close()
	}
}

func TestOpeningADatabaseThatLacksNothingWritesNothing(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	fill(t, db)
	db.Close()
	before, err := os.ReadFile(db.Path())
	if err != nil {
		t.Fatal(err)
	}
	open(t, dir).Close()
	if after, err := os.ReadFile(db.Path()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was written to, which a full disk would not let it be: %v", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestADatabaseOfANewerVersionIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	db.Close()
	path := filepath.Join(dir, statemgr.DatabaseName)
	raw, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("longshore")).Put([]byte("version"), []byte("99")) })
	raw.Close()
	before, _ := os.ReadFile(path)
	_, aside, err := statemgr.Open(dir)
	var newer *statemgr.NewerError
	if !errors.As(err, &newer) || newer.Found != 99 || aside != nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "99") {
		t.Fatalf("%v, %+v", err, aside)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestADamagedDatabaseIsSetAsideAndANewOneBegun(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	fill(t, db)
	db.Close()
	good, err := os.ReadFile(filepath.Join(dir, statemgr.DatabaseName))
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func() []byte{
		"text":                  func() []byte { return []byte("this is no database\n") },
		"zeroes":                func() []byte { return make([]byte, len(good)) },
		"one page of noise":     func() []byte { return bytes.Repeat([]byte{0xa5}, 4096) },
		"both meta pages noise": func() []byte { return append(bytes.Repeat([]byte{0xa5}, 8192), good[8192:]...) },
		"data pages noise": func() []byte {
			return append(append([]byte{}, good[:8192]...), bytes.Repeat([]byte{0xa5}, len(good)-8192)...)
		},
		"data pages zero": func() []byte { return append(append([]byte{}, good[:8192]...), make([]byte, len(good)-8192)...) },
	}
	for n := 1; n < len(good); n += 3001 {
		damages[fmt.Sprintf("cut to %d bytes", n)] = func() []byte { return good[:n] }
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, statemgr.DatabaseName)
			bad := damage()
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			db, aside, err := statemgr.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if aside == nil {
				holds(t, db) // what was cut off was not in use
				return
			}
			if aside.Cause == nil || !strings.HasPrefix(aside.Path, path+".corrupt-") {
				t.Errorf("%+v", aside)
			}
			if kept, err := os.ReadFile(aside.Path); err != nil || !bytes.Equal(kept, bad) {
				t.Errorf("the damaged file was not kept as it was: %v", err)
			}
			fill(t, db)
			holds(t, db)
		})
	}
}

func TestADatabaseOfSomethingElseIsSetAside(t *testing.T) {
	dir := t.TempDir()
	raw, err := bbolt.Open(filepath.Join(dir, statemgr.DatabaseName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("images")); return err })
	raw.Close()
	db, aside, err := statemgr.Open(dir)
	if err != nil || aside == nil || !strings.Contains(aside.Cause.Error(), "not a state database") {
		t.Fatalf("%v %+v", err, aside)
	}
	db.Close()
}

func TestASecondAgentIsToldThatTheDatabaseIsInUse(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	defer db.Close()
	_, _, err := statemgr.Open(dir)
	if !errors.Is(err, statemgr.ErrLocked) || !strings.Contains(err.Error(), db.Path()) {
		t.Fatal(err)
	}
}

func TestAFullDiskLeavesTheOldStateAndHeals(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small file system (run the tests as root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	db := open(t, dir)
	defer db.Close()
	fill(t, db)
	ballast := filepath.Join(dir, "ballast")
	fillDisk(t, ballast)
	big := strings.Repeat("x", 64<<10)
	err := db.Update(func(tx *statemgr.Tx) error { return tasks.Put(tx, "big", record{Name: big}) })
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), db.Path()) {
		t.Fatalf("the update on a full disk: %v", err)
	}
	holds(t, db)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *statemgr.Tx) error { return tasks.Put(tx, "big", record{Name: big}) }); err != nil {
		t.Fatalf("the update after the disk had room again: %v", err)
	}
	if err := db.Update(func(tx *statemgr.Tx) error { return tasks.Delete(tx, "big") }); err != nil {
		t.Fatal(err)
	}
	holds(t, db)
	full := statemgr.Identity{Cluster: "c", ContainerInstanceArn: "arn:1"}
	if err := statemgr.SaveIdentity(dir, full); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, ballast)
	if err := statemgr.SaveIdentity(dir, statemgr.Identity{Cluster: big}); err == nil {
		t.Error("an identity was saved on a full disk")
	}
	if id, err := statemgr.LoadIdentity(dir); err != nil || id.ContainerInstanceArn != "arn:1" {
		t.Errorf("%+v %v", id, err)
	}
}

func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{4096, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, n))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
	_, _ = io.WriteString(f, "x")
}

func TestUpdatesAtTheSameTimeAreAllDurableAndEachLearnsItsOwnError(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	refused := errors.New("refused")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := db.Update(func(tx *statemgr.Tx) error {
				if err := tasks.Put(tx, fmt.Sprintf("k%03d", i), record{Count: i}); err != nil {
					return err
				}
				if i%10 == 0 {
					return refused
				}
				return nil
			})
			if (i%10 == 0) != errors.Is(err, refused) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	db.Close()
	if err := db.Update(func(*statemgr.Tx) error { return nil }); err == nil {
		t.Error("an update after Close")
	}
	db = open(t, dir)
	defer db.Close()
	n := 0
	_ = db.View(func(tx *statemgr.Tx) error {
		return tasks.Each(tx, func(_ string, v record, err error) error {
			n++
			if v.Count%10 == 0 || err != nil {
				t.Errorf("%+v %v", v, err)
			}
			return nil
		})
	})
	if n != 180 {
		t.Errorf("%d records, want 180", n)
	}
}

func TestAValueThatCannotBeReadIsNamedAndTheOthersAreRead(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	fill(t, db)
	db.Close()
	raw, _ := bbolt.Open(filepath.Join(dir, statemgr.DatabaseName), 0o600, nil)
	_ = raw.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("tasks")).Put([]byte("task-07"), []byte("{")) })
	raw.Close()
	db = open(t, dir)
	defer db.Close()
	good, bad := 0, 0
	_ = db.View(func(tx *statemgr.Tx) error {
		return tasks.Each(tx, func(key string, _ record, err error) error {
			if err == nil {
				good++
			} else if bad++; !strings.Contains(err.Error(), key) {
				t.Error(err)
			}
			return nil
		})
	})
	if good != 49 || bad != 1 {
		t.Errorf("%d good, %d bad", good, bad)
	}
}

func TestTheIdentityIsKeptAndItsDamageIsAnErrorNotANewInstance(t *testing.T) {
	dir := t.TempDir()
	if id, err := statemgr.LoadIdentity(dir); id != nil || err != nil {
		t.Fatalf("%+v %v", id, err)
	}
	want := statemgr.Identity{Cluster: "daemonset", ContainerInstanceArn: "arn:x", MachineID: "m", BootID: "b", InstanceID: "i"}
	if err := statemgr.SaveIdentity(dir, want); err != nil {
		t.Fatal(err)
	}
	want.Version = statemgr.IdentityVersion
	if id, err := statemgr.LoadIdentity(dir); err != nil || *id != want {
		t.Fatalf("%+v %v", id, err)
	}
	path := filepath.Join(dir, statemgr.IdentityName)
	for _, bad := range []string{"", "{", "[]", `{"version":9}`, strings.Repeat(" ", 1<<20)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := statemgr.LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if err := statemgr.RemoveIdentity(dir); err != nil {
		t.Fatal(err)
	}
	if err := statemgr.RemoveIdentity(dir); err != nil {
		t.Fatal(err)
	}
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	db, _, err := statemgr.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	_ = db.Update(func(tx *statemgr.Tx) error { return tasks.Put(tx, "a", record{"a", 1}) })
	db.Close()
	good, err := os.ReadFile(filepath.Join(dir, statemgr.DatabaseName))
	if err != nil {
		f.Fatal(err)
	}
	good = good[:min(len(good), 32<<10)]
	f.Add(4000, []byte{0xff}, len(good))
	f.Add(8192+16, []byte{1, 2, 3}, len(good))
	f.Fuzz(func(t *testing.T, at int, noise []byte, length int) {
		bad := bytes.Clone(good)
		if at >= 0 && at < len(bad) {
			copy(bad[at:], noise)
		}
		if length >= 0 && length < len(bad) {
			bad = bad[:length]
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, statemgr.DatabaseName), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		db, _, err := statemgr.Open(dir)
		if err != nil {
			var newer *statemgr.NewerError
			if !errors.As(err, &newer) {
				t.Fatal(err)
			}
			return
		}
		defer db.Close()
		if err := db.Update(func(tx *statemgr.Tx) error { return tasks.Put(tx, "b", record{"b", 2}) }); err != nil {
			t.Fatal(err)
		}
	})
}
