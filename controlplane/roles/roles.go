// Package roles has the credentials of IAM roles that the control plane hands to tasks: static keys from a file that its
// operator keeps ([Roles]), or sessions of the Security Token Service, one for each task ([Issuer]).
//
//	{"roles": {"arn:aws:iam::123456789012:role/app": {"accessKeyId": "…", "secretAccessKey": "…", "sessionToken": "…", "expiration": "2026-12-31T00:00:00Z"}}}
//
// sessionToken and expiration are for temporary keys, which something else renews in the file. The file is read again
// whenever it has changed. A changed file that can't be used leaves the roles as they were, and is told in the log. As it
// holds secrets, nobody but its owner may have rights to it.
package roles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/durable"
)

// Lifetime is how long credentials without an end are said to live, so that whoever has them asks again.
const Lifetime = time.Hour

// maxFile bounds the file, in bytes.
const maxFile = 4 << 20

// Credentials are those of one role. Formatting shows nothing of them.
type Credentials struct {
	RoleArn         string
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	Expiration      time.Time
}

// String hides the credentials.
func (Credentials) String() string { return "[credentials]" }

// GoString hides the credentials.
func (Credentials) GoString() string { return "[credentials]" }

// Roles are the roles of a file. A nil *Roles has none. It is safe for concurrent use.
type Roles struct {
	file, account string
	log           *zap.Logger
	now           func() time.Time

	mu    sync.Mutex
	seen  os.FileInfo // of the file when it was read last, with or without success
	roles map[string]keys
}

type keys struct {
	AccessKeyID     string    `json:"accessKeyId"`
	SecretAccessKey string    `json:"secretAccessKey"`
	SessionToken    string    `json:"sessionToken"`
	Expiration      time.Time `json:"expiration"`
}

// Open reads a file. account is that of roles which are named without an ARN. The error names the file and shows nothing
// of it.
func Open(file, account string, log *zap.Logger) (*Roles, error) {
	r := &Roles{file: file, account: account, log: log, now: time.Now}
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

// Errors of [Roles.Get], to be tested with errors.Is.
var (
	ErrUnknown = errors.New("there are no credentials for it")
	ErrExpired = errors.New("its credentials have expired")
)

// Get returns a role's credentials. role is an ARN, or the name of a role of the own account.
func (r *Roles) Get(role string) (Credentials, error) {
	if r == nil {
		return Credentials{}, fmt.Errorf("%w: start the control plane with --role-credentials and a file that has it", ErrUnknown)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	if !strings.HasPrefix(role, "arn:") {
		role = "arn:aws:iam::" + r.account + ":role/" + role
	}
	k, ok := r.roles[role]
	if !ok {
		return Credentials{}, fmt.Errorf("%w in %s", ErrUnknown, r.file)
	}
	now := r.now()
	until := now.Add(Lifetime)
	if !k.Expiration.IsZero() && k.Expiration.Before(until) {
		until = k.Expiration
	}
	if !until.After(now) {
		return Credentials{}, fmt.Errorf("%w at %s, says %s", ErrExpired, until.UTC().Format(time.RFC3339), r.file)
	}
	return Credentials{role, k.AccessKeyID, k.SecretAccessKey, k.SessionToken, until}, nil
}

// Key returns the secret, the token and the roles of an access key of the file; ok is false for one that is not in it, or that
// has expired.
func (r *Roles) Key(accessKeyID string) (c Credentials, roles []string, ok bool) {
	if r == nil {
		return c, nil, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refresh()
	now := r.now()
	for role, k := range r.roles {
		if k.AccessKeyID != accessKeyID || !k.Expiration.IsZero() && !k.Expiration.After(now) {
			continue
		}
		c = Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.SessionToken, Expiration: k.Expiration}
		roles = append(roles, role)
	}
	slices.Sort(roles)
	return c, roles, len(roles) > 0
}

// refresh reads the file again if it has changed.
func (r *Roles) refresh() {
	info, err := os.Stat(r.file)
	if err == nil && r.seen != nil && os.SameFile(info, r.seen) && info.ModTime().Equal(r.seen.ModTime()) && info.Size() == r.seen.Size() && info.Mode() == r.seen.Mode() {
		return
	}
	if err != nil && r.seen == nil { // told already
		return
	}
	if err := r.load(); err != nil {
		r.log.Error("the file of the roles' credentials has changed and can't be used; the roles stay as they were", zap.String("file", r.file), zap.Error(err))
	}
}

func (r *Roles) load() error {
	r.seen = nil
	data, err := durable.Read(r.file, maxFile, func(info fs.FileInfo) error {
		r.seen = info
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return fmt.Errorf("%s has the mode %04o, so that others than its owner have rights to the secrets in it: chmod 600 it", r.file, mode)
		}
		return nil
	})
	if err != nil {
		return err
	}
	roles, err := parse(data)
	if err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.roles = roles
	return nil
}

func parse(data []byte) (map[string]keys, error) {
	var document struct {
		Roles map[string]keys `json:"roles"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&document); err != nil {
		var syntax *json.SyntaxError
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			return nil, fmt.Errorf("it is no JSON from byte %d on", syntax.Offset)
		case errors.As(err, &wrong):
			return nil, fmt.Errorf("the member %s is not a %s", wrong.Field, wrong.Type)
		case strings.HasPrefix(err.Error(), "json: unknown field"):
			return nil, errors.New(strings.TrimPrefix(err.Error(), "json: ") + "; known are roles, and for each accessKeyId, secretAccessKey, sessionToken and expiration")
		}
		return nil, errors.New("it can't be read; expiration must be like 2026-12-31T00:00:00Z")
	}
	if d.More() {
		return nil, errors.New("there is more behind the JSON object")
	}
	for role, k := range document.Roles {
		switch {
		case !strings.HasPrefix(role, "arn:") || !strings.Contains(role, ":role/"):
			return nil, fmt.Errorf("%q is not the ARN of a role, like arn:aws:iam::123456789012:role/name", role)
		case k.AccessKeyID == "" || k.SecretAccessKey == "":
			return nil, fmt.Errorf("role %s needs accessKeyId and secretAccessKey", role)
		}
	}
	return document.Roles, nil
}
