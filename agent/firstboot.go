package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/longshore-project/longshore/agent/join"
)

// How a machine that was made from an image joins at its first boot, out of its user data. The agent's unit is ordered after cloud-init, so
// what user data runs can't wait for it; and a token in user data is on the disk in more than one place.

// cloudInitUnit is the unit that runs user data.
const cloudInitUnit = "cloud-final.service"

// cloudInitRuns says whether user data is being run, perhaps by way of this process.
func cloudInitRuns(ctx context.Context) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-active", cloudInitUnit).Output() // not active is an error
	return strings.TrimSpace(string(out)) == "activating"
}

// startUnitLater has systemd start the agent when cloud-init is done.
func startUnitLater(ctx context.Context) (string, error) {
	for _, args := range [][]string{{"enable", unit}, {"start", "--no-block", unit}} {
		if err := systemctl(ctx, args...); err != nil {
			return "", &join.Failure{Err: err, Remedy: "Is the package installed?"}
		}
	}
	return "systemd starts " + unit + " when cloud-init is done, and at each boot", nil
}

// tokenPlaces are where cloud-init keeps user data, below the root.
var tokenPlaces = []string{"var/lib/cloud", "run/cloud-init"}

// The bounds of what is searched for a token.
const (
	maxTokenFile  = 4 << 20
	maxTokenFiles = 20000
)

// forgetToken removes the file that the token came in, and takes the token out of what cloud-init keeps of the user data: each of its characters
// becomes an x. Where it stands in another form there, such as base64, it stays.
func forgetToken(opt JoinOptions) error {
	if opt.TokenFile != "" {
		if _, err := blank(opt.TokenFile, opt.Token); err != nil {
			return err
		}
		if err := os.Remove(opt.TokenFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("this host has joined, and the file with the token can't be removed: %w", err)
		}
		if _, err := fmt.Fprintf(opt.Out, "%-12s removed %s\n", "token", opt.TokenFile); err != nil {
			return err
		}
	}
	seen := 0
	for _, place := range tokenPlaces {
		err := filepath.WalkDir(filepath.Join(opt.Root, place), func(path string, e fs.DirEntry, err error) error {
			if seen++; err != nil || !e.Type().IsRegular() {
				return nil // what can't be read has nothing that somebody else could read
			}
			if seen > maxTokenFiles {
				return fs.SkipAll
			}
			had, err := blank(path, opt.Token)
			if err == nil && had {
				_, err = fmt.Fprintf(opt.Out, "%-12s taken out of %s\n", "token", path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("this host has joined, and the token can't be taken out of cloud-init's files: %w", err)
		}
	}
	return nil
}

// blank overwrites a secret in a file, in its place.
func blank(path, secret string) (had bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return false, err
	}
	from := 0
	for {
		i := bytes.Index(data[from:], []byte(secret))
		if i < 0 || secret == "" {
			break
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte("x"), len(secret)), int64(from+i)); err != nil {
			return had, err
		}
		had, from = true, from+i+len(secret)
	}
	if !had {
		return false, nil
	}
	return true, f.Sync()
}
