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
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/longshore-project/longshore/internal/durable"
)

// FileName is the key's file in the data directory, where no other is named.
const FileName = "seal.key"

const (
	version = 1
	keySize = 32
	maxFile = 4 << 10
)

// Key seals and opens secrets. It is safe for concurrent use.
type Key struct{ aead cipher.AEAD }

// ErrSealed is the class of errors of what does not open: it was sealed with another key or under another name, or is damaged.
var ErrSealed = errors.New("the seal does not open")

// Load reads a key's file: one line, 32 bytes in base64. A file that others than its owner have rights to is refused. The
// error is fs.ErrNotExist for a file that is not there.
func Load(path string) (*Key, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the seal key: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("the seal key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("the seal key %s has the mode %04o: others may read or change it; chmod 0600 it", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	if err != nil {
		return nil, fmt.Errorf("the seal key %s: %w", path, err)
	}
	key, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("the seal key %s: %w", path, err)
	}
	return key, nil
}

func parse(text string) (*Key, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != keySize {
		return nil, fmt.Errorf("it is not %d bytes in base64; restore the file, or make a new one with 'head -c %d /dev/urandom | base64' for a store that is new", keySize, keySize)
	}
	return newKey(raw), nil
}

func newKey(raw []byte) *Key {
	block, err := aes.NewCipher(raw)
	if err != nil {
		panic(err) // the length is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &Key{aead}
}

// New makes a key that is kept nowhere.
func New() *Key {
	raw := make([]byte, keySize)
	rand.Read(raw)
	return newKey(raw)
}

// Create makes a key and its file, of mode 0600. A file that is there already is an error. The file is durable when Create
// returns nil, and never half of one.
func Create(path string) (*Key, error) {
	raw := make([]byte, keySize)
	rand.Read(raw)
	if err := durable.Create(path, []byte(base64.StdEncoding.EncodeToString(raw)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("make the seal key: %w", err)
	}
	return newKey(raw), nil
}

// Seal seals a secret under a name.
func (k *Key) Seal(name string, secret []byte) []byte {
	sealed := make([]byte, 1+k.aead.NonceSize(), 1+k.aead.NonceSize()+len(secret)+k.aead.Overhead())
	sealed[0] = version
	rand.Read(sealed[1:])
	return k.aead.Seal(sealed, sealed[1:], secret, []byte(name))
}

// Open returns what was sealed under the name. Its error is of the class [ErrSealed].
func (k *Key) Open(name string, sealed []byte) ([]byte, error) {
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
