//go:build upgrade

package upgrade

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// defaultPrevious is the commit that gave the agent's database its name. Agents from before it kept agent.db, which the agents since take for an
// amazon-ecs-agent's and leave alone: they go on with what the containers' labels say, and tell the state of each task once more. No version
// that is out did.
const defaultPrevious = "2b1d09421cceeb210000fd284275b18f5efed196"

// versions are the programs of two versions, as directories that have a version's name.
type versions struct {
	previous, current string
	rev               string // of the previous one
}

// build builds the programs of both versions below a directory. The older tree is a temporary worktree of this repository.
func build(dir string) (v *versions, err error) {
	rev := os.Getenv("PREVIOUS")
	if rev == "" {
		rev = defaultPrevious
	}
	root, err := output("../..", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, fmt.Errorf("these tests build an older commit of this repository, and need a clone with its history, not an unpacked archive: %w", err)
	}
	commit, err := output(root, "git", "rev-parse", "--verify", "--quiet", rev+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("commit %s is not in this clone: fetch the history (git fetch --unshallow), or name another with make test-upgrade PREVIOUS=<rev>: %w", rev, err)
	}
	old := filepath.Join(dir, "tree")
	if _, err := output(root, "git", "worktree", "add", "--detach", old, commit); err != nil {
		return nil, err
	}
	defer func() {
		_, gone := output(root, "git", "worktree", "remove", "--force", old)
		err = errors.Join(err, gone)
	}()
	v = &versions{previous: filepath.Join(dir, "0.0.1"), current: filepath.Join(dir, "0.0.2")}
	if v.rev, err = output(root, "git", "log", "-1", "--format=%h of %ci", commit); err != nil {
		return nil, err
	}
	for from, to := range map[string]string{old: v.previous, root: v.current} {
		if _, err := output(from, "go", "build", "-buildvcs=false", "-tags", "grpcnotrace", "-ldflags", "-X github.com/longshore-project/longshore/internal/version.Version="+filepath.Base(to),
			"-o", to+"/", "./cmd/longshore-agent", "./cmd/longshore-control"); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// output runs a command and returns what it says.
func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var wrong strings.Builder
	cmd.Stderr = &wrong
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(wrong.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
