package logging

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

func TestAWarningThatComesAgainWithinAMinuteIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log, _, done := Open(Options{Stderr: &out, Level: "info"})
		child := log.With(zap.String("task", "t"))
		for i := range 100 {
			log.Warn("lost", zap.Error(errors.New("no route")), zap.Duration("retry", time.Duration(i)))
			child.Warn("lost", zap.Error(errors.New("no route")))
			log.Info("an event between them", zap.Int("n", i))
		}
		log.Warn("lost", zap.Error(errors.New("another reason")))
		<-time.After(foldWindow + time.Second)
		synctest.Wait()
		if got := out.String(); strings.Count(got, `error="no route"`) != 4 || strings.Count(got, "repeated=99") != 2 || strings.Count(got, "another reason") != 1 || strings.Count(got, "an event") != 100 {
			t.Errorf("%s", got)
		}
		<-time.After(2 * foldWindow) // nothing came meanwhile: it is new again
		synctest.Wait()
		out.Reset()
		log.Warn("lost", zap.Error(errors.New("no route")))
		log.Warn("lost", zap.Error(errors.New("no route")))
		done()
		if got := out.String(); strings.Count(got, "lost") != 2 || strings.Count(got, "repeated=1") != 1 {
			t.Errorf("%s", got)
		}
		log.Warn("lost", zap.Error(errors.New("no route")))
		if strings.Count(out.String(), "lost") != 3 {
			t.Error("after the end a line is held back")
		}
	})
}

func TestOrdinaryLinesAreFoldedOnlyInARowSoThatTheyTellTheOrder(t *testing.T) {
	var out bytes.Buffer
	log, _, done := Open(Options{Stderr: &out, Level: "debug", Format: "json"})
	for range 3 {
		log.Info("up")
	}
	log.Debug("down")
	log.Info("up")
	done()
	var got []string
	for line := range strings.Lines(out.String()) {
		_, rest, _ := strings.Cut(line, `"msg":`)
		got = append(got, strings.TrimSpace(rest))
	}
	want := []string{`"up"}`, `"up","repeated":2}`, `"down"}`, `"up"}`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q", got)
	}
}

func TestMoreDifferentLinesThanAreRememberedAreAllWritten(t *testing.T) {
	var out bytes.Buffer
	log, _, done := Open(Options{Stderr: &out, Level: "info"})
	for range 2 {
		for i := range 2 * mostFolds {
			log.Error("failed", zap.Int("n", i))
		}
	}
	done()
	for i := range 2 * mostFolds {
		if !strings.Contains(out.String(), fmt.Sprintf("n=%d\n", i)) && !strings.Contains(out.String(), fmt.Sprintf("n=%d ", i)) {
			t.Errorf("line %d is lost", i)
		}
	}
}

func TestTheJournalHasTheLinesTooWithTheirPriorityAndALevelOfItsOwn(t *testing.T) {
	for format, begins := range map[string]string{"logfmt": "<%s>level=", "json": `<%s>{"level":`} {
		var journal bytes.Buffer
		file := filepath.Join(t.TempDir(), "a.log")
		log, level, done := Open(Options{File: file, Format: format, Level: "warn", FileLevel: "debug", MaxSizeMB: 1, Journal: &journal})
		log.Debug("one")
		log.Warn("two")
		log.Error("three")
		level.Set("debug", "error")
		if j, f := level.Names(); j != "debug" || f != "error" {
			t.Error(j, f)
		}
		log.Debug("four")
		log.Info("five")
		done()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for word, where := range map[string][2]bool{"one": {true, false}, "two": {true, true}, "three": {true, true}, "four": {false, true}, "five": {false, true}} {
			if strings.Contains(string(data), word) != where[0] || strings.Contains(journal.String(), word) != where[1] {
				t.Errorf("%s: %s\n%s\n%s", format, word, data, journal.String())
			}
		}
		i := 0
		for line := range strings.Lines(journal.String()) {
			if want := fmt.Sprintf(begins, []string{"4", "3", "7", "6"}[i]); !strings.HasPrefix(line, want) {
				t.Errorf("%q does not begin with %s", line, want)
			}
			i++
		}
	}
}

func TestSoManyOldFilesAreKeptAndNoMore(t *testing.T) {
	for rollover, megabytes := range map[string]int{"size": 10, "hourly": 21} {
		name := filepath.Join(t.TempDir(), "ecs-agent.log")
		file, err := OpenFile(Options{File: name, RolloverType: rollover, MaxSizeMB: 1, MaxRollCount: 2})
		if err != nil {
			t.Fatal(err)
		}
		apart := time.NewTicker(2 * time.Millisecond) // old files are told apart by milliseconds
		for range megabytes {
			<-apart.C
			if _, err := file.Write(bytes.Repeat([]byte("x"), 1<<20-1)); err != nil {
				t.Fatal(err)
			}
		}
		apart.Stop()
		want := map[string]int{"size": 3, "hourly": 2}[rollover] // an hour's file has a bound, too
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for limit := time.After(30 * time.Second); ; { // old ones are removed beside the writing
			files, _ := filepath.Glob(name + "*")
			if len(files) == want {
				break
			}
			select {
			case <-tick.C:
				continue
			case <-limit:
				t.Fatalf("%s: %q", rollover, files)
			}
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
