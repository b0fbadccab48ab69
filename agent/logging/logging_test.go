package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var stamp = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)

// lines logs with f and returns what came out, times masked.
func lines(t *testing.T, o Options, f func(*zap.Logger)) string {
	t.Helper()
	var out bytes.Buffer
	o.Stderr = &out
	log, _, done := Open(o)
	f(log)
	done()
	return stamp.ReplaceAllString(out.String(), "TIME")
}

func TestALineBeginsWithLevelTimeAndMessageAndKeepsTheOrderOfItsFields(t *testing.T) {
	write := func(log *zap.Logger) {
		log.With(zap.String("task", "arn:aws:ecs:r:1:task/c/t"), zap.String("container", "web")).
			Info("Started it", zap.String("step", "start"), zap.Duration("duration", 1500*time.Millisecond), zap.Int("pid", 7), zap.Bool("ok", true), zap.Strings("ports", []string{"80/tcp"}), zap.Error(errors.New(`no "such" thing`)))
	}
	want := `level=info time=TIME msg="Started it" task=arn:aws:ecs:r:1:task/c/t container=web step=start duration=1.5s pid=7 ok=true ports="[\"80/tcp\"]" error="no \"such\" thing"` + "\n"
	if got := lines(t, Options{Format: "logfmt"}, write); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	want = `{"level":"info","time":"TIME","msg":"Started it","task":"arn:aws:ecs:r:1:task/c/t","container":"web","step":"start","duration":"1.5s","pid":7,"ok":true,"ports":["80/tcp"],"error":"no \"such\" thing"}` + "\n"
	if got := lines(t, Options{Format: "json"}, write); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestALineStaysALineWhateverIsInIt(t *testing.T) {
	evil := "a\nlevel=error msg=\"forged\"\x00\xff"
	for _, format := range []string{"logfmt", "json"} {
		got := lines(t, Options{Format: format}, func(log *zap.Logger) { log.Info(evil, zap.String("k", evil), zap.String(evil, "v")) })
		if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
			t.Errorf("%s: %q", format, got)
		}
		if format == "json" && !json.Valid([]byte(got)) {
			t.Errorf("not JSON: %s", got)
		}
	}
}

func TestOnlyTheLevelsThatAreOnAreLogged(t *testing.T) {
	for level, want := range map[string]string{"debug": "debug info warn error ", "info": "info warn error ", "warn": "warn error ", "error": "error ", "crit": "", "none": ""} {
		got := lines(t, Options{Level: level}, func(log *zap.Logger) {
			log.Debug("x")
			log.Info("x")
			log.Warn("x")
			log.Error("x")
		})
		var words strings.Builder
		for _, m := range regexp.MustCompile(`level=(\w+)`).FindAllStringSubmatch(got, -1) {
			words.WriteString(m[1] + " ")
		}
		if words.String() != want {
			t.Errorf("%s: %q", level, words.String())
		}
	}
}

func TestWhatLibrariesLogThroughLogrusStandsInTheSameLog(t *testing.T) {
	got := lines(t, Options{}, func(*zap.Logger) {
		logrus.WithField("b", 1).WithField("a", "x y").Warn("from a library")
		logrus.Debug("too fine")
	})
	if want := `level=warn time=TIME msg="from a library" source=library a="x y" b=1` + "\n"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if logrus.StandardLogger().Out != os.Stderr {
		t.Error("logrus is not as it was")
	}
}

func TestTheFileIsMadeWithItsDirectoryAndRotatedBySize(t *testing.T) {
	name := filepath.Join(t.TempDir(), "deep", "ecs-agent.log")
	var stderr bytes.Buffer
	log, _, done := Open(Options{File: name, RolloverType: "size", MaxSizeMB: 1, MaxRollCount: 2, Stderr: &stderr})
	for i := range 5 * 1024 {
		log.Info(strings.Repeat("x", 1000), zap.Int("line", i))
	}
	done()
	if stderr.Len() != 0 {
		t.Errorf("stderr: %s", stderr.String())
	}
	files, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	if info, err := os.Stat(name); err != nil || info.Size() > 1<<20 || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info, err)
	}
}

func TestTheFileIsRotatedAtEachFullHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "ecs-agent.log")
		var stderr bytes.Buffer
		log, _, done := Open(Options{File: name, RolloverType: "hourly", MaxSizeMB: 1, MaxRollCount: 24, Stderr: &stderr})
		for range 3 {
			log.Info("line")
			<-time.After(time.Hour)
		}
		log.Info("line")
		done()
		if files, err := filepath.Glob(name + "*"); err != nil || len(files) != 4 || stderr.Len() != 0 {
			t.Errorf("%v %v %s", files, err, stderr.String())
		}
	})
}

func TestALogFileThatCannotBeWrittenIsToldOnceAndTheLinesGoToStandardError(t *testing.T) {
	blocker := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	log, _, done := Open(Options{File: filepath.Join(blocker, "ecs-agent.log"), MaxSizeMB: 1, Stderr: &stderr})
	log.Info("one")
	log.Info("two")
	done()
	if strings.Count(stderr.String(), "can't be written") != 1 || strings.Count(stderr.String(), "level=info") != 2 || !strings.Contains(stderr.String(), "ECS_LOGFILE") {
		t.Error(stderr.String())
	}
}

func TestAFullDiskMovesTheLinesToStandardErrorUntilThereIsRoom(t *testing.T) {
	var stderr bytes.Buffer
	disk := &failing{}
	room := true
	f := &fallback{file: disk, name: "/x", stderr: &stderr, room: func() bool { return room }}
	for _, d := range []struct{ full, room bool }{{false, true}, {true, true}, {true, true}, {false, false}, {false, true}} {
		disk.full, room = d.full, d.room
		if _, err := f.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	want := "longshore-agent: the log file /x can't be written (no space): logging to standard error until it can\nline\nline\nline\nlongshore-agent: the log file /x can be written again\n"
	if stderr.String() != want || disk.lines != 2 {
		t.Errorf("%d %q", disk.lines, stderr.String())
	}
}

type failing struct {
	full  bool
	lines int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.full {
		return 0, errors.New("no space")
	}
	f.lines++
	return len(p), nil
}
