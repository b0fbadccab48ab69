package poll

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/tcs"
)

const otherInstance = "fedcba9876543210fedcba9876543210"

// rewriteKey changes a stored key.
func (w *world) rewriteKey(id string, change func(k *store.Key)) {
	w.Helper()
	var next store.Key
	w.store.Peek(func(v *store.View) { next = *v.Key(id) })
	change(&next)
	w.commit(w.store.Txn().Update(&next))
}

// ended waits for the end of both sockets of an instance, and wants the close code of each.
func ended(a *agent, p *publisher, want websocket.StatusCode) {
	a.Helper()
	if code := a.closed(); code != want {
		a.Errorf("the ACS socket ended with %d, not %d", code, want)
	}
	for {
		if _, err := p.read(); err != nil {
			if code := websocket.CloseStatus(err); code != want {
				a.Errorf("the TCS socket ended with %d, not %d", code, want)
			}
			return
		}
	}
}

func TestTheSocketsOfAKeyThatIsRevokedAreClosedOnEveryReplica(t *testing.T) {
	w := newWorld(t)
	_, other, _ := w.replica()
	p := w.telemetry(instance)
	a := w.connectTo(other, instance)
	w.until("the agent is connected", func() bool { return w.connected(instance) })
	w.rewriteKey("HOST", func(k *store.Key) { k.Revoked = time.Now() })
	ended(a, p, websocket.StatusPolicyViolation)
	_, answer, err := w.dial(w.url, "/acs/ws", acsQuery(instance), "HOST")
	if err == nil || answer == nil || answer.StatusCode != http.StatusForbidden {
		t.Errorf("a revoked key opens a socket: %v, %v", answer, err)
	}
}

func TestAKeyThatEndsIsSaidSoAndItsSocketsEndWithIt(t *testing.T) {
	w := newWorld(t)
	a, p := w.connect(instance), w.telemetry(instance)
	w.until("the agent is connected", func() bool { return w.connected(instance) })
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	w.rewriteKey("HOST", func(k *store.Key) { k.Successor, k.Expires = "NEXT", end })
	ended(a, p, websocket.StatusGoingAway)
	conn, answer, err := w.dial(w.url, "/acs/ws", acsQuery(instance), "HOST")
	if err != nil {
		t.Fatal(err)
	}
	if got := answer.Header.Get(agentapi.KeyExpiresHeader); got != end.UTC().Format(time.RFC3339) {
		t.Errorf("the answer says that the key ends at %q, not %s", got, end)
	}
	w.rewriteKey("HOST", func(k *store.Key) { k.Expires = end.Add(time.Hour) })
	if code := (&agent{w, conn}).closed(); code != websocket.StatusGoingAway {
		t.Errorf("at another end the socket ended with %d", code)
	}
}

func TestAKeyThatEndedBeforeItsSocketWasAddedEndsIt(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(k *store.Key){
		"revoked": func(k *store.Key) { k.Revoked = time.Now() },
		"expired": func(k *store.Key) { k.Revoked, k.Expires = time.Time{}, time.Now() },
	} {
		w.rewriteKey("HOST", change)
		c := newSocketFor(&w.server.cfg)
		c.key = "HOST"
		if w.server.recheck(c); c.ctx.Err() == nil {
			t.Error(name, "and the socket stays")
		}
	}
	end := time.Now().Add(50 * time.Millisecond)
	w.rewriteKey("HOST", func(k *store.Key) { k.Expires = end })
	for name, expires := range map[string]time.Time{"with the key": end.UTC(), "admitted when the key had no end": {}} {
		c := newSocketFor(&w.server.cfg)
		c.key, c.expires = "HOST", expires
		w.server.recheck(c)
		select {
		case <-c.ctx.Done():
		case <-time.After(patience):
			t.Error("it does not end", name)
		}
	}
}

func TestASocketThatWasAddedAfterItsInstanceGotAnotherKeyEnds(t *testing.T) {
	w := newWorld(t)
	for key, ends := range map[string]bool{"HOST": false, "OTHER": true} {
		c := newSocketFor(&w.server.cfg)
		c.key, c.at = key, place{cluster, instance}
		if w.server.recheck(c); (c.ctx.Err() != nil) != ends {
			t.Errorf("with the key %s: %v", key, c.ctx.Err())
		}
	}
}

func TestTheSocketsOfAJoinKeyEndWhenTheInstanceHasAKeyOfItsOwn(t *testing.T) {
	w := newWorld(t)
	w.create(w.key("OWN", "own-secret", store.RoleHost))
	a, p := w.connect(instance), w.telemetry(instance)
	w.until("the agent is connected", func() bool { return w.connected(instance) })
	err := store.Retry(t.Context(), func() error {
		next := *w.instance(instance)
		next.RegisteredBy = "OWN"
		return w.store.Txn().Update(&next).Commit(t.Context())
	})
	if err != nil {
		t.Fatal(err)
	}
	ended(a, p, websocket.StatusGoingAway)
}

// TestAHostsMessagesChangeOnlyWhatIsItsOwn sends every message there is, full of another host's instance, task and messages.
func TestAHostsMessagesChangeOnlyWhatIsItsOwn(t *testing.T) {
	w := newWorld(t)
	w.register(otherInstance)
	foreign := w.place(otherInstance)
	victim := w.connect(otherInstance)
	payload := next[*acs.PayloadMessage](victim) // which the victim does not acknowledge
	names := foreignNames{
		"task": aws.ToString(foreign.Object.TaskArn), "instance": owner.ContainerInstance(cluster, otherInstance), "cluster": owner.Cluster(cluster),
		"message": payload.MessageID,
	}
	w.until("the other host is connected", func() bool { return w.connected(otherInstance) })
	picture := func() string {
		var text string
		w.store.Peek(func(v *store.View) {
			text = fmt.Sprint(v.Task(cluster, foreign.ID).Revision(), v.Allocation(cluster, otherInstance).Revision(), v.Connection(cluster, otherInstance).Revision(), w.connected(otherInstance))
		})
		return text
	}
	before := picture()

	for _, lists := range []bool{false, true} {
		var header []string
		if lists {
			header = []string{acs.BootHeader, "boot"}
		}
		conn, _, err := w.dial(w.url, "/acs/ws", acsQuery(instance), "HOST", header...)
		if err != nil {
			t.Fatal(err)
		}
		a := &agent{w, conn}
		if lists {
			a.send(&acs.TaskListMessage{Tasks: []*acs.ListedTask{{TaskArn: names["task"], DesiredStatus: "STOPPED", KnownStatus: "STOPPED"}}})
		}
		for _, m := range acs.Messages() {
			names.fill(reflect.ValueOf(m).Elem(), "")
			a.send(m)
		}
		own := w.place(instance) // what it says of its own comes after all that, and counts
		for {
			if p := next[*acs.PayloadMessage](a); p.Tasks[0].Arn == aws.ToString(own.Object.TaskArn) {
				a.ack(p)
				break
			}
		}
		w.until("its own task is accepted", func() bool { return !w.task(own.ID).AcceptedAt.IsZero() })
		if after := picture(); after != before {
			t.Errorf("over ACS the records of another host went from %s to %s", before, after)
		}
		w.edit(own.ID, func(_ *store.View, t *store.Task) *store.Task {
			n, _ := task.Apply(t, task.StateChange{Status: "STOPPED"}, time.Now())
			return n
		})
		_ = conn.CloseNow()
	}

	p := w.telemetry(instance)
	for _, m := range tcs.Messages() {
		names.fill(reflect.ValueOf(m).Elem(), "")
		p.publish(m)
	}
	own := w.place(instance)
	p.publish(&tcs.PublishHealthRequest{Tasks: []*tcs.TaskHealth{{TaskArn: aws.ToString(own.Object.TaskArn), Containers: []*tcs.ContainerHealth{{ContainerName: "web", HealthStatus: "HEALTHY"}}}}})
	w.until("its own task is healthy", func() bool { return w.task(own.ID).Object.HealthStatus == "HEALTHY" })
	if after := picture(); after != before {
		t.Errorf("over TCS the records of another host went from %s to %s", before, after)
	}
}

// foreignNames are what a host must not get at.
type foreignNames map[string]string

// fill puts them into each member whose name says that they belong there.
func (f foreignNames) fill(v reflect.Value, name string) {
	switch name = strings.ToLower(name); v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), name)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			f.fill(v.Index(0), name)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Type().Field(i).Name != "Undecodable" {
				f.fill(v.Field(i), v.Type().Field(i).Name)
			}
		}
	case reflect.String:
		v.SetString(f.text(name))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Float64:
		v.SetFloat(1)
	}
}

func (f foreignNames) text(name string) string {
	switch {
	case strings.Contains(name, "message"):
		return f["message"]
	case strings.Contains(name, "instance"):
		return f["instance"]
	case strings.Contains(name, "cluster"):
		return f["cluster"]
	case strings.Contains(name, "containername"), name == "name":
		return "web"
	case strings.Contains(name, "task"), strings.Contains(name, "arn"):
		return f["task"]
	case strings.Contains(name, "health"):
		return "UNHEALTHY"
	case strings.Contains(name, "status"):
		return "STOPPED"
	}
	return "x"
}
