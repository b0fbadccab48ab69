package docs

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/test/failures"
)

const debuggingPage = "debugging.md"

const debuggingHead = `# From the message to the cause

This page is made of the catalogue of failures, ` + "`test/failures`" + `, in which each of them is caused for real and what is then seen is compared with what stands here. “…” stands for what
differs from time to time. After a change of the catalogue or of a remedy: ` + "`UPDATE=1 go test ./docs`" + `.

## At 3 a.m.

On the host, as root:

1. ` + "`longshore-agent status`" + `: is it connected, does the engine answer, is a disk full, what is impaired and why?
2. ` + "`longshore-agent explain`" + `: every task that does not run as it should, with its cause, what that means and what to do. With a task's ARN or id (or the beginning of it), a family's or a
   service's name it explains those; ` + "`--json`" + ` is for programs. It works while the agent is down, too: then from the agent's state and log.
3. ` + "`longshore-agent doctor`" + `: what the agent needs of its host, each OK, WARN or FAIL with how to mend it. No agent needs to run.
4. ` + "`grep level=error /var/log/ecs/ecs-agent.log`" + `: each failure is one error line with the task's ARN, the step, the error and the remedy. What is tried again is a warning; ` + "`grep TASK-ID`" + ` shows
   each step as it begins and ends.
5. ` + "`longshore-agent logs --task TASK`" + `: what the program itself said.

Where the control plane runs: ` + "`longshore-control explain service NAME`" + ` when there is no task at all, ` + "`explain task ID`" + ` when it is not known on which host to look, ` + "`explain host ID`" + ` for a host.
It says what a message means in the same words. [operation.md](operation.md) has what happens when something is away, and how it comes back.

## By message

`

// debugging is the page.
func debugging() string {
	var b strings.Builder
	b.WriteString(debuggingHead)
	b.WriteString("| stoppedReason, or the error in the log | where to read on |\n|---|---|\n")
	index := slices.Clone(failures.Catalogue)
	slices.SortStableFunc(index, func(a, b failures.Failure) int { return strings.Compare(said(&a), said(&b)) })
	for i := range index {
		f := &index[i]
		text := said(f)
		if f.Stopped != "" && f.Text != "" {
			text += " – " + f.Text
		}
		fmt.Fprintf(&b, "| %s | [%s](#%s) |\n", cell(text), f.Name, anchor(f.Name))
	}
	category := ""
	for i := range failures.Catalogue {
		f := &failures.Catalogue[i]
		if f.Category != category {
			category = f.Category
			fmt.Fprintf(&b, "\n## %s\n", category)
		}
		section(&b, f)
	}
	return b.String()
}

// said is what is seen first of a failure.
func said(f *failures.Failure) string {
	if f.Stopped != "" {
		return f.Stopped
	}
	return f.Message()
}

func section(b *strings.Builder, f *failures.Failure) {
	r := remedy.Of(f.Message())
	fmt.Fprintf(b, "\n### %s\n\n", f.Name)
	line := func(what, text string) {
		if text != "" {
			fmt.Fprintf(b, "- **%s** %s\n", what, text)
		}
	}
	code := func(text string) string {
		if text == "" {
			return ""
		}
		return "`" + text + "`"
	}
	line("stoppedReason", code(f.Stopped))
	exit := ""
	if f.ExitCode != 0 {
		exit = fmt.Sprintf(", exit code %d", f.ExitCode)
	}
	if f.Text != "" {
		line("error", code(f.Text)+exit)
	}
	line("with containerd", code(f.Contained))
	line("status shows", code(f.Shown))
	line("log", fmt.Sprintf("one line of the %s's, at the step `%s`", f.Teller, f.Step))
	line("comes about", f.Caused)
	line("means", r.Means)
	line("do", r.Do)
}

// cell is a message in a table.
func cell(text string) string { return "`" + strings.ReplaceAll(text, "|", "\\|") + "`" }

// anchor is how a heading is linked to.
func anchor(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return -1
	}, strings.ReplaceAll(strings.ToLower(name), " ", "-"))
}

func TestThePageOnDebuggingIsMadeOfTheCatalogueOfFailures(t *testing.T) {
	want := debugging()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(debuggingPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(debuggingPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the catalogue says; make it anew with UPDATE=1 go test ./docs", debuggingPage)
	}
}
