package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// recorder stands between everybody and a control plane, and writes down what is said.
type recorder struct {
	t     *testing.T
	plane *plane
	host  string // access key id of the join key
	url   string

	mu    sync.Mutex
	steps []*step         // those without what was done are left out
	said  map[string]bool // kinds of frames of the telemetry sockets that are open
}

// kept are the headers that mean something.
func kept(h http.Header) map[string]string {
	out := map[string]string{}
	for name := range h {
		if strings.HasPrefix(name, "X-Longshore") || strings.HasPrefix(name, "Longshore") || name == "X-Amzn-Errortype" {
			out[name] = h.Get(name)
		}
	}
	return out
}

// note writes down what is being said, in its place; the answer may follow.
func (r *recorder) note(s step) *step {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.On == tcsWire { // what is repeated by time says nothing new
		kind := s.From + s.Name
		if s.Do == "frame" && r.said[kind] && s.Name != "PublishHealthRequest" && s.Name != "LongshoreProgress" {
			return &s
		}
		if r.said[kind] = true; s.Do == "open" {
			r.said = map[string]bool{}
		}
	}
	if n := len(r.steps); s.Name == "HeartbeatMessage" && n > 3 && r.steps[n-1].Name == "HeartbeatAckRequest" {
		return &s
	}
	r.steps = append(r.steps, &s)
	return &s
}

// answered adds the answer. What is refused again and again is written down once.
func (r *recorder) answered(s *step, status int, h http.Header, answer json.RawMessage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Status, s.Told, s.Answer = status, kept(h), hideSecret(answer)
	if len(answer) == 0 {
		s.Answer = nil
	}
	for _, was := range slices.Backward(r.steps[:max(0, slices.Index(r.steps, s))]) {
		if was.On == s.On && was.Do == s.Do && was.Name == s.Name {
			if s.Status >= 400 && was.Status == s.Status && was.Own == s.Own {
				s.Do = ""
			}
			break
		}
	}
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if strings.HasSuffix(q.URL.Path, "/ws") {
		r.socket(w, q)
		return
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	s := step{Do: "call", On: agentAPI, Body: body, Header: kept(q.Header)}
	_, s.Name, _ = strings.Cut(q.Header.Get("X-Amz-Target"), ".")
	if strings.HasPrefix(q.Header.Get("X-Amz-Target"), "Longshore") {
		s.Name = q.Header.Get("X-Amz-Target")
	}
	r.signed(&s, q)
	said := r.note(s)
	forward, err := http.NewRequestWithContext(q.Context(), q.Method, "http://"+r.plane.address+q.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return
	}
	forward.Header, forward.Host = q.Header.Clone(), q.Host
	answer, err := r.plane.web.Do(forward)
	if err != nil { // the control plane is away
		said.Do = ""
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = answer.Body.Close() }()
	out, _ := io.ReadAll(answer.Body) // one that breaks off is one for the client too
	r.answered(said, answer.StatusCode, answer.Header, out)
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(out)
}

// hideSecret has no secret in a file that is kept.
func hideSecret(answer json.RawMessage) json.RawMessage {
	var o object
	if json.Unmarshal(answer, &o) == nil && o["secretAccessKey"] != nil {
		o["secretAccessKey"] = "not recorded"
		answer, _ = json.Marshal(o)
	}
	return answer
}

// signed notes who signed, and when.
func (r *recorder) signed(s *step, q *http.Request) {
	claimed := auth.ClaimedKey(q)
	s.Own = claimed != r.host
	if claimed == r.plane.key(auth.AdminFile).AccessKeyID {
		s.On, s.Own = operator, false
	}
	if at, err := time.Parse("20060102T150405Z", q.Header.Get("X-Amz-Date")); err == nil {
		s.Hours = int(time.Until(at).Round(time.Hour).Hours())
	}
}

func (r *recorder) socket(w http.ResponseWriter, q *http.Request) {
	s := step{On: strings.Trim(strings.TrimSuffix(q.URL.Path, "/ws"), "/"), Do: "open", Query: q.URL.RawQuery, Header: kept(q.Header)}
	r.signed(&s, q)
	said := r.note(s)
	header := q.Header.Clone()
	for name := range header {
		if strings.HasPrefix(name, "Sec-Websocket") || name == "Upgrade" || name == "Connection" {
			header.Del(name)
		}
	}
	up, answer, err := websocket.Dial(q.Context(), "http://"+r.plane.address+q.URL.RequestURI(), &websocket.DialOptions{HTTPHeader: header, Host: q.Host, HTTPClient: r.plane.web})
	if err != nil {
		if answer == nil {
			said.Do = ""
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		out, _ := io.ReadAll(answer.Body)
		r.answered(said, answer.StatusCode, answer.Header, out)
		w.Header().Set("X-Amzn-ErrorType", answer.Header.Get("X-Amzn-ErrorType"))
		w.Header().Set("Date", answer.Header.Get("Date"))
		w.WriteHeader(answer.StatusCode)
		_, _ = w.Write(out)
		return
	}
	r.answered(said, answer.StatusCode, answer.Header, nil)
	for name, value := range kept(answer.Header) {
		w.Header().Set(name, value)
	}
	down, err := websocket.Accept(w, q, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		_ = up.CloseNow()
		return
	}
	var once sync.Once
	var pumps sync.WaitGroup
	pumps.Go(func() { r.pump(s.On, agentAPI, down, up, &once) })
	r.pump(s.On, "control", up, down, &once)
	pumps.Wait()
}

// pump says on the one socket what the other one says, until it ends.
func (r *recorder) pump(on, from string, source, sink *websocket.Conn, once *sync.Once) {
	source.SetReadLimit(tcs.MaxFrame)
	for {
		_, frame, err := source.Read(context.Background())
		if err != nil {
			once.Do(func() {
				r.note(step{On: on, Do: "close", From: from, Status: int(websocket.CloseStatus(err))})
			})
			var closed websocket.CloseError
			if errors.As(err, &closed) {
				_ = sink.Close(closed.Code, closed.Reason)
			}
			_ = sink.CloseNow()
			_ = source.CloseNow()
			return
		}
		body := frame
		if on == tcsWire && from == agentAPI {
			if _, body, err = tcs.SplitFrame(frame); err != nil {
				r.t.Error(err)
				return
			}
		}
		r.note(step{On: on, Do: "frame", From: from, Name: typeOf(body), Body: bytes.Clone(body)})
		_ = sink.Write(context.Background(), websocket.MessageText, frame) // an end is read
	}
}

// typeOf is the type of a message, or the only member of a bare exception.
func typeOf(frame []byte) string {
	var m struct{ Type string }
	_ = json.Unmarshal(frame, &m)
	return m.Type
}

// TestRecord writes down an agent's life beside a control plane as this version speaks; it is run with UPDATE=1, when the
// version's own transcript may still change.
func TestATranscriptOfThisVersionIsWritten(t *testing.T) {
	if os.Getenv("UPDATE") == "" {
		return // the others read what is kept
	}
	p := newPlane(t)
	r := &recorder{t: t, plane: p, host: p.key(auth.HostFile).AccessKeyID, said: map[string]bool{}}
	front := httptest.NewServer(r)
	defer front.Close()
	r.url = front.URL
	h := newHost(t, front.URL, p.key(auth.HostFile))
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range r.steps {
				t.Log(s)
			}
		}
	})
	r.live(h)
	h.stop()
	front.Close()

	r.mu.Lock()
	defer r.mu.Unlock()
	var out bytes.Buffer
	for _, s := range r.steps {
		if s.Do == "" {
			continue
		}
		line, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(line, '\n'))
	}
	path := filepath.Join("testdata", "transcripts", version+".jsonl")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"TaskListMessage", "DescribeTasksMessage", "TasksDescribedMessage", "PayloadMessage", "TaskManifestMessage", "IAMRoleCredentialsMessage",
		"PrepareImagesMessage", "ImagesPreparedMessage", "PublishHealthRequest", "LongshoreProgress", "LongshoreV1.HostKey", "SubmitTaskStateChange"} {
		if !slices.ContainsFunc(r.steps, func(s *step) bool { return s.Name == name }) {
			t.Errorf("the transcript has no %s", name)
		}
	}
}

// live is the life that is written down.
func (r *recorder) live(h *host) {
	do := func(operation string, in object) {
		r.t.Helper()
		if status, answer := r.plane.call(r.url, operation, in); status != http.StatusOK {
			r.t.Fatalf("%s: %d %s", operation, status, answer)
		}
	}
	// see waits until an administrator's question has an answer in which all of what follows stands, and asks it for the record.
	see := func(what, operation string, in object, has ...string) {
		r.t.Helper()
		until(r.t, what, func() error {
			_, answer := r.plane.call("http://"+r.plane.address, operation, in)
			for _, text := range has {
				if !bytes.Contains(answer, []byte(text)) {
					return errors.New(string(answer))
				}
			}
			return nil
		}, h.log)
		do(operation, in)
	}
	did := func(what string) { r.note(step{On: machine, Do: what}) }
	service := object{"cluster": cluster, "services": []string{"web"}}
	define := func(family, image string) {
		do("RegisterTaskDefinition", object{"family": family, "networkMode": "host", "taskRoleArn": role, "containerDefinitions": []object{{"name": "web", "image": image, "memory": 64,
			"environment": []object{{"name": "A", "value": "B"}}, "healthCheck": object{"command": []string{"CMD", "true"}, "startPeriod": 1}}}})
	}
	define("web", "web:1")
	do("CreateCluster", object{"clusterName": cluster, "tags": []object{{"key": "longshore:daemon-gate", "value": "off"}}}) // else a call would wait for what is said after it
	do("CreateService", object{"cluster": cluster, "serviceName": "web", "taskDefinition": "web:1", "schedulingStrategy": "DAEMON"})

	did("start")
	h.start()
	see("the daemon runs", "DescribeServices", service, `"rolloutState":"COMPLETED"`, `"runningCount":1`)
	theDaemon := func() string {
		r.t.Helper()
		var list struct{ TaskArns []string }
		_, answer := r.plane.call("http://"+r.plane.address, "ListTasks", object{"cluster": cluster, "serviceName": "web"})
		if err := json.Unmarshal(answer, &list); err != nil || len(list.TaskArns) != 1 {
			r.t.Fatalf("%s %v", answer, err)
		}
		return list.TaskArns[0]
	}
	see("the daemon is healthy", "DescribeTasks", object{"cluster": cluster, "tasks": []string{theDaemon()}}, `"healthStatus":"HEALTHY"`) // for another its images are not prepared
	define("web", "web:2")
	do("UpdateService", object{"cluster": cluster, "service": "web", "taskDefinition": "web:2"})
	see("the daemon is replaced", "DescribeServices", service, `"rolloutState":"COMPLETED"`, `"runningCount":1`, `web:2`)

	define("job", "web:1")
	do("RunTask", object{"cluster": cluster, "taskDefinition": "job", "startedBy": "ends"})
	job := func(by, desired string) string {
		var list struct{ TaskArns []string }
		until(r.t, "there is a task of "+by, func() error {
			_, answer := r.plane.call("http://"+r.plane.address, "ListTasks", object{"cluster": cluster, "startedBy": by, "desiredStatus": desired})
			if json.Unmarshal(answer, &list) != nil || len(list.TaskArns) != 1 {
				return errors.New(string(answer))
			}
			return nil
		})
		return list.TaskArns[0]
	}
	ends := job("ends", "RUNNING")
	see("the job runs", "DescribeTasks", object{"cluster": cluster, "tasks": []string{ends}}, `"lastStatus":"RUNNING"`)
	if c, ok := h.engine.Container(ends, "web"); ok {
		did("exit")
		h.engine.Exit(c.ID, 7)
	}
	see("the job has ended", "DescribeTasks", object{"cluster": cluster, "tasks": []string{ends}}, `"lastStatus":"STOPPED"`, `"exitCode":7`)

	define("waits", "web:3") // which is not there
	h.engine.Hang("Pull")
	do("RunTask", object{"cluster": cluster, "taskDefinition": "waits", "startedBy": "waits"})
	waits := job("waits", "RUNNING")
	until(r.t, "the agent tells what the task waits for", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if slices.ContainsFunc(r.steps, func(s *step) bool { return s.Name == "LongshoreProgress" && bytes.Contains(s.Body, []byte(waits)) }) {
			return nil
		}
		return errors.New("not yet")
	})
	do("StopTask", object{"cluster": cluster, "task": waits, "reason": "not wanted"})
	see("the task that waits is stopped", "DescribeTasks", object{"cluster": cluster, "tasks": []string{waits}}, `"lastStatus":"STOPPED"`)
	h.engine.Heal("Pull")

	daemon := theDaemon()
	did("stop")
	h.stop()
	did("start")
	r.seen("IAMRoleCredentialsAckRequest", h.start)

	did("rotate")
	r.seen("LongshoreV1.HostKey", r.plane.rotate)

	did("forget")
	r.seen("TaskManifestMessage", r.plane.forget)
	see("the daemon is adopted", "ListTasks", object{"cluster": cluster}, `:task/`)
	adopted := object{"cluster": cluster, "tasks": []string{daemon}}
	see("the adopted task is known", "DescribeTasks", adopted, `"lastStatus":"RUNNING"`)
	do("StopTask", object{"cluster": cluster, "task": daemon})
	see("the adopted task is stopped", "DescribeTasks", adopted, `"lastStatus":"STOPPED"`)
	did("stop")
	h.stop()
}

// seen does something, and waits until another one of a name was said.
func (r *recorder) seen(name string, do func()) {
	r.t.Helper()
	count := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, s := range r.steps {
			if s.Name == name {
				n++
			}
		}
		return n
	}
	before := count()
	do()
	until(r.t, name+" is said", func() error {
		if count() > before {
			return nil
		}
		return errors.New("not yet")
	})
}
