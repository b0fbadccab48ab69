package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
)

// run is what is remembered of a container's process. It is a file in the container's folder, replaced as a whole.
type run struct {
	StartedAt  time.Time     `json:"startedAt,omitzero"`
	FinishedAt time.Time     `json:"finishedAt,omitzero"`
	Pid        int           `json:"pid,omitempty"`
	ExitCode   int           `json:"exitCode,omitempty"`
	OOMKilled  bool          `json:"oomKilled,omitempty"`
	Error      string        `json:"error,omitempty"`
	Health     engine.Health `json:"health,omitzero"`
	Network    *Connection   `json:"network,omitempty"`
	// While it runs: its shim's folder, its control group, and how it has ended if the shim alone could say so.
	Bundle string `json:"bundle,omitempty"`
	Group  string `json:"group,omitempty"`
	End    *end   `json:"end,omitempty"`
}

// running reports whether the process was started and its end is not known.
func (r *run) running() bool { return !r.StartedAt.IsZero() && r.FinishedAt.IsZero() }

// dir is the container's folder.
func (r *Runtime) dir(id string) string { return filepath.Join(r.cfg.Root, "containers", id) }

// maxRun bounds a run file, which this process has written.
const maxRun = 1 << 20

// readRun returns what is remembered; of a container without a file it is nothing.
func (r *Runtime) readRun(id string) (run, error) {
	var was run
	f := filepath.Join(r.dir(id), "run.json")
	b, err := durable.Read(f, maxRun)
	if errors.Is(err, fs.ErrNotExist) {
		return was, nil
	}
	if err != nil {
		return was, err
	}
	if err := json.Unmarshal(b, &was); err != nil {
		return run{}, fmt.Errorf("%s: %w", f, err)
	}
	return was, nil
}

// writeRun replaces the file, durably.
func (r *Runtime) writeRun(id string, now run) error {
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.dir(id), "run.json"), b, 0o600)
}

// replaceFile writes a file so that after a crash there is the old one or the new one.
func replaceFile(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // of no effect after the rename
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}
