package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/protocol/acs"
)

// An Explanation answers why things are as they are, or how they would be. Text is for a person; the rest has the same for
// programs. Counts add up to Instances: each registered instance of the cluster is in one of them.
type Explanation struct {
	Text      []string `json:"text"`
	Instances int      `json:"instances"`
	Counts    []Count  `json:"counts,omitempty"`
	// Nearest is the instance that comes closest to taking a task, of those that refuse it.
	Nearest *Miss   `json:"nearest,omitempty"`
	Hosts   []Miss  `json:"hosts,omitempty"` // one for each instance or, about a host, for each service
	Gates   []Gate  `json:"gates,omitempty"`
	Drains  []Drain `json:"drains,omitempty"`
	// Stops and Starts are what a change or a request would stop and start.
	Stops  []Move   `json:"stops,omitempty"`
	Starts []Move   `json:"starts,omitempty"`
	NoRoom []Miss   `json:"withoutRoom,omitempty"` // where a task would be missing afterwards
	Events []string `json:"events,omitempty"`      // the newest of the service
	// Advice says of a task what its messages mean and what to do: what the agent's explain says too.
	Advice []remedy.Remedy `json:"advice,omitempty"`
}

// Count is how many instances a filter refuses, or are in a state.
type Count struct {
	Reason string `json:"reason"`
	Cause  string `json:"cause,omitempty"` // in words, of a filter that can refuse for more than one: "port 8080 in use"
	Count  int    `json:"count"`
}

// Miss is an instance and what it has of a task, or why it takes none.
type Miss struct {
	Instance string `json:"instance"`
	Service  string `json:"service,omitempty"`
	Reason   string `json:"reason"` // a state of a task, FITS, or why not: RESOURCE:CPU, AGENT …
	Cause    string `json:"cause,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Short    int64  `json:"short,omitempty"`
	Change   string `json:"change,omitempty"` // what would have to change
}

// Gate is an instance that takes no task before its daemons run.
type Gate struct {
	Instance string    `json:"instance"`
	Service  string    `json:"service"`
	Why      string    `json:"why"`
	Until    time.Time `json:"until"`
}

// Drain is an instance that is being drained.
type Drain struct {
	Instance string `json:"instance"`
	Reason   string `json:"reason"`
}

const (
	fits = "FITS"
)

// ErrUnknown is that what is asked about does not exist. It is for the client.
type ErrUnknown struct{ Kind, Name string }

func (e *ErrUnknown) Error() string { return fmt.Sprintf("there is no %s %q", e.Kind, e.Name) }

func (e *Explanation) say(format string, args ...any) {
	e.Text = append(e.Text, fmt.Sprintf(format, args...))
}

// tally counts the verdicts and finds the nearest miss among the refusals.
func (e *Explanation) tally(verdicts []Miss, refusals []*placement.Refusal) {
	e.Instances = len(verdicts)
	counts := map[Count]int{} // without the number
	for _, m := range verdicts {
		counts[Count{Reason: strings.TrimSuffix(m.Reason, "."), Cause: m.Cause}]++
	}
	for c, n := range counts {
		c.Count = n
		e.Counts = append(e.Counts, c)
	}
	slices.SortFunc(e.Counts, func(a, b Count) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Cause, b.Cause))
	})
	if near := placement.Nearest(refusals); near != nil {
		m := missOf(near)
		e.Nearest = &m
	}
	var parts []string
	for _, c := range e.Counts {
		parts = append(parts, fmt.Sprintf("%d %s", c.Count, cmp.Or(c.Cause, c.Reason)))
	}
	switch len(verdicts) {
	case 0:
		e.say("There is no container instance in the cluster.")
	case 1:
		e.say("1 instance: %s.", parts[0])
	default:
		e.say("%d instances: %s.", len(verdicts), strings.Join(parts, ", "))
	}
	if e.Nearest != nil {
		e.say("%s", placement.Explain(refusals))
		e.say("To change that, %s.", e.Nearest.Change)
	}
}

func missOf(r *placement.Refusal) Miss {
	return Miss{Instance: r.Host.Instance.ID, Reason: r.Reason, Cause: r.Cause, Detail: r.Detail, Short: r.Short, Change: r.Change()}
}

// states adds the gates and drains of the cluster, or of one instance.
func (e *Explanation) states(m *Model, hosts []*placement.Host) {
	for _, h := range hosts {
		for _, g := range h.Gates {
			e.Gates = append(e.Gates, Gate{h.Instance.ID, g.Service, g.Why, g.Until})
			e.say("Gate of %s: %s.", h.Instance.ID, g.Detail(h.Instance.JoinedAt))
		}
		if aws.ToString(h.Instance.Object.Status) == draining {
			d := m.drain(h.Instance.ID)
			reason := d.reason(d.host.Instance, d.host.Tasks)
			e.Drains = append(e.Drains, Drain{h.Instance.ID, reason})
			e.say("Drain of %s: %s", h.Instance.ID, reason)
		}
	}
}

// Service explains where a service runs and where not.
func (m *Model) Service(name string) (*Explanation, error) {
	svc := m.services[name]
	if svc == nil {
		return nil, &ErrUnknown{"service", name}
	}
	e := &Explanation{Events: m.events[name]}
	var running, pending, stopping int
	for _, t := range m.tasksOf(name) {
		switch {
		case task.IsStopped(t):
		case !task.Wanted(t):
			stopping++
		case task.LastStatus(t) == task.Running:
			running++
		default:
			pending++
		}
	}
	e.say("Service %s (%s, %s) wants %d tasks: %d are RUNNING, %d PENDING, %d being stopped.", name, svc.Object.SchedulingStrategy, aws.ToString(svc.Object.Status), svc.Object.DesiredCount, running, pending, stopping)
	for _, d := range svc.Object.Deployments {
		e.say("Deployment %s (%s) of %s is %s: %s", aws.ToString(d.Id), aws.ToString(d.Status), definitionName(aws.ToString(d.TaskDefinition)), d.RolloutState, aws.ToString(d.RolloutStateReason))
	}
	kept := "the tasks that run are kept"
	if m.isDaemon(name) {
		kept = "its old task keeps running"
	}
	for _, r := range m.prepares[name] {
		switch r.Status {
		case store.PreparationFailed:
			e.say("Instance %s can't have the images of deployment %s, attempt %d; %s: %s", r.Instance, r.Deployment, r.Attempt, kept, r.Reason)
		case store.PreparationReady:
			e.say("Instance %s has the images of deployment %s.", r.Instance, r.Deployment)
		default:
			e.say("Instance %s was asked at %s to have the images of deployment %s, attempt %d; %s until they are there.", r.Instance, r.Since.UTC().Format(time.RFC3339), r.Deployment, r.Attempt, kept)
		}
	}
	room, _ := m.room()
	verdicts, refusals, err := m.verdicts(svc, room)
	if err != nil {
		return nil, err
	}
	e.Hosts = verdicts
	e.tally(verdicts, refusals)
	e.states(m, room)
	for _, event := range e.Events {
		e.say("Event: %s", event)
	}
	if len(e.Events) > 0 && strings.Contains(e.Events[0], placement.Unplaced) && running < int(svc.Object.DesiredCount) {
		e.advise(e.Events[:1])
	}
	return e, nil
}

// verdicts are what a service is on each instance, and the refusals among them.
func (m *Model) verdicts(svc *store.Service, room []*placement.Host) (verdicts []Miss, refusals []*placement.Refusal, err error) {
	name := aws.ToString(svc.Object.ServiceName)
	def := m.definition(aws.ToString(svc.Object.TaskDefinition))
	if def == nil {
		return nil, nil, &ErrUnknown{"task definition", definitionName(aws.ToString(svc.Object.TaskDefinition))}
	}
	req, err := placement.ForService(m.cfg.Network, svc, def, svc.Object.NetworkConfiguration)
	if err != nil {
		return nil, nil, err
	}
	isDaemon := m.isDaemon(name)
	for _, h := range room {
		id := h.Instance.ID
		if isDaemon {
			h = m.host(id)
		}
		v := Miss{Instance: id, Service: name, Reason: fits, Detail: "it would take a task"}
		if own := taskOn(h, name); own != nil && isDaemon {
			v.Reason, v.Detail = m.state(own)
		} else if refusal := req.Check(h); refusal != nil {
			refusals = append(refusals, refusal)
			v = missOf(refusal)
			v.Service = name
		} else if f, ok := svc.Failures[id]; ok && f.NotBefore.After(m.now) {
			v.Reason, v.Detail = reasonFailing, fmt.Sprintf("task %s failed, the %d. in a row: %s; the next attempt is at %s", f.Task, f.Count, f.Reason, f.NotBefore.UTC().Format(time.RFC3339))
			v.Change = "make the task start; an update of the service tries again at once"
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, refusals, nil
}

func taskOn(h *placement.Host, service string) (own *store.Task) {
	for _, t := range h.Tasks {
		if t.Service == service && (own == nil || t.Beside == own.ID) {
			own = t
		}
	}
	return own
}

// state is the state of a task that is not STOPPED, and what it waits for.
func (m *Model) state(t *store.Task) (state, detail string) {
	connected := m.connection(t.Instance) != nil
	var waits []string
	if !connected {
		waits = append(waits, "the agent is not connected")
	}
	switch {
	case !task.Wanted(t):
		state = "STOPPING"
		waits = append(waits, fmt.Sprintf("asked to stop at %s: %s", aws.ToTime(t.Object.StoppingAt).UTC().Format(time.RFC3339), aws.ToString(t.Object.StoppedReason)))
	case task.LastStatus(t) != task.Running:
		state = task.LastStatus(t)
		switch {
		case t.AcceptedAt.IsZero():
			waits = append(waits, "the agent has not acknowledged it")
		case t.Object.PullStartedAt != nil && t.Object.PullStoppedAt == nil:
			waits = append(waits, "images are being pulled since "+t.Object.PullStartedAt.UTC().Format(time.RFC3339))
		default:
			waits = append(waits, "the agent acknowledged it at "+t.AcceptedAt.UTC().Format(time.RFC3339))
		}
	default:
		state = task.Running
		if def := m.definition(aws.ToString(t.Object.TaskDefinitionArn)); def != nil && task.Checked(&def.Object) && t.Object.HealthStatus != types.HealthStatusHealthy {
			state += " " + string(t.Object.HealthStatus)
		}
	}
	if state != task.Running || !task.Wanted(t) {
		if told := m.cfg.Waits(m.connection(t.Instance), t); len(told) > 0 {
			waits = append(waits, fmt.Sprintf("on host %s: %s", t.Instance, strings.Join(told, "; ")))
		}
	}
	for _, c := range t.Object.Containers {
		if why := aws.ToString(c.Reason); why != "" {
			waits = append(waits, "container "+aws.ToString(c.Name)+": "+why)
		}
	}
	waits = append(waits, t.Warnings...)
	if task.Protected(t, m.now) {
		waits = append(waits, "protected from scale-in until "+t.ProtectedUntil.UTC().Format(time.RFC3339))
	}
	return state, "task " + t.ID + strings.Join(append([]string{""}, waits...), "; ")
}

// Task explains what a task does and waits for.
func (m *Model) Task(id string) (*Explanation, error) {
	t := m.tasks[id]
	if t == nil {
		return nil, &ErrUnknown{"task", id}
	}
	e := &Explanation{Instances: 1}
	of := "of no service"
	if t.Service != "" {
		of = "of service " + t.Service + ", deployment " + t.Deployment
	}
	e.say("Task %s (%s), %s, on container instance %s: desiredStatus %s, lastStatus %s.", id, definitionName(aws.ToString(t.Object.TaskDefinitionArn)), of, t.Instance, aws.ToString(t.Object.DesiredStatus), task.LastStatus(t))
	v := Miss{Instance: t.Instance, Service: t.Service, Reason: task.Stopped}
	if task.IsStopped(t) {
		v.Detail = fmt.Sprintf("since %s: %s", aws.ToTime(t.Object.StoppedAt).UTC().Format(time.RFC3339), whyStopped(t))
		e.say("It is STOPPED %s (%s).", v.Detail, t.Object.StopCode)
	} else {
		v.Reason, v.Detail = m.state(t)
		e.say("It is %s: %s.", v.Reason, v.Detail)
	}
	e.advise(m.messagesOf(t, v.Detail))
	e.Hosts, e.Counts = []Miss{v}, []Count{{Reason: v.Reason, Count: 1}}
	if svc := m.services[t.Service]; svc != nil {
		if f, ok := svc.Failures[t.Instance]; ok {
			e.say("On this instance %d tasks of the service failed in a row, the last one at %s: %s. The next attempt is not before %s.", f.Count, f.At.UTC().Format(time.RFC3339), f.Reason, f.NotBefore.UTC().Format(time.RFC3339))
		}
	}
	room, _ := m.room()
	e.states(m, slices.DeleteFunc(room, func(h *placement.Host) bool { return h.Instance.ID != t.Instance }))
	return e, nil
}

// messagesOf are the messages about a task, the most telling first: what its containers ended with, then what it waits for or stopped with.
func (m *Model) messagesOf(t *store.Task, detail string) (texts []string) {
	for _, c := range t.Object.Containers {
		texts = append(texts, aws.ToString(c.Reason))
	}
	if task.IsStopped(t) && t.Object.StopCode == types.TaskStopCodeEssentialContainerExited {
		for _, c := range t.Object.Containers {
			if code := aws.ToInt32(c.ExitCode); code != 0 && aws.ToString(c.Reason) == "" && m.essential(t, aws.ToString(c.Name)) {
				texts = append(texts, remedy.Exited(aws.ToString(c.Name), int(code)))
			}
		}
	}
	if task.IsStopped(t) {
		return append(texts, aws.ToString(t.Object.StoppedReason))
	}
	if t.Object.HealthStatus == types.HealthStatusUnhealthy {
		texts = append(texts, string(t.Object.HealthStatus))
	}
	if task.LastStatus(t) != task.Running {
		texts = append(texts, strings.Split(detail, "; ")...)
	}
	return texts
}

// essential reports whether a container of a task is; of a definition that is gone all are.
func (m *Model) essential(t *store.Task, name string) bool {
	def := m.definition(aws.ToString(t.Object.TaskDefinitionArn))
	return def == nil || slices.ContainsFunc(def.Object.ContainerDefinitions, func(c types.ContainerDefinition) bool {
		return aws.ToString(c.Name) == name && (c.Essential == nil || *c.Essential)
	})
}

// advise adds what is known about the first of the messages about which something is.
func (e *Explanation) advise(texts []string) {
	for _, text := range texts {
		if r, ok := remedy.Known(text); ok {
			e.Advice = append(e.Advice, r)
			e.say("What it means: %s", r.Means)
			e.say("What to do: %s", r.Do)
			return
		}
	}
}

// Host explains what an instance has, keeps and takes, and what each service is there.
func (m *Model) Host(id string) (*Explanation, error) {
	if m.instances[id] == nil {
		return nil, &ErrUnknown{"container instance", id}
	}
	room, _ := m.room()
	h := room[slices.IndexFunc(room, func(h *placement.Host) bool { return h.Instance.ID == id })]
	e := &Explanation{Instances: 1}
	all := placement.Registered(h.Instance)
	e.say("Container instance %s is %s, its agent is connected: %t.", id, aws.ToString(h.Instance.Object.Status), h.Connected)
	if !h.Connected && !h.Instance.DisconnectedSince.IsZero() {
		e.say("It has not been connected since %s; its tasks stay as they are, and it is given up %s after that, counted from when this control plane saw it.", h.Instance.DisconnectedSince.UTC().Format(time.RFC3339), m.cfg.InstanceLostAfter)
	}
	e.say("Free for tasks: %d of %d CPU units, %d of %d MiB of memory, %d of %d GPUs%s; host ports taken: tcp %v, udp %v. %d tasks are there.",
		h.Free.CPU, all.CPU, h.Free.Memory, all.Memory, len(h.Free.GPUs), len(all.GPUs), interfacesOf(h, all), h.Free.PortsTCP, h.Free.PortsUDP, len(h.Tasks))
	for _, k := range h.Kept {
		e.say("Kept for the daemon of service %s: %d CPU units, %d MiB of memory, ports tcp %v, udp %v.", k.Service, k.Need.CPU, k.Need.Memory, k.Need.PortsTCP, k.Need.PortsUDP)
	}
	e.states(m, []*placement.Host{h})
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		verdicts, _, err := m.verdicts(m.services[name], []*placement.Host{h})
		if err != nil {
			e.say("Service %s: %v.", name, err)
			continue
		}
		e.Hosts = append(e.Hosts, verdicts...)
		e.say("Service %s: %s, %s.", name, strings.TrimSuffix(verdicts[0].Reason, "."), verdicts[0].Detail)
	}
	return e, nil
}

// Daemons are the DAEMON services that belong on an instance, or have a task there, and what each is: the reason is RUNNING where
// its task runs, HEALTHY if it has a check.
func (m *Model) Daemons(id string) (all []Miss, err error) {
	h := m.host(id)
	if h == nil {
		return nil, &ErrUnknown{"container instance", id}
	}
	for _, name := range slices.Sorted(maps.Keys(m.services)) {
		if !m.isDaemon(name) {
			continue
		}
		verdicts, _, err := m.verdicts(m.services[name], []*placement.Host{h})
		if err != nil {
			return nil, err
		}
		if r := verdicts[0].Reason; r != placement.ReasonAttribute && r != placement.ReasonMemberOf {
			all = append(all, verdicts[0])
		}
	}
	return all, nil
}

// interfacesOf says how many network interfaces are left; empty where the agent makes none.
func interfacesOf(h *placement.Host, all store.Resources) string {
	if _, ok := h.Attribute(acs.CapabilitySecurityGroups); !ok {
		return ""
	}
	return fmt.Sprintf(", %d of %d network interfaces", h.Free.Interfaces, all.Interfaces)
}

// Placement is where count tasks would go, as RunTask would place them now, and why not more.
func (m *Model) Placement(req *placement.Request, strategies []types.PlacementStrategy, count int) *Explanation {
	e := &Explanation{}
	room, _ := m.room()
	chosen, refused := placement.Choose(room, req, strategies, count)
	got := map[string]int{}
	for _, h := range chosen {
		got[h.Instance.ID]++
		e.Starts = append(e.Starts, Move{Instance: h.Instance.ID, TaskDefinition: definitionName(aws.ToString(req.Definition.TaskDefinitionArn))})
	}
	e.say("%d of %d tasks would be placed now.", len(chosen), count)
	for _, id := range slices.Sorted(maps.Keys(got)) {
		e.say("On %s: %d.", id, got[id])
	}
	var refusals []*placement.Refusal
	for i, h := range room { // as the next task would meet it; before the first one when all were placed
		var r *placement.Refusal
		if refused != nil {
			r = refused[i]
		} else {
			r = req.Check(h)
		}
		v := Miss{Instance: h.Instance.ID, Reason: fits}
		if r != nil {
			refusals = append(refusals, r)
			v = missOf(r)
		}
		e.Hosts = append(e.Hosts, v)
	}
	e.tally(e.Hosts, refusals)
	e.states(m, room)
	return e
}

// definitionName is family:revision of a task definition's ARN.
func definitionName(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }
