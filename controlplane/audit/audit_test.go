package audit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg audit.Config) *audit.Log {
	t.Helper()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func read(t *testing.T, dir string, q audit.Query) (entries []audit.Entry) {
	t.Helper()
	if err := audit.Read(t.Context(), dir, q, func(e *audit.Entry, _ []byte) error { entries = append(entries, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	return entries
}

func size(t *testing.T, dir string) (total int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, audit.Dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", f, info.Mode())
		}
		total += info.Size()
	}
	return total
}

func TestWhatWasAskedIsReadBackInOrderOfTimeOverStarts(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, book := range []audit.Book{audit.Operators, audit.Hosts, audit.Operators} { // three processes, one after the other
		l := open(t, audit.Config{DataDir: dir, Now: func() time.Time { return now }})
		l.Record(book, audit.Entry{Key: fmt.Sprint("AKIA", i), Address: "10.0.0.1:7", Operation: []string{"CreateCluster", "SubmitTaskStateChange", "DeleteCluster"}[i],
			Resource: []string{"c"}, Outcome: audit.OK, RequestID: "r"})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	all := read(t, dir, audit.Query{})
	if len(all) != 3 || all[0].Key != "AKIA0" || all[1].Key != "AKIA1" || all[2].Key != "AKIA2" {
		t.Errorf("%+v", all)
	}
	for q, want := range map[audit.Query]int{
		{Since: now.Add(-90 * time.Second)}:     1,
		{Key: "AKIA1"}:                          1,
		{Operation: "*Cluster"}:                 2,
		{Operation: "Delete*", Key: "AKIA0"}:    0,
		{Since: now}:                            0,
		{Operation: "SubmitTaskStateChange"}:    1,
		{Since: now.Add(-time.Hour), Key: "no"}: 0,
	} {
		if got := read(t, dir, q); len(got) != want {
			t.Errorf("%+v: %+v", q, got)
		}
	}
	if err := audit.Read(t.Context(), dir, audit.Query{Operation: "["}, nil); err == nil {
		t.Error("a pattern that is none is taken")
	}
	if got := read(t, t.TempDir(), audit.Query{}); len(got) != 0 {
		t.Errorf("where there is no log: %+v", got)
	}
}

func TestABookIsBoundedAndHostsPushOutNothingOfTheOperators(t *testing.T) {
	dir := t.TempDir()
	l := open(t, audit.Config{DataDir: dir, Size: 64 << 10})
	l.Record(audit.Operators, audit.Entry{Key: "AKIAADMIN", Operation: "DeleteCluster", Outcome: audit.OK})
	for i := range 2000 {
		l.Record(audit.Hosts, audit.Entry{Key: "AKIAHOST", Operation: "SubmitTaskStateChange", Resource: []string{strings.Repeat("x", 1000), fmt.Sprint(i)}, Outcome: audit.OK})
	}
	if got := size(t, dir); got > 65<<10 || got < 40<<10 {
		t.Errorf("%d bytes are kept", got)
	}
	all := read(t, dir, audit.Query{})
	if all[0].Operation != "DeleteCluster" {
		t.Errorf("the operator's call is gone: %+v", all[0])
	}
	for i, e := range all[1:] { // the last ones, without a gap
		if want := 2000 - len(all) + 1 + i; e.Resource[1] != fmt.Sprint(want) || len(e.Resource[0]) > 300 {
			t.Fatalf("entry %d is %+v, not the call %d", i, e, want)
		}
	}
}

func TestOfCallsThatNobodySignedRightlyFewAreWrittenAndTheRestIsCounted(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	l := open(t, audit.Config{DataDir: dir, Now: func() time.Time { return now }})
	for range 10000 {
		l.Record(audit.Hosts, audit.Entry{Claimed: "AKIAGUESSED", Operation: "DeleteCluster", Outcome: "InvalidSignatureException"})
	}
	now = now.Add(time.Second)
	l.Record(audit.Hosts, audit.Entry{Claimed: "AKIAGUESSED", Operation: "DeleteCluster", Outcome: "InvalidSignatureException"})
	all := read(t, dir, audit.Query{Key: "AKIAGUESSED"})
	if len(all) != 101 || all[100].Unwritten != 9900 {
		t.Errorf("%d entries, the last one %+v", len(all), all[len(all)-1])
	}
}

func TestAFollowerSeesEachEntryOnceThroughNewSegments(t *testing.T) {
	dir := t.TempDir()
	l := open(t, audit.Config{DataDir: dir, Size: 16 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 3000
	var seen []string
	done := make(chan error, 1)
	go func() {
		done <- audit.Read(ctx, dir, audit.Query{Follow: true, Interval: time.Millisecond}, func(e *audit.Entry, _ []byte) error {
			if seen = append(seen, e.RequestID); len(seen) == n {
				cancel()
			}
			return nil
		})
	}()
	var wg sync.WaitGroup
	for writer := range 3 {
		wg.Go(func() {
			for i := range n / 3 {
				l.Record(audit.Operators, audit.Entry{Key: "k", Operation: "op", Outcome: audit.OK, RequestID: fmt.Sprint(writer, " ", i),
					Resource: slices.Repeat([]string{strings.Repeat("y", 250)}, 20)})
			}
		})
	}
	wg.Wait()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	slices.Sort(seen)
	if got := len(slices.Compact(seen)); got != n {
		t.Errorf("%d different entries of %d", got, n)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, audit.Dir, "*")); len(files) < 3 {
		t.Errorf("there were no new segments: %v", files)
	}
}

func TestAnAuditLogThatCantBeWrittenIsToldOnceAndGoesOnWhenItCan(t *testing.T) {
	dir := t.TempDir()
	core, told := observer.New(zap.InfoLevel)
	l := open(t, audit.Config{DataDir: dir, Log: zap.New(core)})
	if err := os.Remove(filepath.Join(dir, audit.Dir)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.Record(audit.Operators, audit.Entry{Key: "k", Operation: "lost", Outcome: audit.OK})
	}
	if err := os.Mkdir(filepath.Join(dir, audit.Dir), 0o700); err != nil {
		t.Fatal(err)
	}
	l.Record(audit.Operators, audit.Entry{Key: "k", Operation: "kept", Outcome: audit.OK})
	if got := read(t, dir, audit.Query{}); len(got) != 1 || got[0].Operation != "kept" || got[0].Unwritten != 3 || told.Len() != 2 {
		t.Errorf("%+v, and the log: %v", got, told.All())
	}
}

func TestHalfALineIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	l := open(t, audit.Config{DataDir: dir})
	l.Record(audit.Operators, audit.Entry{Key: "k", Operation: "first", Outcome: audit.OK})
	files, err := filepath.Glob(filepath.Join(dir, audit.Dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	file, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(`{"time":"2026-01-02T03:`)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, audit.Config{DataDir: dir})
	again.Record(audit.Operators, audit.Entry{Key: "k", Operation: "second", Outcome: audit.OK})
	if got := read(t, dir, audit.Query{}); len(got) != 2 || got[1].Operation != "second" {
		t.Errorf("%+v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05Z","operation":"CreateCluster","outcome":"ok"}`))
	f.Add([]byte(`{"time":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if e, ok := audit.Parse(line); ok && (e.Operation == "" || e.Time.IsZero()) {
			t.Errorf("%q is an entry: %+v", line, e)
		}
	})
}
