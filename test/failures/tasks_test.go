package failures

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/test/e2e"
)

func TestEveryFailureIsCausedAndEveryMessageHasARemedy(t *testing.T) {
	all := map[string]bool{}
	for _, f := range Catalogue {
		if all[f.Name] {
			t.Errorf("%s is in the catalogue twice", f.Name)
		}
		all[f.Name] = true
		for _, message := range []string{f.Message(), f.Contained} {
			if _, ok := remedy.Known(message); message != "" && !ok && !strings.HasSuffix(message, "Error: …") {
				t.Errorf("%s: nothing is known about %q", f.Name, message)
			}
		}
	}
	if len(Catalogue) < 40 {
		t.Errorf("the catalogue has %d failures", len(Catalogue))
	}
	caused := map[string]bool{}
	for _, names := range []map[string]bool{names(scenes), names(hostScenes), names(unplaced)} {
		maps.Copy(caused, names)
	}
	for name := range all {
		if !caused[name] {
			t.Errorf("nothing causes %s", name)
		}
	}
	for name := range caused {
		if !all[name] {
			t.Errorf("%s is not in the catalogue", name)
		}
	}
}

func names[T any](m map[string]T) map[string]bool {
	out := map[string]bool{}
	for name := range m {
		out[name] = true
	}
	return out
}

// entry is a failure by its name.
func entry(name string) *Failure {
	return &Catalogue[slices.IndexFunc(Catalogue, func(f Failure) bool { return f.Name == name })]
}

func TestWhatEachFailureOfATaskLooksLike(t *testing.T) {
	for i, engine := range []string{e2e.Docker, e2e.Containerd} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, engine, "fl"+engine[:1], 97+i)
			w.fail()
		})
	}
}

// outcome is what became of a scene.
type outcome struct {
	task    types.Task
	explain local.Explanation
	err     error
}

// fail plays all scenes at once and compares what is seen with the catalogue.
func (w *world) fail() {
	for _, s := range w.scenes() {
		if s.before != nil {
			s.before(w)
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	all := map[string]*outcome{}
	for name, s := range w.scenes() {
		wg.Go(func() {
			o := &outcome{}
			o.err = w.play(name, s, o)
			mu.Lock()
			defer mu.Unlock()
			all[name] = o
		})
	}
	if w.engine == e2e.Docker {
		w.place()
	}
	wg.Wait()
	for name, o := range all { // when all is over: a second error line would be there by now
		w.Run(name, func(t *testing.T) { w.compare(t, entry(name), o) })
	}
}

// place creates services whose tasks find no place.
func (w *world) place() {
	for name, s := range unplaced {
		f, d := entry(name), w.definition(name, s)
		if _, err := w.api.RegisterTaskDefinition(w.Context(), d); err != nil {
			w.Fatalf("%s: %v", name, err)
		}
		created, err := w.api.CreateService(w.Context(), &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: d.Family, TaskDefinition: d.Family, DesiredCount: aws.Int32(1)})
		if err != nil {
			w.Fatalf("%s: %v", name, err)
		}
		var lines []line
		until(w.T, "the control plane says that "+name, func() bool {
			lines = errorLines(w.T, w.lab.ControlLog(), *created.Service.ServiceArn)
			return len(lines) > 0
		})
		known := remedy.Of(lines[0].Error)
		if l := lines[0]; len(lines) != 1 || l.Step != f.Step || !Matches(f.Message(), l.Error) || known.Means == "" || l.Remedy != known.Do {
			w.Errorf("%s: the error lines are %+v,\nnot one of step %s with %q and a remedy", name, lines, f.Step, f.Message())
		}
		if got := w.asked(w.T, api.ExplainInput{Kind: "service", Service: *d.Family}).Advice; len(got) != 1 || got[0] != known {
			w.Errorf("%s: the control plane advises %+v,\nnot %+v", name, got, known)
		}
	}
}

// definition is the task definition of a scene.
func (w *world) definition(name string, s scene) *definition {
	d := &definition{Family: aws.String(strings.ReplaceAll(name, "/", "-")),
		ContainerDefinitions: []container{{Name: aws.String("main"), Image: &w.image, Memory: aws.Int32(16), Command: []string{"sleep", "100000"}}}}
	if s.definition != nil {
		s.definition(w, d)
	}
	return d
}

// scenes are those of the world's engine.
func (w *world) scenes() map[string]scene {
	out := maps.Clone(scenes)
	maps.DeleteFunc(out, func(_ string, s scene) bool { return s.only != "" && s.only != w.engine })
	return out
}

// play runs a task and waits until it has failed.
func (w *world) play(name string, s scene, o *outcome) error {
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	registered, err := w.api.RegisterTaskDefinition(ctx, w.definition(name, s))
	if err != nil {
		return err
	}
	run, err := w.api.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: registered.TaskDefinition.TaskDefinitionArn})
	if err != nil {
		return err
	}
	if len(run.Failures) > 0 {
		return fmt.Errorf("not placed: %s: %s", aws.ToString(run.Failures[0].Reason), aws.ToString(run.Failures[0].Detail))
	}
	o.task = run.Tasks[0]
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for acted := s.running == nil; ; {
		got, err := w.api.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{*o.task.TaskArn}})
		if err != nil {
			return fmt.Errorf("in vain: %w; the task is %s", err, aws.ToString(o.task.LastStatus))
		}
		o.task = got.Tasks[0]
		switch status := aws.ToString(o.task.LastStatus); {
		case status == "STOPPED" || o.task.HealthStatus == types.HealthStatusUnhealthy:
			return w.explain(*o.task.TaskArn, &o.explain)
		case status == "RUNNING" && !acted:
			acted = true
			if err := s.running(ctx, w, *o.task.TaskArn); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("in vain: the task is %s: %s", aws.ToString(o.task.LastStatus), aws.ToString(o.task.StoppedReason))
		}
	}
}

// compare holds the catalogue to what was seen.
func (w *world) compare(t *testing.T, f *Failure, o *outcome) {
	if o.err != nil {
		t.Fatal(o.err)
	}
	want, stopped := f.Message(), f.Stopped
	if w.engine == e2e.Containerd && f.Contained != "" {
		want = f.Contained
		if f.Text == "" {
			stopped = want
		}
	}
	if got := aws.ToString(o.task.StoppedReason); !Matches(stopped, got) {
		t.Errorf("stoppedReason is %q,\nnot %q", got, stopped)
	}
	if f.ExitCode != 0 && !slices.ContainsFunc(o.task.Containers, func(c types.Container) bool { return aws.ToInt32(c.ExitCode) == int32(f.ExitCode) }) {
		t.Errorf("no container has exit code %d", f.ExitCode)
	}
	log := w.agentLog()
	if f.Teller == ControlPlane {
		log = w.lab.ControlLog()
	}
	lines := errorLines(t, log, *o.task.TaskArn)
	if len(lines) != 1 {
		t.Fatalf("there are %d error lines: %+v", len(lines), lines)
	}
	l, known := lines[0], remedy.Of(lines[0].Error)
	if !Matches(want, l.Error) || l.Step != f.Step || l.Remedy == "" || l.Remedy != known.Do || known.Means == "" {
		t.Errorf("the error line is %+v,\nnot of step %s with %q and a remedy", l, f.Step, want)
	}
	if f.Teller == Agent {
		if c := o.explain.Cause; c == nil || c.Text != l.Error || c.Step != f.Step || !slices.Equal(o.explain.Advice, []string{known.Do}) || !slices.Equal(o.explain.Meaning, []string{known.Means}) {
			t.Errorf("explain says %+v, means %q, advises %q,\nnot %q", c, o.explain.Meaning, o.explain.Advice, known.Do)
		}
	}
	if f.Step == "stop" { // the control plane is not told that it had to be killed
		return
	}
	if got := w.asked(t, api.ExplainInput{Kind: "task", Task: *o.task.TaskArn}).Advice; len(got) != 1 || got[0] != known {
		t.Errorf("the control plane advises %+v,\nnot %+v", got, known)
	}
}

// asked is an explanation of the control plane.
func (w *world) asked(t *testing.T, in api.ExplainInput) (out scheduler.Explanation) {
	t.Helper()
	url, _, _ := w.lab.API()
	in.Cluster = cluster
	answer, err := controlplane.Asking{Endpoint: url, DataDir: w.lab.ControlDir()}.Explain(t.Context(), in)
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// line is a line of a log.
type line struct {
	Level, Msg, Task, Container, Step, Error, Remedy, ServiceArn string
}

// errorLines are the error lines of a log that name a task or a service; of those that name neither, with an empty ARN.
func errorLines(t *testing.T, log, arn string) (lines []line) {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for at := range bytes.Lines(text) {
		var l line
		if err := json.Unmarshal(at, &l); err == nil && l.Level == "error" && l.Task+l.ServiceArn == arn {
			lines = append(lines, l)
		}
	}
	return lines
}
