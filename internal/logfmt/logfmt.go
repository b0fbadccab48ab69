// Package logfmt makes the lines of Longshore's logs, the same for the agent and the control plane:
//
//	level=info time=2026-01-01T00:00:00.000Z msg="text" logger=api task=arn:… container=web step=create duration=1.2s
//
// or one JSON object with the same members. level, time, msg and the name of the logger, if it has one, come first; the
// others follow in the order in which the code gave them. An event is one line, whatever is in it.
package logfmt

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap/zapcore"
)

// New makes a core that writes lines to out, in JSON if format is "json" and else as key=value.
func New(format string, level zapcore.LevelEnabler, out io.Writer) zapcore.Core {
	sink := zapcore.Lock(zapcore.AddSync(out))
	if format != "json" {
		return &core{LevelEnabler: level, out: sink}
	}
	return zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		LevelKey: "level", TimeKey: "time", MessageKey: "msg", NameKey: "logger", LineEnding: "\n",
		EncodeLevel: func(l zapcore.Level, e zapcore.PrimitiveArrayEncoder) { e.AppendString(levelName(l)) },
		EncodeTime:  func(t time.Time, e zapcore.PrimitiveArrayEncoder) { e.AppendString(formatTime(t)) },
		// Durations in both forms read as "1.5s".
		EncodeDuration: zapcore.StringDurationEncoder,
	}), sink, level)
}

// levelName is the word for a level in a line.
func levelName(l zapcore.Level) string {
	if l > zapcore.ErrorLevel {
		return "critical"
	}
	return l.String()
}

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// core writes lines of key=value. Values that hold a blank, a quote, an equals sign or what can't be printed stand in
// quotes; values that are no scalars are JSON.
type core struct {
	zapcore.LevelEnabler
	out     zapcore.WriteSyncer
	context []byte // fields of With, encoded
	prefix  string // namespace, with its dot
}

// With returns a core whose lines all carry the fields.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	clone := *c
	clone.context = slices.Clip(c.context)
	clone.context, clone.prefix = appendFields(clone.context, c.prefix, fields)
	return &clone
}

// Check adds the core to an entry whose level is on.
func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

// Write writes one line.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	line := make([]byte, 0, 256+len(c.context))
	line = append(line, "level="...)
	line = append(line, levelName(e.Level)...)
	line = append(line, " time="...)
	line = append(line, formatTime(e.Time)...)
	line = append(line, " msg="...)
	line = strconv.AppendQuote(line, strings.ToValidUTF8(e.Message, "\uFFFD"))
	if e.LoggerName != "" {
		line = appendPair(line, "logger", e.LoggerName)
	}
	line = append(line, c.context...)
	line, _ = appendFields(line, c.prefix, fields)
	if e.Stack != "" {
		line = appendPair(line, "stack", e.Stack)
	}
	_, err := c.out.Write(append(line, '\n'))
	return err
}

// Sync flushes the sink.
func (c *core) Sync() error { return c.out.Sync() }

func appendFields(line []byte, prefix string, fields []zapcore.Field) ([]byte, string) {
	for _, f := range fields {
		if f.Type == zapcore.NamespaceType {
			prefix += f.Key + "."
			continue
		}
		if f.Type == zapcore.SkipType {
			continue
		}
		m := zapcore.NewMapObjectEncoder()
		f.AddTo(m)
		for _, key := range sortedKeys(m.Fields) { // one, or a few for errors and inlined objects
			line = appendPair(line, prefix+key, valueText(m.Fields[key]))
		}
	}
	return line, prefix
}

// valueText is a field's value as text.
func valueText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case time.Duration:
		return v.String()
	case time.Time:
		return formatTime(v)
	case fmt.Stringer:
		return v.String()
	case nil:
		return "null"
	case bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, uintptr, float32, float64, complex64, complex128:
		return fmt.Sprint(v)
	}
	if data, err := json.Marshal(v); err == nil {
		return string(data)
	}
	return fmt.Sprint(v)
}

func appendPair(line []byte, key, text string) []byte {
	line = append(line, ' ')
	line = append(line, cleanKey(key)...)
	line = append(line, '=')
	if !plain(text) {
		return strconv.AppendQuote(line, strings.ToValidUTF8(text, "\uFFFD"))
	}
	return append(line, text...)
}

// plain says whether a value can stand without quotes.
func plain(text string) bool {
	if text == "" {
		return false
	}
	for _, r := range text {
		if r <= ' ' || r == '"' || r == '=' || r == '\\' || r == utf8.RuneError || !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

// cleanKey keeps a key from breaking the line.
func cleanKey(key string) string {
	if plain(key) {
		return key
	}
	return strings.Map(func(r rune) rune {
		if !plain(string(r)) {
			return '_'
		}
		return r
	}, key+"_")
}

func sortedKeys[M ~map[string]V, V any](m M) []string {
	return slices.Sorted(maps.Keys(m))
}
