package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPluginsBesideTheEngineAreFoundWhereItLooksForThem(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"run/docker/plugins/efs.sock", "run/docker/plugins/nested/nested.sock", "run/docker/plugins/other/x.sock", "run/docker/plugins/notes.txt",
		"etc/docker/plugins/far.spec", "usr/lib/docker/plugins/far.json", "usr/lib/docker/plugins/old/old.spec"} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := volumePlugins(root); !slices.Equal(got, []string{"efs", "far", "nested", "old"}) {
		t.Error(got)
	}
	if got := volumePlugins(t.TempDir()); len(got) != 0 {
		t.Error(got)
	}
}
