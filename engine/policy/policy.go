// Package policy is the host's own word on what tasks may ask of it: /etc/ecs/policy, which the agent enforces whatever the
// control plane says.
//
// # The file
//
// One rule a line: what happens, what it is about, and, if it is not about all of that, which.
//
//	# this host is shared: no task may own it
//	allow privileged for image registry.example.com/infra/*
//	deny  privileged
//	deny  capability SYS_ADMIN SYS_PTRACE
//	allow host-path /var/log ro
//	warn  host-path /srv
//	deny  host-path /
//	deny  docker-sock
//	allow registry registry.example.com *.dkr.ecr.us-west-2.amazonaws.com
//	deny  registry
//	warn  image-without-digest
//
//	line      = ( "allow" | "warn" | "deny" ) class [ pattern … ] [ "ro" | "rw" ] { "for" ( "family" | "image" ) pattern … }
//
// What a task asks for is a list of single requests: this path read-write, that capability, this registry. For each of
// them the rules of its class are read from the top, and the first that matches decides; where none matches it is
// allowed. A task is denied if one of its requests is. So what a rule has decided no rule below it changes.
//
//	class                  is about                                       patterns
//	privileged             privileged containers
//	capability             capabilities that are added; ALL, and a        names, without CAP_
//	                       privileged container, ask for every one
//	host-path              host volumes and devices                       absolute paths, with all beneath; ro or rw: only those mounts
//	docker-sock            the sockets of Docker and containerd, and
//	                       directories that hold them
//	host-pid, host-ipc,    the host's own namespaces
//	host-network
//	registry               where an image comes from; docker.io where     a registry, or registry/path with all beneath
//	                       the reference names none
//	image-without-digest   images that are named by tag
//
// Patterns are those of path.Match, between slashes. "for family" asks for the task definition's family, which whoever may
// register definitions chooses; "for image" for the image's whole reference, and one with a digest can't be feigned.
//
// # Paths
//
// Paths are compared by where they lead: symlinks are followed, in rules as in tasks, as far as the path exists. A deny
// matches a mount that holds the path, too, because / shows /etc; an allow covers only what lies beneath it. A warn for
// a path that a mount holds counts unless a rule below denies the mount. What can't be resolved is treated as if
// it led to /. A mount of the host that shows a directory elsewhere a second time is not seen through.
//
// An explicit rule for privileged settles the capabilities that it implies, and one for docker-sock the path of the socket.
//
// # Failing closed
//
// No file is no policy. A file that can't be read, has a mistake in it, or that others than its owner can write lets no new
// task run; what runs stays. It is read anew for every judgement, so that there is nothing to reload.
package policy

import (
	"path"
	"slices"
	"strings"
)

// DefaultFile is where the policy is.
const DefaultFile = "/etc/ecs/policy"

// Effect is what a rule does. A greater one is the more severe.
type Effect int

// The effects.
const (
	Allow Effect = iota
	Warn
	Deny
)

// effects are the words for them.
var effects = []string{"allow", "warn", "deny"}

func (e Effect) String() string { return effects[e] }

// Class is what a rule is about.
type Class string

// The classes, in the order in which requests are judged.
const (
	Privileged  Class = "privileged"
	HostPID     Class = "host-pid"
	HostIPC     Class = "host-ipc"
	HostNetwork Class = "host-network"
	Capability  Class = "capability"
	DockerSock  Class = "docker-sock"
	HostPath    Class = "host-path"
	Registry    Class = "registry"
	NoDigest    Class = "image-without-digest"
)

// Classes are all classes.
var Classes = []Class{Privileged, HostPID, HostIPC, HostNetwork, Capability, DockerSock, HostPath, Registry, NoDigest}

// Rule is one line.
type Rule struct {
	Line     int
	Text     string // as it is written, without comment
	Effect   Effect
	Class    Class
	Patterns []string // none: everything of the class
	Mode     string   // of host-path: ro, rw, or empty for both
	Families []string // "for family"
	Images   []string // "for image"
}

// all reports whether the rule is about every request of its class.
func (r *Rule) all() bool {
	return (len(r.Patterns) == 0 || slices.Contains(r.Patterns, "*") || r.Class == HostPath && slices.Contains(r.Patterns, "/")) &&
		r.Mode == "" && len(r.Families) == 0 && len(r.Images) == 0
}

// Policy is a file that was understood. It is immutable.
type Policy struct {
	File   string
	Digest string // 12 hexadecimal digits of the content's SHA-256
	Rules  []Rule
}

// asksFor reports whether there are rules of a class.
func (p *Policy) asksFor(classes ...Class) bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return slices.Contains(classes, r.Class) })
}

// Attributes are the attributes by which placement sees the policy: its digest, and for each class that is not allowed
// as a whole whether all requests are denied (deny), some are (restricted), or the worst is a warning (warn).
func (p *Policy) Attributes() map[string]string {
	out := map[string]string{AttributePrefix: p.Digest}
	for _, class := range Classes {
		if s := p.summary(class); s != "" {
			out[AttributePrefix+"."+string(class)] = s
		}
	}
	return out
}

// AttributePrefix is the attribute with the policy's digest, and the beginning of the others' names.
const AttributePrefix = "longshore.policy"

func (p *Policy) summary(class Class) string {
	var seen [Deny + 1]bool
	base := Allow
	for i := range p.Rules {
		if r := &p.Rules[i]; r.Class == class {
			seen[r.Effect] = true
			if r.all() { // nothing below it is ever asked
				base = r.Effect
				break
			}
		}
	}
	seen[base] = true
	switch {
	case seen[Deny] && !seen[Allow] && !seen[Warn]:
		return "deny"
	case seen[Deny]:
		return "restricted"
	case seen[Warn]:
		return "warn"
	}
	return ""
}

// matchSegments compares a pattern with a value, both split at their slashes, as far as both go.
func matchSegments(pattern, value []string) bool {
	for i := range min(len(pattern), len(value)) {
		if ok, err := path.Match(pattern[i], value[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// segments are the parts of a path; "/" has none.
func segments(p string) []string {
	p = strings.Trim(p, "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}
