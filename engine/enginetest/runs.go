package enginetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

func processTests(t *testing.T, s *suite) {
	t.Run("the exit code is the process's", func(t *testing.T) {
		id := s.start(t, s.spec(ScriptExit7))
		if st := s.ended(t, id); st.ExitCode != 7 || st.OOMKilled || st.Error != "" || st.FinishedAt.Before(st.StartedAt) {
			t.Errorf("ended as %+v", st)
		}
	})
	t.Run("a process killed for its memory is flagged", func(t *testing.T) {
		spec := s.spec(ScriptOOM)
		spec.Memory = 8 << 20
		spec.HostConfig.MemorySwap = 8 << 20
		id := s.start(t, spec)
		if st := s.ended(t, id); !st.OOMKilled || st.ExitCode == 0 {
			t.Errorf("ended as %+v", st)
		}
	})
	t.Run("a health check is run and shown", func(t *testing.T) {
		good, bad, unchecked := s.spec(ScriptServe), s.spec(ScriptServe), s.spec(ScriptServe)
		good.Config.Healthcheck = check("CMD-SHELL", "echo fine")
		bad.Config.Healthcheck = check("CMD", "sh", "-c", "echo ill; exit 1")
		goodID, badID, uncheckedID := s.start(t, good), s.start(t, bad), s.start(t, unchecked)
		if h := s.until(t, goodID, "health", func(st engine.State) bool { return st.Health.Status == "HEALTHY" }).Health; h.Since.IsZero() {
			t.Errorf("healthy without a time: %+v", h)
		}
		if h := s.until(t, badID, "illness", func(st engine.State) bool { return st.Health.Status == "UNHEALTHY" }).Health; h.ExitCode != 1 || strings.TrimSpace(h.Output) != "ill" {
			t.Errorf("unhealthy with %+v", h)
		}
		if h := s.inspect(t, uncheckedID).Health; h.Status != "" {
			t.Errorf("a container without a check has the health %+v", h)
		}
		if l, _ := s.listed(t, badID); !l.Partial && l.Health.Status != "UNHEALTHY" || l.Partial && l.Health.Status == "HEALTHY" {
			t.Errorf("listed as %+v", l)
		}
	})
}

func settingsTests(t *testing.T, s *suite) {
	t.Run("the image's environment, directory and user hold where the definition says nothing", func(t *testing.T) {
		if got := s.output(t, s.spec(ScriptReport)); got != "user=0:0 dir=/work from=image mine=image\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("the definition's environment, directory and user win", func(t *testing.T) {
		spec := s.spec(ScriptReport)
		spec.Env = []string{"MINE=definition"}
		spec.Config.User, spec.Config.WorkingDir = "app", "/etc"
		if got := s.output(t, spec); got != "user=1000:1001 dir=/etc from=image mine=definition\n" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("entry point and command are the image's or the definition's", func(t *testing.T) {
		cases := map[string][2][]string{
			"entry command\n": {nil, nil},
			"entry other\n":   {nil, {"other"}},
			"mine\n":          {{"echo", "mine"}, nil},
			"mine other\n":    {{"echo", "mine"}, {"other"}},
		}
		for want, c := range cases {
			spec := s.spec("")
			spec.Image, spec.EntryPoint, spec.Command = s.Images["entry"], c[0], c[1]
			if got := s.output(t, spec); got != want {
				t.Errorf("entry point %v, command %v: got %q, want %q", c[0], c[1], got, want)
			}
		}
	})
	t.Run("the root file system can be made read-only", func(t *testing.T) {
		spec := s.spec(ScriptRoot)
		if got := s.output(t, spec); got != "writable\n" {
			t.Errorf("by default it is %q", got)
		}
		spec = s.spec(ScriptRoot)
		spec.HostConfig.ReadonlyRootfs = true
		if got := s.output(t, spec); got != "read-only\n" {
			t.Errorf("made read-only it is %q", got)
		}
	})
	t.Run("host paths are mounted, read-only where asked, and missing ones are made", func(t *testing.T) {
		dir := t.TempDir()
		in, out := filepath.Join(dir, "in"), filepath.Join(dir, "missing", "out")
		if err := os.Mkdir(in, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(in, "file"), []byte("from the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		spec := s.spec(ScriptMounts)
		spec.Mounts = []engine.Mount{
			{Type: "bind", Source: in, Target: "/in", ReadOnly: true}, {Type: "bind", Source: out, Target: "/out"}, {Type: "tmpfs", Target: "/tmpfs"},
		}
		if got := s.output(t, spec); got != "from the host\nin read-only\ntmpfs writable\n" {
			t.Errorf("got %q", got)
		}
		if data, err := os.ReadFile(filepath.Join(out, "file")); string(data) != "new\n" {
			t.Errorf("the host sees %q, %v", data, err)
		}
		binds := 0
		for _, m := range s.inspect(t, spec.Name).Mounts {
			if m == spec.Mounts[0] || m == spec.Mounts[1] {
				binds++
			}
		}
		if binds != 2 {
			t.Errorf("the state shows the mounts %+v", s.inspect(t, spec.Name).Mounts)
		}
	})
	t.Run("labels are the image's, the document's and ours, and ours win", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		spec.Config.Labels = map[string]string{"team": "a", engine.LabelTaskArn: "forged"}
		labels := s.inspect(t, s.create(t, spec)).Labels
		if labels["team"] != "a" || labels["made.by"] != "image" || labels[engine.LabelTaskArn] != spec.Labels[engine.LabelTaskArn] {
			t.Errorf("got %v", labels)
		}
	})
	t.Run("a log configuration is taken", func(t *testing.T) {
		spec := s.spec(ScriptLines)
		spec.HostConfig.LogConfig = &acs.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "2"}}
		if got := s.output(t, spec); got != "one\ntwo\nthree\n" {
			t.Errorf("got %q", got)
		}
	})
}

func networkTests(t *testing.T, s *suite) {
	ports := []engine.Port{{Container: 8080, Protocol: "tcp"}, {Container: 8080, Protocol: "udp"}}
	t.Run("a bridge gives an address and publishes ports", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		spec.NetworkMode, spec.Ports = "bridge", ports
		st := s.inspect(t, s.start(t, spec))
		seen := map[string]bool{}
		for _, b := range st.Ports {
			if b.Container != 8080 || b.Host == 0 || b.HostIP == "" {
				t.Errorf("bound as %+v", b)
			}
			seen[b.Protocol] = true
		}
		if !seen["tcp"] || !seen["udp"] || len(st.Addresses) == 0 || st.NetworkMode != "bridge" {
			t.Errorf("got %+v", st)
		}
		ok(t, "stop", s.Runtime.Stop(s.ctx(t), st.ID, 0))
		if st := s.inspect(t, st.ID); len(st.Ports) > 0 || len(st.Addresses) > 0 {
			t.Errorf("a stopped container still has the ports %v and addresses %v", st.Ports, st.Addresses)
		}
	})
	t.Run("a host port that is taken is refused, and the container can start once it is free", func(t *testing.T) {
		first := s.spec(ScriptServe)
		first.NetworkMode, first.Ports = "bridge", []engine.Port{{Container: 80, Protocol: "tcp"}}
		holder := s.start(t, first)
		port := s.inspect(t, holder).Ports[0].Host
		second := s.spec(ScriptServe)
		second.NetworkMode, second.Ports = "bridge", []engine.Port{{Container: 80, Host: port, Protocol: "tcp"}}
		id := s.create(t, second)
		class(t, "start", s.Runtime.Start(s.ctx(t), id), errdefs.IsResourceExhausted, "ResourceExhausted")
		if st := s.inspect(t, id); st.Status != engine.StatusCreated || st.Error == "" {
			t.Errorf("afterwards: %+v", st)
		}
		ok(t, "stop", s.Runtime.Stop(s.ctx(t), holder, 0))
		ok(t, "start with a free port", s.Runtime.Start(s.ctx(t), id))
		if b := s.inspect(t, id).Ports; len(b) == 0 || b[0].Host != port {
			t.Errorf("bound as %+v, want port %d", b, port)
		}
	})
	t.Run("the host's network and none publish nothing", func(t *testing.T) {
		for _, mode := range []string{"host", "none"} {
			spec := s.spec(ScriptServe)
			spec.NetworkMode, spec.Ports = mode, ports
			if st := s.inspect(t, s.start(t, spec)); st.Status != engine.StatusRunning || len(st.Ports) > 0 || len(st.Addresses) > 0 || st.NetworkMode != mode {
				t.Errorf("%s: got %+v", mode, st)
			}
		}
	})
	t.Run("a container can join another one's network", func(t *testing.T) {
		first := s.start(t, s.spec(ScriptServe))
		spec := s.spec(ScriptServe)
		spec.NetworkMode = "container:" + first
		if st := s.inspect(t, s.start(t, spec)); st.Status != engine.StatusRunning || st.NetworkMode != "container:"+first {
			t.Errorf("got %+v", st)
		}
	})
	t.Run("what the document says wins", func(t *testing.T) {
		spec := s.spec(ScriptServe)
		spec.NetworkMode, spec.HostConfig.NetworkMode = "bridge", "none"
		if st := s.inspect(t, s.create(t, spec)); st.NetworkMode != "none" {
			t.Errorf("got the mode %s", st.NetworkMode)
		}
	})
}
