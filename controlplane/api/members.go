package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// object is a request's JSON as it came, beside the decoded Go type, which can't tell an absent scalar from a zero.
type object map[string]any

// parseObject reads a request's body. Objects are bounded by the body's size and by encoding/json's depth limit.
func parseObject(body []byte) (object, error) {
	var o object
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&o); err != nil {
		return nil, exception("SerializationException", "The request body is not a JSON object: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, exception("SerializationException", "The request body has something after the JSON object, at byte %d.", d.InputOffset())
	}
	if o == nil {
		return nil, exception("SerializationException", "The request body is null; it must be a JSON object.")
	}
	return o, nil
}

// has says whether a top-level member is there and not null.
func (o object) has(member string) bool { return o[member] != nil }

// each calls f with every value that path stands for (a.b, a[].b) and its concrete path (a[3].b), nil for a member that
// is not there, until f returns false.
func each(v any, path, at string, f func(at string, v any) bool) bool {
	if path == "" {
		return f(at, v)
	}
	step, rest, _ := strings.Cut(path, ".")
	name, list := strings.CutSuffix(step, "[]")
	members, ok := v.(map[string]any)
	if !ok {
		return true // another type, which the decoder refuses, or a structure that is absent
	}
	if at != "" {
		name = "." + name
	}
	member := members[strings.TrimPrefix(name, ".")]
	if !list {
		return each(member, rest, at+name, f)
	}
	elements, _ := member.([]any)
	for i, e := range elements {
		if !each(e, rest, fmt.Sprintf("%s%s[%d]", at, name, i), f) {
			return false
		}
	}
	return true
}

// refusal is a member that is not supported, and its neutral values beside those of [neutral].
type refusal struct {
	path    string
	neutral []string
}

func parseRefusal(s string) refusal {
	path, values, ok := strings.Cut(s, "=")
	if !ok {
		return refusal{path: path}
	}
	return refusal{path: path, neutral: strings.Split(values, "|")}
}

// offends is the concrete path at which a member that is not supported has a value that is not neutral, and that value.
func (o object) offends(r refusal) (offence, value string) {
	each(map[string]any(o), r.path, "", func(at string, v any) bool {
		if neutral(v) || slices.Contains(r.neutral, fmt.Sprint(v)) {
			return true
		}
		text, _ := json.Marshal(v) // came from JSON; can't fail
		offence, value = at, string(text)
		return false
	})
	return offence, value
}

// neutral says whether a value asks for nothing: absent, null, empty, false, 0, DISABLED, NONE, or a list or structure
// of only such.
func neutral(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == "" || strings.EqualFold(v, "DISABLED") || strings.EqualFold(v, "NONE")
	case json.Number:
		f, err := v.Float64()
		return err == nil && f == 0
	case []any:
		return !slices.ContainsFunc(v, func(e any) bool { return !neutral(e) })
	case map[string]any:
		for _, e := range v {
			if !neutral(e) {
				return false
			}
		}
		return true
	}
	return false
}

// indexless is a member's path without the positions in lists.
func indexless(path string) string {
	var b strings.Builder
	depth := 0
	for _, r := range path {
		switch {
		case r == '[':
			depth++
			b.WriteString("[")
		case r == ']':
			depth--
			b.WriteString("]")
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}
