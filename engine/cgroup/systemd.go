package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sliceRoot is the slice that holds the tasks' slices, as in Amazon ECS.
const sliceRoot = "ecstasks.slice"

// sliceOf is a task's slice. A dash in a slice's name is a step in systemd's tree, so that an id must have none.
func sliceOf(id string) string { return "ecstasks-" + strings.ReplaceAll(id, "-", "_") + ".slice" }

// systemctlTimeout bounds a call of systemctl.
const systemctlTimeout = 20 * time.Second

// unitOf is the slice's unit file (systemd.resource-control(5)). It is pure.
func unitOf(id, owner string, l Limits) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n[Unit]\nDescription=Limits of the ECS task %s\n\n[Slice]\nCPUAccounting=yes\nCPUWeight=%d\n", ownerLine, owner, id, weight(l.share()))
	if l.CPU > 0 {
		percent := strconv.FormatFloat(float64(l.quota()*100)/float64(l.period()), 'f', -1, 64)
		fmt.Fprintf(&b, "CPUQuota=%s%%\nCPUQuotaPeriodSec=%dus\n", percent, l.period())
	}
	if l.Memory > 0 {
		fmt.Fprintf(&b, "MemoryAccounting=yes\nMemoryMax=%d\n", l.Memory)
	}
	if l.Pids > 0 {
		fmt.Fprintf(&b, "TasksAccounting=yes\nTasksMax=%d\n", l.Pids)
	}
	return b.String()
}

// ownerLine begins a unit that an agent wrote; the agent's name follows.
const ownerLine = "# Made by longshore-agent "

// ensureSlice writes the unit, has systemd start it, and compares what the kernel shows. A slice that has what is wanted is
// left alone.
func (g *Groups) ensureSlice(ctx context.Context, id string, limits Limits, wanted []Item) error {
	path, unit := filepath.Join(g.opt.Units, sliceOf(id)), unitOf(id, g.opt.Owner, limits)
	had, err := os.ReadFile(path)
	if err == nil && string(had) == unit && checkAll(wanted) == nil {
		return nil
	}
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		return &Error{Path: path, Value: unit, Err: err}
	}
	if len(had) > 0 { // systemd has read another unit of that name
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	if err := systemctl(ctx, "start", sliceOf(id)); err != nil {
		return err
	}
	return checkAll(wanted)
}

// checkAll compares the files of a wanted state. What is only a means to it, such as which controllers are enabled, is
// systemd's business; so is the weight, which systemd does not set where the kernel lacks it.
func checkAll(wanted []Item) error {
	for _, w := range wanted {
		switch name := filepath.Base(w.Path); {
		case w.Value == "" || w.Words || name == "cpu.weight" || name == "cpu.shares":
		default:
			if err := check(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeSlice stops a slice and removes its unit.
func (g *Groups) removeSlice(ctx context.Context, id string) error {
	path := filepath.Join(g.opt.Units, sliceOf(id))
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := systemctl(ctx, "stop", sliceOf(id)); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ourSlices are the ids of the slices whose units this agent wrote.
func (g *Groups) ourSlices() []string {
	paths, _ := filepath.Glob(filepath.Join(g.opt.Units, "ecstasks-*.slice"))
	var ids []string
	for _, p := range paths {
		if unit, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(unit), ownerLine+g.opt.Owner+"\n") {
			ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "ecstasks-"), ".slice"))
		}
	}
	return ids
}

func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", append([]string{"--no-ask-password", "--quiet"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %.300s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
