package engine

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

func TestThePauseProgramIsAnExecutableThatSleepsAndIgnoresItsChildren(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		f, err := elf.NewFile(bytes.NewReader(pauseProgram(arch)))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if p := f.Progs[0]; f.Machine != machine || f.Entry != p.Vaddr+120 || p.Flags != elf.PF_R|elf.PF_X || p.Filesz != uint64(len(pauseProgram(arch))) {
			t.Errorf("%s: %+v %+v", arch, f.FileHeader, p.ProgHeader)
		}
	}
	if pauseProgram("none") != nil {
		t.Error("there is a program for an unknown architecture")
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, pauseProgram(runtime.GOARCH), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// Ignored signals are a mask, of which SIGCHLD is bit 16; a process in pause(2) sleeps.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(10 * time.Second); ; {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
		if err != nil {
			t.Fatal(err)
		}
		if s := string(status); strings.Contains(s, "State:\tS") && ignoresChildren(s) && strings.Contains(s, "Name:\tpause") {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("it does not sleep with SIGCHLD ignored:\n%s", status)
		}
	}
}

// ignoresChildren tells whether SIGCHLD is ignored, beside whatever the test's own process was started with.
func ignoresChildren(status string) bool {
	_, rest, _ := strings.Cut(status, "SigIgn:\t")
	mask, err := strconv.ParseUint(rest[:min(16, len(rest))], 16, 64)
	return err == nil && mask&(1<<16) != 0
}

func TestPauseContainersHaveTheLabelsThatTheOperatorGivesThemAndOthersDoNot(t *testing.T) {
	host := Host{PauseLabels: map[string]string{"owner": "ops", LabelTaskArn: "another"}}
	task, err := ParseTask(&acs.Task{Arn: "arn:aws:ecs:us-west-2:123456789012:task/c/t", DesiredStatus: "RUNNING", PidMode: "task", Containers: []*acs.Container{{Name: "app", Image: "a", Essential: true}}}, host)
	if err != nil {
		t.Fatal(err)
	}
	rec := newRecord(task, "RUNNING", time.Now())
	for _, c := range task.Containers {
		spec, err := specOf(task, rec, c, &Image{}, host, nil)
		if err != nil {
			t.Fatal(err)
		}
		if (spec.Labels["owner"] == "ops") != c.internal() || spec.Labels[LabelTaskArn] != task.Arn {
			t.Errorf("%s: %v", c.Name, spec.Labels)
		}
	}
}
