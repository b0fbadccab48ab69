package agent

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/tasknet"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

var freeze = flag.Bool("freeze", false, "write testdata's frozen state database of the present version, when a version is released")

// frozenRecords are a running daemon, what is left of a task that was cleaned up, and a task that was rebuilt from labels.
func frozenRecords() []*engine.TaskRecord {
	at, code := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC), 3
	running := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: "arn:a", TaskClusterArn: "arn:cluster", Family: "f", Version: "1", DesiredStatus: "RUNNING", SchedulingStrategy: "DAEMON",
		Containers: []*acs.Container{{Name: "app", Image: "app:1", Essential: true, Environment: map[string]string{"K": "v"}}}},
		AcceptedAt: at, Desired: "RUNNING", Known: "RUNNING", PullStartedAt: at, PullStoppedAt: at,
		Containers: []*engine.ContainerRecord{{Name: "app", RuntimeName: "ecs-f-1-app", EndpointID: "v4-id", Attempt: 1, RuntimeID: "abc", ImageDigest: "sha256:1", Intent: &engine.StartIntent{At: at, From: at, Boot: "boot"}, Restarts: 2,
			StartedAt: at, Bindings: frozenBindings(), Reported: "RUNNING", ReportedDigest: "sha256:1"}}}
	cleaned := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: "arn:b", Family: "f", DesiredStatus: "STOPPED"}, AcceptedAt: at, Desired: "STOPPED", Known: "STOPPED", Reason: "why",
		Cause:              &engine.Cause{Container: "app", Step: "run", Text: "why", At: at, Passing: true},
		ExecutionStoppedAt: at, StoppedAt: at, CleanedAt: at, Timeline: []engine.Step{{Container: "app", Name: "exit", Start: at, End: at, Outcome: "done", Detail: "exit code 3"}},
		Containers: []*engine.ContainerRecord{
			{Name: "app", Attempt: 1, Fault: "why", FaultExit: &code, Final: &engine.Final{ExitCode: &code, Reason: "why", FinishedAt: at}, Log: &engine.LogTail{Text: "last words\n"}},
			{Name: "side", Attempt: 2, Log: &engine.LogTail{Note: "its log driver can't be read back"}}}}
	rebuilt := &engine.TaskRecord{Version: 1, Task: &acs.Task{Arn: "arn:c", DesiredStatus: "RUNNING", Containers: []*acs.Container{{Name: "app", Image: "unknown"}}}, AcceptedAt: at, Desired: "RUNNING", Rebuilt: true,
		Containers: []*engine.ContainerRecord{{Name: "app", Attempt: 1}}}
	return []*engine.TaskRecord{running, cleaned, rebuilt}
}

func frozenBindings() []engine.NetworkBinding {
	return []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}, {BindIP: "::", Protocol: "udp", ContainerPortRange: "8000-8001", HostPortRange: "33000-33001"}}
}

// frozenChanges wait for the control plane.
func frozenChanges() []*engine.StateChange {
	at, code := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC), 3
	return []*engine.StateChange{
		{Sequence: 1, TaskArn: "arn:a", Status: "RUNNING", PullStartedAt: at, PullStoppedAt: at, Time: at,
			Containers: []engine.ContainerChange{{Name: "app", RuntimeID: "abc", ImageDigest: "sha256:1", Status: "RUNNING", NetworkBindings: frozenBindings(), Health: "HEALTHY"}}},
		{Sequence: 2, TaskArn: "arn:b", Status: "STOPPED", Reason: "why", ExecutionStoppedAt: at, Time: at, Containers: []engine.ContainerChange{{Name: "app", Status: "STOPPED", ExitCode: &code, Reason: "why"}}},
		{Sequence: 3, TaskArn: "arn:task/c", Time: at, Expires: at.Add(5 * time.Minute), Attachments: []engine.AttachmentChange{{Arn: "arn:attachment/c", Status: "ATTACHED"}}},
	}
}

const frozenSequence = 77

// frozenAttachments are one that is attached, and one of the instance that is not.
func frozenAttachments() []tasknet.Attachment {
	at := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	return []tasknet.Attachment{{Arn: "arn:attachment/c", MAC: "02:00:00:00:00:01", TaskArn: "arn:task/c", Made: true, ExpiresAt: at.Add(5 * time.Minute), Attached: at},
		{Arn: "arn:attachment/trunk", MAC: "02:00:00:00:00:02", ExpiresAt: at}}
}

func frozenGroups() *acs.SecurityGroupsMessage {
	rule := func(group string) []*acs.SecurityGroupRule {
		return []*acs.SecurityGroupRule{{Protocol: "tcp", FromPort: 80, ToPort: 81, Cidrs: []string{"10.0.0.0/8"}, Groups: []string{group}}}
	}
	return &acs.SecurityGroupsMessage{MessageID: "m", ClusterArn: "arn:c", ContainerInstanceArn: "arn:i", Generation: 7,
		Groups: []*acs.SecurityGroup{{GroupID: "sg-a", Ingress: rule("sg-a"), Egress: rule("sg-a"), Members: []string{"10.0.0.1", "2001:db8::1"}}}}
}

// filled notes the members of structs that have a value somewhere below v.
func filled(v reflect.Value, into map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			filled(v.Elem(), into)
		}
	case reflect.Slice:
		for i := range v.Len() {
			filled(v.Index(i), into)
		}
	case reflect.Struct:
		if v.Type().PkgPath() != reflect.TypeFor[engine.TaskRecord]().PkgPath() {
			return
		}
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			into[name] = into[name] || !v.Field(i).IsZero()
			filled(v.Field(i), into)
		}
	}
}

func TestTheFrozenStateHasAValueForEveryMemberOfARecord(t *testing.T) {
	members := map[string]bool{}
	filled(reflect.ValueOf(frozenRecords()), members)
	filled(reflect.ValueOf(frozenChanges()), members)
	for name, has := range members {
		if !has {
			t.Errorf("no frozen record has a value for %s: freeze one, with -freeze, before this version is released", name)
		}
	}
}

func TestTheFrozenStateOfThisVersionIsReadWhole(t *testing.T) {
	const frozen = "testdata/agent-v1.db"
	dir := t.TempDir()
	if !*freeze {
		data, err := os.ReadFile(frozen)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, statemgr.DatabaseName), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, aside, err := statemgr.Open(dir)
	if err != nil || aside != nil {
		t.Fatal(err, aside)
	}
	defer func() { _ = db.Close() }()
	s, err := NewState(db, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	want := frozenRecords()
	if *freeze {
		changes := map[string][]*engine.StateChange{}
		for _, c := range frozenChanges() {
			if len(c.Attachments) == 0 {
				changes[c.TaskArn] = append(changes[c.TaskArn], c)
			}
		}
		for _, rec := range want {
			if err := s.Save(rec, changes[rec.Task.Arn]...); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.SaveSequence(frozenSequence); err != nil {
			t.Fatal(err)
		}
		waiting := frozenAttachments()
		waiting[0].Attached = time.Time{}
		for _, step := range []func() error{
			func() error { return s.SaveAttachments(waiting...) }, func() error { return s.SaveAttachments(frozenAttachments()[:1]...) }, func() error { return s.SaveGroups(frozenGroups()) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(filepath.Join(dir, statemgr.DatabaseName))
		if err == nil {
			err = os.MkdirAll("testdata", 0o755)
		}
		if err == nil {
			err = os.WriteFile(frozen, data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("read %s\nwant %s", a, b)
	}
	changes, err := s.Changes()
	if err != nil {
		t.Fatal(err)
	}
	a, _ = json.Marshal(changes)
	b, _ = json.Marshal(frozenChanges())
	if string(a) != string(b) {
		t.Errorf("read %s\nwant %s", a, b)
	}
	if n, err := s.LoadSequence(); err != nil || n != frozenSequence {
		t.Errorf("sequence %d %v", n, err)
	}
	attachments, err := s.Attachments()
	if d := cmp.Diff(frozenAttachments(), attachments); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	groups, err := s.Groups()
	if d := cmp.Diff(frozenGroups(), groups); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}
