package firelens

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const configName = "router.conf"

// idPattern is what a task's id may be to name a directory and a tag.
var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// taskID is the last part of a task's ARN; empty if it can't name a directory.
func taskID(arn string) string {
	if id := arn[strings.LastIndexByte(arn, '/')+1:]; idPattern.MatchString(id) {
		return id
	}
	return ""
}

// Dir is the directory of a task's router below root, which is FireLens's own; empty if the task's id can't name one.
func Dir(root, taskArn string) string {
	id := taskID(taskArn)
	if root == "" || id == "" {
		return ""
	}
	return filepath.Join(root, id)
}

// SocketDir is the directory that the router sees as /var/run.
func SocketDir(dir string) string { return filepath.Join(dir, "socket") }

// ConfigPath is the configuration's file on the host.
func ConfigPath(dir string) string { return filepath.Join(dir, "config", configName) }

// ExternalPath is the file on the host that an object of S3 is kept in.
func ExternalPath(dir string) string { return filepath.Join(dir, "config", "external.conf") }

// SocketTarget is where the router sees SocketDir.
const SocketTarget = socketTarget

// Prepare puts a router's configuration, the file that it includes from S3 (nil: none) and the directory of its socket on the host. Repeating it changes nothing. The
// router may run as any user: what is mounted into it is open to all, and the directory above is root's alone, so that no
// one else on the host gets there.
func Prepare(dir string, config, external []byte) error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{filepath.Dir(dir), 0o700}, {dir, 0o700}, {SocketDir(dir), 0o777}, {filepath.Dir(ConfigPath(dir)), 0o755}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return fmt.Errorf("log router: %w", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return fmt.Errorf("log router: %w", err)
		}
	}
	if external != nil {
		if err := put(ExternalPath(dir), external); err != nil {
			return err
		}
	}
	return put(ConfigPath(dir), config)
}

// put writes a file in place: it may be mounted already, and a mount shows the inode.
func put(name string, data []byte) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		return fmt.Errorf("log router: %w", err)
	}
	return nil
}

// Remove takes away what Prepare made. Removing what is not there does nothing.
func Remove(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("log router: %w", err)
	}
	return nil
}
