package policy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/engine"
)

// flat is a host without symlinks; /run/docker.sock is its engine's socket.
type flat map[string]string

func (f flat) Request(p string) Place {
	if to, ok := f[p]; ok {
		p = to
	}
	const socket = "/run/docker.sock"
	return Place{Path: p, Sure: true, Self: p == socket, Socket: p == socket || p == "/" || strings.HasPrefix(socket, p+"/")}
}

func (f flat) Rule(p string) string {
	if to, ok := f[p]; ok {
		return to
	}
	return p
}

// everything asks for all there is.
var everything = engine.PolicyTask{Family: "web", Containers: []engine.PolicyContainer{{Name: "app", Image: "nginx", Privileged: true, HostPID: true, HostIPC: true, HostNetwork: true,
	CapAdd: []string{"ALL", "cap_net_admin"}, Paths: []engine.PolicyPath{{Path: "/"}, {Path: "/run/docker.sock"}, {Path: "/dev/sda", Device: true}, {Path: "/etc", ReadOnly: true}}}}}

func one(c engine.PolicyContainer) engine.PolicyTask {
	c.Name = "app"
	if c.Image == "" {
		c.Image = "registry.example.com/team/web@sha256:" + strings.Repeat("a", 64)
	}
	return engine.PolicyTask{Family: "web", Containers: []engine.PolicyContainer{c}}
}

func mounts(path string) engine.PolicyTask {
	return one(engine.PolicyContainer{Paths: []engine.PolicyPath{{Path: path}}})
}

func mountsReadOnly(path string) engine.PolicyTask {
	return one(engine.PolicyContainer{Paths: []engine.PolicyPath{{Path: path, ReadOnly: true}}})
}

func image(ref string) engine.PolicyTask { return one(engine.PolicyContainer{Image: ref}) }

func caps(names ...string) engine.PolicyTask { return one(engine.PolicyContainer{CapAdd: names}) }

func (p *Policy) effect(t engine.PolicyTask, places Places) Effect {
	worst := Allow
	for _, d := range p.Evaluate(t, places) {
		worst = max(worst, d.Effect)
	}
	return worst
}

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	privileged := one(engine.PolicyContainer{Privileged: true})
	for _, c := range []struct {
		sentence, policy string
		task             engine.PolicyTask
		want             Effect
	}{
		{"what no rule is about is allowed", "deny host-pid", privileged, Allow},
		{"privileged is denied", "deny privileged", privileged, Deny},
		{"an exception goes before the rule", "allow privileged for family w*\ndeny privileged", privileged, Allow},
		{"an exception for another family is none", "allow privileged for family db\ndeny privileged", privileged, Deny},
		{"an exception for an image with a digest", "allow privileged for image registry.example.com/*/*@sha256:*\ndeny privileged", privileged, Allow},
		{"below a rule that decides nothing is asked", "deny privileged\nallow privileged", privileged, Deny},
		{"the host's processes", "deny host-pid", one(engine.PolicyContainer{HostPID: true}), Deny},
		{"the host's IPC", "deny host-ipc", one(engine.PolicyContainer{HostIPC: true}), Deny},
		{"the host's network", "deny host-network", one(engine.PolicyContainer{HostNetwork: true}), Deny},

		{"a capability", "deny capability NET_ADMIN", caps("CAP_NET_ADMIN"), Deny},
		{"another capability", "deny capability NET_ADMIN", caps("NET_RAW"), Allow},
		{"ALL asks for each capability", "deny capability NET_ADMIN", caps("ALL"), Deny},
		{"privileged asks for each capability", "deny capability SYS_ADMIN", privileged, Deny},
		{"a rule for privileged settles its capabilities", "allow privileged\ndeny capability SYS_ADMIN", privileged, Allow},
		{"a capability that no rule can know", "deny capability", caps("QUANTUM"), Deny},

		{"a path", "deny host-path /etc", mounts("/etc"), Deny},
		{"what lies beneath", "deny host-path /etc", mounts("/etc/ssl/certs"), Deny},
		{"what only begins like it", "deny host-path /etc", mounts("/etcetera"), Allow},
		{"a mount that holds what is denied", "deny host-path /etc", mounts("/"), Deny},
		{"an allow does not cover what holds it", "allow host-path /var/log\ndeny host-path /", mounts("/var"), Deny},
		{"an allow covers what lies beneath", "allow host-path /var/log\ndeny host-path /", mounts("/var/log/nginx"), Allow},
		{"read-only is allowed", "allow host-path /var/log ro\ndeny host-path /", mountsReadOnly("/var/log"), Allow},
		{"read-write is not", "allow host-path /var/log ro\ndeny host-path /", mounts("/var/log"), Deny},
		{"only writing is denied", "deny host-path / rw", mountsReadOnly("/etc"), Allow},
		{"a pattern", "deny host-path /home/*/.ssh", mounts("/home/kim/.ssh/id"), Deny},
		{"a mount that holds what a pattern is about", "deny host-path /home/*/.ssh", mounts("/home/kim"), Deny},
		{"a warning does not hide a denial of what holds it", "warn host-path /etc\ndeny host-path /", mounts("/"), Deny},
		{"a warning counts for what holds it", "warn host-path /etc", mounts("/"), Warn},
		{"a symlink counts as what it leads to", "deny host-path /etc", mounts("/innocent"), Deny},
		{"a device is a path", "deny host-path /dev", one(engine.PolicyContainer{Paths: []engine.PolicyPath{{Path: "/dev/sda", Device: true}}}), Deny},

		{"the engine's socket", "deny docker-sock", mounts("/run/docker.sock"), Deny},
		{"a directory with the engine's socket", "deny docker-sock", mountsReadOnly("/run"), Deny},
		{"the socket may be allowed where its path is not", "allow docker-sock\ndeny host-path /", mounts("/run/docker.sock"), Allow},
		{"but not the directory with it", "allow docker-sock\ndeny host-path /", mounts("/run"), Deny},

		{"a registry", "deny registry registry.example.com", image("registry.example.com/a/b:1"), Deny},
		{"no registry is docker.io", "deny registry docker.io", image("nginx"), Deny},
		{"a registry's part", "allow registry registry.example.com/team\ndeny registry", image("registry.example.com/team/web:1"), Allow},
		{"another part", "allow registry registry.example.com/team\ndeny registry", image("registry.example.com/other/web:1"), Deny},
		{"a registry by pattern", "allow registry *.dkr.ecr.us-west-2.amazonaws.com\ndeny registry", image("123456789012.dkr.ecr.us-west-2.amazonaws.com/web:1"), Allow},
		{"an image by tag", "deny image-without-digest", image("nginx:1.27"), Deny},
		{"an image by digest", "deny image-without-digest", image("nginx@sha256:" + strings.Repeat("a", 64)), Allow},
		{"an image that is no reference", "deny registry", image("NOT A REFERENCE"), Deny},
	} {
		if got := parsed(t, c.policy).effect(c.task, flat{"/innocent": "/etc/ssl"}); got != c.want {
			t.Errorf("%s: %s, not %s, by\n%s", c.sentence, got, c.want, c.policy)
		}
	}
}

func TestAReasonNamesContainerRequestFileLineAndRule(t *testing.T) {
	p := parsed(t, "# x\ndeny host-path /etc # the host's\n")
	v := p.verdict(p.Evaluate(mounts("/innocent"), flat{"/innocent": "/etc/ssl"}))
	want := "HostPolicyError: container app asks for host path /innocent read-write (which leads to /etc/ssl), which the host's policy denies: /etc/ecs/policy:2: deny host-path /etc"
	if v.Denial != want {
		t.Errorf("%s\n%s", v.Denial, want)
	}
	p = parsed(t, "warn privileged\n")
	if v := p.verdict(p.Evaluate(everything, flat{})); v.Denial != "" || len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "which the host's policy warns about: /etc/ecs/policy:1: warn privileged") {
		t.Errorf("%+v", v)
	}
}

var (
	anyRule = rapid.Custom(func(t *rapid.T) string {
		class := rapid.SampledFrom(Classes).Draw(t, "class")
		line := rapid.SampledFrom(effects).Draw(t, "effect") + " " + string(class)
		switch class {
		case HostPath:
			line += " " + rapid.SampledFrom([]string{"", "/", "/etc", "/var/log", "/home/*", "/run"}).Draw(t, "path") + rapid.SampledFrom([]string{"", " ro", " rw"}).Draw(t, "mode")
		case Capability:
			line += " " + rapid.SampledFrom([]string{"", "ALL", "NET_ADMIN", "SYS_ADMIN KILL"}).Draw(t, "capability")
		case Registry:
			line += " " + rapid.SampledFrom([]string{"", "*", "docker.io", "docker.io/library", "a.example"}).Draw(t, "registry")
		}
		return line + rapid.SampledFrom([]string{"", "", " for family web", " for family db", " for image docker.io/*/*"}).Draw(t, "for")
	})
	anyTask = rapid.Custom(func(t *rapid.T) engine.PolicyTask {
		path := rapid.Custom(func(t *rapid.T) engine.PolicyPath {
			return engine.PolicyPath{Path: rapid.SampledFrom([]string{"/", "/etc", "/etc/ssl", "/var", "/var/log/a", "/home/kim", "/run", "/run/docker.sock"}).Draw(t, "path"), ReadOnly: rapid.Bool().Draw(t, "ro")}
		})
		return engine.PolicyTask{Family: rapid.SampledFrom([]string{"web", "db"}).Draw(t, "family"), Containers: []engine.PolicyContainer{{
			Name: "app", Image: rapid.SampledFrom([]string{"nginx", "a.example/x:1", "b.example/y@sha256:" + strings.Repeat("b", 64)}).Draw(t, "image"),
			Privileged: rapid.Bool().Draw(t, "privileged"), HostPID: rapid.Bool().Draw(t, "pid"), HostIPC: rapid.Bool().Draw(t, "ipc"), HostNetwork: rapid.Bool().Draw(t, "network"),
			CapAdd: rapid.SliceOfN(rapid.SampledFrom([]string{"ALL", "NET_ADMIN", "CAP_KILL"}), 0, 2).Draw(t, "caps"), Paths: rapid.SliceOfN(path, 0, 3).Draw(t, "paths")}}}
	})
)

// Rules are read from the top: what one has decided, allow and deny alike, no rule below it changes. The one question that
// goes away is a capability which privileged implies, once there is a rule for privileged.
func TestALaterRuleNeverChangesWhatARuleHasDecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(anyRule, 1, 6).Draw(t, "rules")
		task := anyTask.Draw(t, "task")
		before, err := Parse("p", []byte(strings.Join(rules, "\n")))
		if err != nil {
			t.Fatal(err)
		}
		after, err := Parse("p", []byte(strings.Join(append(rules, anyRule.Draw(t, "later")), "\n")))
		if err != nil {
			t.Fatal(err)
		}
		decided := map[string]Decision{}
		for _, d := range after.Evaluate(task, flat{}) {
			decided[d.What] = d
		}
		for _, d := range before.Evaluate(task, flat{}) {
			now, asked := decided[d.What]
			if d.Rule == nil || !asked || d.Effect == Warn && d.Rule.Class == HostPath { // a warning may be held back for what is below it
				continue
			}
			if now.Effect != d.Effect || now.Rule.Line != d.Rule.Line {
				t.Fatalf("%s: %s by line %d, and with one more rule below %s by line %d", d.What, d.Effect, d.Rule.Line, now.Effect, now.Rule.Line)
			}
		}
	})
}

// A task that asks for less is never judged worse.
func TestAskingForLessIsNeverWorse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := Parse("p", []byte(strings.Join(rapid.SliceOfN(anyRule, 0, 6).Draw(t, "rules"), "\n")))
		if err != nil {
			t.Fatal(err)
		}
		task := anyTask.Draw(t, "task")
		was := p.effect(task, flat{})
		c := &task.Containers[0]
		c.HostPID, c.HostIPC, c.HostNetwork, c.CapAdd = false, false, false, nil
		if len(c.Paths) > 0 {
			c.Paths = c.Paths[1:]
		}
		if now := p.effect(task, flat{}); now > was {
			t.Fatalf("%s, and with less %s", was, now)
		}
	})
}

func TestAnEmptyPolicyAllowsEverything(t *testing.T) {
	if got := parsed(t, "# nothing\n").effect(everything, flat{}); got != Allow {
		t.Error(got)
	}
}
