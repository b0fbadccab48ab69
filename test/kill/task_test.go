package kill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
)

// walkOver is the reason given with a stop.
const walkOver = "the walk is over"

// order is that of a task's lastStatus.
var order = []string{"PROVISIONING", "PENDING", "ACTIVATING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"}

// task is a task as the control plane showed it, look by look.
type task struct {
	arn      string
	last     types.Task
	statuses []string  // each once, in the order seen
	stopped  time.Time // when a stop was first asked for; zero before
	pid      int
}

// run starts a standalone task, and repeats that until it is placed.
func (w *world) run(family string) *task {
	w.t.Helper()
	token, acknowledged := uuid.NewString(), &task{}
	w.do("RunTask", func(ctx context.Context) error {
		out, err := w.ecs.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: &family, ClientToken: &token})
		if err != nil {
			return err
		}
		if len(out.Tasks) != 1 {
			token = uuid.NewString()
			return fmt.Errorf("failures %+v", reasons(out.Failures))
		}
		acknowledged.arn = *out.Tasks[0].TaskArn
		return acknowledged.see(out.Tasks[0])
	})
	return acknowledged
}

func reasons(failures []types.Failure) (all []string) {
	for _, f := range failures {
		all = append(all, aws.ToString(f.Reason)+" "+aws.ToString(f.Detail))
	}
	return all
}

// see takes a look. A task that goes backwards is a failure.
func (s *task) see(now types.Task) error {
	status, was := aws.ToString(now.LastStatus), aws.ToString(s.last.LastStatus)
	switch {
	case slices.Index(order, status) < 0:
		return &fatal{fmt.Errorf("lastStatus %q", status)}
	case slices.Index(order, status) < slices.Index(order, was):
		return &fatal{fmt.Errorf("lastStatus went from %s to %s", was, status)}
	case now.Version < s.last.Version:
		return &fatal{fmt.Errorf("version went from %d to %d", s.last.Version, now.Version)}
	case now.Version == s.last.Version && status != was:
		return &fatal{fmt.Errorf("lastStatus went from %s to %s within version %d", was, status, now.Version)}
	case aws.ToString(s.last.DesiredStatus) == "STOPPED" && aws.ToString(now.DesiredStatus) != "STOPPED":
		return &fatal{fmt.Errorf("desiredStatus went from STOPPED to %s", aws.ToString(now.DesiredStatus))}
	}
	if status != was {
		s.statuses = append(s.statuses, status)
	}
	s.last = now
	return nil
}

// look asks the control plane for the task once. A task that was acknowledged and is not there is a failure.
func (w *world) look(ctx context.Context, s *task) error {
	out, err := w.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{s.arn}})
	if err != nil {
		return err
	}
	if len(out.Tasks) != 1 {
		return &fatal{fmt.Errorf("task %s is gone: %v", s.arn, reasons(out.Failures))}
	}
	return s.see(out.Tasks[0])
}

// await waits until the task has a status.
func (w *world) await(s *task, status string) {
	w.t.Helper()
	w.until("task "+s.arn+" is "+status, func(ctx context.Context) error {
		if err := w.look(ctx, s); err != nil {
			return err
		}
		switch now := aws.ToString(s.last.LastStatus); {
		case now == status:
			return nil
		case now == "STOPPED":
			return &fatal{fmt.Errorf("it is STOPPED: %s", aws.ToString(s.last.StoppedReason))}
		default:
			return fmt.Errorf("it is %s", now)
		}
	})
}

// stop asks for the task's end.
func (w *world) stop(s *task) {
	w.t.Helper()
	s.stopped = time.Now()
	w.do("StopTask", func(ctx context.Context) error {
		_, err := w.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &s.arn, Reason: aws.String(walkOver)})
		return err
	})
}

// removed waits until the task's containers are removed.
func (w *world) removed(s *task) {
	w.t.Helper()
	w.until("the container of "+s.arn+" is removed", func(context.Context) error {
		if made, gone := len(w.events.of(s.arn, "create")), len(w.events.of(s.arn, "destroy")); gone < made {
			return fmt.Errorf("%d of %d are", gone, made)
		}
		return nil
	})
}

// running notes the container's process when the task is RUNNING, and fails if it is not the only one there ever was.
func (w *world) running(s *task) {
	w.t.Helper()
	made := w.events.of(s.arn, "create")
	if len(made) != 1 {
		w.t.Errorf("%d containers were made for the task: %v", len(made), made)
		return
	}
	found, err := w.engine.ContainerInspect(w.t.Context(), made[0].Container)
	switch {
	case err != nil:
		w.t.Error(err)
	case !found.State.Running:
		w.t.Errorf("the task is RUNNING and its container %s", found.State.Status)
	case s.pid == 0:
		s.pid = found.State.Pid
	case s.pid != found.State.Pid:
		w.t.Errorf("the container's process was %d and is %d", s.pid, found.State.Pid)
	}
}

// judge holds a task that has ended against what must have happened exactly once. ran says that it was RUNNING.
func (w *world) judge(s *task, ran bool) {
	w.t.Helper()
	w.until("the control plane's answer to the last state change arrived", func(context.Context) error {
		if !slices.ContainsFunc(w.calls.accepted("SubmitTaskStateChange", s.arn), func(c call) bool { return c.Status == "STOPPED" }) {
			return errNotYet
		}
		return nil
	})
	made, started, died := w.events.of(s.arn, "create"), w.events.of(s.arn, "start"), w.events.of(s.arn, "die")
	want := 1
	if !ran && len(made) == 0 {
		want = 0
	}
	if len(made) != want || len(started) > want || len(started) != len(died) || ran && len(started) != 1 {
		w.t.Errorf("%d containers were created, %d started, %d ended: want %d of each", len(made), len(started), len(died), want)
	}
	if len(died) == 1 && (s.stopped.IsZero() || died[0].At.Before(s.stopped)) {
		w.t.Errorf("the container ended at %v, and the stop was asked for at %v", died[0].At, s.stopped)
	}
	submitted := w.calls.accepted("SubmitTaskStateChange", s.arn)
	for _, status := range []string{"RUNNING", "STOPPED"} {
		w.once(submitted, status, ran)
	}
	at := -1
	for _, c := range submitted {
		if now := slices.Index(order, c.Status); now < at {
			w.t.Errorf("the agent submitted %s after %s", c.Status, order[at])
		} else {
			at = now
		}
	}
	if ran && !slices.Contains(s.statuses, "RUNNING") {
		w.t.Errorf("the control plane showed %v", s.statuses)
	}
	if code := s.last.Containers[0].ExitCode; ran && (code == nil || *code != 137) {
		w.t.Errorf("the container's exitCode is %d, not that of the image's stop signal", aws.ToInt32(code))
	}
}

// once fails unless a state change was accepted once. A crash between the acceptance and its record may repeat it, word
// for word.
func (w *world) once(submitted []call, status string, ran bool) {
	w.t.Helper()
	var bodies []string
	n := 0
	for _, c := range submitted {
		if c.Status != status {
			continue
		}
		n++
		if !slices.Contains(bodies, c.Body) {
			bodies = append(bodies, c.Body)
		}
	}
	if len(bodies) > 1 || n > 1+w.kills || n == 0 && (ran || status == "STOPPED") {
		w.t.Errorf("%s was submitted %d times, in %d forms: %s", status, n, len(bodies), strings.Join(bodies, "\n"))
	}
}

// passes reads a trace of failpoints: how often each was passed.
func passes(t *testing.T, path string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for name := range strings.FieldsSeq(string(b)) {
		n[name]++
	}
	if len(n) == 0 {
		t.Fatal("no failpoint was passed: were the binaries built with the tag failpoint?")
	}
	return n
}

var errNotYet = errors.New("not yet")
