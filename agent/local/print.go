package local

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Print prints a status for people.
func (s *Status) Print(w io.Writer) error {
	p := &printer{w: w}
	p.line("Longshore Agent  %s (%s), pid %d, up %s", s.Version, s.Hash, s.PID, age(s.Now, s.StartedAt))
	p.line("Cluster          %s", s.Cluster)
	p.line("Instance         %s", orElse(s.ContainerInstanceArn, "not registered yet"))
	switch c := s.Connection; {
	case c.Connected:
		p.line("Control plane    connected for %s, %s", age(s.Now, c.Since), c.Endpoint)
	case c.Since.IsZero():
		p.line("Control plane    never connected, %s%s", c.Endpoint, because(c.Problem))
	default:
		p.line("Control plane    NOT connected for %s, %s%s", age(s.Now, c.Since), c.Endpoint, because(c.Problem))
	}
	if s.UnsentChanges > 0 {
		p.line("                 %d state changes are not accepted by it yet", s.UnsentChanges)
	}
	if s.Engine.Name == "" {
		p.line("Engine           does not answer")
	} else {
		p.line("Engine           %s %s, API %s, cgroup v%d, %s", s.Engine.Name, s.Engine.Version, s.Engine.APIVersion, s.Engine.CgroupVersion, s.Engine.Root)
	}
	if s.Containers.Problem != "" {
		p.line("Task endpoints   NOT served at %s%s", s.Containers.Address, because(s.Containers.Problem))
	}
	p.line("CPU units        %s", s.Resources.CPU)
	p.line("Memory MiB       %s, %d more not offered to tasks", s.Resources.Memory, s.Resources.ReservedMemory)
	if s.Resources.GPUs.Registered > 0 {
		p.line("GPUs             %s", s.Resources.GPUs)
	}
	p.line("Host ports       %s", orElse(strings.Join(s.Resources.Ports, " "), "none taken"))
	for i, d := range s.Disks {
		p.line("%-16s %s", map[bool]string{true: "Disks"}[i == 0], d)
	}
	p.line("Tasks            %d running, %d pending, %d stopping, %d stopped on record", s.Tasks.Running, s.Tasks.Pending, s.Tasks.Stopping, s.Tasks.Stopped)
	for _, w := range s.Configuration {
		p.line("Configuration    WARNING: %s", w)
	}
	for i, l := range s.LostOutput {
		p.line("%-16s container %s of task %s (%s): %d lines dropped, %d failed, for %s%s", map[bool]string{true: "Lost output"}[i == 0], l.Container, l.Task, l.Driver, l.Dropped, l.Failed, age(s.Now, l.Since), because(l.LastError))
	}
	if i := s.Preloaded; i != nil {
		p.line("Preloaded        %d images of %d archives in %s%s", i.Images, i.Files, i.Directory, map[bool]string{false: ", others are being loaded"}[i.Done])
		for _, path := range slices.Sorted(maps.Keys(i.Failed)) {
			p.line("                 - NOT %s%s", path, because(i.Failed[path]))
		}
	}
	if s.Health.OK {
		p.line("Health           OK")
		return p.err
	}
	p.line("Health           IMPAIRED for %s", age(s.Now, s.Health.Since))
	for _, r := range s.Health.Reasons {
		p.line("                 - %s", r)
	}
	return p.err
}

// String is "registered, used, free".
func (a Amount) String() string {
	return fmt.Sprintf("%d registered, %d used, %d free", a.Registered, a.Used, a.Free())
}

// String is a disk's free space.
func (d Disk) String() string {
	inodes := "no bound on inodes"
	if d.TotalInodes > 0 {
		inodes = fmt.Sprintf("%d of %d inodes free", d.FreeInodes, d.TotalInodes)
	}
	return fmt.Sprintf("%s: %d of %d MiB free, %s", d.Path, d.Free>>20, d.Total>>20, inodes)
}

// Print prints a table of tasks for people.
func (t *Tasks) Print(w io.Writer) error {
	if len(t.Tasks) == 0 {
		_, err := fmt.Fprintln(w, "No tasks.")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "TASK\tDEFINITION\tSTATUS\tAGE\tCONTAINERS")
	short := shortIDs(t.Tasks)
	for i := range t.Tasks {
		k := &t.Tasks[i]
		status := k.KnownStatus
		if k.KnownStatus != k.DesiredStatus {
			status += " → " + k.DesiredStatus
		}
		fmt.Fprintf(table, "%s\t%s:%s\t%s\t%s\t%s\n", short[i], k.Family, k.Revision, status, age(t.Now, k.AcceptedAt), k.containers())
	}
	return table.Flush()
}

// containers is a line about a task's containers.
func (t *Task) containers() string {
	var out []string
	for _, c := range t.Containers {
		word := c.Name + " " + c.KnownStatus
		switch {
		case c.ExitCode != nil:
			word += fmt.Sprintf(" (%d)", *c.ExitCode)
		case c.Health != "":
			word += " " + c.Health
		}
		if c.Restarts > 0 {
			word += fmt.Sprintf(" restarts %d", c.Restarts)
		}
		out = append(out, word)
	}
	if t.CleanedUp {
		out = append(out, "containers removed")
	}
	return strings.Join(out, ", ")
}

// shortIDs are the beginnings of ids that name their tasks, at least 8 characters each.
func shortIDs(tasks []Task) []string {
	short := make([]string, len(tasks))
	for i := range tasks {
		n := 8
		for j := range tasks {
			if j == i {
				continue
			}
			for n < len(tasks[i].ID) && strings.HasPrefix(tasks[j].ID, tasks[i].ID[:min(n, len(tasks[i].ID))]) {
				n++
			}
		}
		short[i] = tasks[i].ID[:min(n, len(tasks[i].ID))]
	}
	return short
}

// Print prints an explanation for people.
func (e *Explanation) Print(w io.Writer) error {
	p := &printer{w: w}
	t := &e.Task
	p.line("Task %s (%s:%s) is %s: knownStatus %s, desiredStatus %s; accepted %s ago.", t.ID, t.Family, t.Revision, e.State, t.KnownStatus, t.DesiredStatus, age(e.Now, t.AcceptedAt))
	if t.Reason != "" {
		p.line("Reason: %s", t.Reason)
	}
	for i := range t.Containers {
		p.container(e.Now, &t.Containers[i])
	}
	p.list("Waits for", e.Waits)
	var doing, failed []string
	for _, s := range e.Doing {
		doing = append(doing, fmt.Sprintf("%s%s for %s%s", s.Name, of(s.Container), age(e.Now, s.Start), because(s.Detail)))
	}
	p.list("At work", doing)
	for _, s := range e.Errors {
		failed = append(failed, fmt.Sprintf("%s ago, %s%s %s%s", age(e.Now, s.Start), s.Name, of(s.Container), s.Outcome, because(s.Detail)))
	}
	p.list("Last errors", failed)
	if c := e.Cause; c != nil {
		p.line("Cause, %s ago, at %s%s:", age(e.Now, c.At), c.Step, of(c.Container))
		p.line("  %s", c.Text)
	}
	p.list("What it means", e.Meaning)
	p.list("What to do", e.Advice)
	p.line("Timeline:")
	for _, s := range e.Timeline {
		p.step(&s)
	}
	if len(e.Log) > 0 {
		p.line("From the agent's log:")
	}
	for _, l := range e.Log {
		p.line("  %s", l)
	}
	return p.err
}

// Print prints explanations for people.
func (e *Explanations) Print(w io.Writer) error {
	p := &printer{w: w}
	if e.Note != "" {
		p.line("%s", e.Note)
	}
	if len(e.Tasks) == 0 {
		p.line("Every task on record runs, or has ended as it should.")
	}
	for i, t := range e.Tasks {
		if i > 0 || e.Note != "" {
			p.line("")
		}
		if p.err == nil {
			p.err = t.Print(w)
		}
	}
	return p.err
}

func (p *printer) container(now time.Time, c *Container) {
	line := fmt.Sprintf("Container %s (%s) is %s", c.Name, c.Image, c.KnownStatus)
	if !c.StartedAt.IsZero() && c.FinishedAt.IsZero() {
		line += " for " + age(now, c.StartedAt)
	}
	if c.Health != "" {
		line += ", " + c.Health + because(c.HealthSays)
	}
	if c.Restarts > 0 {
		line += fmt.Sprintf(", restarted %d times", c.Restarts)
	}
	if c.ExitCode != nil {
		line += fmt.Sprintf(", exit code %d", *c.ExitCode)
	}
	p.line("%s%s", line, because(c.Reason))
	if c.LastOutput != "" {
		p.line("  its last output:")
		for l := range strings.Lines(c.LastOutput) {
			p.line("    %s", strings.TrimRight(l, "\n"))
		}
	}
}

func (p *printer) step(s *Step) {
	took, outcome := "", s.Outcome
	switch {
	case s.End.IsZero():
		outcome = "goes on"
	case s.End.After(s.Start):
		took = duration(s.End.Sub(s.Start))
	}
	who := s.Name
	if s.Container != "" {
		who += " " + s.Container
	}
	p.line("  %s  %8s  %-24s %-7s %s", s.Start.Format("2006-01-02T15:04:05.000Z"), took, who, outcome, s.Detail)
}

// printer writes lines and keeps the first error. What others wrote into a line can't break out of it.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		text := strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, fmt.Sprintf(format, args...))
		_, p.err = fmt.Fprintln(p.w, strings.TrimRight(text, " "))
	}
}

func (p *printer) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	p.line("%s:", title)
	for _, i := range items {
		p.line("  - %s", i)
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func of(container string) string {
	if container == "" {
		return ""
	}
	return " of container " + container
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// age is how long ago something was; "-" if that is not known.
func age(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return duration(now.Sub(then))
}

// duration is a duration in one or two units.
func duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
