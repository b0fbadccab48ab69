package storm

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// judge notes what the agent says and holds it against what the engine knows.
type judge struct {
	fake *enginetest.Fake

	mu       sync.Mutex
	wrong    []string
	tasks    map[string]*story
	excuses  int             // rises with everything after which the agent may say once more what it said last
	late     map[string]bool // containers that were started after the caller of Start had left
	vanished map[string]bool // by name
	amnesia  int             // how often the state was lost; a part of the version of each life
	reboots  int
}

// story is what was said of a task.
type story struct {
	job     *job
	said    []*saying
	last    *saying // the last of all, those of a lost memory included
	ordered bool    // to stop
	hit     bool    // weather ended something of it
}

// saying is an accepted submission.
type saying struct {
	Task, Status, Reason string
	Containers           []struct {
		ContainerName, Status, Reason, RuntimeID string
		ExitCode                                 *int
	}

	life    string // of the agent that said it
	body    string
	excuses int
	cut     bool
}

var rank = map[string]int{"PENDING": 0, "RUNNING": 1, "STOPPED": 2}

func newJudge(f *enginetest.Fake) *judge {
	return &judge{fake: f, tasks: map[string]*story{}, late: map[string]bool{}, vanished: map[string]bool{}}
}

func (j *judge) complain(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.complainLocked(format, args...)
}

func (j *judge) complainLocked(format string, args ...any) {
	if len(j.wrong) < 50 {
		j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
	}
}

func (j *judge) complaints() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.wrong)
}

// begin makes tasks known, stop notes that they were told to stop.
func (j *judge) begin(jobs ...*job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range jobs {
		j.tasks[x.Arn] = &story{job: x}
	}
}

func (j *judge) stop(jobs ...*job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, x := range jobs {
		j.tasks[x.Arn].ordered = true
	}
}

// hits notes that weather ended, or may have ended, something of a task; of all if arn is empty.
func (j *judge) hits(arn string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for a, s := range j.tasks {
		if arn == "" || a == arn {
			s.hit = true
		}
	}
}

func (j *judge) excuse() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.excuses++
}

// left is told of calls whose callers had left before their end.
func (j *judge) left(method, id string) {
	if method != "Start" && method != "Restart" {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.late[id] = true
}

func (j *judge) memory() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.amnesia
}

// memory is the part of the version in a user agent that says which memory of the agent it was.
func (s *saying) memory() string {
	parts := strings.Split(s.life, ".")
	if len(parts) != 3 {
		return s.life
	}
	return parts[1]
}

// over reports whether STOPPED was accepted.
func (j *judge) over(arn string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.tasks[arn].status() == "STOPPED"
}

// open are the tasks that are not over.
func (j *judge) open() (jobs []*job) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, arn := range sorted(j.tasks) {
		if s := j.tasks[arn]; s.status() != "STOPPED" {
			jobs = append(jobs, s.job)
		}
	}
	return jobs
}

func (s *story) status() string {
	if len(s.said) == 0 {
		return ""
	}
	return s.said[len(s.said)-1].Status
}

// submitted judges a submission as it is accepted.
func (j *judge) submitted(life string, body []byte, cut bool) {
	now := &saying{life: life, body: string(body), cut: cut}
	if err := json.Unmarshal(body, now); err != nil {
		j.complain("a submission can't be read: %v: %s", err, body)
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.tasks[now.Task]
	if s == nil {
		j.complainLocked("a state change of a task that nobody ordered: %s", body)
		return
	}
	now.excuses = j.excuses
	if last := s.last; last != nil {
		if now.body == last.body {
			if !last.cut && last.excuses == now.excuses && last.life == now.life {
				j.complainLocked("told twice by one life of the agent: %s", body)
			}
			last.cut, last.excuses, last.life = cut, now.excuses, now.life
			return
		}
		if now.memory() == last.memory() {
			j.forward(last, now)
		}
	}
	s.last = now
	if now.Status == "STOPPED" {
		j.stopped(s, now)
	}
	if s.status() != "STOPPED" { // else it comes of a lost memory, and the control plane keeps what it knows
		s.said = append(s.said, now)
	}
}

// forward holds what is said against what was said before.
func (j *judge) forward(last, now *saying) {
	if rank[now.Status] < rank[last.Status] || last.Status == "STOPPED" {
		j.complainLocked("%s went from %s to %s:\n%s\n%s", now.Task, last.Status, now.Status, last.body, now.body)
	}
	before := map[string]string{}
	for _, c := range last.Containers {
		before[c.ContainerName] = c.Status
	}
	for _, c := range now.Containers {
		if rank[c.Status] < rank[before[c.ContainerName]] {
			j.complainLocked("container %s of %s went back from %s to %s", c.ContainerName, now.Task, before[c.ContainerName], c.Status)
		}
	}
}

// stopped holds a STOPPED against the engine: nothing of the task may run, and its end must have a name.
func (j *judge) stopped(s *story, now *saying) {
	named := now.Reason != "" || s.ordered || s.status() == "STOPPED" // what was over, and came back with lost memory, was stopped by a manifest
	for _, c := range now.Containers {
		named = named || c.Reason != "" || c.ExitCode != nil
		if c.Status != "STOPPED" {
			j.complainLocked("%s is STOPPED and its container %s is %s", now.Task, c.ContainerName, c.Status)
		}
	}
	if !named {
		j.complainLocked("%s is STOPPED, and nothing says why: %s", now.Task, now.body)
	}
	for _, c := range s.job.Containers {
		if st, ok := j.fake.Container(now.Task, c.Name); ok && st.Status == engine.StatusRunning && !j.late[st.ID] && !j.late[st.Name] {
			j.complainLocked("%s was reported STOPPED while its container %s ran: %s", now.Task, c.Name, now.body)
		}
	}
}

// verify judges a world whose tasks are over, by all containers that the engine ever had.
func (j *judge) verify() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, name := range j.fake.Names() {
		if n := j.fake.Creates(name); n > 1 && !j.vanished[name] {
			j.complainLocked("container %s was made %d times", name, n)
		}
		starts := j.fake.Starts(name)
		if starts == 0 {
			continue
		}
		st, ended := j.fake.Ended(name)
		if !ended {
			continue // it runs still, which is found otherwise
		}
		j.ran(name, starts, st)
	}
}

// ran judges a container that has run so many times, and ended as it did.
func (j *judge) ran(name string, starts int, st engine.State) {
	arn := st.Labels[engine.LabelTaskArn]
	s := j.tasks[arn]
	if arn == "" {
		return // somebody else's
	}
	if s == nil {
		j.complainLocked("container %s is of no task", name)
		return
	}
	container := st.Labels[engine.LabelContainerName]
	allowed, restarts := 1, false
	for _, c := range s.job.Containers {
		restarts = restarts || c.Name == container && c.RestartPolicy != nil
	}
	if s.job.SchedulingStrategy == "DAEMON" {
		allowed += j.reboots
	}
	if !restarts && starts > allowed {
		j.complainLocked("container %s was started %d times, and %d were allowed", name, starts, allowed)
	}
	if n := j.fake.Peak(s.job.Arn, container); n > 1 {
		j.complainLocked("container %s of %s had %d processes at the same time", container, s.job.Arn, n)
	}
	if s.status() != "STOPPED" || j.vanished[name] || j.late[name] || j.late[st.ID] {
		return
	}
	for _, c := range s.said[len(s.said)-1].Containers {
		if c.ContainerName == container && (c.ExitCode == nil || *c.ExitCode != st.ExitCode) {
			j.complainLocked("container %s ended with exit code %d, and this was reported: %s", name, st.ExitCode, s.said[len(s.said)-1].body)
		}
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
