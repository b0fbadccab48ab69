// Package join is what a host and a control plane say to each other when the host joins or leaves: the token that a person
// carries from one to the other, and what ECS has no operation for.
//
//	GET  CAPath                       the control plane's own CA, PEM; asked before it can be trusted, and held against the token's pin
//	POST / LongshoreV1.Host (signed)  what the control plane knows about the asking key's host: [HostInput], [HostOutput]
//	POST / LongshoreV1.EndKey (signed)  a host's own key ends itself; nothing is asked and nothing answered
package join

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"regexp"
	"strings"
)

// CAPath is where a control plane with a CA of its own serves its certificate, to everybody.
const CAPath = "/longshore/v1/ca"

// The operations' names, behind agentapi.OwnTarget in X-Amz-Target.
const (
	HostOperation = "Host"
	// EndKeyOperation revokes the key that signs it. A join key, which is not one host's own, stays as it is.
	EndKeyOperation = "EndKey"
)

// HostInput asks about a key, and about a container instance that it speaks for unless that is nil.
type HostInput struct {
	Cluster           *string
	ContainerInstance *string
}

// HostOutput is the answer. A cluster that does not exist is a ClusterNotFoundException, but for "default", which agents make.
type HostOutput struct {
	Region *string
	// Expires is when the key does, in RFC 3339; nil: never. Uses is how many hosts may still register with it; nil: any number.
	Expires *string
	Uses    *int32
	// Instance is nil unless one was asked for that is registered.
	Instance *HostInstance
}

// HostInstance is a container instance as its control plane sees it.
type HostInstance struct {
	Status         *string // ACTIVE, DRAINING or INACTIVE
	StatusReason   *string
	AgentConnected *bool
	Tasks          *int32 // that are not STOPPED
	Daemons        []Daemon
}

// Daemon is a DAEMON service that belongs on the instance, or is there.
type Daemon struct {
	Service *string
	Ready   *bool   // it runs, HEALTHY if it has a check
	State   *string // in words
}

// Token lets hosts join: an access key for enrolment, and the SHA-256 of the certificate of the control plane's own CA. It is a
// secret.
type Token struct {
	AccessKeyID, SecretAccessKey string
	// Pin is zero when the control plane has a certificate of a CA that hosts trust already, or speaks plain HTTP.
	Pin [sha256.Size]byte
}

// Pinned says whether there is a pin.
func (t Token) Pinned() bool { return t.Pin != [sha256.Size]byte{} }

// Pin is the pin of a CA's certificate in DER form.
func Pin(der []byte) [sha256.Size]byte { return sha256.Sum256(der) }

const (
	prefix   = "longshore1."
	maxToken = 1024
)

// The errors of [Parse].
var (
	ErrForm    = errors.New("it is no token of Longshore, which begins with \"" + prefix + "\"")
	ErrDamaged = errors.New("the token is damaged: a part of it is missing or was changed on the way")
)

var (
	idForm     = regexp.MustCompile(`^[A-Za-z0-9_]{16,128}$`)
	secretForm = regexp.MustCompile(`^[A-Za-z0-9+/=]{16,128}$`)
)

// String is the token as people carry it: letters, digits, '-', '_' and one '.'.
//
//	longshore1.base64url(id LF secret LF [pin] crc32)
func (t Token) String() string {
	raw := []byte(t.AccessKeyID + "\n" + t.SecretAccessKey + "\n")
	if t.Pinned() {
		raw = append(raw, t.Pin[:]...)
	}
	raw = binary.BigEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
	return prefix + base64.RawURLEncoding.EncodeToString(raw)
}

// GoString hides the secret.
func (t Token) GoString() string { return "join.Token{" + t.AccessKeyID + "}" }

// Parse reads a token. The error is [ErrForm] or [ErrDamaged], and has nothing of the token in it.
func Parse(text string) (Token, error) {
	text = strings.TrimSpace(text)
	body, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return Token{}, ErrForm
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(text) > maxToken || len(raw) < 4 || strings.ContainsAny(body, "\r\n") { // which the decoder skips
		return Token{}, ErrDamaged
	}
	raw, sum := raw[:len(raw)-4], raw[len(raw)-4:]
	parts := bytes.SplitN(raw, []byte("\n"), 3)
	if crc32.ChecksumIEEE(raw) != binary.BigEndian.Uint32(sum) || len(parts) != 3 {
		return Token{}, ErrDamaged
	}
	t := Token{AccessKeyID: string(parts[0]), SecretAccessKey: string(parts[1])}
	if n := len(parts[2]); !idForm.MatchString(t.AccessKeyID) || !secretForm.MatchString(t.SecretAccessKey) || n != 0 && n != sha256.Size {
		return Token{}, ErrDamaged
	}
	copy(t.Pin[:], parts[2])
	if len(parts[2]) != 0 && !t.Pinned() {
		return Token{}, ErrDamaged
	}
	return t, nil
}
