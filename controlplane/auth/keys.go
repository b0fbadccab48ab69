package auth

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// The files that [EnsureKeys] hands keys out in, below the data directory.
const (
	AdminFile = "admin.env"
	HostFile  = "host.env"
)

// keysTTL is how long a replica that died over the first keys keeps others from them.
const keysTTL = 10 * time.Second

// EnsureKeys sees to it that there is an administrator's key and an enrolment key for hosts, and that the files admin.env
// and host.env in dir have them. The files are of mode 0600 and have the lines AWS_ACCESS_KEY_ID=… and
// AWS_SECRET_ACCESS_KEY=….
//
// Neither file nor key: a key is made. A key without its file: the file is written again, with the oldest such key. A file
// and no such key at all: the store is new, and adopts the file's. A file that disagrees with the store, names a key that
// was deleted, or can't be read, is an error and nothing is changed.
//
// Of replicas that are started at the same time one looks, and makes, before the next.
func EnsureKeys(ctx context.Context, s *store.Store, dir string, now time.Time) (err error) {
	session, err := s.Session(ctx, keysTTL)
	if err != nil {
		return fmt.Errorf("see to the first keys: %w", err)
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	lead, err := s.Lead(ctx, session, "first-keys")
	if err != nil {
		return fmt.Errorf("see to the first keys: %w", err)
	}
	defer func() { err = errors.Join(err, lead.Resign(ctx)) }()
	if err := s.Read(ctx, func(*store.View) error { return nil }); err != nil {
		return fmt.Errorf("see to the first keys: %w", err)
	}
	for _, k := range []struct {
		file string
		like store.Key
	}{
		{AdminFile, store.Key{Role: store.RoleAdmin}},
		{HostFile, store.Key{Role: store.RoleHost, Enrolment: true}},
	} {
		if err := ensureKey(ctx, s, filepath.Join(dir, k.file), k.like, now); err != nil {
			return err
		}
	}
	return nil
}

// ForgetKey removes the file in dir that names a deleted key, if there is one.
func ForgetKey(dir, accessKeyID string) error {
	for _, name := range []string{AdminFile, HostFile} {
		path := filepath.Join(dir, name)
		if k, err := readKeyFile(path); err != nil || k.AccessKeyID != accessKeyID {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("the file still names the deleted key: %w", err)
		}
	}
	return nil
}

func ensureKey(ctx context.Context, s *store.Store, path string, like store.Key, now time.Time) error {
	filed, err := readKeyFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var named, stored *store.Key
	if err := s.Read(ctx, func(v *store.View) error {
		if filed != nil {
			named = v.Key(filed.AccessKeyID)
		}
		stored = oldest(v, like)
		return nil
	}); err != nil {
		return fmt.Errorf("look for the key of %s: %w", path, err)
	}
	switch {
	case named != nil:
		return agree(path, filed, named, like)
	case filed != nil && stored != nil:
		return fmt.Errorf("%s has the key %s, which is not in the store: it was deleted, or is of another control plane; "+
			"delete the file to have it written again", path, filed.AccessKeyID)
	case filed != nil:
		filed.Role, filed.Enrolment, filed.Created = like.Role, like.Enrolment, now
		return createKey(ctx, s, path, filed)
	case stored != nil:
		return writeKeyFile(path, stored)
	}
	// The store first: a crash before the file is written leaves a key whose file is written at the next start.
	made := NewKey(like.Role, like.Enrolment, now)
	if err := createKey(ctx, s, path, made); err != nil {
		return err
	}
	return writeKeyFile(path, made)
}

// oldest is the first key made of a kind, nil if there is none.
func oldest(v *store.View, like store.Key) *store.Key {
	var first *store.Key
	for k := range v.Keys() {
		if k.Role == like.Role && k.Enrolment == like.Enrolment && (first == nil || k.Created.Before(first.Created)) {
			first = k
		}
	}
	return first
}

func agree(path string, filed, stored *store.Key, like store.Key) error {
	switch {
	case filed.SecretAccessKey != stored.SecretAccessKey:
		return fmt.Errorf("%s has another secret for the key %s than the store: delete the file to have it written again", path, filed.AccessKeyID)
	case stored.Role != like.Role || stored.Enrolment != like.Enrolment:
		return fmt.Errorf("%s has the key %s, whose role in the store is %q, not %q: delete the file to have it written again",
			path, filed.AccessKeyID, stored.Role, like.Role)
	}
	return os.Chmod(path, 0o600)
}

func createKey(ctx context.Context, s *store.Store, path string, k *store.Key) error {
	err := s.Txn().Create(k).Commit(ctx)
	if errors.Is(err, store.ErrConflict) { // another replica that was given the same file
		var now *store.Key
		if err := s.Read(ctx, func(v *store.View) error { now = v.Key(k.AccessKeyID); return nil }); err == nil && now != nil {
			return agree(path, k, now, *k)
		}
	}
	if err != nil {
		return fmt.Errorf("store the key of %s: %w", path, err)
	}
	return nil
}

// NewKey makes an access key; it is the caller's to store.
func NewKey(role store.Role, enrolment bool, now time.Time) *store.Key {
	var id [10]byte
	var secret [30]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	return &store.Key{
		AccessKeyID:     "AKIA" + base32.StdEncoding.EncodeToString(id[:]),
		SecretAccessKey: base64.StdEncoding.EncodeToString(secret[:]),
		Role:            role,
		Enrolment:       enrolment,
		Created:         now,
	}
}

const (
	idLine     = "AWS_ACCESS_KEY_ID="
	secretLine = "AWS_SECRET_ACCESS_KEY="
)

var (
	idForm     = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9+/=]{16,128}$`)
)

// ReadKey reads a key file: one that [EnsureKeys] wrote, or one like it.
func ReadKey(path string) (*store.Key, error) { return readKeyFile(path) }

// readKeyFile reads what writeKeyFile wrote, and what a person may have made of it: blank lines, comments, "export",
// quotes.
func readKeyFile(path string) (*store.Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	k := &store.Key{}
	for line := range strings.SplitSeq(string(data), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if id, ok := strings.CutPrefix(line, idLine); ok {
			k.AccessKeyID = strings.Trim(id, `"'`)
		}
		if secret, ok := strings.CutPrefix(line, secretLine); ok {
			k.SecretAccessKey = strings.Trim(secret, `"'`)
		}
	}
	if !idForm.MatchString(k.AccessKeyID) || !secretForm.MatchString(k.SecretAccessKey) {
		return nil, fmt.Errorf("%s must have a line %s… with 16 to 128 letters and digits, and a line %s… with 16 to 128 characters of base64; "+
			"delete the file to have it written again", path, idLine, secretLine)
	}
	return k, nil
}

// writeKeyFile replaces the file at once, so that nobody reads half of it.
func writeKeyFile(path string, k *store.Key) error {
	failpoint.Hit("auth/before-key-file")
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // of mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = file.WriteString(idLine + k.AccessKeyID + "\n" + secretLine + k.SecretAccessKey + "\n")
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	failpoint.Hit("auth/after-key-file")
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
