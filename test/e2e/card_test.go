package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/test/images"
)

// amazon is as much of Amazon ECS as an agent needs that has one task with a network card, played by hand.
type amazon struct {
	t      *testing.T
	server *httptest.Server

	mu     sync.Mutex
	said   []string // what the agent submitted
	acked  map[string]bool
	socket *websocket.Conn
}

const (
	cardCluster  = "arn:aws:ecs:us-west-2:123456789012:cluster/daemonset"
	cardInstance = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/0123456789abcdef"
	cardTask     = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/00112233445566778899aabbccddeeff"
	cardARN      = "arn:aws:ecs:us-west-2:123456789012:attachment/11111111-2222-3333-4444-555555555555"
	cardMAC      = "02:5a:00:00:00:77"
)

func (e *amazon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/ws") {
		e.serve(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	var in map[string]any
	if err := json.Unmarshal(body, &in); err != nil {
		e.t.Error(err)
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	out := map[string]any{"acknowledgment": "ok"}
	switch operation {
	case "RegisterContainerInstance":
		out = map[string]any{"containerInstance": map[string]any{"containerInstanceArn": cardInstance, "attributes": in["attributes"]}}
	case "DiscoverPollEndpoint":
		base := "http://" + r.Host
		out = map[string]any{"endpoint": base + "/acs/", "telemetryEndpoint": base + "/tcs/"}
	case "SubmitTaskStateChange":
		e.mu.Lock()
		e.said = append(e.said, fmt.Sprintf("%v %v", in["status"], in["attachments"]))
		e.mu.Unlock()
	}
	w.Header().Set("Content-Type", awsjson.ContentType)
	_ = json.NewEncoder(w).Encode(out)
}

func (e *amazon) serve(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	if strings.HasPrefix(r.URL.Path, "/acs") {
		e.mu.Lock()
		e.socket = ws
		e.mu.Unlock()
	}
	for {
		_, frame, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		if m, err := acs.Decode(frame); err == nil {
			if a, ok := m.(*acs.AckRequest); ok {
				e.mu.Lock()
				e.acked[a.MessageID] = true
				e.mu.Unlock()
			}
		}
	}
}

// send sends a message once the agent is connected, and waits until it is acknowledged.
func (e *amazon) send(l *Lab, id string, m any) {
	l.t.Helper()
	frame, err := acs.Encode(m)
	if err != nil {
		l.t.Fatal(err)
	}
	sent := false
	l.Until(60*time.Second, "the agent acknowledges "+id, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.socket != nil && !sent {
			sent = e.socket.Write(l.t.Context(), websocket.MessageText, frame) == nil
		}
		if !e.acked[id] {
			return fmt.Errorf("sent: %t", sent)
		}
		return nil
	})
}

// until waits until the agent has submitted something.
func (e *amazon) until(l *Lab, what string) {
	l.t.Helper()
	l.Until(60*time.Second, "the agent says "+what, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		return has(strings.Join(e.said, "\n"), what)
	})
}

// TestATasksNetworkCardIsFoundByItsMAC has a host join something of Amazon ECS's shape, whose task has a network card: the agent
// waits for it, reports it when it appears, moves it into the task, says when it is gone, takes it back, and gives it to the host
// at the end.
func TestATasksNetworkCardIsFoundByItsMAC(t *testing.T) { onEachEngine(t, aNetworkCard) }

func aNetworkCard(t *testing.T, engine string) {
	w := &netWorld{Lab: NewLabOn(t, engine, "card"+engine[:1], 92, 1)}
	l := w.Lab
	image := l.Push("mesh:1", images.Serving())
	e := &amazon{t: t, acked: map[string]bool{}}
	e.server = httptest.NewServer(e)
	t.Cleanup(e.server.Close)
	t.Cleanup(func() { e.server.CloseClientConnections() })
	const port = "8490"
	l.forward(port, strings.TrimPrefix(e.server.URL, "http://"))
	w.StartAgent(1, "ECS_BACKEND_HOST=http://"+l.Farm.LAN()+":"+port, "ECS_TASK_NETWORK=bridge")
	explain := func(what string, want ...string) {
		l.Until(30*time.Second, what, func() error {
			out, err := l.tells(1, "explain", cardTask)
			if err == nil {
				err = has(out, want...)
			}
			return err
		})
	}
	eni := &acs.ElasticNetworkInterface{Ec2ID: "eni-0123456789abcdef0", AttachmentArn: cardARN, MacAddress: cardMAC, IPv4Addresses: []*acs.IPv4Address{{PrivateAddress: "10.92.9.200", Primary: true}},
		SubnetGatewayIpv4Address: "10.92.9.1/24", PrivateDNSName: "ip-10-92-9-200.us-west-2.compute.internal", DomainNameServers: []string{"10.92.9.2"}}
	e.send(l, "attach", &acs.AttachTaskNetworkInterfacesMessage{MessageID: "attach", ClusterArn: cardCluster, ContainerInstanceArn: cardInstance, TaskArn: cardTask, TaskClusterArn: cardCluster,
		WaitTimeoutMs: 300000, ElasticNetworkInterfaces: []*acs.ElasticNetworkInterface{eni}})
	payload := &acs.PayloadMessage{MessageID: "payload", ClusterArn: cardCluster, ContainerInstanceArn: cardInstance, SeqNum: 1, Tasks: []*acs.Task{{Arn: cardTask, TaskClusterArn: cardCluster,
		DesiredStatus: "RUNNING", Family: "card", Version: "1", NetworkMode: "awsvpc", ElasticNetworkInterfaces: []*acs.ElasticNetworkInterface{eni},
		Containers: []*acs.Container{{Name: "main", Image: image, Essential: true, Memory: 64, StopTimeout: 2}}}}}
	e.send(l, "payload", payload)
	explain("it waits for the card by name", "CardMissing", cardMAC)
	w.cable(1, "eth7", "02:5a:00:00:00:78") // another card: a wrong MAC
	explain("another card is not taken", "CardMissing", cardMAC)
	w.cable(1, "eth8", cardMAC)
	e.until(l, "ATTACHED")
	e.until(l, "RUNNING")
	main := l.Running(1, "card")
	id := main[0].ID
	for _, c := range main {
		if c.Labels["com.amazonaws.ecs.container-name"] == "main" {
			id = c.ID
		}
	}
	if out, err := l.in(1, id, "ip addr show eth0; hostname; ip route"); err != nil || has(out, cardMAC, "10.92.9.200/24", "ip-10-92-9-200.us-west-2.compute.internal", "default via 10.92.9.1") != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := l.Farm.Command(t.Context(), "lan", "ip", "link", "del", "x1eth8").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	explain("a card that was taken away is named, and the task runs on", "RUNNING", "the task's network: CardMissing")
	w.cable(1, "eth8", cardMAC)
	l.Until(30*time.Second, "the card that is back is in the task again", func() error {
		out, err := l.in(1, id, "ip addr show eth0")
		if err == nil {
			err = has(out, cardMAC, "10.92.9.200/24")
		}
		return err
	})
	e.send(l, "stop", &acs.PayloadMessage{MessageID: "stop", ClusterArn: cardCluster, ContainerInstanceArn: cardInstance, SeqNum: 2, Tasks: []*acs.Task{{Arn: cardTask, DesiredStatus: "STOPPED"}}})
	e.until(l, "STOPPED")
	l.Until(30*time.Second, "the card is the host's again", func() error {
		out, err := l.OnHost(1, "ip", "link").Output()
		if err == nil {
			err = has(string(out), cardMAC)
		}
		return err
	})
	w.StopAgent(1)
}
