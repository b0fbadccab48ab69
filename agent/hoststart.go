package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/doctor"
	"github.com/longshore-project/longshore/internal/durable"
)

// Prepare makes this host ready for an agent that is about to start, as the unit's ExecStartPre: the kernel's modules, the agent's
// directories, and a wait if agents have died here one after the other. It can be repeated, and changes nothing that is right already. What the
// kernel lacks is said and is no error: the agent goes as far as it can. The error is for a configuration that an agent does not start
// with, and for directories that can't be made.
func Prepare(ctx context.Context, opt Options, say func(string)) error {
	cfg, warnings, err := config.Load(opt.Config)
	if err != nil {
		return &TerminalError{fmt.Errorf("the configuration: %w", err)}
	}
	for _, w := range warnings {
		say("configuration: " + w)
	}
	root := cmp.Or(opt.Root, "/")
	loadModules(ctx)
	for _, d := range directories(cfg) {
		if err := os.MkdirAll(filepath.Join(root, d.path), d.mode); err != nil {
			return fmt.Errorf("prepare the host: %w", err)
		}
	}
	for _, c := range doctor.Kernel(cfg, root) {
		if c.Verdict != doctor.OK {
			say(fmt.Sprintf("%s: %s; %s", c.Name, c.Says, c.Mend))
		}
	}
	return (&starts{file: filepath.Join(root, runFolder, startsName), now: time.Now}).begin(ctx, say)
}

type directory struct {
	path string
	mode os.FileMode
}

// directories are those that an agent needs. They are open to root alone, but those with logs, which operators read.
func directories(cfg *config.Config) []directory {
	all := []directory{{filepath.Dir(config.DefaultFile), 0o755}, {runFolder, 0o755}, {cfg.DataDir, 0o700}}
	for _, f := range []string{cfg.Log.File, cfg.AuditFile} {
		if f != "" {
			all = append(all, directory{filepath.Dir(f), 0o755})
		}
	}
	return all
}

// modules are what tasks' networks and images need of the kernel, as far as it has them as modules.
var modules = []string{"overlay", "nf_tables", "nf_nat", "veth", "bridge", "macvlan"}

// loadModules asks for them. Whether they are there is looked at afterwards, as a kernel may have them built in.
func loadModules(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = exec.CommandContext(ctx, "modprobe", append([]string{"--quiet", "--all"}, modules...)...).Run()
}

// startsName is the file of the starts that had no orderly end, in the folder that a reboot empties.
const startsName = "starts.json"

// The first tries follow each other at once, as one accident is most likely. From then on each waits twice as long as the one before.
const (
	quickStarts  = 4
	startsWindow = 10 * time.Minute
	longestWait  = time.Minute
)

// starts remembers the starts of agents that had no orderly end. systemd before version 254 waits the same between all restarts.
type starts struct {
	file string
	now  func() time.Time
}

// begin notes a start, and waits before it if there were many.
func (s *starts) begin(ctx context.Context, say func(string)) error {
	var all []time.Time
	if data, err := os.ReadFile(s.file); err == nil && json.Unmarshal(data, &all) != nil {
		all = nil // not ours any more
	}
	now, recent := s.now(), all[:0]
	for _, t := range all {
		if age := now.Sub(t); age >= 0 && age < startsWindow {
			recent = append(recent, t)
		}
	}
	wait := waitBefore(len(recent))
	data, err := json.Marshal(append(recent, now.Add(wait)))
	if err != nil {
		return err
	}
	if err := durable.Write(s.file, data, 0o600); err != nil {
		return fmt.Errorf("note this start: %w", err)
	}
	if wait == 0 {
		return nil
	}
	say(fmt.Sprintf("agents have died here %d times in %s; waiting %s before the next. Why they did is in the log: journalctl -u longshore-agent", len(recent), startsWindow, wait))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// waitBefore is how long to wait before a start, after so many that had no orderly end.
func waitBefore(died int) time.Duration {
	if died < quickStarts {
		return 0
	}
	return min(time.Second<<min(died-quickStarts, 10), longestWait)
}

// end notes that the agent left in order.
func (s *starts) end() {
	if err := os.Remove(s.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return // the next start waits at most a minute for it
	}
}
