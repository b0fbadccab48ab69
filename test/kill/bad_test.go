package kill

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/statemgr"
)

// TestBadInputHasAClearErrorAndChangesNothing is what only whole binaries can show of it. The daemon's container runs
// through all of it, until its engine dies.
func TestBadInputHasAClearErrorAndChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bad", 100)
	w.define("daemon", 1)
	w.define("big", 40_000)
	w.startAgent()
	daemon := w.daemon("daemon")
	w.running(daemon)
	untouched := func() {
		w.t.Helper()
		w.running(daemon)
		if n := len(w.events.of(daemon.arn, "die", "kill", "stop", "restart")); n != 0 {
			w.t.Errorf("the daemon's container was touched %d times", n)
		}
	}
	round := func(name string, f func()) {
		w.round(t, name, func() {
			if !w.agent.alive() { // the round before has failed
				w.startAgent()
			}
			f()
		})
	}
	round("requests", func() { w.badRequests(); untouched() })
	for _, d := range damages {
		round("the state file is "+d.name, func() { w.damagedState(d.what, d.aside); untouched() })
	}
	round("the identity can't be read", func() { w.damagedIdentity(); untouched() })
	round("the disk is full", func() { w.fullDisk(); untouched() })
	round("the engine is down at the start", w.engineDownAtStart)
	round("the engine is killed under running tasks", w.engineKilled)
}

// badRequests sends what nobody should; the store must not have changed after it.
func (w *world) badRequests() {
	w.t.Helper()
	w.joined()
	key, err := w.admin.Retrieve(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	stranger := aws.Credentials{AccessKeyID: "AKIAAAAAAAAAAAAAAAAA", SecretAccessKey: "none"}
	wrong := aws.Credentials{AccessKeyID: key.AccessKeyID, SecretAccessKey: "wrong"}
	now := time.Now()
	cases := []struct {
		name, operation, body string
		key                   aws.Credentials
		at                    time.Time
		authorization         string // instead of the signature
		want                  string // in the answer
	}{
		{name: "no JSON", operation: "RunTask", body: `{`, want: "SerializationException"},
		{name: "no object", operation: "RunTask", body: `[1]`, want: "SerializationException"},
		{name: "a number for a string", operation: "RunTask", body: `{"taskDefinition":5}`, want: "SerializationException"},
		{name: "a string for a number", operation: "RunTask", body: `{"taskDefinition":"serving","count":"many"}`, want: "SerializationException"},
		{name: "too large a body", operation: "RunTask", body: `{"taskDefinition":"` + strings.Repeat("x", 8<<20) + `"}`, want: "Exception"},
		{name: "an unknown operation", operation: "Dance", body: `{}`, want: "UnknownOperationException"},
		{name: "an unknown task definition", operation: "RunTask", body: `{"cluster":"daemonset","taskDefinition":"nowhere:7"}`, want: "ClientException"},
		{name: "an unknown cluster", operation: "CreateService", body: `{"cluster":"nowhere","serviceName":"s","taskDefinition":"serving","schedulingStrategy":"DAEMON"}`, want: "ClusterNotFoundException"},
		{name: "a state change of no task", operation: "SubmitTaskStateChange", body: `{"cluster":"daemonset","task":"arn:aws:ecs:us-west-2:123456789012:task/daemonset/0123456789abcdef0123456789abcdef","status":"RUNNING"}`, want: "Exception"},
		{name: "a state change to no state", operation: "SubmitTaskStateChange", body: `{"cluster":"daemonset","task":"x","status":"DANCING"}`, want: "Exception"},
		{name: "an expired signature", operation: "ListTasks", body: `{}`, at: now.Add(-time.Hour), want: "expired"},
		{name: "a signature from the future", operation: "ListTasks", body: `{}`, at: now.Add(time.Hour), want: "Exception"},
		{name: "a wrong secret", operation: "ListTasks", body: `{}`, key: wrong, want: "SignatureException"},
		{name: "an unknown key", operation: "ListTasks", body: `{}`, key: stranger, want: "UnrecognizedClientException"},
		{name: "a garbage signature", operation: "ListTasks", body: `{}`, authorization: "AWS4-HMAC-SHA256 \x7f=,,,Credential=/", want: "Signature"},
		{name: "no signature", operation: "ListTasks", body: `{}`, authorization: "-", want: "MissingAuthenticationToken"},
	}
	before := w.revision()
	for _, c := range cases {
		if c.key.AccessKeyID == "" {
			c.key = key
		}
		if c.at.IsZero() {
			c.at = now
		}
		code, answer := w.post(c.operation, c.body, c.key, c.at, c.authorization)
		var said struct {
			Type    string `json:"__type"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal([]byte(answer), &said); err != nil || said.Type == "" || said.Message == "" {
			w.t.Errorf("%s: the answer %q has no type and message", c.name, answer)
		}
		if code/100 != 4 || !strings.Contains(answer, c.want) {
			w.t.Errorf("%s: %d %s, want %s", c.name, code, answer, c.want)
		}
	}
	if after := w.revision(); after != before {
		w.t.Errorf("the store was at revision %d and is at %d", before, after)
	}
}

func (w *world) post(operation, body string, key aws.Credentials, at time.Time, authorization string) (int, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://"+w.addr+"/", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonEC2ContainerServiceV20141113."+operation)
	hash := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(w.t.Context(), key, r, hex.EncodeToString(hash[:]), "ecs", region, at); err != nil {
		w.t.Fatal(err)
	}
	switch authorization {
	case "":
	case "-":
		r.Header.Del("Authorization")
	default:
		r.Header["Authorization"] = []string{strings.ReplaceAll(authorization, "\x7f", "?")}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Errorf("%s: %v", operation, err)
		return 0, ""
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Error(err)
	}
	return res.StatusCode, string(answer)
}

// revision is the store's, once it is at rest.
func (w *world) revision() (n int64) {
	w.t.Helper()
	var was int64 = -1
	w.until("the store is at rest", func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.addr+"/healthz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		var out struct{ Store struct{ Revision int64 } }
		if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
			return err
		}
		if out.Store.Revision != was || was == 0 {
			was = out.Store.Revision
			return errNotYet
		}
		n = was
		return nil
	})
	return n
}

var damages = []struct {
	name  string
	aside bool // there is something left to look at
	what  func(b []byte) []byte
}{
	{"cut behind its first pages", true, func(b []byte) []byte { return b[:8192] }},
	{"cut inside its first page", true, func(b []byte) []byte { return b[:1000] }},
	{"empty", false, func([]byte) []byte { return nil }},
	{"overwritten", true, func(b []byte) []byte { return bytes.Repeat([]byte{0xA5}, len(b)) }},
	{"overwritten behind its first pages", true, func(b []byte) []byte {
		for i := 8192; i < len(b); i++ {
			b[i] = byte(i * 7)
		}
		return b
	}},
	{"gone", false, nil},
}

// damagedState has a task run on after its record was lost, and stop when asked to.
func (w *world) damagedState(damage func([]byte) []byte, aside bool) {
	w.t.Helper()
	s := w.run("serving")
	w.await(s, "RUNNING")
	w.running(s)
	w.end(w.agent, syscall.SIGTERM)
	path := w.farm.Disk(1, filepath.Join(dataDir, statemgr.DatabaseName))
	if damage == nil {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	} else {
		b, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(b), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	w.startAgent()
	w.said("it was rebuilt from the labels of its containers")
	if aside {
		w.said("was set aside")
	}
	w.joined()
	w.running(s)
	w.stop(s)
	w.await(s, "STOPPED")
	w.removed(s)
	if made, died := w.events.of(s.arn, "create"), w.events.of(s.arn, "die"); len(made) != 1 || len(died) != 1 || died[0].At.Before(s.stopped) {
		w.t.Errorf("%d containers were made, ended %v; the stop was asked for at %v", len(made), died, s.stopped)
	}
}

// said waits until the agent has said something since the round began.
func (w *world) said(text string) {
	w.t.Helper()
	w.until(fmt.Sprintf("the agent says %q", text), func(context.Context) error {
		b, err := os.ReadFile(w.agentLog())
		if err != nil {
			return err
		}
		if !bytes.Contains(b[min(w.from, int64(len(b))):], []byte(text)) {
			return errNotYet
		}
		return nil
	})
}

// damagedIdentity has the agent refuse to guess which instance it is.
func (w *world) damagedIdentity() {
	w.t.Helper()
	path := w.farm.Disk(1, filepath.Join(dataDir, statemgr.IdentityName))
	whole, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.end(w.agent, syscall.SIGTERM)
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.startAgent()
	w.agent.asked = true
	select {
	case <-w.agent.ended:
	case <-time.After(patience):
		w.t.Fatal("the agent runs with half an identity")
	}
	if code := w.agent.cmd.ProcessState.ExitCode(); code != 5 {
		w.t.Errorf("the agent ended with %d", code)
	}
	w.said(dataDir + "/" + statemgr.IdentityName + " can't be read")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.startAgent()
	w.joined()
}

// onHost runs a command on the host.
func (w *world) onHost(argv ...string) {
	w.t.Helper()
	if out, err := w.farm.Start(w.t.Context(), 1, argv...).CombinedOutput(); err != nil {
		w.t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// fullDisk has the agent's state on a disk without room: it takes nothing that it can't keep, says so, and goes on when
// there is room.
func (w *world) fullDisk() {
	w.t.Helper()
	w.end(w.agent, syscall.SIGTERM)
	small := "/run/small"
	w.onHost("sh", "-c", "mkdir -p "+small+" && mount -t tmpfs -o size=64m small "+small+" && cp -a "+dataDir+"/. "+small)
	setting := "ECS_DATADIR=" + small
	w.env = append(w.env, setting)
	defer func() {
		w.end(w.agent, syscall.SIGTERM)
		w.env = slices.DeleteFunc(w.env, func(s string) bool { return s == setting })
		w.onHost("sh", "-c", "cp -a "+small+"/. "+dataDir+" && umount "+small)
		w.startAgent()
		w.joined()
	}()
	fill := func() { w.onHost("sh", "-c", "cat /dev/zero >"+small+"/filler 2>/dev/null || true") }
	empty := func() { w.onHost("rm", small+"/filler") }
	w.startAgent()
	w.joined()
	before := w.run("serving")
	w.await(before, "RUNNING")
	w.running(before)

	fill()
	var tasks []*task
	for range 8 { // some may fit where others were
		tasks = append(tasks, w.run("big"))
	}
	w.said("no space left on device")
	w.impaired(true)
	w.running(before)
	if !w.agent.alive() {
		w.t.Error("the agent ended")
	}
	w.stop(before)
	empty()
	for _, s := range tasks {
		w.await(s, "RUNNING")
		w.running(s)
	}
	w.await(before, "STOPPED")
	w.judge(before, true)
	w.impaired(false)

	fill()
	w.kill(w.agent)
	w.startAgent()
	w.agent.asked = true // it may end, saying why
	for _, s := range tasks {
		w.running(s)
		w.stop(s)
	}
	empty()
	if !w.agent.alive() {
		if code := w.agent.cmd.ProcessState.ExitCode(); code != 1 {
			w.t.Errorf("the agent ended with %d", code)
		}
		w.startAgent()
	}
	w.agent.asked = false
	for _, s := range tasks {
		w.await(s, "STOPPED")
		w.judge(s, true)
	}
}

// impaired waits until the control plane shows the instance's health so. The agent tells it with the 20 s period of
// telemetry, once ACS has sent a heartbeat.
func (w *world) impaired(want bool) {
	w.t.Helper()
	w.until(fmt.Sprintf("the instance is impaired: %t", want), func(ctx context.Context) error {
		found, err := w.instances(ctx)
		if err != nil {
			return err
		}
		if len(found) != 1 || found[0].HealthStatus == nil {
			return fmt.Errorf("no health: %+v", found)
		}
		if status := string(found[0].HealthStatus.OverallStatus); (status == "IMPAIRED") != want {
			return errors.New(status)
		}
		return nil
	})
}

// dockerd is the host's engine.
func (w *world) dockerd() (pid int, argv []string) {
	w.t.Helper()
	namespace := func(pid string) string { to, _ := os.Readlink("/proc/" + pid + "/ns/pid"); return to }
	want := namespace(w.hostInit())
	found, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range found {
		id := filepath.Base(filepath.Dir(exe))
		if to, err := os.Readlink(exe); err != nil || filepath.Base(to) != "dockerd" || namespace(id) != want {
			continue
		}
		b, err := os.ReadFile("/proc/" + id + "/cmdline")
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := fmt.Sscan(id, &pid); err != nil {
			w.t.Fatal(err)
		}
		return pid, strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
	}
	w.t.Fatal("the host has no dockerd")
	return 0, nil
}

// killEngine kills the host's engine, and returns what starts it again.
func (w *world) killEngine() (start func()) {
	w.t.Helper()
	pid, argv := w.dockerd()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.until("the engine is gone", func(context.Context) error {
		if syscall.Kill(pid, 0) == nil {
			return errNotYet
		}
		return nil
	})
	return func() {
		w.t.Helper()
		log := filepath.Join(w.farm.Dir, "h1", "dockerd.log")
		w.onHost(append([]string{"setsid", "-f", "sh", "-c", `log=$1; shift; exec "$@" >>"$log" 2>&1 </dev/null`, "sh", log}, argv...)...)
		w.until("the engine answers", func(ctx context.Context) error { _, err := w.engine.Ping(ctx); return err })
	}
}

// engineDownAtStart has the agent wait for its engine.
func (w *world) engineDownAtStart() {
	w.t.Helper()
	w.end(w.agent, syscall.SIGTERM)
	start := w.killEngine()
	w.startAgent()
	w.said("The container engine does not answer; waiting for it")
	if !w.agent.alive() {
		w.t.Error("the agent ended")
	}
	start()
	w.joined()
	w.agentWalk()
}

// engineKilled has the engine die under running tasks. What died with it is reported, and the daemon comes back.
func (w *world) engineKilled() {
	w.t.Helper()
	var old *task
	w.until("the daemon runs", func(ctx context.Context) error {
		out, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: aws.String("daemon")})
		if err != nil {
			return err
		}
		if len(out.TaskArns) != 1 {
			return errNotYet
		}
		old = &task{arn: out.TaskArns[0]}
		return w.look(ctx, old)
	})
	w.await(old, "RUNNING")
	w.steady("daemon")
	s := w.run("serving")
	w.await(s, "RUNNING")
	start := w.killEngine()
	w.said("the container engine does not answer")
	w.impaired(true)
	for _, one := range []*task{old, s} {
		if err := w.look(w.t.Context(), one); err != nil || *one.last.LastStatus != "RUNNING" {
			w.t.Errorf("while the engine is away the task is %s: %v", aws.ToString(one.last.LastStatus), err)
		}
	}
	start()
	for _, one := range []*task{old, s} {
		w.until("what died with the engine is STOPPED", func(ctx context.Context) error {
			if err := w.look(ctx, one); err != nil {
				return err
			}
			if *one.last.LastStatus != "STOPPED" {
				return errors.New(*one.last.LastStatus)
			}
			return nil
		})
		if made, again := len(w.events.of(one.arn, "create")), len(w.events.of(one.arn, "start")); made != 1 || again != 1 {
			w.t.Errorf("%d containers were made for the task that died, and %d starts", made, again)
		}
		w.t.Logf("stopped: %s: %s", one.last.StopCode, aws.ToString(one.last.StoppedReason))
	}
	w.impaired(false)
	fresh := w.daemon("daemon")
	w.running(fresh)
	w.steady("daemon")
}
