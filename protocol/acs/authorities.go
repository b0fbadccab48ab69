package acs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// What follows is Longshore's own: the control plane replaces its CA, and its agents are told what to trust over the connection that they
// have. The handshake's request says with [TrustsHeader] that the agent knows this, and what it has saved.

// TrustsHeader is the header with which an agent says, when it opens its ACS socket, which CAs it has saved: their fingerprints with commas
// between, "-" for none.
const TrustsHeader = "X-Longshore-Trusts"

const (
	maxAuthorities    = 4
	maxAuthoritiesPEM = 64 << 10
)

// AuthoritiesMessage is what an agent is to trust beside what it is configured with, until it is told something else.
type AuthoritiesMessage struct {
	MessageID    string `json:"messageId"`
	Certificates string `json:"certificates"` // PEM
}

// AuthoritiesSavedMessage answers an [AuthoritiesMessage] when what it says is saved and trusted.
type AuthoritiesSavedMessage struct {
	MessageID    string   `json:"messageId"`
	Fingerprints []string `json:"fingerprints"`
}

// Validate checks what an agent needs.
func (m *AuthoritiesMessage) Validate() error {
	if err := need("messageId", m.MessageID); err != nil {
		return err
	}
	_, err := Fingerprints([]byte(m.Certificates))
	return err
}

// Validate checks what the control plane needs.
func (m *AuthoritiesSavedMessage) Validate() error {
	if len(m.Fingerprints) > maxAuthorities {
		return fmt.Errorf("fingerprints has %d entries; at most %d are allowed", len(m.Fingerprints), maxAuthorities)
	}
	for i, f := range m.Fingerprints {
		if !isFingerprint(f) {
			return fmt.Errorf("fingerprints[%d] is no SHA-256 in hexadecimal digits", i)
		}
	}
	return need("messageId", m.MessageID)
}

func isFingerprint(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size
}

// Fingerprints are the SHA-256 of the CAs in PEM, in hexadecimal digits. Anything else than one to four certificates of CAs is an error.
func Fingerprints(certificates []byte) (all []string, err error) {
	if len(certificates) > maxAuthoritiesPEM {
		return nil, fmt.Errorf("the certificates have %d bytes; at most %d are allowed", len(certificates), maxAuthoritiesPEM)
	}
	for rest := certificates; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(all)+1, err)
		}
		if !c.IsCA {
			return nil, fmt.Errorf("certificate %d is not that of a CA", len(all)+1)
		}
		sum := sha256.Sum256(block.Bytes)
		if all = append(all, hex.EncodeToString(sum[:])); len(all) > maxAuthorities {
			return nil, fmt.Errorf("there are more than %d certificates", maxAuthorities)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("there is no certificate in PEM form")
	}
	return all, nil
}

// Trusts is the value of [TrustsHeader] for some fingerprints.
func Trusts(fingerprints []string) string {
	if len(fingerprints) == 0 {
		return "-"
	}
	return strings.Join(fingerprints, ",")
}

// ParseTrusts reads it; nil for an agent that does not send it, or sends nonsense.
func ParseTrusts(header string) (fingerprints []string) {
	if header == "-" {
		return []string{}
	}
	if header == "" || len(header) > maxAuthorities*(2*sha256.Size+1) {
		return nil
	}
	all := strings.Split(header, ",")
	for i := range all {
		if !isFingerprint(all[i]) {
			return nil
		}
		all[i] = strings.Clone(all[i])
	}
	return all
}
