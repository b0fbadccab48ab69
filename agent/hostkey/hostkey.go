// Package hostkey keeps the access key that is this host's own.
//
// A host joins with a key that it is configured with, which others may have too. A Longshore control plane gives it a key of
// its own in exchange, and another one when somebody rotates that. The own key is in a file of the data directory, with the
// one before it. What signs is the first of
//
//	the own key → the one before it → the configured key
//
// that the control plane knows: one that was restored from a backup may not know the newest. [Ring.Next] goes on to the next
// one when a registration was refused because of the key; a start begins with the first again.
package hostkey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// FileName is the file's name in the data directory.
const FileName = "host-key.json"

const (
	version = 1
	maxFile = 64 << 10
)

// Key is an access key.
type Key struct {
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
}

func (k *Key) whole() bool { return k != nil && k.AccessKeyID != "" && k.SecretAccessKey != "" }

// file is what is kept.
type file struct {
	Version  int  `json:"version"`
	Current  *Key `json:"current"`
	Previous *Key `json:"previous,omitempty"`
}

// Ring is the keys of this host in their order. It is an aws.CredentialsProvider, and safe for concurrent use.
type Ring struct {
	path       string
	configured aws.CredentialsProvider
	write      func(func() error) error

	mu   sync.Mutex
	own  []Key // the newest first
	next int   // which one signs; len(own): the configured one
}

// Open reads the own key kept in dir; there may be none. A file that can't be read is an error, with a Ring of the
// configured key alone. write is what a write to dir goes through; nil: nothing.
func Open(dir string, configured aws.CredentialsProvider, write func(func() error) error) (*Ring, error) {
	if write == nil {
		write = func(f func() error) error { return f() }
	}
	r := &Ring{path: filepath.Join(dir, FileName), configured: configured, write: write}
	data, err := durable.Read(r.path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		r.own, err = parse(data)
	}
	if err != nil {
		return r, fmt.Errorf("this host's own access key in %s: %w", r.path, err)
	}
	return r, nil
}

func parse(data []byte) ([]Key, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	var kept file
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	switch {
	case kept.Version > version:
		return nil, fmt.Errorf("it has version %d, and this agent knows versions up to %d", kept.Version, version)
	case !kept.Current.whole() || kept.Previous != nil && !kept.Previous.whole():
		return nil, errors.New("it is damaged: a key has no id or no secret")
	}
	own := []Key{*kept.Current}
	if kept.Previous != nil {
		own = append(own, *kept.Previous)
	}
	return own, nil
}

// Retrieve is the key that signs now.
func (r *Ring) Retrieve(ctx context.Context) (aws.Credentials, error) {
	r.mu.Lock()
	if r.next < len(r.own) {
		defer r.mu.Unlock()
		k := r.own[r.next]
		return aws.Credentials{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, Source: r.path}, nil
	}
	r.mu.Unlock()
	return r.configured.Retrieve(ctx)
}

// Own tells whether a key of this host's own signs now.
func (r *Ring) Own() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next < len(r.own)
}

// Next has the next key sign, because the control plane does not know this one; false when there is none, and the first
// one signs again.
func (r *Ring) Next() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next < len(r.own) {
		r.next++
		return true
	}
	r.next = 0
	return false
}

// Keep makes k the own key, which signs from then on, and the own one before it the one that was used last. It is
// durable when Keep returns nil; otherwise nothing has changed.
func (r *Ring) Keep(k Key) error {
	if !k.whole() {
		return errors.New("the control plane gave a key without id or secret")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	own := []Key{k}
	switch {
	case r.next < len(r.own) && r.own[r.next] == k:
		return nil
	case r.next < len(r.own):
		own = append(own, r.own[r.next])
	case len(r.own) > 0: // which is not known now, and may be after a restore
		own = append(own, r.own[0])
	}
	kept := file{Version: version, Current: &own[0]}
	if len(own) > 1 {
		kept.Previous = &own[1]
	}
	data, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	failpoint.Hit("agent/host-key-before")
	if err := r.write(func() error { return durable.Write(r.path, data, 0o600) }); err != nil {
		return fmt.Errorf("keep this host's own access key: %w", err)
	}
	failpoint.Hit("agent/host-key-after")
	r.own, r.next = own, 0
	return nil
}
