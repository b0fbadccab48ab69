// Package logging makes the agent's log: one line an event, in the form that the operators of the Amazon ECS agent know, or,
// with ECS_LOG_OUTPUT_FORMAT=json, one object with the same members (package internal/logfmt). Every line about a task
// carries "task" (its ARN), "container" and "step". Nothing here hides secrets: whoever has one never hands it in.
//
// The lines go to a file, and, where systemd has started the agent, to the journal too, each with its priority. Both have a level of their own:
// ECS_LOGLEVEL_ON_INSTANCE is the file's, ECS_LOGLEVEL that of both where the former is not set. Lines that say the same are folded (fold.go).
//
// The file is rotated at a size, or at each full hour and at twenty times that size, and so many old ones are kept: that bounds what a log takes of the
// disk. When the disk is full the lines go to standard error.
//
// Libraries that log through logrus write into the same log: [Open] routes them.
package logging

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/DeRuina/timberjack"
	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/logfmt"
)

// Options says where and how to log.
type Options struct {
	File         string // empty: only Stderr
	Level        string // of standard error and the journal: crit, error, warn, info, debug or none
	FileLevel    string // of the file; empty: Level
	Format       string // logfmt or json
	RolloverType string // size or hourly
	MaxSizeMB    int64
	MaxRollCount int64
	// Stderr is where lines go without a file, or when the file can't be written; nil means os.Stderr.
	Stderr io.Writer
	// Journal is where lines go besides the file, with a priority in front as sd-daemon(3) has it; nil: the journal, if it reads standard error.
	Journal io.Writer
}

// Open opens the log. It never fails: if the file can't be written, that is said once on Stderr, and the lines go there.
// What is logged can be changed by the [Level]. The function closes the file; it is to be called once, as the last thing.
func Open(o Options) (*zap.Logger, *Level, func()) {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	level := &Level{}
	level.Set(o.Level, o.FileLevel)
	out, done := o.Stderr, func() {}
	lines := &folding{folds: &folds{seen: map[string]*fold{}}}
	if o.File != "" {
		file, err := OpenFile(o)
		if err != nil {
			fmt.Fprintf(o.Stderr, "longshore-agent: the log file %s can't be written (%v): logging to standard error; set ECS_LOGFILE to a path that can be written\n", o.File, err)
		} else {
			out = &fallback{file: file, name: o.File, stderr: o.Stderr, room: roomAt(o.File)}
			done = func() { _ = file.Close() }
			if j := o.journal(); j != nil {
				lines.cores = append(lines.cores, logfmt.New(o.Format, &level.journal, prioritised{j}))
			}
		}
	}
	lines.cores = append(lines.cores, logfmt.New(o.Format, &level.file, out))
	log := zap.New(lines)
	unroute := routeLogrus(log)
	return log, level, func() {
		unroute()
		lines.close()
		done()
	}
}

// journal is where lines go besides the file.
func (o Options) journal() io.Writer {
	if o.Journal != nil {
		return o.Journal
	}
	if is, err := journal.StderrIsJournalStream(); o.Stderr != os.Stderr || err != nil || !is {
		return nil
	}
	return os.Stderr
}

// prioritised puts a line's priority before it.
type prioritised struct{ io.Writer }

// Write writes one line.
func (p prioritised) Write(line []byte) (int, error) {
	priority := "<6>"
	for level, n := range map[string]string{"debug": "<7>", "warn": "<4>", "error": "<3>", "critical": "<2>"} {
		if bytes.HasPrefix(line, []byte("level="+level+" ")) || bytes.HasPrefix(line, []byte(`{"level":"`+level+`"`)) {
			priority = n
		}
	}
	if _, err := p.Writer.Write(append([]byte(priority), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Level is the least level that is logged. It is safe for concurrent use.
type Level struct {
	journal, file threshold
	names         atomic.Pointer[[2]string]
}

// Set changes it, for the journal and for the file: crit, error, warn, info, debug or none; an empty one of the file is the journal's. From then on other
// lines are logged.
func (l *Level) Set(journal, file string) {
	file = cmp.Or(file, journal)
	l.journal.set(journal)
	l.file.set(file)
	l.names.Store(&[2]string{journal, file})
}

// Names are the levels of the journal and of the file, as they were set last.
func (l *Level) Names() (journal, file string) {
	n := l.names.Load()
	return n[0], n[1]
}

// Named reports whether a name is that of a level.
func Named(level string) bool {
	return slices.Contains([]string{"crit", "error", "warn", "info", "debug", "none"}, level)
}

type threshold struct {
	now atomic.Pointer[zapcore.LevelEnabler]
}

func (t *threshold) set(name string) {
	enabler := levelOf(name)
	t.now.Store(&enabler)
}

// Enabled says whether lines of a level are logged.
func (t *threshold) Enabled(level zapcore.Level) bool { return (*t.now.Load()).Enabled(level) }

// levelOf turns a name of ECS_LOGLEVEL into the levels that are on.
func levelOf(name string) zapcore.LevelEnabler {
	switch name {
	case "crit":
		return zapcore.DPanicLevel
	case "error":
		return zapcore.ErrorLevel
	case "warn":
		return zapcore.WarnLevel
	case "debug":
		return zapcore.DebugLevel
	case "none":
		return zap.LevelEnablerFunc(func(zapcore.Level) bool { return false })
	}
	return zapcore.InfoLevel
}

// OpenFile opens a file that is rotated as the options say, and proves that it can be written.
func OpenFile(o Options) (*timberjack.Logger, error) {
	if err := os.MkdirAll(filepath.Dir(o.File), 0o755); err != nil {
		return nil, err
	}
	probe, err := os.OpenFile(o.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, err
	}
	if err := probe.Close(); err != nil {
		return nil, err
	}
	file := &timberjack.Logger{Filename: o.File, MaxSize: int(o.MaxSizeMB), MaxBackups: int(o.MaxRollCount), FileMode: 0o640, AppendTimeAfterExt: true}
	if o.RolloverType == "hourly" {
		file.MaxSize, file.RotateAtMinutes = int(min(20*o.MaxSizeMB, 1<<30)), []int{0}
	}
	return file, nil
}

// fallback writes to the file, and to stderr while that fails; it says so when it begins and when it ends. A full disk
// must not silence the agent, and must not stop it. After a failure the file is left alone until its disk has room, so that the
// log does not take what little is freed there for the agent's state.
type fallback struct {
	room func() bool

	mu     sync.Mutex
	file   io.Writer
	name   string
	stderr io.Writer
	broken bool
}

// Write writes one line.
func (f *fallback) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken && !f.room() {
		return f.stderr.Write(line)
	}
	_, err := f.file.Write(line)
	if err == nil {
		if f.broken {
			f.broken = false
			fmt.Fprintf(f.stderr, "longshore-agent: the log file %s can be written again\n", f.name)
		}
		return len(line), nil
	}
	if !f.broken {
		f.broken = true
		fmt.Fprintf(f.stderr, "longshore-agent: the log file %s can't be written (%v): logging to standard error until it can\n", f.name, err)
	}
	return f.stderr.Write(line)
}

// leastRoom is how much must be free before a log file that could not be written is tried again.
const leastRoom = 4 << 20

// roomAt reports whether the disk of a file has room for a log. One that can't be looked at is for the file's own error to tell.
func roomAt(name string) func() bool {
	return func() bool {
		var fs unix.Statfs_t
		return unix.Statfs(filepath.Dir(name), &fs) != nil || int64(fs.Bavail)*fs.Bsize >= leastRoom
	}
}

// routeLogrus makes libraries that log through logrus log to log, until the function it returns is called.
func routeLogrus(log *zap.Logger) func() {
	std := logrus.StandardLogger()
	out, level := std.Out, std.GetLevel()
	hooks := std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logrusHook{log})
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.InfoLevel)
	if log.Core().Enabled(zapcore.DebugLevel) {
		std.SetLevel(logrus.DebugLevel)
	}
	return func() {
		std.ReplaceHooks(hooks)
		std.SetOutput(out)
		std.SetLevel(level)
	}
}

type logrusHook struct{ log *zap.Logger }

// Levels are all levels.
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire writes one entry.
func (h logrusHook) Fire(e *logrus.Entry) error {
	level := map[logrus.Level]zapcore.Level{
		logrus.PanicLevel: zapcore.ErrorLevel, logrus.FatalLevel: zapcore.ErrorLevel, logrus.ErrorLevel: zapcore.ErrorLevel,
		logrus.WarnLevel: zapcore.WarnLevel, logrus.InfoLevel: zapcore.InfoLevel, logrus.DebugLevel: zapcore.DebugLevel, logrus.TraceLevel: zapcore.DebugLevel,
	}[e.Level]
	entry := h.log.Check(level, e.Message)
	if entry == nil {
		return nil
	}
	fields := []zap.Field{zap.String("source", "library")}
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		fields = append(fields, zap.Any(key, e.Data[key]))
	}
	entry.Write(fields...)
	return nil
}
