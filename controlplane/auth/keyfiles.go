package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// The files that [EnsureKeys] hands keys out in, below the data directory.
const (
	AdminFile = "admin.env"
	HostFile  = "host.env"
)

// keysTTL is how long a replica that died over the first keys keeps others from them.
const keysTTL = 10 * time.Second

// EnsureKeys sees to it that there is an administrator's key and a join key for hosts, and that the files admin.env
// and host.env in dir have them. The files are of mode 0600 and have the lines AWS_ACCESS_KEY_ID=… and
// AWS_SECRET_ACCESS_KEY=….
//
// Neither file nor key: a key is made. A key without its file, or a file whose key has ended: the file is written again, with
// the oldest such key that has no end. A file and no such key at all: the store is new, and adopts the file's. A file that
// disagrees with the store, names a key that it does not know, or can't be read, is an error and nothing is changed.
//
// Of replicas that are started at the same time one looks, and makes, before the next.
func EnsureKeys(ctx context.Context, s *store.Store, sealed *seal.Key, dir string, now time.Time) (err error) {
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
	e := ensuring{s, sealed, now}
	for _, k := range fileKinds {
		if err := e.ensure(ctx, filepath.Join(dir, k.file), k.like); err != nil {
			return err
		}
	}
	return nil
}

// fileKinds are the kinds of keys that are in files.
var fileKinds = []struct {
	file string
	like store.Key
}{
	{AdminFile, store.Key{Role: store.RoleAdmin}},
	{HostFile, store.Key{Role: store.RoleHost, Enrolment: true}},
}

// RenewFiles writes those of the key files in dir again, or removes them, whose key has ended or is being replaced.
func RenewFiles(ctx context.Context, s *store.Store, sealed *seal.Key, dir string, now time.Time) error {
	var errs []error
	for _, k := range fileKinds {
		path := filepath.Join(dir, k.file)
		filed, err := readKeyFile(path)
		if err != nil {
			continue // there is none, or it is somebody's own; the next start tells
		}
		var named, other *store.Key
		if err := s.Read(ctx, func(v *store.View) error {
			named = v.Key(filed.AccessKeyID)
			other = heir(v, named, k.like, now)
			return nil
		}); err != nil {
			return fmt.Errorf("look for the key of %s: %w", path, err)
		}
		switch {
		case named == nil || lasting(named, now):
			continue
		case other == nil:
			err = os.Remove(path)
		default:
			err = writeKeyFile(path, sealed, other)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("the file still names the key %s: %w", filed.AccessKeyID, err))
		}
	}
	return errors.Join(errs...)
}

// ensuring is what a look at the files needs.
type ensuring struct {
	store *store.Store
	seal  *seal.Key
	now   time.Time
}

func (e ensuring) ensure(ctx context.Context, path string, like store.Key) error {
	filed, err := readKeyFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var named, stored *store.Key
	if err := e.store.Read(ctx, func(v *store.View) error {
		if filed != nil {
			named = v.Key(filed.AccessKeyID)
		}
		stored = heir(v, named, like, e.now)
		return nil
	}); err != nil {
		return fmt.Errorf("look for the key of %s: %w", path, err)
	}
	switch {
	case named != nil && lasting(named, e.now):
		return e.agree(path, filed, named, like)
	case filed != nil && named == nil && stored != nil:
		return fmt.Errorf("%s has the key %s, which is not in the store: it was deleted, or is of another control plane; "+
			"delete the file to have it written again", path, filed.AccessKeyID)
	case filed != nil && named == nil:
		like.AccessKeyID, like.Created, like.Sealed = filed.AccessKeyID, e.now, e.seal.Seal(filed.AccessKeyID, []byte(filed.Secret))
		return e.create(ctx, path, &like)
	case stored != nil:
		return writeKeyFile(path, e.seal, stored)
	}
	// The store first: a crash before the file is written leaves a key whose file is written at the next start.
	made := NewKey(e.seal, like, e.now)
	if err := e.create(ctx, path, made.Key); err != nil {
		return err
	}
	return writeKeyFile(path, e.seal, made.Key)
}

// lasting tells whether a key counts and has no end in sight.
func lasting(k *store.Key, now time.Time) bool { return k.Usable(now) && k.Expires.IsZero() }

// heir is the key that a file is to have whose key has ended: the one that replaces it, or else the oldest of its kind.
func heir(v *store.View, ended *store.Key, like store.Key, now time.Time) *store.Key {
	for seen := map[string]bool{}; ended != nil && !seen[ended.AccessKeyID]; ended = v.Key(ended.Successor) {
		if seen[ended.AccessKeyID] = true; lasting(ended, now) && ofKind(ended, like) {
			return ended
		}
	}
	return oldest(v, like, now)
}

// oldest is the first key of a kind that lasts, nil if there is none.
func oldest(v *store.View, like store.Key, now time.Time) *store.Key {
	var first *store.Key
	for k := range v.Keys() {
		if ofKind(k, like) && lasting(k, now) && (first == nil || k.Created.Before(first.Created)) {
			first = k
		}
	}
	return first
}

func ofKind(k *store.Key, like store.Key) bool {
	return k.Role == like.Role && k.Enrolment == like.Enrolment && k.MaxUses == 0
}

func (e ensuring) agree(path string, filed *Key, stored *store.Key, like store.Key) error {
	known, err := Unseal(e.seal, stored)
	switch {
	case err != nil:
		return err
	case filed.Secret != known.Secret:
		return fmt.Errorf("%s has another secret for the key %s than the store: delete the file to have it written again", path, filed.AccessKeyID)
	case !ofKind(stored, like):
		return fmt.Errorf("%s has the key %s, whose role in the store is %q, not %q: delete the file to have it written again",
			path, filed.AccessKeyID, stored.Role, like.Role)
	}
	return os.Chmod(path, 0o600)
}

func (e ensuring) create(ctx context.Context, path string, k *store.Key) error {
	if err := e.store.Txn().Create(k).Commit(ctx); err != nil {
		return fmt.Errorf("store the key of %s: %w", path, err)
	}
	return nil
}

const (
	idLine     = "AWS_ACCESS_KEY_ID="
	secretLine = "AWS_SECRET_ACCESS_KEY="
)

var (
	idForm     = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9+/=]{16,128}$`)
)

// Lines are the key as the lines of an environment.
func (k Key) Lines() string {
	return idLine + k.AccessKeyID + "\n" + secretLine + k.Secret + "\n"
}

// ReadKey reads a key file: one that [EnsureKeys] wrote, or one like it.
func ReadKey(path string) (*Key, error) { return readKeyFile(path) }

// readKeyFile reads what writeKeyFile wrote, and what a person may have made of it: blank lines, comments, "export",
// quotes.
func readKeyFile(path string) (*Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	k := &Key{Key: &store.Key{}}
	for line := range strings.SplitSeq(string(data), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if id, ok := strings.CutPrefix(line, idLine); ok {
			k.AccessKeyID = strings.Trim(id, `"'`)
		}
		if secret, ok := strings.CutPrefix(line, secretLine); ok {
			k.Secret = strings.Trim(secret, `"'`)
		}
	}
	if !idForm.MatchString(k.AccessKeyID) || !secretForm.MatchString(k.Secret) {
		return nil, fmt.Errorf("%s must have a line %s… with 16 to 128 letters and digits, and a line %s… with 16 to 128 characters of base64; "+
			"delete the file to have it written again", path, idLine, secretLine)
	}
	return k, nil
}

// writeKeyFile replaces the file at once, so that nobody reads half of it.
func writeKeyFile(path string, sealed *seal.Key, stored *store.Key) error {
	k, err := Unseal(sealed, stored)
	if err != nil {
		return err
	}
	failpoint.Hit("auth/before-key-file")
	if err := durable.Write(path, []byte(k.Lines()), 0o600); err != nil {
		return err
	}
	failpoint.Hit("auth/after-key-file")
	return nil
}
