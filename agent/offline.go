package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/statemgr"
)

// How much of the log is read for an explanation without an agent, and how many of a task's lines it has.
const (
	offlineLog   = 16 << 20
	offlineLines = 40
)

// ExplainOffline explains tasks while no agent runs on this host, from its state and its log: the one that name names, those of a
// family or service, or, if name is empty, those that do not run as they should. What the engine has is not looked at.
func ExplainOffline(cfg *config.Config, name string, now time.Time) (*local.Explanations, error) {
	tasks, err := recorded(filepath.Join(cfg.DataDir, statemgr.DatabaseName))
	if err != nil {
		return nil, fmt.Errorf("no agent runs, and its state can't be read: %w", err)
	}
	out := local.ExplainNamed(tasks, name, now)
	if name != "" && len(out.Tasks) == 0 {
		all := make([]local.Task, len(tasks))
		for i := range tasks {
			all[i] = local.TaskOf(&tasks[i])
		}
		t, err := local.Resolve(all, name)
		if err != nil {
			return nil, fmt.Errorf("no agent runs; in its state %w", err)
		}
		for i := range tasks {
			if tasks[i].Arn == t.Arn {
				out.Tasks = append(out.Tasks, local.Explain(&tasks[i], now))
			}
		}
	}
	out.Note = "The agent does not run: this is from its state and its log. What became of the containers since is not in it."
	text := endOf(cfg.Log.File)
	for _, e := range out.Tasks {
		e.Log = linesOf(text, e.Task.ID)
	}
	return out, nil
}

// recorded are the tasks of a state database that no agent has open.
func recorded(path string) ([]engine.TaskStatus, error) {
	held, err := statemgr.Hold(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = held.Close() }()
	s, err := statemgr.Copy(held)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	var tasks []engine.TaskStatus
	err = s.Each(taskBucketName, func(_ string, value []byte) error {
		var rec *engine.TaskRecord
		if json.Unmarshal(value, &rec) == nil && rec != nil && rec.Task != nil { // one that can't be read is the agent's to tell, when it starts
			tasks = append(tasks, engine.StatusOf(rec))
		}
		return nil
	})
	return tasks, err
}

// endOf is the end of a file, nothing if it can't be read.
func endOf(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || info.Size() > offlineLog {
		_, _ = f.Seek(-offlineLog, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, offlineLog))
	return text
}

// linesOf are the newest lines that name a task.
func linesOf(text []byte, id string) (lines []string) {
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(id)) {
			lines = append(lines, strings.TrimSpace(string(line)))
		}
	}
	return lines[max(0, len(lines)-offlineLines):]
}
