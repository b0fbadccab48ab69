package ecsagent_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/longshore-project/longshore/test/ecsagent"
)

// members are the names of a JSON object's members, in the order of the text.
func members(t *testing.T, text string) (names []string) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	must(d.Token())(t)
	for d.More() {
		names = append(names, must(d.Token())(t).(string))
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func TestCallsLookAsObserved(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	c := s.control()
	c.sends("PayloadMessage", payload("m-1", 5, oneTask("1", "")))
	c.hears("AckRequest")
	for operation, want := range map[string]string{
		"RegisterContainerInstance": "attributes clientToken cluster instanceIdentityDocument instanceIdentityDocumentSignature totalResources",
		"DiscoverPollEndpoint":      "cluster containerInstance zoneId",
		"SubmitTaskStateChange":     "cluster containers pullStartedAt pullStoppedAt reason status task",
	} {
		call := s.called(a, operation, 1)[0]
		if got := strings.Join(members(t, call.body), " "); got != want {
			t.Errorf("%s says %s", operation, got)
		}
		headers := slices.Sorted(maps.Keys(call.header))
		if got := strings.Join(headers, " "); got != "Amz-Sdk-Invocation-Id Amz-Sdk-Request Authorization Content-Length Content-Type Host User-Agent X-Amz-Date X-Amz-Target" {
			t.Errorf("%s has the headers %s", operation, got)
		}
		if !strings.Contains(call.header.Get("Authorization"), "SignedHeaders=amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target, ") {
			t.Errorf("%s is signed as %s", operation, call.header.Get("Authorization"))
		}
	}
	if body := s.called(a, "RegisterContainerInstance", 1)[0].body; !strings.Contains(body, `"instanceIdentityDocument":"","instanceIdentityDocumentSignature":""`) ||
		!strings.Contains(body, `{"integerValue":4096,"name":"CPU","type":"INTEGER"}`) || !strings.Contains(body, `{"name":"PORTS_UDP","stringSetValue":[],"type":"STRINGSET"}`) {
		t.Errorf("it registers with %s", body)
	}
	if body := s.called(a, "DiscoverPollEndpoint", 1)[0].body; !strings.HasSuffix(body, `"zoneId":""}`) {
		t.Errorf("it looks for %s", body)
	}
	change := s.called(a, "SubmitTaskStateChange", 1)[0]
	if !regexp.MustCompile(`^\{"cluster":"default","containers":\[\{"containerName":"web","networkBindings":\[\{"bindIP":"0\.0\.0\.0","containerPort":8080,"hostPort":327\d\d,"protocol":"tcp"\}\],"runtimeId":"[0-9a-f]{64}","status":"RUNNING"\}\]`).MatchString(change.body) {
		t.Errorf("it reports %s", change.body)
	}
	if got := change.header.Get("Amz-Sdk-Request"); got != "attempt=1; max=298" {
		t.Errorf("it tries with %s", got)
	}
}

func TestSocketsAreOpenedAsObserved(t *testing.T) {
	for _, prefix := range []string{"", "/", "/deep/er", "/deep/er/"} {
		s := newStage(t)
		s.prefix = prefix
		s.joins(nil)
		s.control()
		s.mu.Lock()
		for _, r := range s.opens {
			want := `^agentHash=8dfceca6&agentVersion=1\.105\.1&clusterArn=default&containerInstanceArn=arn[^&]+&dockerVersion=DockerVersion%3A\+20\.10\.24&protocolVersion=2&sendCredentials=true&seqNum=1$`
			if strings.HasPrefix(r.URL.Path, "/t") {
				want = `^agentHash=8dfceca6&agentVersion=1\.105\.1&cluster=default&containerInstance=arn[^&]+&dockerVersion=20\.10\.24%2Bdfsg1$`
			}
			if !regexp.MustCompile(want).MatchString(r.URL.RawQuery) {
				t.Errorf("%s asks %s", r.URL.Path, r.URL.RawQuery)
			}
			if !strings.Contains(r.Header.Get("Authorization"), "SignedHeaders=host;x-amz-date, ") || r.Header.Get("User-Agent") != "" && !strings.HasPrefix(r.Header.Get("User-Agent"), "Go-http") {
				t.Errorf("its headers are %v", r.Header)
			}
		}
		s.mu.Unlock()
	}
}

func TestAnAttributeThatDoesNotComeBackEndsTheAgentForGood(t *testing.T) {
	s := newStage(t)
	s.answer = func(operation string, _ int, body []byte) (int, string) {
		if operation != "RegisterContainerInstance" {
			return 0, ""
		}
		return 200, s.usual(operation, bytes.Replace(body, []byte(`"value":"linux"`), []byte(`"value":"Linux"`), 1))
	}
	a := s.joins([]string{`ecs.os-type="linux" did not come back`})
	if code := a.Wait(); code != ecsagent.ExitTerminal {
		t.Errorf("it exits with %d", code)
	}
}

func TestWhatARefusedRegistrationDoesDependsOnTheError(t *testing.T) {
	for code, want := range map[string]int{"InvalidParameterException": 5, "ClientException": 5, "AccessDeniedException": 1, "UnrecognizedClientException": 1} {
		s := newStage(t)
		s.answer = func(string, int, []byte) (int, string) { return 400, `{"__type":"` + code + `","message":"no"}` }
		if got := s.joins(nil).Wait(); got != want {
			t.Errorf("%s: it exits with %d", code, got)
		}
	}
	s := newStage(t)
	s.answer = func(operation string, n int, _ []byte) (int, string) {
		if operation == "RegisterContainerInstance" && n <= 4 {
			return 400, `{"__type":"com.amazonaws.ecs#ThrottlingException","message":"slow down"}`
		}
		return 0, ""
	}
	s.joins(nil)
	s.control()
}

func TestATaskThatCannotBeLoadedKeepsItsWholePayloadFromBeingAcknowledged(t *testing.T) {
	for name, c := range map[string]struct{ task, why string }{
		"an empty overrides":          {strings.Replace(oneTask("2", ""), `"overrides":"{}"`, `"overrides":""`, 1), "overrides"},
		"an override of environments": {strings.Replace(oneTask("2", ""), `"overrides":"{}"`, `"overrides":"{\"environment\":[]}"`, 1), "overrides"},
		"an unknown status":           {strings.Replace(oneTask("2", ""), `"RUNNING"`, `"SLEEPING"`, 1), "desiredStatus"},
		"a volume of type ebs":        {oneTask("2", `,"volumes":[{"name":"v","type":"ebs"}]`), "unrecognized volume type"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			a := s.joins([]string{"can't be loaded"})
			conn := s.control()
			conn.sends("PayloadMessage", payload("m-1", 5, c.task, oneTask("1", "")))
			conn.heartbeat("h-1") // no ack comes before its own
			a.expect("the good one runs", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(stageTask+"1"), ecsagent.With("RUNNING"))
			a.expect("the bad one is reported", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(stageTask+"2"), ecsagent.With("STOPPED"))
			if bad := a.Journal(ecsagent.Is(ecsagent.Unreadable, ""))[0]; !strings.Contains(bad.Text, c.why) {
				t.Errorf("it is %s", bad.Text)
			}
			if n := len(a.Journal(ecsagent.Is(ecsagent.Sent, "AckRequest"))); n != 0 {
				t.Errorf("%d acks were sent", n)
			}
		})
	}
}

func TestWhatTheRealAgentDiesOfEndsTheProcess(t *testing.T) {
	for name, c := range map[string]struct{ typ, message string }{
		"a volume without a name":       {"PayloadMessage", payload("m-1", 5, oneTask("1", `,"volumes":[{"host":{}}]`))},
		"an attachment without a type":  {"PayloadMessage", payload("m-1", 5, oneTask("1", `,"attachments":[{"attachmentArn":"x"}]`))},
		"a property without a name":     {"PayloadMessage", payload("m-1", 5, oneTask("1", `,"attachments":[{"attachmentType":"x","attachmentProperties":[{"value":"y"}]}]`))},
		"a manifest's task without arn": {"TaskManifestMessage", `{"clusterArn":"c","containerInstanceArn":"i","messageId":"m","timeline":9,"tasks":[{"desiredStatus":"RUNNING"}]}`},
		"a manifest's null task":        {"TaskManifestMessage", `{"clusterArn":"c","containerInstanceArn":"i","messageId":"m","timeline":9,"tasks":[null]}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			a := s.joins([]string{"the agent crashes"})
			s.control().sends(c.typ, c.message)
			if code := a.Wait(); code != ecsagent.ExitCrash {
				t.Errorf("it exits with %d", code)
			}
		})
	}
}

func TestWhatTheRealAgentWouldSilentlyLoseIsAFault(t *testing.T) {
	for name, c := range map[string]struct{ old, new, fault string }{
		"networkMode only once":        {`\"NetworkMode\":\"bridge\",`, ``, "networkMode is"},
		"a member of no engine":        {`\"CapAdd\"`, `\"capabilities\"`, "hostConfig"},
		"a member of no agent":         {`"cpu":10`, `"cpu":10,"user":"1000"`, "no agent reads"},
		"a health check in one place":  {`"config":"{}"`, `"config":"{\"Healthcheck\":{\"Test\":[\"CMD\",\"true\"]}}"`, "health check"},
		"a mount of a missing volume":  {`"cpu":10`, `"cpu":10,"mountPoints":[{"sourceVolume":"x","containerPath":"/x"}]`, "mount point"},
		"no hostConfig":                {`"hostConfig"`, `"version":"1.24","nothing"`, "no agent reads"},
		"a sequence number that falls": {``, ``, "came after"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			want := []string{c.fault}
			if name == "no hostConfig" {
				want = append(want, "hostConfig is missing")
			}
			s.joins(want)
			conn := s.control()
			if name == "a sequence number that falls" {
				conn.sends("PayloadMessage", payload("m-0", 6))
				conn.hears("AckRequest")
			}
			conn.sends("PayloadMessage", payload("m-1", 5, strings.Replace(oneTask("1", ""), c.old, c.new, 1)))
			conn.hears("AckRequest") // it is taken in all the same
		})
	}
}

func TestMessagesAreReadWithoutRegardToCaseAndUnknownOnesAreDropped(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	conn.sends("SomethingNew", `{"messageId":"x"}`)
	conn.sends("PayloadMessage", strings.NewReplacer(`"clusterArn"`, `"CLUSTERARN"`, `"messageId"`, `"MessageID"`, `"desiredStatus"`, `"DesiredStatus"`).Replace(payload("m-1", 5, oneTask("1", ""))))
	if m := conn.hears("AckRequest"); m["messageId"] != "m-1" || m["cluster"] != stageCluster || m["containerInstance"] != stageInstance || len(m) != 3 {
		t.Errorf("the ack is %v", m)
	}
	if n := len(a.Journal(ecsagent.Is(ecsagent.Unknown, "SomethingNew"))); n != 1 {
		t.Errorf("%d unknown messages were seen", n)
	}
}

func TestAPayloadWithAnEmptyNeededMemberIsDroppedWithoutAWord(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	conn.sends("PayloadMessage", strings.Replace(payload("m-1", 5, oneTask("1", "")), `"clusterArn":"`+stageCluster+`"`, `"clusterArn":""`, 1))
	conn.heartbeat("h")
	if len(a.Journal(ecsagent.Is(ecsagent.Ignored, "PayloadMessage"))) != 1 || len(a.Containers("")) != 0 {
		t.Error("it was not dropped")
	}
}

func TestAPayloadThatComesAgainIsAcknowledgedAgainAndStartsNothing(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	for seq := range 3 {
		conn.sends("PayloadMessage", payload("m-1", 5+seq, oneTask("1", "")))
		conn.hears("AckRequest")
	}
	a.expect("RUNNING", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("RUNNING"))
	if n := len(a.Journal(ecsagent.Is(ecsagent.Started, ""))); n != 1 {
		t.Errorf("%d containers were started", n)
	}
	// A known task needs no more than its ARN to be stopped, and an unknown one is reported as stopped.
	for _, id := range []string{"1", "9"} {
		conn.sends("PayloadMessage", payload("s-"+id, 10+len(id)+strings.Index("19", id), `{"arn":"`+stageTask+id+`","desiredStatus":"STOPPED"}`))
		conn.hears("AckRequest")
		a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(stageTask+id), ecsagent.With("STOPPED"))
	}
}

func TestAManifestIsObeyedOnlyWhenItIsNewerThanEverything(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	conn.sends("PayloadMessage", payload("m-1", 5, oneTask("1", "")))
	conn.hears("AckRequest")
	a.expect("RUNNING", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("RUNNING"))
	manifest := func(id, timeline string) {
		conn.sends("TaskManifestMessage", `{"clusterArn":"`+stageCluster+`","containerInstanceArn":"`+stageInstance+`","messageId":"`+id+`","generatedAt":1,"timeline":`+timeline+`,"tasks":[]}`)
	}
	manifest("old", "5")
	conn.heartbeat("h-1")
	manifest("new", "6")
	heard := map[string]map[string]any{}
	for range 2 { // in either order
		_, frame, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Type    string
			Message map[string]any
		}
		if err := json.Unmarshal(frame, &e); err != nil {
			t.Fatal(err)
		}
		heard[e.Type] = e.Message
	}
	if heard["AckRequest"]["messageId"] != "new" || heard["TaskStopVerificationMessage"]["messageId"] != "new" || len(heard["TaskStopVerificationMessage"]["stopCandidates"].([]any)) != 1 {
		t.Errorf("the answers are %v", heard)
	}
	conn.sends("TaskStopVerificationAck", `{"generatedAt":1,"messageId":"old","stopTasks":[{"taskArn":"`+stageTask+`1","desiredStatus":"STOPPED"}]}`)
	conn.heartbeat("h-2")
	if a.Running() != 1 {
		t.Error("it was stopped for another manifest")
	}
	conn.sends("TaskStopVerificationAck", `{"generatedAt":1,"messageId":"new","stopTasks":[{"taskArn":"`+stageTask+`1","desiredStatus":"STOPPED"}]}`)
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("STOPPED"))
}

func TestCredentialsAreAcknowledgedEachAndOnlyForKnownTasks(t *testing.T) {
	s := newStage(t)
	s.joins(nil)
	conn := s.control()
	const set = `{"credentialsId":"c-1","roleArn":"r","accessKeyId":"a","secretAccessKey":"s","sessionToken":"t","expiration":"2027-01-01T06:00:00Z"}`
	conn.sends("PayloadMessage", payload("m-1", 5, oneTask("1", `,"roleCredentials":`+set)))
	got := []string{}
	for range 2 { // in either order
		_, frame, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(frame))
	}
	slices.Sort(got)
	if want := `{"message":{"credentialsId":"c-1","expiration":"2027-01-01T06:00:00Z","messageId":"m-1"},"type":"IAMRoleCredentialsAckRequest"}`; got[1] != want {
		t.Errorf("the acks are %s", got)
	}
	conn.sends("IAMRoleCredentialsMessage", `{"messageId":"r-0","taskArn":"nobody","roleType":"TaskApplication","roleCredentials":`+set+`}`)
	conn.sends("IAMRoleCredentialsMessage", `{"messageId":"r-1","taskArn":"`+stageTask+`1","roleType":"TaskApplication","roleCredentials":`+set+`}`)
	if m := conn.hears("IAMRoleCredentialsAckRequest"); m["messageId"] != "r-1" {
		t.Errorf("the ack is %v", m)
	}
}

func TestOnlyKnownMessagesKeepAConnectionAlive(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil, func(c *ecsagent.Config) {
		c.Timers.Heartbeat, c.Timers.HeartbeatJitter = 500*time.Millisecond, time.Millisecond
	})
	conn := s.control()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(a.Journal(ecsagent.Is(ecsagent.Ended, "ACS"))) == 0 {
		_ = conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"Private","message":{}}`)) // fails at the end
		<-tick.C
	}
	if end := a.Journal(ecsagent.Is(ecsagent.Ended, "ACS"))[0]; end.Text != "no heartbeat" {
		t.Errorf("it ended with %s", end.Text)
	}
	s.control() // and is opened again
}

func TestAnInactiveInstanceSleepsAndTriesAgain(t *testing.T) {
	s := newStage(t)
	s.refuse = `{"InactiveInstanceException":"gone"}`
	a := s.joins(nil, func(c *ecsagent.Config) { c.Timers.Inactive = 300 * time.Millisecond })
	a.expect("two sleeps", 2, ecsagent.Is(ecsagent.Suspended, ""))
	s.mu.Lock()
	s.refuse = ""
	s.mu.Unlock()
	s.control()
}

func TestStateChangesAreTriedAgainInOrderAndGivenUpOnlyWhenNobodyKnowsTheTask(t *testing.T) {
	s := newStage(t)
	s.answer = func(operation string, n int, body []byte) (int, string) {
		switch {
		case operation != submit:
			return 0, ""
		case strings.Contains(string(body), stageTask+"2"):
			return 400, `{"__type":"InvalidParameterException","message":"unknown task"}`
		case n <= 2:
			return 500, `{"__type":"ServerException","message":"not now"}`
		case n == 3:
			return 400, `{"__type":"AccessDeniedException","message":"not yet"}`
		}
		return 0, ""
	}
	a := s.joins(nil)
	conn := s.control()
	conn.sends("PayloadMessage", payload("m-1", 5, oneTask("1", "")))
	conn.hears("AckRequest")
	a.expect("RUNNING is being tried", 1, ecsagent.Is(ecsagent.Refused, submit))
	a.Kill(stageTask+"1", "web", 0)
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("STOPPED"))
	var attempts []string
	for _, c := range s.called(a, submit, 5) {
		var m struct{ Status string }
		_ = json.Unmarshal([]byte(c.body), &m)
		attempts = append(attempts, m.Status+" "+c.header.Get("Amz-Sdk-Request"))
	}
	want := []string{"RUNNING attempt=1; max=298", "RUNNING attempt=2; max=298", "RUNNING attempt=3; max=298", "RUNNING attempt=1; max=298", "STOPPED attempt=1; max=298"}
	if !slices.Equal(attempts, want) {
		t.Errorf("the attempts are %q", attempts)
	}
	conn.sends("PayloadMessage", payload("m-2", 6, oneTask("2", "")))
	a.expect("the drop", 1, ecsagent.Is(ecsagent.Dropped, submit), ecsagent.Of(stageTask+"2"))
}

func TestTelemetryFramesCarryTheirSignatureBeforeTheMessage(t *testing.T) {
	s := newStage(t)
	s.joins(nil)
	conn := <-s.tcs
	defer conn.Close()
	_, frame, err := conn.ReadMessage()
	if err != nil {
		t.Fatal(err)
	}
	head, body, found := strings.Cut(string(frame), "\r\n\r\n")
	if !found || !regexp.MustCompile(`^Host: [^\r]+\r\nAuthorization: AWS4-HMAC-SHA256 [^\r]+\r\nX-Amz-Date: \d{8}T\d{6}Z$`).MatchString(head) {
		t.Errorf("the head is %q", head)
	}
	if !json.Valid([]byte(body)) || !strings.Contains(body, `"fin":true,"idle":true`) {
		t.Errorf("the message is %s", body)
	}
}

func TestSIGTERMEndsTheSocketsWithoutAWord(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	conn.heartbeat("h")
	if code := a.Stop(); code != ecsagent.ExitNormal {
		t.Errorf("it exits with %d", code)
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseAbnormalClosure) {
		t.Errorf("the other side sees %v", err)
	}
}

func TestAnUpdateIsRefused(t *testing.T) {
	s := newStage(t)
	s.joins(nil)
	conn := s.control()
	conn.sends("StageUpdateMessage", `{"clusterArn":"c","containerInstanceArn":"i","messageId":"u-1","updateInfo":{"location":"x","signature":"y"}}`)
	if m := conn.hears("NackRequest"); m["reason"] != "Updates are disabled" {
		t.Errorf("the answer is %v", m)
	}
}

func TestADependencyCycleIsAcknowledgedAndEndsTheTask(t *testing.T) {
	s := newStage(t)
	a := s.joins(nil)
	conn := s.control()
	conn.sends("PayloadMessage", payload("m-1", 5, strings.Replace(oneTask("1", ""), `"cpu":10`, `"cpu":10,"dependsOn":[{"containerName":"web","condition":"START"}]`, 1)))
	conn.hears("AckRequest")
	a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("STOPPED"))
	if body := s.called(a, submit, 1)[0].body; !strings.Contains(body, "Task dependencies cannot be resolved, taskArn: "+stageTask+"1") {
		t.Errorf("it reports %s", body)
	}
}
