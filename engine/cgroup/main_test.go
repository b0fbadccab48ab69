package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.Cleanup(tidy)) }

// tidy removes the parents of the tests' groups where nothing else is in them.
func tidy(code int) {
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + groupRoot)
	for _, p := range parents {
		_ = os.Remove(p)
	}
	os.Exit(code)
}
