package enginetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

func logsTests(t *testing.T, s *suite) {
	before := time.Now()
	id := s.start(t, s.spec(ScriptLines))
	s.ended(t, id)
	after := time.Now()
	const all = "one\ntwo\nthree\n"
	for _, c := range []struct {
		o    engine.LogOptions
		want string
	}{
		{engine.LogOptions{}, all}, {engine.LogOptions{Lines: 2}, "two\nthree\n"}, {engine.LogOptions{Lines: 9}, all}, {engine.LogOptions{Follow: true}, all},
		{engine.LogOptions{Follow: true, Lines: 1}, "three\n"}, {engine.LogOptions{Since: before}, all}, {engine.LogOptions{Since: after}, ""},
		{engine.LogOptions{Since: before, Lines: 1, Follow: true}, "three\n"},
	} {
		if got := s.read(t, id, c.o); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
	}
	var texts []string
	for line := range strings.Lines(s.read(t, id, engine.LogOptions{Times: true})) {
		stamp, text, _ := strings.Cut(line, " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err != nil || at.Before(before) || at.After(after) {
			t.Errorf("%q: %v, not between %s and %s", line, err, before, after)
		}
		texts = append(texts, text)
	}
	if got := strings.Join(texts, ""); got != all {
		t.Errorf("with times: %q", got)
	}
	class(t, "a missing container", s.Runtime.Logs(s.ctx(t), "longshore-test-none", engine.LogOptions{}, discard{}), errdefs.IsNotFound, "NotFound")
	silent := s.spec(ScriptLines)
	silent.HostConfig.LogConfig = &acs.LogConfig{Type: "none"}
	id = s.start(t, silent)
	err := s.Runtime.Logs(s.ctx(t), id, engine.LogOptions{Follow: true}, discard{})
	class(t, "log driver none", err, errdefs.IsNotFound, "NotFound")
	if err != nil && !strings.Contains(err.Error(), "log driver none") {
		t.Errorf("log driver none: %v does not name it", err)
	}
	t.Run("output is followed to the end of the process, by any number", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptSlow))
		together(3, func(int) {
			if got := s.read(t, id, engine.LogOptions{Follow: true}); got != "first\nsecond\n" {
				t.Errorf("followed %q", got)
			}
		})
		if st := s.ended(t, id); st.ExitCode != 4 {
			t.Errorf("it ended with %d", st.ExitCode)
		}
	})
	t.Run("who follows may leave", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptServe))
		s.saying(t, id, "serving")
		ctx, cancel := context.WithCancel(s.ctx(t))
		err := s.Runtime.Logs(ctx, id, engine.LogOptions{Follow: true}, onWrite(cancel))
		if !errors.Is(err, context.Canceled) || s.inspect(t, id).Status != engine.StatusRunning {
			t.Errorf("%v, and it is %s", err, s.inspect(t, id).Status)
		}
	})
}

// onWrite calls a function when something is written.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func (s *suite) read(t *testing.T, id string, o engine.LogOptions) string {
	t.Helper()
	var out bytes.Buffer
	if err := s.Runtime.Logs(s.ctx(t), id, o, &out); err != nil {
		t.Errorf("logs %+v: %v", o, err)
	}
	return out.String()
}
