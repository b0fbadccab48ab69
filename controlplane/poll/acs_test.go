package poll

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

func TestAnAgentThatConnectsIsToldEverythingInOrder(t *testing.T) {
	w := newWorld(t)
	running, stopping, stopped := w.place(instance), w.place(instance), w.place(instance)
	w.edit(stopping.ID, func(_ *store.View, t *store.Task) *store.Task {
		return task.Stop(t, types.TaskStopCodeUserInitiated, "", time.Now())
	})
	w.edit(stopped.ID, func(_ *store.View, t *store.Task) *store.Task {
		n, _ := task.Apply(t, task.StateChange{Status: task.Stopped}, time.Now())
		return n
	})
	a := w.connect(instance)
	first, err := a.read()
	if beat, ok := first.(*acs.HeartbeatMessage); err != nil || !ok || !beat.Healthy || beat.MessageID == "" {
		t.Fatalf("%T %v", first, err)
	}
	a.send(&acs.HeartbeatAckRequest{MessageID: first.(*acs.HeartbeatMessage).MessageID})
	second, err := a.read()
	manifest, ok := second.(*acs.TaskManifestMessage)
	if err != nil || !ok || manifest.Validate() != nil || len(manifest.Tasks) != 2 || manifest.Timeline < time.Now().Add(-time.Minute).UnixMilli() {
		t.Fatalf("%+v %v", second, err)
	}
	a.send(&acs.AckRequest{MessageID: manifest.MessageID})
	want := []string{stopping.ID + " STOPPED", running.ID + " RUNNING"}
	last := manifest.Timeline
	for _, w := range want {
		p := next[*acs.PayloadMessage](a)
		if p.Validate() != nil || len(p.Tasks) != 1 || p.Tasks[0].Validate() != nil || p.SeqNum <= last || p.ClusterArn != owner.Cluster(cluster) || p.ContainerInstanceArn != owner.ContainerInstance(cluster, instance) {
			t.Fatalf("%+v", p)
		}
		parsed, _ := arn.Parse(p.Tasks[0].Arn)
		if got := parsed.ID() + " " + p.Tasks[0].DesiredStatus; got != w {
			t.Errorf("got %s, want %s", got, w)
		}
		last = p.SeqNum
		a.ack(p)
	}
	w.until("both are accepted", func() bool {
		return !w.task(running.ID).AcceptedAt.IsZero() && !w.task(stopping.ID).AcceptedAt.IsZero()
	})
	i := w.instance(instance)
	if !w.connected(instance) || !i.DisconnectedSince.IsZero() || i.SequenceNumber < last {
		t.Errorf("%+v", i)
	}
	if v := i.Object.VersionInfo; v == nil || aws.ToString(v.AgentVersion) != "1.105.1" || aws.ToString(v.AgentHash) != "abcdef01" || aws.ToString(v.DockerVersion) != "DockerVersion: 20.10.24" {
		t.Errorf("%+v", v)
	}
	if s := w.server.Stats(); s.Connections != 1 || s.Payloads != 2 || s.Acknowledged != 2 {
		t.Errorf("%+v", s)
	}
}

func TestAChangeIsPushedAtOnceAndEachDesiredStatusOnce(t *testing.T) {
	w := newWorld(t)
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	placed := w.place(instance)
	p := next[*acs.PayloadMessage](a)
	if p.Tasks[0].Arn != *placed.Object.TaskArn || p.Tasks[0].DesiredStatus != "RUNNING" || len(p.Tasks[0].Containers) != 2 {
		t.Fatalf("%+v", p.Tasks[0])
	}
	a.ack(p)
	w.until("it is accepted", func() bool { return !w.task(placed.ID).AcceptedAt.IsZero() })
	w.edit(placed.ID, func(_ *store.View, t *store.Task) *store.Task {
		n, _ := task.Apply(t, task.StateChange{Status: task.Running}, time.Now())
		return n
	})
	w.edit(placed.ID, func(_ *store.View, t *store.Task) *store.Task {
		return task.Stop(t, types.TaskStopCodeUserInitiated, "", time.Now())
	})
	// The next payload is the stop: the change to RUNNING was not one of the desired status.
	q := next[*acs.PayloadMessage](a)
	if q.Tasks[0].DesiredStatus != "STOPPED" || q.MessageID == p.MessageID || q.SeqNum <= p.SeqNum {
		t.Fatalf("%+v", q)
	}
}

func TestAPayloadIsSentAgainUntilItIsAcknowledgedAndHoldsUpNoOther(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Resend = 20 * time.Millisecond; c.ResendMax = 40 * time.Millisecond })
	poison, good := w.place(instance), w.place(instance)
	a := w.connect(instance)
	ids := map[string]string{}
	again := 0
	for again < 3 || w.task(good.ID).AcceptedAt.IsZero() {
		p := next[*acs.PayloadMessage](a)
		parsed, _ := arn.Parse(p.Tasks[0].Arn)
		if old, seen := ids[parsed.ID()]; seen {
			if old != p.MessageID {
				t.Fatal("the message id changed between attempts")
			}
			again++
		}
		ids[parsed.ID()] = p.MessageID
		if parsed.ID() == good.ID {
			a.ack(p)
			a.ack(p) // a repeated one is harmless
		}
	}
	if len(ids) != 2 || !w.task(poison.ID).AcceptedAt.IsZero() {
		t.Error(ids)
	}
	// What ends the attempts is the agent's report that it could not read the task.
	w.edit(poison.ID, func(_ *store.View, t *store.Task) *store.Task {
		n, _ := task.Apply(t, task.StateChange{Status: task.Stopped, Reason: "UnrecogniedTaskError: Error loading task"}, time.Now())
		return n
	})
	later := w.place(instance)
	for {
		p := next[*acs.PayloadMessage](a)
		if strings.HasSuffix(p.Tasks[0].Arn, later.ID) {
			a.ack(p)
			break
		}
	}
}

func TestAfterAReconnectEverythingIsSentAgainWithHigherNumbers(t *testing.T) {
	w := newWorld(t)
	placed := w.place(instance)
	a := w.connect(instance)
	manifest := next[*acs.TaskManifestMessage](a)
	p := next[*acs.PayloadMessage](a)
	a.ack(p)
	w.until("it is accepted", func() bool { return !w.task(placed.ID).AcceptedAt.IsZero() })
	_ = a.conn.CloseNow()
	w.until("the agent is disconnected", func() bool { return !w.connected(instance) })
	since := w.instance(instance).DisconnectedSince
	if since.IsZero() || time.Since(since) > patience {
		t.Error(since)
	}
	b := w.connect(instance)
	again := next[*acs.TaskManifestMessage](b)
	q := next[*acs.PayloadMessage](b)
	if again.Timeline <= p.SeqNum || again.Timeline <= manifest.Timeline || q.SeqNum <= again.Timeline || q.Tasks[0].Arn != p.Tasks[0].Arn {
		t.Errorf("manifest %d payload %d, then manifest %d payload %d", manifest.Timeline, p.SeqNum, again.Timeline, q.SeqNum)
	}
	if !w.instance(instance).DisconnectedSince.IsZero() {
		t.Error("a connected instance is disconnected since", w.instance(instance).DisconnectedSince)
	}
}

func TestTheNewestConnectionOfAMachineWinsOnOneReplicaAndAcrossReplicas(t *testing.T) {
	w := newWorld(t)
	_, second, _ := w.replica()
	connect := func(base string) *agent {
		t.Helper()
		conn, _, err := w.dial(base, "/acs/ws", acsQuery(instance), "HOST", acs.BootHeader, "one")
		if err != nil {
			t.Fatal(err)
		}
		a := &agent{w, conn}
		a.send(&acs.TaskListMessage{})
		next[*acs.TaskManifestMessage](a)
		return a
	}
	a := connect(w.url)
	b := connect(w.url)
	if code := a.closed(); code != websocket.StatusPolicyViolation {
		t.Error(code)
	}
	c := connect(second)
	if code := b.closed(); code != websocket.StatusPolicyViolation {
		t.Error(code)
	}
	placed := w.place(instance)
	if p := next[*acs.PayloadMessage](c); p.Tasks[0].Arn != *placed.Object.TaskArn {
		t.Error(p.Tasks[0].Arn)
	}
	if i := w.instance(instance); !w.connected(instance) || !i.DisconnectedSince.IsZero() {
		t.Errorf("%+v", i)
	}
}

// An agent that does not say in which boot its machine is has one connection: while that answers, another one is a second agent's.
func TestWhileTheConnectionOfAnAgentAnswersAnotherAgentIsRefusedOnEachReplica(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Overlap = 300 * time.Millisecond })
	_, second, _ := w.replica(func(c *Config) { c.Overlap = 300 * time.Millisecond })
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	ended := make(chan websocket.StatusCode, 1)
	go func() { ended <- a.closed() }() // reads, and so answers pings
	for what, dial := range map[string]func() (*websocket.Conn, *http.Response, error){
		"the same replica": func() (*websocket.Conn, *http.Response, error) {
			return w.dial(w.url, "/acs/ws", acsQuery(instance), "HOST")
		},
		"another replica": func() (*websocket.Conn, *http.Response, error) {
			return w.dial(second, "/acs/ws", acsQuery(instance), "HOST")
		},
		"one that says its boot": func() (*websocket.Conn, *http.Response, error) {
			return w.dial(w.url, "/acs/ws", acsQuery(instance), "HOST", acs.BootHeader, "one")
		},
	} {
		_, resp, err := dial()
		if err == nil || resp == nil {
			t.Fatalf("%s: it is let in, or there is no answer: %v", what, err)
		}
		body, _ := io.ReadAll(resp.Body)
		if !strings.Contains(string(body), "Another agent is connected") || !strings.Contains(string(body), "127.0.0.1") || strings.Contains(string(body), acs.InactiveInstanceException) {
			t.Errorf("%s: it is told %s", what, body)
		}
	}
	if said := aws.ToString(w.instance(instance).Object.StatusReason); !strings.Contains(said, "has the same identity") || strings.Count(said, "127.0.0.1") != 2 {
		t.Errorf("the instance says %q", said)
	}
	select {
	case code := <-ended:
		t.Fatalf("the first one was closed with %d", code)
	default:
	}
	_ = a.conn.CloseNow()
	<-ended
	next[*acs.TaskManifestMessage](w.connect(instance))
}

func TestADeadSocketIsNoticedByItsSilence(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Ping, c.PongTimeout = 30*time.Millisecond, 30*time.Millisecond })
	r := w.request(w.url, "/acs/ws", acsQuery(instance), "HOST")
	conn, err := net.Dial("tcp", r.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// The peer opens a socket and is never heard of again; TCP stays up.
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
		r.Header.Set(name, value)
	}
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	w.until("it is connected", func() bool { return w.connected(instance) })
	w.until("it is not", func() bool { return !w.connected(instance) })
	if w.instance(instance).DisconnectedSince.IsZero() {
		t.Error("since when is not recorded")
	}
	w.until("why is logged", func() bool {
		lines := w.logs.FilterMessage("agent disconnected").All()
		return len(lines) == 1 && lines[0].ContextMap()["reason"] == "the agent did not answer a ping within 30ms"
	})
}

func TestTheDefaultsNoticeADeadSocketWithinFiveSeconds(t *testing.T) {
	var c Config
	c.defaults()
	if c.Ping+c.PongTimeout >= 5*time.Second || c.SessionTTL > 5*time.Second {
		t.Error(c.Ping, c.PongTimeout, c.SessionTTL)
	}
	if c.Heartbeat < 30*time.Second || c.Heartbeat+c.HeartbeatJitter > 45*time.Second {
		t.Error(c.Heartbeat, c.HeartbeatJitter)
	}
}

func TestHeartbeatsGoOn(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Heartbeat = 10 * time.Millisecond })
	a := w.connect(instance)
	seen := map[string]bool{}
	for len(seen) < 4 {
		seen[next[*acs.HeartbeatMessage](a).MessageID] = true
	}
}

func TestOnlyWhoMaySpeakForAnInstanceGetsItsSocket(t *testing.T) {
	w := newWorld(t)
	const gone = "00000000000000000000000000000001"
	w.register(gone)
	i := *w.instance(gone)
	i.Object.Status = aws.String("INACTIVE")
	w.commit(w.store.Txn().Update(&i))
	query := func(key, value string) url.Values {
		q := acsQuery(instance)
		q.Set(key, value)
		return q
	}
	for name, c := range map[string]struct {
		query  url.Values
		key    string
		status int
		body   string
	}{
		"unsigned":                   {acsQuery(instance), "", 403, `{"AccessDeniedException":"MissingAuthenticationTokenException: Missing Authentication Token"}`},
		"an unknown key":             {acsQuery(instance), "NOBODY", 403, `{"AccessDeniedException":"UnrecognizedClientException: The security token included in the request is invalid."}`},
		"another host's key":         {acsQuery(instance), "OTHER", 403, `{"AccessDeniedException":"The container instance ` + instance + ` was registered with another access key."}`},
		"a reader":                   {acsQuery(instance), "READER", 403, `{"AccessDeniedException":"The access key has the role readonly, which cannot speak for a container instance."}`},
		"an unknown instance":        {acsQuery("00000000000000000000000000000002"), "HOST", 400, `{"InvalidInstanceException":"The container instance 00000000000000000000000000000002 is not registered in the cluster daemonset."}`},
		"a deregistered instance":    {acsQuery(gone), "HOST", 400, `{"InactiveInstanceException":"The container instance ` + gone + ` has been deregistered."}`},
		"another cluster":            {query("clusterArn", "other"), "HOST", 400, `{"InvalidClusterException":"The container instance is not of the cluster other."}`},
		"a cluster that is none":     {url.Values{"clusterArn": {"nope"}, "containerInstanceArn": {instance}}, "HOST", 400, `{"InvalidClusterException":"Cluster not found."}`},
		"a malformed cluster":        {query("clusterArn", "arn:aws:s3:::x"), "HOST", 400, `{"InvalidClusterException":"The cluster's ARN is invalid."}`},
		"a malformed instance":       {query("containerInstanceArn", "arn:aws:ecs:x"), "HOST", 400, `{"InvalidInstanceException":"The container instance's ARN is invalid."}`},
		"an instance that is a task": {query("containerInstanceArn", owner.Task(cluster, instance)), "HOST", 400, `{"InvalidInstanceException":"The container instance's ARN is invalid."}`},
		"no instance":                {query("containerInstanceArn", ""), "HOST", 400, `{"InvalidInstanceException":"The container instance's identifier is invalid."}`},
	} {
		conn, resp, err := w.dial(w.url, "/acs/ws", c.query, c.key)
		if err == nil {
			t.Errorf("%s: a socket was opened", name)
			_ = conn.CloseNow()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != c.status || string(body) != c.body {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		if m, err := acs.Decode(body); err != nil {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
	for name, q := range map[string]url.Values{
		"an ARN of the cluster": query("clusterArn", owner.Cluster(cluster)),
		"a short instance ARN":  query("containerInstanceArn", owner.Format(arn.TypeContainerInstance, instance)),
		"a UUID":                query("containerInstanceArn", "e2814b69-ab60-4db2-a89d-cd0ea8dd1a7b"),
	} {
		conn, _, err := w.dial(w.url, "/acs/ws", q, "ADMIN")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		next[*acs.TaskManifestMessage](&agent{w, conn})
		_ = conn.CloseNow()
	}
	for path, want := range map[string]int{"/": 404, "/acs/": 404, "/acs/ws": 426} {
		resp, err := http.DefaultTransport.RoundTrip(w.request(w.url, path, acsQuery(instance), "HOST"))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestAnInstanceThatIsDeregisteredLosesItsSocket(t *testing.T) {
	w := newWorld(t)
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	i := *w.instance(instance)
	i.Object.Status = aws.String("INACTIVE")
	w.commit(w.store.Txn().Update(&i))
	if code := a.closed(); code != websocket.StatusNormalClosure {
		t.Error(code)
	}
	w.until("it is disconnected", func() bool { return !w.connected(instance) })
}

func TestOnlyTasksThatAreKnownToEndAreStoppedOnAQuestion(t *testing.T) {
	w := newWorld(t)
	running, stopping, stopped := w.place(instance), w.place(instance), w.place(instance)
	const other = "00000000000000000000000000000003"
	w.register(other)
	elsewhere, theirs := w.place(other), w.place(other)
	w.edit(stopping.ID, func(_ *store.View, t *store.Task) *store.Task {
		return task.Stop(t, types.TaskStopCodeUserInitiated, "", time.Now())
	})
	for _, id := range []string{stopped.ID, elsewhere.ID} {
		w.edit(id, func(_ *store.View, t *store.Task) *store.Task {
			n, _ := task.Apply(t, task.StateChange{Status: task.Stopped}, time.Now())
			return n
		})
	}
	a := w.connect(instance)
	manifest := next[*acs.TaskManifestMessage](a)
	ask := func(messageID string) {
		m := &acs.TaskStopVerificationMessage{MessageID: messageID}
		for _, task := range []string{*running.Object.TaskArn, *stopping.Object.TaskArn, *stopped.Object.TaskArn, *elsewhere.Object.TaskArn, *theirs.Object.TaskArn, owner.Task(cluster, "00000000000000000000000000000009"), "nonsense"} {
			m.StopCandidates = append(m.StopCandidates, &acs.TaskIdentifier{TaskArn: task, TaskClusterArn: "c", DesiredStatus: "STOPPED"})
		}
		a.send(m)
	}
	ask("of another manifest")
	ask(manifest.MessageID)
	answer := next[*acs.TaskStopVerificationAck](a)
	if answer.MessageID != manifest.MessageID || len(answer.StopTasks) != 3 || answer.StopTasks[0].TaskArn != *stopping.Object.TaskArn || answer.StopTasks[1].TaskArn != *stopped.Object.TaskArn ||
		answer.StopTasks[2].TaskArn != *elsewhere.Object.TaskArn || answer.Validate() != nil {
		t.Errorf("%+v", answer)
	}
	if w.logs.FilterMessageSnippet("they are left alone").Len() != 1 {
		t.Error("what was left alone is not logged")
	}
}

func TestNonsenseOfOneAgentHarmsNobodyElse(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxNonsense = 20 })
	const other = "00000000000000000000000000000003"
	w.register(other)
	good := w.connect(other)
	next[*acs.TaskManifestMessage](good)
	bad := w.connect(instance)
	next[*acs.TaskManifestMessage](bad)
	bad.send(&acs.AckRequest{MessageID: "unknown"})
	bad.send(&acs.NackRequest{MessageID: "unknown", Reason: "no"})
	bad.send(&acs.HeartbeatMessage{})
	bad.send(&acs.TaskStopVerificationMessage{})
	for _, frame := range []string{"", "{", `{"type":"Poke"}`, `{"type":"AckRequest","message":7}`, "\xff\xfe", `[[[[`, strings.Repeat("x", 100_000)} {
		bad.raw([]byte(frame))
	}
	placed := w.place(instance)
	if p := next[*acs.PayloadMessage](bad); p.Tasks[0].Arn != *placed.Object.TaskArn {
		t.Error("an agent that sent some nonsense is not served any more")
	}
	for range 20 {
		bad.raw([]byte("{"))
	}
	if code := bad.closed(); code != websocket.StatusPolicyViolation {
		t.Error(code)
	}
	huge := w.connect(instance)
	ctx := t.Context()
	_ = huge.conn.Write(ctx, websocket.MessageText, make([]byte, acs.MaxFrame+1))
	if code := huge.closed(); code != websocket.StatusMessageTooBig {
		t.Error(code)
	}
	theirs := w.place(other)
	if p := next[*acs.PayloadMessage](good); p.Tasks[0].Arn != *theirs.Object.TaskArn {
		t.Error(p.Tasks[0].Arn)
	}
}

func TestAFloodIsReadSlowlyAndServedStill(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MessagesPerSecond = 50 })
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	for range 300 {
		a.send(&acs.AckRequest{MessageID: "flood"})
	}
	placed := w.place(instance)
	p := next[*acs.PayloadMessage](a)
	a.ack(p)
	w.until("the acknowledgement behind the flood arrives", func() bool { return !w.task(placed.ID).AcceptedAt.IsZero() })
}

func TestAnAgentThatDoesNotReadIsCutOff(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.WriteTimeout, c.Resend, c.ResendMax = 200*time.Millisecond, time.Millisecond, time.Millisecond
		c.Ping, c.PongTimeout = time.Hour, time.Hour // only the write deadline is left
	})
	for range 50 {
		w.place(instance)
	}
	a := w.connect(instance)
	_ = a // reads nothing; the payloads fill the buffers of both ends
	w.until("it is cut off", func() bool { return w.logs.FilterMessage("agent disconnected").Len() == 1 })
	if reason, _ := w.logs.FilterMessage("agent disconnected").All()[0].ContextMap()["reason"].(string); !strings.Contains(reason, "did not read a frame") {
		t.Error(reason)
	}
	w.until("it counts as disconnected", func() bool { return !w.connected(instance) })
}

func TestATaskThatHasNoPayloadIsLoggedOnceAndStopsNothing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Resend, c.ResendMax = 10*time.Millisecond, 10*time.Millisecond })
	w.create(&store.TaskDefinition{Object: types.TaskDefinition{Family: aws.String("odd"), Revision: 1, TaskDefinitionArn: aws.String(owner.TaskDefinition("odd", 1)),
		Volumes: []types.Volume{{Name: aws.String("v"), FsxWindowsFileServerVolumeConfiguration: &types.FSxWindowsFileServerVolumeConfiguration{}}}, ContainerDefinitions: definition().ContainerDefinitions}})
	odd := func(d *types.TaskDefinition) { d.TaskDefinitionArn = aws.String(owner.TaskDefinition("odd", 1)) }
	missing := func(d *types.TaskDefinition) { d.TaskDefinitionArn = aws.String(owner.TaskDefinition("missing", 1)) }
	w.place(instance, odd)
	late := w.place(instance, missing)
	good := w.place(instance)
	a := w.connect(instance)
	p := next[*acs.PayloadMessage](a)
	if p.Tasks[0].Arn != *good.Object.TaskArn {
		t.Error(p.Tasks[0].Arn)
	}
	a.ack(p)
	def := definition()
	def.Family, def.Revision, def.TaskDefinitionArn = aws.String("missing"), 1, aws.String(owner.TaskDefinition("missing", 1))
	w.create(&store.TaskDefinition{Object: *def})
	for p.Tasks[0].Arn == *good.Object.TaskArn { // it may come again before its acknowledgement arrives
		p = next[*acs.PayloadMessage](a)
	}
	if p.Tasks[0].Arn != *late.Object.TaskArn {
		t.Error(p.Tasks[0].Arn)
	}
	if n := w.logs.FilterMessageSnippet("cannot be sent to its agent").Len(); n != 2 {
		t.Errorf("%d lines", n)
	}
}

func TestAServerThatStopsSaysSoAndLeavesNoConnection(t *testing.T) {
	w := newWorld(t)
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	code := make(chan websocket.StatusCode, 1)
	go func() { code <- a.closed() }()
	w.stop()
	if c := <-code; c != websocket.StatusGoingAway {
		t.Error(c)
	}
	if w.connected(instance) || w.instance(instance).DisconnectedSince.IsZero() {
		t.Errorf("%+v", w.instance(instance))
	}
}

func TestAConnectionThatEndedUnnoticedIsNoted(t *testing.T) {
	w := newWorld(t)
	const lost, fresh = "00000000000000000000000000000004", "00000000000000000000000000000005"
	w.register(fresh)
	w.register(lost)
	i := *w.instance(lost)
	i.SequenceNumber = 7 // it was connected to a replica that is gone with its records
	w.commit(w.store.Txn().Update(&i))
	w.until("it is noted", func() bool { return !w.instance(lost).DisconnectedSince.IsZero() })
	if !w.instance(fresh).DisconnectedSince.IsZero() {
		t.Error("an instance that never was connected is disconnected")
	}
}

func TestWithoutARunningServerNobodyIsLetIn(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s, _, stop := w.replica()
	stop()
	_ = s
	s2, err := New(w.server.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s2.lease(); err == nil {
		t.Error("a server that does not run has a lease")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without a store was made")
	}
}

func TestNumbersRiseBeyondTheBlockThatWasReserved(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Resend, c.ResendMax = time.Millisecond, time.Millisecond
		c.Ping, c.PongTimeout, c.WriteTimeout = time.Hour, time.Hour, patience // a ping behind all that is answered late
	})
	for range 40 {
		w.place(instance)
	}
	a := w.connect(instance)
	first := next[*acs.TaskManifestMessage](a).Timeline
	for last := first; last < first+sequenceBlock+50; {
		p := next[*acs.PayloadMessage](a)
		if p.SeqNum <= last {
			t.Fatal(p.SeqNum, last)
		}
		last = p.SeqNum
	}
	if i := w.instance(instance); i.SequenceNumber < first+2*sequenceBlock-1 {
		t.Error(i.SequenceNumber, first)
	}
}
