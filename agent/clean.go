package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/statemgr"
)

// CleanOptions are what the command line of clean-instance says.
type CleanOptions struct {
	Options
	Settings      bool // ecs.config goes too
	MachineID     bool // /etc/machine-id is emptied: the next boot makes another one
	WithoutEngine bool // don't insist on the engine's containers
	Out           io.Writer
}

// cleaningName is the file in the state directory from before the first removal to after the last. An agent does not start while it is there:
// it would go on with half of an identity.
const cleaningName = "cleaning"

// checkCleaning refuses to start on what a clean-instance that was killed has left.
func checkCleaning(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, cleaningName)); err == nil {
		return &TerminalError{errors.New("this host's identity was begun to be taken out: finish that with \"longshore-agent clean-instance\"")}
	}
	return nil
}

// CleanInstance takes out of this host what makes it a container instance, so that an image can be taken of its disk: each machine that is made
// from it registers as one of its own. The images of the engine stay, and what is remembered of them. It refuses while an agent runs, says each
// thing that it removes, and can be repeated, also after it was killed.
func CleanInstance(ctx context.Context, opt CleanOptions) error {
	opt.Root = cmp.Or(opt.Root, "/")
	cfg, err := settingsSoFar(opt.Config)
	if err != nil {
		return err
	}
	if opt.Runtime == nil {
		if err := becomeContainerd(cfg); err != nil && !opt.WithoutEngine {
			return &TerminalError{err}
		}
	}
	c := &cleaning{Agent: &Agent{opt: opt.Options, cfg: cfg, log: zap.NewNop()}, opt: opt, file: cmp.Or(opt.Config.File, config.DefaultFile)}
	steps := []func(context.Context) error{c.refuse, c.begin, c.containers, c.kernel, c.logs, c.state, c.settings, c.machineID, c.end}
	for _, step := range steps {
		if err := errors.Join(step(ctx), c.wrong); err != nil {
			return err
		}
	}
	return nil
}

// cleaning is one clean-instance.
type cleaning struct {
	*Agent
	opt     CleanOptions
	file    string
	tasks   bool // there may be containers of tasks
	disown  bool // and they stay
	removed int
	wrong   error // of the output
}

func (c *cleaning) say(line string) {
	_, err := fmt.Fprintln(c.opt.Out, line)
	c.wrong = errors.Join(c.wrong, err)
	if strings.HasPrefix(line, "removed") {
		c.removed++
	}
}

// refuse ends it where an agent runs, or is about to: it would write what is removed here.
func (c *cleaning) refuse(ctx context.Context) error {
	s, err := c.askRunning(ctx)
	switch {
	case err == nil:
		return fmt.Errorf("an agent runs, process %d: stop it first, \"systemctl stop %s\"", s.PID, unit)
	case !errors.As(err, new(*local.NotRunningError)):
		return fmt.Errorf("an agent runs and does not answer (%w): stop it first, \"systemctl stop %s\"", err, unit)
	}
	f, err := os.Open(filepath.Join(c.cfg.DataDir, statemgr.DatabaseName))
	if err == nil {
		defer func() { _ = f.Close() }()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return fmt.Errorf("a process has %s open: an agent is about to run, or ends; \"systemctl stop %s\" first", f.Name(), unit)
		}
	}
	if c.elsewhere() || !bySystemd() {
		return nil
	}
	out, _ := exec.CommandContext(ctx, "systemctl", "is-active", unit).Output() // not active is an error
	if state := strings.TrimSpace(string(out)); slices.Contains([]string{"active", "activating", "reloading", "deactivating"}, state) {
		return fmt.Errorf("the unit %s is %s: stop it first, \"systemctl stop %s\"", unit, state, unit)
	}
	return nil
}

// elsewhere says whether this is a chroot: kernel, engine and systemd are then another system's, and are left alone.
func (c *cleaning) elsewhere() bool {
	here, err1 := os.Stat("/")
	first, err2 := os.Stat("/proc/1/root/.")
	return err1 != nil || err2 != nil || !os.SameFile(here, first)
}

// begin marks the state directory, and says in the mark whether there may be containers of tasks: what tells that goes before them, perhaps.
func (c *cleaning) begin(context.Context) error {
	if _, err := os.Stat(c.cfg.DataDir); err != nil {
		return nil
	}
	mark := filepath.Join(c.cfg.DataDir, cleaningName)
	data, err := durable.Read(mark, 64)
	if err == nil {
		c.tasks = string(data) == hadTasks
		return nil
	}
	for _, name := range []string{statemgr.DatabaseName, statemgr.IdentityName, "containerd"} {
		if _, err := os.Stat(filepath.Join(c.cfg.DataDir, name)); err == nil {
			c.tasks, data = true, []byte(hadTasks)
		}
	}
	return durable.Write(mark, data, 0o600)
}

// hadTasks is the mark's text where an agent has run.
const hadTasks = "tasks\n"

// containers stops and removes those of tasks.
func (c *cleaning) containers(ctx context.Context) error {
	if !c.tasks {
		return nil // no agent has ever run here
	}
	var err error
	if c.opt.Runtime == nil && c.elsewhere() {
		err = errors.New("this is a chroot, without an engine of its own")
	} else {
		err = c.removeContainers(true)(ctx, c.say)
	}
	switch {
	case err == nil:
		return nil
	case !c.opt.WithoutEngine:
		return fmt.Errorf("an agent has run here, and the containers of its tasks can't be removed: %w; start the engine and repeat this, or leave them in the image with --without-engine", err)
	}
	c.say("left: the containers of tasks, if there are any; the new instances leave them alone (ECS_ORPHAN_POLICY)")
	c.disown = true
	return nil
}

// kernel removes rules, addresses, interfaces, namespaces and control groups. None of it gets into an image: what can't be removed is said.
func (c *cleaning) kernel(ctx context.Context) error {
	if c.opt.Runtime != nil || c.elsewhere() {
		return nil
	}
	for _, part := range []func(context.Context, func(string)) error{c.removeNetwork, c.removeGroups} {
		if err := part(ctx, c.say); err != nil {
			c.say("left until the next boot: " + err.Error())
		}
	}
	return nil
}

// remove removes what a pattern matches.
func (c *cleaning) remove(pattern string) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, name := range names {
		failpoint.Hit("clean/remove")
		if err := os.RemoveAll(name); err != nil {
			return err
		}
		c.say("removed " + name)
	}
	return nil
}

// logs removes the agent's log and audit log, with their older parts.
func (c *cleaning) logs(context.Context) error {
	for _, name := range []string{c.cfg.Log.File, c.cfg.AuditFile} {
		if name == "" {
			continue
		}
		for _, pattern := range []string{name, name + `[.\-]*`} {
			if err := c.remove(pattern); err != nil {
				return err
			}
		}
	}
	return nil
}

// state removes what the state directory has of this instance.
func (c *cleaning) state(context.Context) error {
	for _, name := range slices.Concat(instanceFiles, []string{"agent.db*"}) { // that of an amazon-ecs-agent is an identity, too
		if err := c.remove(filepath.Join(c.cfg.DataDir, name)); err != nil {
			return err
		}
	}
	for _, name := range stateFolders {
		if err := os.Remove(filepath.Join(c.cfg.DataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	if volumes, _ := filepath.Glob(filepath.Join(containerdRoot(c.cfg), "volumes", "*")); len(volumes) > 0 {
		c.say(fmt.Sprintf("left: the data of %d volumes in %s", len(volumes), filepath.Join(containerdRoot(c.cfg), "volumes")))
	}
	return nil
}

// settings removes the configuration where that is asked for.
func (c *cleaning) settings(context.Context) error {
	if !c.opt.Settings {
		if _, err := os.Stat(c.file); err == nil {
			c.say("left: " + c.file + ", which each machine made from this image has then; --config removes it")
		}
		return nil
	}
	for _, name := range []string{c.file, filepath.Join(filepath.Dir(c.file), caName)} {
		if err := c.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// machineID empties it where that is asked for.
func (c *cleaning) machineID(context.Context) error {
	name := filepath.Join(c.opt.Root, "etc/machine-id")
	info, err := os.Stat(name)
	if err != nil || info.Size() == 0 || machineID(name) == "" {
		return nil
	}
	if !c.opt.MachineID {
		c.say("left: " + name + ", by which hosts outside EC2 are told apart: --machine-id empties it, and each machine's first boot makes its own")
		return nil
	}
	if err := os.Truncate(name, 0); err != nil {
		return err
	}
	c.say("removed the machine id in " + name)
	return nil
}

// end takes the mark away.
func (c *cleaning) end(context.Context) error {
	if c.disown {
		if err := c.markCopied("cleaned"); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(c.cfg.DataDir, cleaningName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(c.cfg.DataDir) // where nothing is left in it
	if c.removed == 0 {
		c.say("there was nothing to remove")
	}
	return nil
}
