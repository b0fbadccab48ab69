package agent

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestAnAgentThatIsNotSparedSaysSoOnceAndGoesOn(t *testing.T) {
	root := t.TempDir()
	core, said := observer.New(zap.InfoLevel)
	askToBeSpared(root, zap.New(core))
	if said.Len() != 1 {
		t.Errorf("without the right it says %v", said.All())
	}
	path := filepath.Join(root, "proc/self/oom_score_adj")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("0000"), 0o600); err != nil {
		t.Fatal(err)
	}
	askToBeSpared(root, zap.New(core))
	if data, err := os.ReadFile(path); err != nil || string(data) != spareScore || said.Len() != 1 {
		t.Errorf("%v: %q; it says %v", err, data, said.All())
	}
}
