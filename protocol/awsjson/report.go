package awsjson

import (
	"strconv"
	"strings"
)

// Report says what a document contained, beyond what the decoded value can say. Paths are like
// "overrides.containerOverrides[0].cpu"; a map's key is a step like a member ("options.max-size" names one key with no dot
// in it).
type Report struct {
	// Unknown are the members that the type does not have, in order of appearance.
	Unknown []string
	// Missing are the required members (see [RegisterRequired]) that are absent or null.
	Missing []string

	data []byte
}

// Present tells whether the document has the member and it is not null.
func (r Report) Present(path string) bool {
	raw := r.Raw(path)
	return raw != nil && string(raw) != "null"
}

// Raw is the JSON text of the member, known or unknown; nil when it is absent. It walks the document.
func (r Report) Raw(path string) []byte {
	s := scanner{data: r.data}
	if path == "" {
		return r.data
	}
	for rest := path; rest != ""; {
		var ok bool
		if rest[0] == '[' {
			end := strings.IndexByte(rest, ']')
			if end < 0 {
				return nil
			}
			index, err := strconv.Atoi(rest[1:end])
			if err != nil || !s.toIndex(index) {
				return nil
			}
			rest = strings.TrimPrefix(rest[end+1:], ".")
			continue
		}
		if rest, ok = s.toMember(rest); !ok {
			return nil
		}
	}
	raw, err := s.skip()
	if err != nil {
		return nil
	}
	return raw
}

// toMember moves to the value of the member that begins path and returns the rest of the path.
func (s *scanner) toMember(path string) (rest string, found bool) {
	if s.peek() != '{' || s.open('{', "") != nil {
		return "", false
	}
	for n := 0; ; n++ {
		more, err := s.more(n, '}')
		if err != nil || !more {
			return "", false
		}
		key, err := s.name()
		if err != nil {
			return "", false
		}
		if rest, ok := strings.CutPrefix(path, string(key)); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			s.space()
			return strings.TrimPrefix(rest, "."), true
		}
		if _, err := s.skip(); err != nil {
			return "", false
		}
	}
}

func (s *scanner) toIndex(index int) bool {
	if s.peek() != '[' || s.open('[', "") != nil {
		return false
	}
	for n := 0; ; n++ {
		more, err := s.more(n, ']')
		if err != nil || !more {
			return false
		}
		if n == index {
			s.space()
			return true
		}
		if _, err := s.skip(); err != nil {
			return false
		}
	}
}

// Required returns a [*RequiredError] for the first missing required member, nil when none is missing.
func (r Report) Required() error {
	if len(r.Missing) == 0 {
		return nil
	}
	return &RequiredError{Path: r.Missing[0]}
}

// RequiredError says that a required member is absent or null. ECS answers InvalidParameterException for most of them.
type RequiredError struct {
	Path string // "tasks", "containerDefinitions[0].logConfiguration.logDriver"
}

// Code is the AWS error code.
func (e *RequiredError) Code() string { return "InvalidParameterException" }

// Error is in ECS's words: "Tasks cannot be empty." for a member of the request itself, else the path "should not be null or empty.".
func (e *RequiredError) Error() string {
	if strings.ContainsAny(e.Path, ".[") {
		return e.Path + " should not be null or empty."
	}
	return strings.ToUpper(e.Path[:1]) + e.Path[1:] + " cannot be empty."
}
