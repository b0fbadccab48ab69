// Package seal keeps secrets that must be had in clear again: those of access keys, without which no signature can be
// verified, and the private key of the control plane's own CA. They are stored sealed with a key that is in a file and never
// in the store, so that the store, a backup of it or a member of its cluster gives none of them.
//
// What is sealed is version (1 byte), nonce (12 bytes) and AES-256-GCM's output, which authenticates the name under which
// it is stored as well: a sealed secret moved to another name does not open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/longshore-project/longshore/internal/durable"
)

// FileName is the key's file in the data directory, where no other is named.
const FileName = "seal.key"

const (
	version = 1
	keySize = 32
	maxFile = 4 << 10
	maxKeys = 2
)

// Key seals and opens secrets. It is safe for concurrent use.
type Key struct {
	path string // empty: kept nowhere

	mu    sync.RWMutex
	keys  []single // those of the file
	seals int      // which one seals
}

// single is one key.
type single struct {
	id   string
	raw  []byte
	aead cipher.AEAD
}

// ErrSealed is the class of errors of what does not open: it was sealed with another key or under another name, or is damaged.
var ErrSealed = errors.New("the seal does not open")

// Load reads a key's file: one line, 32 bytes in base64, or two while the key is replaced. A file that others than its owner
// have rights to is refused. The error is fs.ErrNotExist for a file that is not there. The first key seals.
func Load(path string) (*Key, error) {
	keys, err := read(path)
	if err != nil {
		return nil, err
	}
	return &Key{path: path, keys: keys}, nil
}

func read(path string) ([]single, error) {
	text, err := durable.Read(path, maxFile, func(info fs.FileInfo) error {
		if mode := info.Mode().Perm(); mode&others(path) != 0 {
			return fmt.Errorf("%s has the mode %04o: others may read or change it; chmod 0600 it", path, mode)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the seal key: %w", err)
	}
	keys, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("the seal key %s: %w", path, err)
	}
	return keys, nil
}

// others are the rights to a key's file that nobody may have but its owner. A credential of systemd is root's, and the unit's user reads it by an
// access control list, whose mask stat shows as the group's rights; the directory that it is in is closed to everybody else.
func others(path string) fs.FileMode {
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && filepath.Dir(path) == filepath.Clean(dir) {
		return 0o037
	}
	return 0o077
}

func parse(text string) (keys []single, err error) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
		if err != nil || len(raw) != keySize {
			return nil, fmt.Errorf("a line is not %d bytes in base64; restore the file, or make a new one with 'head -c %d /dev/urandom | base64' for a store that is new", keySize, keySize)
		}
		if k := newSingle(raw); !slices.ContainsFunc(keys, func(o single) bool { return o.id == k.id }) {
			keys = append(keys, k)
		}
	}
	if n := len(keys); n < 1 || n > maxKeys {
		return nil, fmt.Errorf("it has %d keys, not 1, or 2 while one is replaced", n)
	}
	return keys, nil
}

func newSingle(raw []byte) single {
	block, err := aes.NewCipher(raw)
	if err != nil {
		panic(err) // the length is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(append([]byte("longshore seal key "), raw...))
	return single{id: hex.EncodeToString(sum[:8]), raw: raw, aead: aead}
}

func fresh() single {
	raw := make([]byte, keySize)
	rand.Read(raw)
	return newSingle(raw)
}

// New makes a key that is kept nowhere.
func New() *Key { return &Key{keys: []single{fresh()}} }

// Create makes a key and its file, of mode 0600. A file that is there already is an error. The file is durable when Create
// returns nil, and never half of one.
func Create(path string) (*Key, error) {
	k := &Key{path: path, keys: []single{fresh()}}
	if err := durable.Create(path, lines(k.keys), 0o600); err != nil {
		return nil, fmt.Errorf("make the seal key: %w", err)
	}
	return k, nil
}

func lines(keys []single) (text []byte) {
	for _, k := range keys {
		text = append(append(text, base64.StdEncoding.EncodeToString(k.raw)...), '\n')
	}
	return text
}

// IDs name the keys that open, the one that seals first. Nothing can be opened with an id.
func (k *Key) IDs() []string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	ids := []string{k.keys[k.seals].id}
	for i, one := range k.keys {
		if i != k.seals {
			ids = append(ids, one.id)
		}
	}
	return ids
}

// Reload reads the file again. A file that can't be used, or without the key that seals, is an error, and changes nothing.
func (k *Key) Reload() error {
	keys, err := read(k.path)
	if err != nil {
		return err
	}
	return k.take(keys)
}

// take has the keys of a file, if the one that seals is among them.
func (k *Key) take(keys []single) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := slices.IndexFunc(keys, func(o single) bool { return o.id == k.keys[k.seals].id })
	if i < 0 {
		return fmt.Errorf("the seal key %s does not have the key that the store is sealed with: put that back beside the new one", k.path)
	}
	k.keys, k.seals = keys, i
	return nil
}

// SealWith has the key seal with which something was sealed under a name. Its error is of the class [ErrSealed].
func (k *Key) SealWith(name string, sealed []byte) error {
	_, id, err := k.open(name, sealed)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.IndexFunc(k.keys, func(o single) bool { return o.id == id }); i >= 0 {
		k.seals = i
	}
	return nil
}

// Next is the id of the file's second key while the first one seals; empty when there is none to change over to.
func (k *Key) Next() string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.seals > 0 || len(k.keys) < maxKeys {
		return ""
	}
	return k.keys[1].id
}

// SealNext seals with the key that Next names; nil without one.
func (k *Key) SealNext(name string, secret []byte) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.seals > 0 || len(k.keys) < maxKeys {
		return nil
	}
	return k.keys[1].seal(name, secret)
}

// Add makes a second key and puts it into the file; it opens, and does not seal yet. With two keys already it does nothing.
func (k *Key) Add() error {
	k.mu.RLock()
	keys := slices.Clone(k.keys)
	k.mu.RUnlock()
	if len(keys) == maxKeys {
		return nil
	}
	return k.write(append(keys, fresh()))
}

// Drop takes the key that does not seal out of the file. With one key it does nothing.
func (k *Key) Drop() error {
	k.mu.RLock()
	keys := []single{k.keys[k.seals]}
	k.mu.RUnlock()
	return k.write(keys)
}

// write has the file and this Key have some keys.
func (k *Key) write(keys []single) error {
	if err := durable.Write(k.path, lines(keys), 0o600); err != nil {
		return fmt.Errorf("the seal key's file: %w", err)
	}
	return k.take(keys)
}

// Seal seals a secret under a name.
func (k *Key) Seal(name string, secret []byte) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[k.seals].seal(name, secret)
}

func (k single) seal(name string, secret []byte) []byte {
	sealed := make([]byte, 1+k.aead.NonceSize(), 1+k.aead.NonceSize()+len(secret)+k.aead.Overhead())
	sealed[0] = version
	rand.Read(sealed[1:])
	return k.aead.Seal(sealed, sealed[1:], secret, []byte(name))
}

// Open returns what was sealed under the name. Its error is of the class [ErrSealed].
func (k *Key) Open(name string, sealed []byte) ([]byte, error) {
	secret, _, err := k.open(name, sealed)
	return secret, err
}

// Renew is what was sealed under the name, sealed with the key that seals now; nil if it is already.
func (k *Key) Renew(name string, sealed []byte) ([]byte, error) {
	secret, id, err := k.open(name, sealed)
	if err != nil || id == k.IDs()[0] {
		return nil, err
	}
	return k.Seal(name, secret), nil
}

// open tells with which key it was sealed, too.
func (k *Key) open(name string, sealed []byte) (secret []byte, id string, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, one := range k.keys {
		if secret, err = one.open(name, sealed); err == nil {
			return secret, one.id, nil
		}
	}
	return nil, "", err
}

func (k single) open(name string, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) < 1+k.aead.NonceSize():
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrSealed, name, len(sealed))
	case sealed[0] != version:
		return nil, fmt.Errorf("%w: %s has the version %d, and this longshore-control knows %d", ErrSealed, name, sealed[0], version)
	}
	nonce, box := sealed[1:1+k.aead.NonceSize()], sealed[1+k.aead.NonceSize():]
	secret, err := k.aead.Open(nil, nonce, box, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("%w: %s was sealed with another key, or is damaged", ErrSealed, name)
	}
	return secret, nil
}
