package ecsagent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
)

// telemetryMessages are the types that the agent knows on its telemetry socket.
var telemetryMessages = known(`HeartbeatMessage AckPublishMetric AckPublishHealth AckPublishInstanceStatus StopTelemetrySessionMessage
	ServerException BadRequestException ResourceValidationException InvalidParameterException`)

// telemetry keeps the telemetry socket, while the instance is registered.
func (a *Agent) telemetry() {
	wait := backoff{first: a.cfg.Timers.Telemetry, most: a.cfg.Timers.TelemetryMax, factor: 2}
	for a.ctx.Err() == nil {
		a.mu.Lock()
		gone := a.deregistered
		a.mu.Unlock()
		select {
		case <-gone:
			if !a.sleep(wait.first) {
				return
			}
			continue
		default:
		}
		start := time.Now()
		err := a.telemetryOnce(gone)
		if time.Since(start) > a.cfg.Timers.Heartbeat {
			wait.reset()
		}
		if errors.Is(err, errClean) {
			wait.reset()
			continue
		}
		if !a.sleep(wait.next()) {
			return
		}
	}
}

func (a *Agent) telemetryOnce(gone <-chan struct{}) error {
	where, err := a.discover()
	if err != nil {
		return err
	}
	c, err := a.dial("TCS", where.TCS, map[string]string{
		"agentHash": agentHash, "agentVersion": agentVersion, "cluster": a.cluster(), "containerInstance": a.m.InstanceARN(), "dockerVersion": engineTCS,
	})
	if err != nil {
		return err
	}
	over := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		tick := time.NewTicker(a.cfg.Timers.Publish)
		defer tick.Stop()
		for {
			c.publish()
			select {
			case <-over:
				return
			case <-gone:
				_ = c.Close()
				return
			case <-tick.C:
			}
		}
	})
	err = c.serve(telemetryMessages, func(typ string, message json.RawMessage) {
		a.write(Entry{Kind: Received, Type: typ, Body: message})
		switch typ {
		case "ServerException", "BadRequestException", "ResourceValidationException", "InvalidParameterException":
			a.m.fault("%s came on the telemetry socket: %s", typ, message)
		case "HeartbeatMessage":
			var m heartbeatMessage
			if err := json.Unmarshal(message, &m); err != nil || m.Healthy == nil {
				a.m.fault("a telemetry heartbeat is unreadable: %s", message)
			}
		default:
			var m struct {
				Message *string `json:"message"`
			}
			if err := json.Unmarshal(message, &m); err != nil {
				a.m.fault("%s is unreadable: %v", typ, err)
			}
		}
	})
	close(over)
	publishing.Wait()
	return err
}

// publish sends what there is to tell: metrics always, health if a container is checked, the instance's status if the
// doctor ran since.
func (c *channel) publish() {
	a := c.a
	now := float64(time.Now().UnixMilli()) / 1000
	who := map[string]any{"cluster": a.cluster(), "containerInstance": a.m.InstanceARN(), "messageId": uuid.NewString()}
	meta := func(more map[string]any) map[string]any {
		for k, v := range who {
			more[k] = v
		}
		return more
	}
	var metrics, health []any
	for _, t := range a.known() {
		t.mu.Lock()
		about := func(containers []any, name string) map[string]any {
			return map[string]any{"taskArn": t.arn, "taskDefinitionFamily": deref(t.wire.Family), "taskDefinitionVersion": deref(t.wire.Version), name: containers}
		}
		var measured, checked []any
		for _, k := range t.containers {
			if k.status != running {
				continue
			}
			stats := map[string]any{"min": 0.5, "max": 1.5, "sum": 12.5, "sampleCount": 12}
			measured = append(measured, map[string]any{"containerName": *k.def.Name, "cpuStatsSet": stats, "memoryStatsSet": stats})
			if deref(k.def.HealthCheckType) == "docker" {
				checked = append(checked, map[string]any{"containerName": *k.def.Name, "healthStatus": "HEALTHY", "statusSince": now})
			}
		}
		if measured != nil {
			metrics = append(metrics, about(measured, "containerMetrics"))
		}
		if checked != nil {
			health = append(health, about(checked, "containers"))
		}
		t.mu.Unlock()
	}
	c.publishMetrics(metrics, meta, now)
	if health != nil {
		c.frame("PublishHealthRequest", map[string]any{"metadata": meta(map[string]any{"fin": true}), "tasks": health, "timestamp": now})
	}
	if a.doctorRan.Swap(false) {
		id := map[string]any{"cluster": a.cluster(), "containerInstance": a.m.InstanceARN(), "requestId": uuid.NewString()}
		status := map[string]any{"type": "ContainerRuntime", "status": "OK", "lastUpdated": now, "lastStatusChange": now}
		c.frame("PublishInstanceStatusRequest", map[string]any{"metadata": id, "statuses": []any{status}, "timestamp": now})
	}
}

// publishMetrics sends ten tasks a frame, and says of the last that it is.
func (c *channel) publishMetrics(tasks []any, meta func(map[string]any) map[string]any, now float64) {
	if len(tasks) == 0 {
		c.frame("PublishMetricsRequest", map[string]any{"metadata": meta(map[string]any{"fin": true, "idle": true}), "timestamp": now})
		return
	}
	for len(tasks) > 0 {
		n := min(10, len(tasks))
		c.frame("PublishMetricsRequest", map[string]any{
			"metadata": meta(map[string]any{"fin": n == len(tasks), "idle": false}), "taskMetrics": tasks[:n], "timestamp": now,
		})
		tasks = tasks[n:]
	}
}

// frame sends a message as telemetry has it: the signed headers of a request, an empty line, and the JSON.
func (c *channel) frame(typ string, message map[string]any) {
	body, err := json.Marshal(map[string]any{"type": typ, "message": message})
	if err != nil {
		panic(err) // maps of strings and numbers
	}
	r, err := http.NewRequest(http.MethodGet, c.url, nil)
	if err == nil {
		err = c.a.sign(r, body, signedByFrame)
	}
	if err != nil {
		c.a.m.fault("a telemetry frame can't be signed: %v", err)
		return
	}
	var b bytes.Buffer
	for _, h := range [][2]string{{"Host", r.URL.Host}, {"Authorization", r.Header.Get("Authorization")}, {"X-Amz-Date", r.Header.Get("X-Amz-Date")}} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	b.Write(body)
	c.write(Entry{Kind: Sent, Type: typ, Body: body}, b.Bytes())
}
