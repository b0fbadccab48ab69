package local

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/engine"
)

// Explanation is the answer of GET /v1/explain.
type Explanation struct {
	Now      time.Time `json:"now"`
	Task     Task      `json:"task"`
	State    string    `json:"state"`  // RUNNING, PENDING, STOPPING or STOPPED
	Waits    []string  `json:"waits"`  // what it waits for now and why; empty if for nothing
	Doing    []Step    `json:"doing"`  // at work now
	Errors   []Step    `json:"errors"` // the newest failures and warnings, the newest last
	Advice   []string  `json:"advice"` // what to do
	Timeline []Step    `json:"timeline"`
}

// maxErrors is how many failures an explanation repeats.
const maxErrors = 5

// Explain explains a task. It is pure.
func Explain(s *engine.TaskStatus, now time.Time) *Explanation {
	e := &Explanation{Now: now.UTC(), Task: TaskOf(s), Waits: []string{}, Doing: []Step{}, Errors: []Step{}, Advice: []string{}, Timeline: []Step{}}
	e.State = e.Task.State()
	e.Waits = append(e.Waits, s.Waits...)
	for i := range s.Timeline {
		step := Step{Container: s.Timeline[i].Container, Name: s.Timeline[i].Name, Start: s.Timeline[i].Start.UTC(), End: utc(s.Timeline[i].End), Outcome: s.Timeline[i].Outcome, Detail: s.Timeline[i].Detail}
		e.Timeline = append(e.Timeline, step)
		switch {
		case step.End.IsZero() && e.State != "STOPPED":
			e.Doing = append(e.Doing, step)
		case step.Outcome == engine.OutcomeFailed || step.Outcome == engine.OutcomeWarning:
			e.Errors = append(e.Errors, step)
		}
	}
	// What is at work is said with its progress; the plan's own word for it says less.
	e.Waits = slices.DeleteFunc(e.Waits, func(w string) bool {
		return slices.ContainsFunc(e.Doing, func(d Step) bool { return d.Container != "" && w == d.Name+" of container "+d.Container })
	})
	e.Errors = e.Errors[max(0, len(e.Errors)-maxErrors):]
	e.Advice = append(e.Advice, advice(e)...)
	return e
}

// remedies are what to do about texts of errors and waits, the most telling first. A text gets one.
var remedies = []struct{ in, do string }{
	{"no space left", "Free space on the disk; \"longshore-agent doctor\" says which one is full."},
	{"has the port", "Another process has the port at which containers ask for credentials: end it. The agent tries again every 10 s, and the task goes on then."},
	{"429", "The registry limits pulls. Give the agent credentials for it (ECS_ENGINE_AUTH_DATA), or serve the image from a registry of your own."},
	{"toomanyrequests", "The registry limits pulls. Give the agent credentials for it (ECS_ENGINE_AUTH_DATA), or serve the image from a registry of your own."},
	{"unauthorized", "The registry does not accept the credentials: the message names where they came from, if there were any. \"longshore-agent doctor\" looks at each source."},
	{"authentication required", "The registry wants credentials: the container's repositoryCredentials, ECS_ENGINE_AUTH_DATA in ecs.config, or Docker's config.json. \"longshore-agent doctor\" looks at each source."},
	{"denied", "Access is denied: check the credentials of the registry or the role, and that the image's name is spelled as the registry has it."},
	{"cardmissing:", "The network card with this MAC is not on the host: ip link lists those that are. Attach it, or see why the control plane has not."},
	{"parentmissing:", "Name an interface that the host has in ECS_TASK_NETWORK, and start the agent again; ip link lists them."},
	{"parentdown:", "Somebody has taken the interface down: ip link set NAME up."},
	{"parentbusy:", "The uplink has the host's own addresses or is another bridge's port: choose another interface in ECS_TASK_NETWORK, or macvlan:INTERFACE."},
	{"nametaken:", "Something else has the name: choose another in ECS_TASK_NETWORK, or remove what has it."},
	{"addressconflict:", "Somebody else on the network has the address: find them by their MAC, or reserve the address in the control plane's subnet."},
	{"rulesmissing:", "The control plane has not sent the rules of these security groups: see the connection in \"longshore-agent status\", and the groups in the control plane's network file."},
	{"rulesfailed:", "The kernel does not take the rules: see \"longshore-agent doctor\" for nftables."},
	{"unsupported:", "This kernel can't make what ECS_TASK_NETWORK asks for: choose another kind, or load the module that is named."},
	{"manifest unknown", "The registry has no image of this name and tag: check the task definition, or push the image."},
	{"not found", "Something that the task definition names does not exist: check names and tags in it."},
	{"x509", "The registry's or service's certificate is not trusted: put its CA into the host's and the engine's trust store."},
	{"no such host", "A name can't be resolved on this host: check its DNS with: getent hosts NAME"},
	{"connection refused", "Nobody listens where the agent or the engine was sent: check the address, and that the service is up."},
	{"i/o timeout", "A peer does not answer: check routes and firewalls from this host."},
	{"host port", "Free the host port, choose another hostPort, or hostPort 0 for any."},
	{"memory:", "The host's memory is reserved by other tasks: stop one, lower the reservation, or place the task elsewhere. \"longshore-agent status\" shows what is used."},
	{"cpu:", "The host's CPU units are reserved by other tasks: stop one, lower the reservation, or place the task elsewhere. \"longshore-agent status\" shows what is used."},
	{"the container engine", "The container engine does not answer: see \"systemctl status docker\" and its log, \"journalctl -u docker\"."},
	{"first look", "The container engine was not looked at yet: see \"longshore-agent doctor\"."},
	{"health", "A container must become HEALTHY: run its health check by hand with \"docker exec\", and see its output above."},
	{"permission", "The container's user can't use a path: change the path's owner or mode, or the container's user."},
	{"outofmemory", "The kernel killed it for memory: raise the container's memory, or find what it needs it for."},
	{"oom", "The kernel killed it for memory: raise the container's memory, or find what it needs it for."},
	{"exec format error", "The image is for another CPU architecture than this host's."},
	{"executable file not found", "The command is not in the image: check command and entryPoint."},
	{"control plane to accept", "The control plane has not accepted the task's last state yet: see the connection in \"longshore-agent status\"."},
	{"desiredstatus", "The control plane has not asked for it to run yet."},
}

// advice is what to do about a task.
func advice(e *Explanation) []string {
	var out []string
	say := func(text string) {
		if text != "" && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, w := range e.Waits {
		say(remedy(w))
	}
	if e.State != "RUNNING" {
		for _, c := range e.Task.Containers {
			say(remedy(c.Reason))
			say(exitAdvice(&c))
		}
		say(remedy(e.Task.Reason))
		if n := len(e.Errors); n > 0 && e.Errors[n-1].Outcome == engine.OutcomeFailed {
			say(remedy(e.Errors[n-1].Detail))
		}
	}
	switch {
	case len(out) > 0:
	case len(e.Doing) > 0:
		say("Nothing: it is at work. Ask again to see whether it moves.")
	case e.State == "RUNNING":
		say("Nothing: it runs.")
	case e.State == "PENDING" && len(e.Waits) > 0:
		say("What it waits for is named above; the agent's log has the rest: grep the task's id in /var/log/ecs/ecs-agent.log.")
	}
	return out
}

// remedy is what to do about one text; empty if that is not known.
func remedy(text string) string {
	low := strings.ToLower(text)
	for _, r := range remedies {
		if low != "" && strings.Contains(low, r.in) {
			return r.do
		}
	}
	return ""
}

// exitAdvice is what an exit code tells where there is no better word.
func exitAdvice(c *Container) string {
	if c.ExitCode == nil || *c.ExitCode == 0 {
		return ""
	}
	switch code := *c.ExitCode; {
	case code == 126 || code == 127:
		return fmt.Sprintf("Container %s ended with %d: its command can't be run, or is not in the image. Check command and entryPoint.", c.Name, code)
	case code == 137:
		return fmt.Sprintf("Container %s was killed (137): by the kernel for memory if its reason says so, else after its stopTimeout.", c.Name)
	case c.Essential:
		return fmt.Sprintf("Essential container %s ended with %d by itself: its output says why (docker logs, or its log driver).", c.Name, code)
	}
	return ""
}
