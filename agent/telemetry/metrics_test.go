package telemetry

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// fakeStats has measured n tasks in each period.
type fakeStats struct{ tasks int }

func (s *fakeStats) Period(own bool) (tasks []*tcs.TaskMetric, host *tcs.InstanceMetrics) {
	for i := range s.tasks {
		c := &tcs.ContainerMetric{ContainerName: "web", CPUStatsSet: &tcs.CWStatsSet{Min: 1, Max: 1, Sum: 1, SampleCount: 1}}
		tasks = append(tasks, &tcs.TaskMetric{TaskArn: fmt.Sprint("t", i), ContainerMetrics: []*tcs.ContainerMetric{c}})
	}
	if own {
		host = &tcs.InstanceMetrics{GeneralMetricsPayload: tcs.OwnPayload(tcs.Own(tcs.HostCPUSteal, 1, tcs.UnitPercent))}
	}
	return tasks, host
}

func TestWhatWasMeasuredIsPublishedInPartsOfTenTasks(t *testing.T) {
	inBubbleWith(t, func(c *Config) { c.Stats = &fakeStats{tasks: 23} }, func(w *world) {
		w.engine.set(engine.EngineHealth{}, engine.TaskStatus{Arn: "t1", Known: "RUNNING"})
		pass(21 * time.Second)
		expect(t, w, "0s metrics idle=false fin=false tasks=10", "0s metrics idle=false fin=false tasks=10", "0s metrics idle=false fin=true tasks=3", "0s status ContainerRuntime=OK ",
			"20s metrics idle=false fin=false tasks=10", "20s metrics idle=false fin=false tasks=10", "20s metrics idle=false fin=true tasks=3")
	})
}

func TestDisabledMetricsAreNotPublished(t *testing.T) {
	inBubbleWith(t, func(c *Config) { c.Stats, c.MetricsDisabled = &fakeStats{tasks: 1}, true }, func(w *world) {
		w.engine.set(engine.EngineHealth{}, checked("t1", "HEALTHY"))
		pass(21 * time.Second)
		expect(t, w, "0s status ContainerRuntime=OK ", "20s health fin=true t1/web=HEALTHY")
	})
}

func TestOnlyAControlPlaneThatAsksGetsMetricsOfOurOwn(t *testing.T) {
	inBubbleWith(t, func(c *Config) { c.Stats = &fakeStats{} }, func(w *world) {
		w.engine.set(engine.EngineHealth{}, engine.TaskStatus{Arn: "t1", Known: "RUNNING"})
		pass(41 * time.Second)
		expect(t, w, "0s metrics idle=true fin=true tasks=0", "0s status ContainerRuntime=OK ")
		w.server.Refuse(func(_ int, rw http.ResponseWriter) bool {
			rw.Header().Set(tcs.OwnMetricsHeader, "1")
			return false
		})
		pass(40 * time.Minute) // the connection is replaced
		synctest.Wait()
		seen := w.seen()
		if !strings.HasSuffix(seen[len(seen)-1], "metrics idle=false fin=true tasks=0") {
			t.Error(seen)
		}
	})
}
