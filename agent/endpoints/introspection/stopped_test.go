package introspection

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
)

type withPast struct {
	tasks
	past tasks
}

func (w withPast) Past() []engine.TaskStatus { return w.past }

func TestStoppedTasksAreShownWithWhatIsLeftOfThem(t *testing.T) {
	at, code := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC), 3
	gone := engine.TaskStatus{Arn: "arn:1", Family: "f", Version: "1", Known: "STOPPED", StoppedAt: at, Containers: []engine.ContainerStatus{
		{Name: "app", RuntimeID: "abc", Image: "app:1", ExitCode: &code, Log: &engine.LogTail{Text: "the last words\n"}, Removed: true}}}
	ended := engine.TaskStatus{Arn: "arn:2", Known: "STOPPED", StoppedAt: at}
	ask := serve(t, Config{Engine: withPast{tasks{ended, {Arn: "arn:3", Known: "RUNNING"}}, tasks{gone}}})
	status, body := ask("/v1/tasks/stopped")
	if status != 200 || !strings.Contains(body, `"arn:2"`) || strings.Contains(body, `"arn:3"`) || !strings.Contains(body, `"ExitCode":3,"Log":{"text":"the last words\n"}`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestTheOutputOfStoppedTasksIsNotForOtherContainers(t *testing.T) {
	c := Config{Engine: tasks{{Arn: "arn:1", Known: "STOPPED", StoppedAt: time.Now()}}}
	for from, want := range map[string]int{"127.0.0.1:4": 200, "[::1]:4": 200, "[::ffff:127.0.0.1]:4": 200, "172.17.0.2:4": 403, "[fe80::1%docker0]:4": 403, "": 403} {
		r := httptest.NewRequest(http.MethodGet, "/v1/tasks/stopped", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		c.handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d %s", from, w.Code, w.Body)
		}
	}
}
