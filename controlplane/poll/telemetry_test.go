package poll

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// heard is a Telemetry that says what it gets.
type heard chan string

func (h heard) Metrics(cluster, instance string, m *tcs.PublishMetricsRequest) {
	h <- fmt.Sprintf("metrics of %s/%s idle=%t", cluster, instance, m.Metadata.Idle)
}

func (h heard) Progress(cluster, instance string, m *tcs.LongshoreProgress) {
	h <- fmt.Sprintf("progress of %s/%s: %d tasks, fin=%t", cluster, instance, len(m.Tasks), m.Fin)
}

func (h heard) Gone(cluster, instance string) { h <- fmt.Sprintf("%s/%s is gone", cluster, instance) }

func TestWhatAgentsPublishIsHandedOnAndOursAreToldInTheHandshakeThatItIsWanted(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		got := make(heard, 10)
		w := newWorld(t, func(c *Config) {
			if wanted {
				c.Telemetry = got
			}
		})
		q := url.Values{"agentHash": {"abcdef01"}, "agentVersion": {"1"}, "cluster": {cluster}, "containerInstance": {owner.ContainerInstance(cluster, instance)}, "dockerVersion": {"20"}}
		conn, answer, err := w.dial(w.url, "/tcs/ws", q, "HOST")
		if err != nil {
			t.Fatal(err)
		}
		for _, header := range []string{tcs.OwnMetricsHeader, tcs.ProgressHeader} {
			if is := answer.Header.Get(header) != ""; is != wanted {
				t.Errorf("%s in the answer to the handshake: %t, wanted %t", header, is, wanted)
			}
		}
		p := &publisher{w, conn}
		p.publish(&tcs.LongshoreProgress{Fin: true, Tasks: []*tcs.TaskProgress{{TaskArn: "t"}}})
		p.publish(&tcs.PublishMetricsRequest{Metadata: &tcs.MetricsMetadata{Cluster: cluster, Idle: true, Fin: true, MessageID: "m"}, Timestamp: tcs.At(time.Now())})
		answered[*tcs.AckPublishMetric](p)
		_ = conn.Close(websocket.StatusNormalClosure, "")
		if !wanted {
			continue
		}
		at := cluster + "/" + instance
		for _, want := range []string{"progress of " + at + ": 1 tasks, fin=true", "metrics of " + at + " idle=true", at + " is gone"} {
			select {
			case line := <-got:
				if line != want {
					t.Errorf("%q, not %q", line, want)
				}
			case <-time.After(patience):
				t.Fatalf("%q did not come", want)
			}
		}
	}
}
