package dropin_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/agent/dropin"
	"github.com/longshore-project/longshore/agent/dropin/dropintest"
	"github.com/longshore-project/longshore/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	instance = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/0123456789abcdef"
	taskArn  = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/t1"
)

var began = time.Date(2026, 11, 20, 9, 1, 33, 842892495, time.UTC)

func ordinary() dropintest.Container {
	return dropintest.Container{TaskArn: taskArn, Name: "app", Image: "web:1", ID: "abcdef", EngineName: "ecs-web-7-app-d4eea5ecaacce0e4f001", EndpointID: "2c6dd6e3-e573-49fb-8e8d-4e8558fa7674", Status: "RUNNING", StartedAt: began}
}

// read reads a state file as an agent that starts does.
func read(t *testing.T, dir string) (*dropin.State, error) {
	t.Helper()
	p, err := dropin.Open(dir, "/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	return p.Read()
}

func TestARunningTaskIsReadAsARecordWithoutValuesOfVariables(t *testing.T) {
	dir := t.TempDir()
	path := dropintest.Write(t, dir, "daemonset", instance, ordinary())
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := read(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Cluster != "daemonset" || s.InstanceArn != instance || s.AgentVersion != "1.105.1" || s.Sequence != 1795165287894 || s.Transaction == 0 || len(s.Tasks) != 1 || s.Tasks[0].Obstacle != "" {
		t.Fatalf("%+v", s)
	}
	rec := s.Tasks[0].Record
	want := &engine.ContainerRecord{Name: "app", Attempt: 1, RuntimeID: "abcdef", RuntimeName: "ecs-web-7-app-d4eea5ecaacce0e4f001", EndpointID: "2c6dd6e3-e573-49fb-8e8d-4e8558fa7674",
		ImageDigest: "sha256:45aac38951cb23971b56a8b87f934978f69cc000a1da81fd87a655b0f80a1e48", Intent: &engine.StartIntent{At: began}, Restarts: 2, StartedAt: began,
		Reported: "RUNNING", ReportedDigest: "sha256:45aac38951cb23971b56a8b87f934978f69cc000a1da81fd87a655b0f80a1e48"}
	if diff := cmp.Diff(want, rec.Containers[0]); diff != "" {
		t.Error(diff)
	}
	if rec.Desired != "RUNNING" || rec.Known != "RUNNING" || !rec.Rebuilt || !rec.StoppedAt.IsZero() || rec.Task.TaskClusterArn != "arn:aws:ecs:us-west-2:123456789012:cluster/daemonset" {
		t.Errorf("%+v", rec)
	}
	c := rec.Task.Containers[0]
	if len(c.Environment) != 0 || c.StopTimeout != 7 || c.RestartPolicy.RestartAttemptPeriod != 60 || c.PortMappings[0].ContainerPort != 80 || strings.Contains(c.DockerConfig.HostConfig, "LogConfig") {
		t.Errorf("%+v", c)
	}
	parsed, err := engine.ParseTask(rec.Task, engine.Host{})
	if err != nil || parsed.Containers[0].NetworkMode != "bridge" {
		t.Errorf("the engine does not take it: %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(before) != string(after) {
		t.Error("reading has changed the file")
	}
}

func TestAnEndedTaskHasEndedForUsToo(t *testing.T) {
	dir := t.TempDir()
	c := ordinary()
	c.Status = "STOPPED"
	dropintest.Write(t, dir, "daemonset", instance, c)
	s, err := read(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	rec := s.Tasks[0].Record
	if f := rec.Containers[0].Final; rec.StoppedAt.IsZero() || rec.Known != "STOPPED" || f == nil || *f.ExitCode != 3 || rec.Containers[0].Reported != "STOPPED" {
		t.Errorf("%+v %+v", rec, rec.Containers[0])
	}
}

func TestWhatTheOtherAgentMadeForATaskIsAnObstacle(t *testing.T) {
	for name, change := range map[string]func(*dropintest.Container){
		"awsvpc":          func(c *dropintest.Container) { c.NetworkMode = "awsvpc" },
		"a pause":         func(c *dropintest.Container) { c.Kind = "NAMESPACE_PAUSE" },
		"an internal one": func(c *dropintest.Container) { c.Name = "~internal~ecs~pause" },
	} {
		t.Run(name, func(t *testing.T) {
			dir, c := t.TempDir(), ordinary()
			change(&c)
			dropintest.Write(t, dir, "daemonset", instance, c)
			s, err := read(t, dir)
			if err != nil || s.Tasks[0].Obstacle == "" {
				t.Errorf("%+v %v", s, err)
			}
		})
	}
}

func TestWhileTheOtherAgentRunsItIsNamed(t *testing.T) {
	dir := t.TempDir()
	path := dropintest.Write(t, dir, "daemonset", instance, ordinary())
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = dropin.Open(dir, "/proc")
	if self, _ := os.ReadFile("/proc/self/comm"); !errors.Is(err, dropin.ErrRunning) || !strings.Contains(err.Error(), strings.TrimSpace(string(self))) {
		t.Errorf("%v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	held, err := dropin.Open(dir, "/proc")
	if err != nil {
		t.Fatal(err)
	}
	if db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 20 * time.Millisecond}); err == nil {
		_ = db.Close()
		t.Error("the other agent starts beside this one")
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = bbolt.Open(path, 0o600, nil); err != nil || db.Close() != nil {
		t.Error("the other agent can't come back", err)
	}
}

func TestAFileThatIsNoneOfItsIsNoState(t *testing.T) {
	if p, err := dropin.Open(t.TempDir(), "/proc"); p != nil || err != nil {
		t.Errorf("no file: %v %v", p, err)
	}
	dir := t.TempDir()
	db, err := bbolt.Open(filepath.Join(dir, dropin.FileName), 0o600, nil)
	if err != nil || db.Close() != nil {
		t.Fatal(err)
	}
	if s, err := read(t, dir); s != nil || err != nil {
		t.Errorf("an empty database: %v %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(dir, dropin.FileName), []byte("not a database at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := read(t, dir); s != nil || err == nil || !strings.Contains(err.Error(), dropin.FileName) {
		t.Errorf("another file: %v %v", s, err)
	}
}

func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	good, err := os.ReadFile(dropintest.Write(f, dir, "daemonset", instance, ordinary()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(4000, []byte{0xff}, len(good))
	f.Add(8192+16, []byte{1, 2, 3}, len(good))
	f.Fuzz(func(t *testing.T, at int, noise []byte, length int) {
		bad := append([]byte(nil), good...)
		if at >= 0 && at < len(bad) {
			copy(bad[at:], noise)
		}
		if length >= 0 && length < len(bad) {
			bad = bad[:length]
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, dropin.FileName), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := dropin.Open(dir, "/proc")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		_, _ = p.Read()
	})
}
