package poll

import (
	"context"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// publisher is the agent's end of a TCS socket.
type publisher struct {
	*world
	conn *websocket.Conn
}

func (w *world) telemetry(id string) *publisher {
	w.Helper()
	q := url.Values{"agentHash": {"abcdef01"}, "agentVersion": {"1.105.1"}, "cluster": {cluster}, "containerInstance": {owner.ContainerInstance(cluster, id)}, "dockerVersion": {"20.10.24+dfsg1"}}
	conn, _, err := w.dial(w.url, "/tcs/ws", q, "HOST")
	if err != nil {
		w.Fatal(err)
	}
	return &publisher{w, conn}
}

// publish sends a message as an agent does, with header lines before it.
func (p *publisher) publish(m any) {
	p.Helper()
	body, err := tcs.Encode(m)
	if err != nil {
		p.Fatal(err)
	}
	p.raw(tcs.Frame(http.Header{"Host": {"h"}, "Authorization": {"AWS4-HMAC-SHA256 x"}, "X-Amz-Date": {"20261120T000000Z"}}, body))
}

func (p *publisher) raw(frame []byte) {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.conn.Write(ctx, websocket.MessageText, frame); err != nil {
		p.Fatal(err)
	}
}

func (p *publisher) read() (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, frame, err := p.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	return tcs.Decode(frame)
}

// answered reads until a message of type M.
func answered[M any](p *publisher) M {
	p.Helper()
	for {
		m, err := p.read()
		if err != nil {
			p.Fatalf("waiting for a %T: %v", *new(M), err)
		}
		if want, ok := m.(M); ok {
			return want
		}
	}
}

func TestEachPublishIsAcknowledged(t *testing.T) {
	w := newWorld(t)
	p := w.telemetry(instance)
	answered[*tcs.HeartbeatMessage](p)
	p.publish(&tcs.PublishMetricsRequest{Metadata: &tcs.MetricsMetadata{Cluster: cluster, Idle: true, Fin: true, MessageID: "m"}, Timestamp: tcs.At(time.Now())})
	answered[*tcs.AckPublishMetric](p)
	p.publish(&tcs.PublishHealthRequest{})
	answered[*tcs.AckPublishHealth](p)
	p.publish(&tcs.PublishInstanceStatusRequest{})
	answered[*tcs.AckPublishInstanceStatus](p)
	if s := w.server.Stats(); s.Telemetry != 1 || s.Metrics != 1 || s.Health != 1 || s.Connections != 0 {
		t.Errorf("%+v", s)
	}
	if w.connected(instance) {
		t.Error("a telemetry socket makes the agent connected")
	}
}

func TestHealthGoesIntoTheTasksOfTheInstanceOnly(t *testing.T) {
	w := newWorld(t)
	const other = "00000000000000000000000000000003"
	w.register(other)
	mine, theirs := w.place(instance), w.place(other)
	p := w.telemetry(instance)
	report := func(status string) {
		m := &tcs.PublishHealthRequest{Metadata: &tcs.HealthMetadata{Cluster: cluster, Fin: true}}
		for _, task := range []string{*mine.Object.TaskArn, *theirs.Object.TaskArn, "nonsense", owner.Task(cluster, "00000000000000000000000000000009")} {
			m.Tasks = append(m.Tasks, &tcs.TaskHealth{TaskArn: task, Containers: []*tcs.ContainerHealth{{ContainerName: "web", HealthStatus: status}, {ContainerName: "nobody", HealthStatus: "HEALTHY"}}})
		}
		p.publish(m)
		answered[*tcs.AckPublishHealth](p)
	}
	report("HEALTHY")
	w.until("the task is HEALTHY", func() bool { return w.task(mine.ID).Object.HealthStatus == types.HealthStatusHealthy })
	report("DANCING")
	report("UNHEALTHY")
	w.until("the task is UNHEALTHY", func() bool { return w.task(mine.ID).Object.HealthStatus == types.HealthStatusUnhealthy })
	if h := w.task(theirs.ID).Object.HealthStatus; h != types.HealthStatusUnknown {
		t.Error("an agent wrote the health of a task of another instance:", h)
	}
	// What is known already costs no write.
	before := w.task(mine.ID).Revision()
	report("UNHEALTHY")
	report("HEALTHY")
	w.until("the task is HEALTHY again", func() bool { return w.task(mine.ID).Object.HealthStatus == types.HealthStatusHealthy })
	if v := w.task(mine.ID).Object.Version; v != 4 {
		t.Errorf("version %d after 3 changes, revision %d then %d", v, before, w.task(mine.ID).Revision())
	}
}

func TestTheInstancesOwnHealthIsKeptWhenItChanges(t *testing.T) {
	w := newWorld(t)
	p := w.telemetry(instance)
	report := func(status string, at time.Time) {
		p.publish(&tcs.PublishInstanceStatusRequest{Statuses: []*tcs.InstanceStatus{{Type: tcs.TypeContainerRuntime, Status: status, LastUpdated: tcs.At(at), LastStatusChange: tcs.At(at)}, {Type: "Novel", Status: "OK"}}})
		answered[*tcs.AckPublishInstanceStatus](p)
	}
	state := func() types.InstanceHealthCheckState {
		if h := w.instance(instance).Object.HealthStatus; h != nil {
			return h.OverallStatus
		}
		return ""
	}
	report(tcs.StatusOK, time.UnixMilli(1000))
	w.until("it is OK", func() bool { return state() == types.InstanceHealthCheckStateOk })
	first := w.instance(instance).Revision()
	report(tcs.StatusOK, time.UnixMilli(2000))
	report(tcs.StatusImpaired, time.UnixMilli(3000))
	w.until("it is IMPAIRED", func() bool { return state() == types.InstanceHealthCheckStateImpaired })
	i := w.instance(instance)
	if d := i.Object.HealthStatus.Details; len(d) != 1 || d[0].Type != types.InstanceHealthCheckTypeContainerRuntime || !d[0].LastStatusChange.Equal(time.UnixMilli(3000)) || i.Object.Version != 2 {
		t.Errorf("%+v, version %d, revision %d then %d", d, i.Object.Version, first, i.Revision())
	}
}

func TestNonsenseOnTelemetryIsIgnoredAndThenCutOff(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxNonsense = 10 })
	p := w.telemetry(instance)
	for _, frame := range []string{"", "Host: h", "Host: h\r\n\r\n", "Host: h\r\n\r\n{", `{"type":"Poke"}`} {
		p.raw([]byte(frame))
	}
	p.publish(&tcs.HeartbeatMessage{}) // not for agents to send
	p.raw([]byte(`{"type":"PublishMetricsRequest","message":null}`))
	answered[*tcs.AckPublishMetric](p)
	for range 6 { // a type of another version is none
		p.raw([]byte("{"))
	}
	for {
		if _, err := p.read(); err != nil {
			if code := websocket.CloseStatus(err); code != websocket.StatusPolicyViolation {
				t.Error(err)
			}
			break
		}
	}
}

func TestTheNewestTelemetrySocketWinsAndADeregisteredInstanceLosesIt(t *testing.T) {
	w := newWorld(t)
	a := w.telemetry(instance)
	answered[*tcs.HeartbeatMessage](a)
	b := w.telemetry(instance)
	answered[*tcs.HeartbeatMessage](b)
	if _, err := a.read(); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Error(err)
	}
	i := *w.instance(instance)
	i.Object.Status = aws.String("INACTIVE")
	w.commit(w.store.Txn().Update(&i))
	if _, err := b.read(); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Error(err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(`{"type":"AckRequest","message":{"messageId":"m"}}`))
	f.Add([]byte("Host: h\r\n\r\n{\"type\":\"PublishHealthRequest\",\"message\":{\"tasks\":[{\"taskArn\":\"arn:aws:ecs:us-west-2:123456789012:task/c/e2814b69ab604db2a89dcd0ea8dd1a7b\",\"containers\":[{\"containerName\":\"x\",\"healthStatus\":\"y\"}]}]}}"))
	f.Add([]byte(`{"type":"PublishInstanceStatusRequest","message":{"statuses":[{"type":"ContainerRuntime","status":"OK"}]}}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		server := &Server{}
		server.cfg.defaults()
		s := newSocketFor(&server.cfg)
		defer s.cancel(nil)
		a := &acsSession{socket: s, server: server, received: make(chan any, 1)}
		a.seat.crew, a.seat.turn = &server.crew, func() {}
		defer server.crew.wg.Wait()
		a.receive(frame)
		_, body, err := tcs.SplitFrame(frame)
		if err != nil {
			return
		}
		m, err := tcs.Decode(body)
		if err != nil {
			return
		}
		c := &tcsSession{socket: s, server: server, writing: true, tasks: map[string]map[string]types.HealthStatus{}}
		switch m := m.(type) {
		case *tcs.PublishHealthRequest:
			c.keepHealth(m)
		case *tcs.PublishInstanceStatusRequest:
			c.keepStatus(m)
			instanceHealth(c.status)
		}
	})
}
