package policy

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/longshore-project/longshore/engine"
)

// Place is where a path of the host leads.
type Place struct {
	Path   string // without symlinks
	Sure   bool   // false: it could not be found out, and Path is "/"
	Socket bool   // it is a container engine's socket, or holds one
	Self   bool   // it is the socket itself
}

// Places tells where paths lead; see [Resolver].
type Places interface {
	// Request is about a path of a task.
	Request(path string) Place
	// Rule is about a path of a rule, whose last parts may be patterns.
	Rule(path string) string
}

// Decision is what the policy says about one request.
type Decision struct {
	Container string
	What      string // the request, in words
	Effect    Effect
	Rule      *Rule // nil: none matched, so that it is allowed
}

// Reason is the decision in a sentence; file is the policy's.
func (d Decision) Reason(file string) string {
	done := map[Effect]string{Allow: "allowed", Warn: "which the host's policy warns about", Deny: "which the host's policy denies"}[d.Effect]
	if d.Rule == nil {
		return fmt.Sprintf("container %s asks for %s, %s", d.Container, d.What, done)
	}
	return fmt.Sprintf("container %s asks for %s, %s: %s:%d: %s", d.Container, d.What, done, file, d.Rule.Line, d.Rule.Text)
}

// request is one thing that a container asks for.
type request struct {
	class Class
	value string // a capability, or an image's name with registry
	place Place
	ro    bool
	what  string
}

// Evaluate judges every request of a task, in the order of its containers and of [Classes]. It is pure but for places.
func (p *Policy) Evaluate(t engine.PolicyTask, places Places) []Decision {
	var out []Decision
	for i := range t.Containers {
		c := &t.Containers[i]
		e := &evaluation{policy: p, task: &t, container: c, places: places}
		e.judge()
		out = append(out, e.out...)
	}
	return out
}

type evaluation struct {
	policy    *Policy
	task      *engine.PolicyTask
	container *engine.PolicyContainer
	places    Places
	out       []Decision
}

func (e *evaluation) judge() {
	c := e.container
	settled := false
	for _, simple := range []struct {
		asked bool
		class Class
		what  string
	}{{c.Privileged, Privileged, "privileged"}, {c.HostPID, HostPID, "the host's processes (pidMode host)"}, {c.HostIPC, HostIPC, "the host's IPC (ipcMode host)"},
		{c.HostNetwork, HostNetwork, "the host's network (networkMode host)"}} {
		if simple.asked {
			ruled := e.decide(request{class: simple.class, what: simple.what})
			settled = settled || ruled && simple.class == Privileged
		}
	}
	for _, name := range c.CapAdd {
		e.capability(capabilityName(name), "")
	}
	if c.Privileged && !settled {
		e.capability("ALL", ", which privileged gives")
	}
	if e.policy.asksFor(DockerSock, HostPath) {
		for _, p := range c.Paths {
			e.path(p)
		}
	}
	registry, digest := imageName(c.Image)
	e.decide(request{class: Registry, value: registry, what: "an image of " + registry})
	if !digest {
		e.decide(request{class: NoDigest, what: "the image " + c.Image + ", which is named without a digest"})
	}
}

func (e *evaluation) capability(name, why string) {
	if name != "ALL" {
		e.decide(request{class: Capability, value: name, what: "the capability " + name + why})
		return
	}
	for _, each := range capabilities {
		e.decide(request{class: Capability, value: each, what: "the capability " + each + cmp.Or(why, ", which is among ALL")})
	}
}

func (e *evaluation) path(p engine.PolicyPath) {
	place := e.places.Request(p.Path)
	kind, mode := "host path ", " read-write"
	if p.Device {
		kind, mode = "device ", ""
	} else if p.ReadOnly {
		mode = " read-only"
	}
	what := kind + p.Path + mode
	switch {
	case !place.Sure:
		what += " (where it leads can't be found out)"
	case place.Path != path.Clean(p.Path):
		what += " (which leads to " + place.Path + ")"
	}
	ruled := false
	if place.Socket {
		ruled = e.decide(request{class: DockerSock, place: place, what: what + ", which gives a container engine's socket"})
	}
	if !ruled || !place.Self {
		e.decide(request{class: HostPath, place: place, ro: p.ReadOnly, what: what})
	}
}

// decide finds the first rule that matches, and reports whether there is one.
func (e *evaluation) decide(q request) bool {
	var rule, held *Rule
	for i := range e.policy.Rules {
		r := &e.policy.Rules[i]
		if r.Class != q.class || !e.applies(r) {
			continue
		}
		within, touches := e.matches(r, q)
		if within || touches && r.Effect == Deny {
			rule = r
			break
		}
		if touches && r.Effect == Warn && held == nil {
			held = r
		}
	}
	d := Decision{Container: e.container.Name, What: q.what, Rule: rule}
	if rule != nil {
		d.Effect = rule.Effect
	}
	if held != nil && d.Effect == Allow {
		d.Effect, d.Rule = Warn, held
	}
	e.out = append(e.out, d)
	return rule != nil
}

// applies reports whether a rule's conditions hold for the container.
func (e *evaluation) applies(r *Rule) bool {
	matches := func(patterns []string, value string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return wholly(segments(p), segments(value)) })
	}
	return matches(r.Families, e.task.Family) && (matches(r.Images, e.container.Image) || matches(r.Images, fullName(e.container.Image)))
}

// wholly compares every part.
func wholly(pattern, value []string) bool {
	return len(pattern) == len(value) && matchSegments(pattern, value)
}

// matches compares a rule with a request: the request lies within what the rule is about, or holds it.
func (e *evaluation) matches(r *Rule, q request) (within, touches bool) {
	if r.Mode == "ro" && !q.ro || r.Mode == "rw" && q.ro {
		return false, false
	}
	if len(r.Patterns) == 0 {
		return true, true
	}
	for _, p := range r.Patterns {
		switch r.Class {
		case Capability:
			ok, _ := path.Match(p, q.value)
			within = within || ok
		case Registry:
			pattern, value := strings.Split(p, "/"), strings.Split(q.value, "/")
			within = within || len(pattern) <= len(value) && matchSegments(pattern, value)
		case HostPath:
			pattern, value := segments(e.places.Rule(p)), segments(q.place.Path)
			ok := matchSegments(pattern, value)
			within = within || ok && len(pattern) <= len(value)
			touches = touches || ok
		}
	}
	return within, touches || within
}

// imageName is an image's name with its registry, and whether the reference has a digest. What can't be read as a
// reference is its own name.
func imageName(image string) (name string, digest bool) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image, strings.HasPrefix(image, "sha256:")
	}
	_, digest = named.(reference.Digested)
	return named.Name(), digest
}

// fullName is an image's whole reference with registry, as a rule's "for image" may say it.
func fullName(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.TagNameOnly(named).String()
}

// worst are the decisions of an effect, one for each container and rule.
func worst(decisions []Decision, effect Effect) []Decision {
	type key struct {
		container string
		rule      *Rule
	}
	var out []Decision
	seen := map[key]bool{}
	for _, d := range decisions {
		if k := (key{d.Container, d.Rule}); d.Effect == effect && !seen[k] {
			seen[k] = true
			out = append(out, d)
		}
	}
	return out
}
