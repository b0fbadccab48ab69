package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/join"
	"github.com/longshore-project/longshore/agent/local"
)

func TestALeaveTakesTheStateAndNotWhatTasksHaveWrittenIntoVolumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	data := filepath.Join(dir, "containerd/volumes/orders/_data/orders.db")
	for _, d := range []string{filepath.Dir(data), filepath.Join(dir, "containerd/containers"), filepath.Join(dir, "metadata/task")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{data, filepath.Join(dir, "identity.json"), filepath.Join(dir, "host-key.json")} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &Agent{cfg: &config.Config{DataDir: dir}, log: nopLog}
	var out bytes.Buffer
	leave := func() {
		t.Helper()
		l := &join.Leaving{
			Dir: dir, File: filepath.Join(t.TempDir(), "ecs.config"), Identity: func() (cluster, arn string, err error) { return "", "", nil },
			Ask:  func(context.Context) (*local.Status, error) { return nil, &local.NotRunningError{Err: os.ErrNotExist} },
			Stop: func(context.Context, int) (string, error) { return "", nil }, Left: func(context.Context) []string { return a.whatStays(t.Context(), "/none") },
			Files: stateFiles, Folders: stateFolders, Now: time.Now, Out: &out,
		}
		if err := l.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	var left []string
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			left = append(left, path)
		}
		return err
	})
	if len(left) != 1 || left[0] != data || !strings.Contains(out.String(), "the data of 1 volumes in "+filepath.Join(dir, "containerd/volumes")) {
		t.Errorf("%q are left, and it says:\n%s", left, out.String())
	}
	if err := os.RemoveAll(filepath.Join(dir, "containerd/volumes/orders")); err != nil {
		t.Fatal(err)
	}
	leave()
	if _, err := os.Stat(dir); err == nil {
		t.Error("without volumes the folder is there still")
	}
}
