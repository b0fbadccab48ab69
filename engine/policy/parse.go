package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/longshore-project/longshore/internal/nearest"
)

// Bounds of a file.
const (
	maxSize   = 1 << 20
	maxErrors = 20
)

// SyntaxError is a mistake in a policy file.
type SyntaxError struct {
	File    string
	Line    int // from 1; 0: the file as a whole
	Message string
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Message)
}

// Parse reads a policy. file is its name, for messages. The error joins a [*SyntaxError] per mistake, the first ones.
func Parse(file string, data []byte) (*Policy, error) {
	if len(data) > maxSize {
		return nil, &SyntaxError{File: file, Message: fmt.Sprintf("the file has more than the %d bytes that a policy may have", maxSize)}
	}
	sum := sha256.Sum256(data)
	p := &Policy{File: file, Digest: hex.EncodeToString(sum[:])[:12]}
	var errs []error
	number := 0
	for line := range bytes.Lines(data) {
		number++
		rule, err := parseLine(strings.TrimRight(string(line), "\r\n"))
		if err != nil {
			errs = append(errs, &SyntaxError{File: file, Line: number, Message: err.Error()})
			if len(errs) == maxErrors {
				break
			}
			continue
		}
		if rule != nil {
			rule.Line = number
			p.Rules = append(p.Rules, *rule)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// parseLine reads a rule; nil for a line without one.
func parseLine(line string) (*Rule, error) {
	if !utf8.ValidString(line) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return nil, errors.New("the line has bytes that are no text")
	}
	words := strings.Fields(line)
	if at := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "#") }); at >= 0 {
		words = words[:at]
	}
	if len(words) == 0 {
		return nil, nil
	}
	r := &Rule{Text: strings.Join(words, " ")}
	effect := slices.Index(effects, words[0])
	if effect < 0 {
		return nil, unknown("a rule begins with", words[0], effects)
	}
	r.Effect = Effect(effect)
	if len(words) == 1 {
		return nil, fmt.Errorf("%s what? It is followed by one of %s", words[0], strings.Join(classNames(), ", "))
	}
	if !slices.Contains(Classes, Class(words[1])) {
		return nil, unknown("a rule is about", words[1], classNames())
	}
	r.Class = Class(words[1])
	words = words[2:]
	about := words
	if at := slices.Index(words, "for"); at >= 0 {
		about = words[:at]
		if err := r.readFor(words[at:]); err != nil {
			return nil, err
		}
	}
	return r, r.readPatterns(about)
}

func classNames() []string {
	names := make([]string, len(Classes))
	for i, c := range Classes {
		names[i] = string(c)
	}
	return names
}

func unknown(what, word string, words []string) error {
	if near := nearest.Word(word, words); near != "" {
		return fmt.Errorf("%s one of %s, not %.80q; did you mean %q?", what, strings.Join(words, ", "), word, near)
	}
	return fmt.Errorf("%s one of %s, not %.80q", what, strings.Join(words, ", "), word)
}

// readFor reads the conditions: "for family a b for image c".
func (r *Rule) readFor(words []string) error {
	for len(words) > 0 {
		words = words[1:] // for
		end := slices.Index(words, "for")
		if end < 0 {
			end = len(words)
		}
		part := words[:end]
		words = words[end:]
		if len(part) == 0 || part[0] != "family" && part[0] != "image" {
			word := ""
			if len(part) > 0 {
				word = part[0]
			}
			return unknown(`"for" is followed by`, word, []string{"family", "image"})
		}
		if len(part) == 1 {
			return fmt.Errorf("for which %s? At least one pattern follows it", part[0])
		}
		for _, p := range part[1:] {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("the pattern %.200q can't be read: %w", p, err)
			}
		}
		if part[0] == "family" {
			r.Families = append(r.Families, part[1:]...)
		} else {
			r.Images = append(r.Images, part[1:]...)
		}
	}
	return nil
}

// readPatterns reads what of its class a rule is about.
func (r *Rule) readPatterns(words []string) error {
	for _, w := range words {
		switch {
		case r.Class == HostPath && (w == "ro" || w == "rw"):
			if r.Mode != "" {
				return errors.New("ro and rw are given more than once; leave both out for a rule about both")
			}
			r.Mode = w
			continue
		case r.Class == HostPath && !strings.HasPrefix(w, "/"):
			return fmt.Errorf("the host path %.200q is not absolute", w)
		case r.Class == HostPath && path.Clean(w) != strings.TrimRight(w, "/") && w != "/":
			return fmt.Errorf("the host path %.200q is to be written as %q", w, path.Clean(w))
		case r.Class == Capability:
			name := capabilityName(w)
			if name != "ALL" && name != "*" && !slices.Contains(capabilities, name) {
				return unknown("a capability is", w, capabilities)
			}
			if name == "ALL" {
				name = "*"
			}
			w = name
		case r.Class == Registry && strings.Contains(w, "://"):
			return fmt.Errorf("a registry is a host name such as registry.example.com:5000, without %q", w[:strings.Index(w, "://")+3])
		case r.Class != HostPath && r.Class != Registry:
			return fmt.Errorf("%s has no patterns; %.80q is not understood", r.Class, w)
		}
		if _, err := path.Match(w, ""); err != nil {
			return fmt.Errorf("the pattern %.200q can't be read: %w", w, err)
		}
		r.Patterns = append(r.Patterns, w)
	}
	return nil
}

// capabilityName is a capability as rules and requests are compared.
func capabilityName(s string) string { return strings.TrimPrefix(strings.ToUpper(s), "CAP_") }

// capabilities are those of capabilities(7), without CAP_.
var capabilities = strings.Fields(`AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER
	FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP
	SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME
	SYS_TTY_CONFIG WAKE_ALARM`)
