package logfmt

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// line logs with f and returns what came out, times masked.
func line(format string, f func(*zap.Logger)) string {
	var out bytes.Buffer
	f(zap.New(New(format, zapcore.DebugLevel, &out)))
	return regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`).ReplaceAllString(out.String(), "TIME")
}

func TestBothFormsHaveTheSameMembersInTheSameOrder(t *testing.T) {
	write := func(log *zap.Logger) {
		log.Named("api").With(zap.String("a", "b c")).Warn("Said", zap.Duration("duration", 1500*time.Millisecond), zap.Error(errors.New("x")))
	}
	if got, want := line("logfmt", write), `level=warn time=TIME msg="Said" logger=api a="b c" duration=1.5s error=x`+"\n"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got, want := line("json", write), `{"level":"warn","time":"TIME","logger":"api","msg":"Said","a":"b c","duration":"1.5s","error":"x"}`+"\n"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func FuzzALineStaysALine(f *testing.F) {
	f.Add("a\nlevel=error", "k=\"", "v\x00\xff")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		for _, format := range []string{"logfmt", "json"} {
			got := line(format, func(log *zap.Logger) { log.Named(key).Info(message, zap.String(key, value)) })
			if strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
				t.Errorf("%s: %q", format, got)
			}
			if format == "json" && !json.Valid([]byte(got)) {
				t.Errorf("no JSON: %q", got)
			}
		}
	})
}
