package metadata

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
)

// BenchmarkATaskAmongAHundred asks for the metadata of one of a hundred tasks: looked for among all each time, and known.
func BenchmarkATaskAmongAHundred(b *testing.B) {
	own, err := ids.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	var all []engine.TaskStatus
	for i := range 100 {
		t := theTask()
		t.Arn += fmt.Sprint(i)
		all = append(all, t)
	}
	cfg := Config{Tasks: func() []engine.TaskStatus { return append([]engine.TaskStatus(nil), all...) }, Find: own.Find, Log: zap.NewNop(),
		Stats: func(string) *stats.Docker { return nil }, Instance: func() (string, string) { return "c", "i" }}
	for name, known := range map[string]bool{"looked for": false, "known": true} {
		b.Run(name, func(b *testing.B) {
			if known {
				cfg.Known, cfg.Task = own.Known, func(arn string) (engine.TaskStatus, bool) {
					for i := range all {
						if all[i].Arn == arn {
							return all[i], true
						}
					}
					return engine.TaskStatus{}, false
				}
			}
			mux := http.NewServeMux()
			New(cfg).Register(mux.Handle)
			path := "/v4/" + own.Of(all[50].Arn, "web") + "/task"
			for b.Loop() {
				w := httptest.NewRecorder()
				if mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil)); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
