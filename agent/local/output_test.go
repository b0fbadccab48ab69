package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
)

func TestOutputIsStreamedForLongerThanARequestMayTake(t *testing.T) {
	dir, s := t.TempDir(), New(zap.NewNop())
	s.patience = 50 * time.Millisecond
	s.Handle("GET /v1/logs", func(w http.ResponseWriter, r *http.Request) {
		want, err := LogsOf(r)
		if err != nil {
			Refuse(w, http.StatusBadRequest, err)
			return
		}
		Stream(w, func(out io.Writer) error {
			_, _ = fmt.Fprintf(out, "%+v\n", want)
			select {
			case <-time.After(4 * s.patience):
			case <-r.Context().Done():
				return errors.New("it was ended")
			}
			_, _ = io.WriteString(out, "more\n")
			return errors.New("100 % broken,\nhere")
		})
	})
	serve(t, dir, s)
	want := Logs{Task: "t a", Container: "c&d", LogOptions: engine.LogOptions{Lines: 3, Follow: true, Since: time.Date(2026, 11, 20, 8, 0, 0, 7, time.UTC)}}
	var out bytes.Buffer
	if err := (Client{dir}).Logs(t.Context(), want, &out); err == nil || err.Error() != "100 % broken,\nhere" {
		t.Error(err)
	}
	if got, expected := out.String(), fmt.Sprintf("%+v\nmore\n", want); got != expected {
		t.Errorf("%q, want %q", got, expected)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := (Client{dir}).Logs(ctx, want, onWrite(cancel)); !errors.Is(err, context.Canceled) {
		t.Errorf("who leaves: %v", err)
	}
}

// onWrite calls a function when something is written.
type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestAContainerIsChosenByItsNameOrByBeingTheOnlyOne(t *testing.T) {
	one := Task{ID: "1", Containers: []Container{{Name: "~internal~ecs~pause"}, {Name: "web"}}}
	two := Task{ID: "2", Containers: []Container{{Name: "web"}, {Name: "agent"}}}
	for _, c := range []struct {
		task *Task
		name string
		want string
	}{
		{&one, "", "web"}, {&one, "~internal~ecs~pause", "~internal~ecs~pause"}, {&two, "agent", "agent"}, {&two, "", "task 2 has 2 containers, name one: agent, web"},
		{&two, "db", `task 2 has no container "db"; it has: agent, web`}, {&Task{ID: "3"}, "", "task 3 has no containers"},
	} {
		got, err := c.task.Choose(c.name)
		if err == nil && got.Name != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %+v, %v", c.name, got, err)
		}
	}
}
