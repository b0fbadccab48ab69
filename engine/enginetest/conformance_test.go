package enginetest_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/engine/enginetest/remote"
)

func TestTheFakePassesTheSuite(t *testing.T) {
	enginetest.Run(t, subject(func(_ *testing.T, f *enginetest.Fake) engine.Runtime { return enginetest.Restarter{Fake: f} }))
}

func TestTheFakePassesTheSuiteBehindASocket(t *testing.T) {
	enginetest.Run(t, subject(func(t *testing.T, f *enginetest.Fake) engine.Runtime {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: remote.Handler(enginetest.Restarter{Fake: f}, remote.Options{}), ReadHeaderTimeout: time.Minute}
		ended := make(chan error)
		go func() { ended <- server.Serve(l) }()
		c := remote.Dial(socket)
		t.Cleanup(func() {
			_ = c.Close()
			_ = server.Close()
			<-ended
		})
		return c
	}))
}

// subject is a Fake with what the suite needs around it, as through shows it.
func subject(through func(*testing.T, *enginetest.Fake) engine.Runtime) func(t *testing.T) enginetest.Subject {
	return func(t *testing.T) enginetest.Subject {
		f := enginetest.NewFake()
		s := enginetest.Subject{
			Runtime: through(t, f), Images: map[string]string{}, Open: "registry/open:1", Closed: "registry/closed:1",
			Missing: "registry/missing:1", Unreachable: "nowhere/x:1", Auth: engine.RegistryAuth{Username: "me", Password: "secret"},
		}
		configs := map[string]engine.ImageConfig{}
		for name, img := range enginetest.Images() {
			img.Ref = "local/" + name + ":1"
			f.AddImage(img)
			s.Images[name], configs[img.Ref] = img.Ref, img.Config
		}
		open, closed := enginetest.Images()["base"], enginetest.Images()["base"]
		open.Ref, closed.Ref, closed.Auth = s.Open, s.Closed, &s.Auth
		open.Files, closed.Files = nil, nil // so that they are other images than the local one
		f.Publish(open, closed)
		configs[s.Open] = open.Config
		s.OpenDigest = published(t, open)
		runs := map[string]int{}
		f.Behave(func(spec engine.Spec) enginetest.Behaviour {
			if slices.Contains(spec.Command, enginetest.ScriptCount) {
				runs[spec.Name]++
				return enginetest.Behaviour{Exits: true, ExitCode: 3, Output: fmt.Sprintln(runs[spec.Name])}
			}
			return interpret(spec, configs[spec.Image])
		})
		programs := &programs{images: configs}
		f.BehaveExec(programs.run)
		f.FailPull("nowhere/x:1", fmt.Errorf("no route to the registry: %w", errdefs.ErrUnavailable))
		s.Foreign = func(*testing.T) (string, string, func() bool) {
			id := f.AddForeign("foreign")
			return id, "foreign", func() bool { _, running := f.Foreign(id); return running }
		}
		s.Down = func(t *testing.T) engine.Runtime {
			down := enginetest.NewFake()
			down.Down()
			return through(t, down)
		}
		s.Hung = func(t *testing.T) engine.Runtime {
			hung := enginetest.NewFake()
			for _, m := range []string{
				"Info", "List", "Inspect", "Create", "Start", "Stop", "Remove", "Logs", "Exec", "Events", "Image", "Images", "Pull",
				"RemoveImage", "ReadFile", "Stat", "CreateVolume", "InspectVolume", "RemoveVolume", "Import",
			} {
				hung.Hang(m)
			}
			return through(t, hung)
		}
		return s
	}
}

// published is the digest that a Fake gives an image.
func published(t *testing.T, img enginetest.FakeImage) string {
	t.Helper()
	return enginetest.NewFake().AddImage(img).Digest
}

// interpret is what a real engine would make of the suite's scripts.
func interpret(spec engine.Spec, img engine.ImageConfig) enginetest.Behaviour {
	argv := slices.Concat(spec.EntryPoint, spec.Command)
	if len(spec.EntryPoint) == 0 {
		if len(spec.Command) == 0 {
			argv = img.Command
		}
		argv = slices.Concat(img.EntryPoint, argv)
	}
	exits := func(code int, output string) enginetest.Behaviour {
		return enginetest.Behaviour{Exits: true, ExitCode: code, Output: output}
	}
	b := enginetest.Behaviour{}
	switch script := argv[len(argv)-1]; {
	case argv[0] == "/bin/longshore-none":
		return enginetest.Behaviour{StartError: fmt.Errorf("exec /bin/longshore-none: no such file: %w", errdefs.ErrInvalidArgument)}
	case argv[0] == "echo":
		return exits(0, strings.Join(argv[1:], " ")+"\n")
	case script == enginetest.ScriptServe:
		b.Output, b.StopCode = "serving\n", 143
	case script == enginetest.ScriptStubborn:
		b.Output, b.IgnoreStop = "stubborn\n", true
	case script == enginetest.ScriptUSR1:
		b.Output = "waiting\n"
		if spec.Config.StopSignal == "SIGUSR1" || spec.Config.StopSignal == "" && img.StopSignal == "SIGUSR1" {
			b.StopCode = 5
		}
	case script == enginetest.ScriptExit7:
		return exits(7, "")
	case script == enginetest.ScriptOOM:
		return enginetest.Behaviour{Exits: true, OOM: true}
	case script == enginetest.ScriptLines:
		return exits(0, "one\ntwo\nthree\n")
	case script == enginetest.ScriptSlow:
		return enginetest.Behaviour{Exits: true, ExitCode: 4, After: 50 * time.Millisecond, Output: "first\nsecond\n"}
	case script == enginetest.ScriptReport:
		return exits(0, report(spec, img))
	case script == enginetest.ScriptRoot && spec.HostConfig.ReadonlyRootfs:
		return exits(0, "read-only\n")
	case script == enginetest.ScriptRoot:
		return exits(0, "writable\n")
	case script == enginetest.ScriptMounts:
		return exits(0, useMounts(spec))
	}
	if check := spec.Config.Healthcheck; check != nil {
		b.Health = "HEALTHY"
		if strings.Contains(strings.Join(check.Test, " "), "exit 1") {
			b.Health, b.HealthCode, b.HealthText = "UNHEALTHY", 1, "ill\n"
		}
	}
	return b
}

func report(spec engine.Spec, img engine.ImageConfig) string {
	user, dir, env := "0:0", img.WorkingDir, map[string]string{}
	if spec.Config.User == "app" {
		user = "1000:1001"
	}
	if spec.Config.WorkingDir != "" {
		dir = spec.Config.WorkingDir
	}
	for _, kv := range slices.Concat(img.Env, spec.Env) {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	return fmt.Sprintf("user=%s dir=%s from=%s mine=%s\n", user, dir, env["FROM"], env["MINE"])
}

func useMounts(spec engine.Spec) string {
	out := ""
	for _, m := range spec.Mounts {
		switch m.Target {
		case "/in":
			data, _ := os.ReadFile(filepath.Join(m.Source, "file"))
			out += string(data) + map[bool]string{true: "in read-only\n", false: "in writable\n"}[m.ReadOnly]
		case "/out":
			_ = os.MkdirAll(m.Source, 0o755)
			_ = os.WriteFile(filepath.Join(m.Source, "file"), []byte("new\n"), 0o644)
		case "/tmpfs":
			out += "tmpfs writable\n"
		}
	}
	return out
}
