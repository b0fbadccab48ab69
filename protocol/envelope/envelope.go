// Package envelope is the form of a message on both web sockets between agents and a control plane, ACS and TCS:
//
//	{"type": "PayloadMessage", "message": {…}}
//
// or, as the body of a refused handshake and sometimes as a message, an exception:
//
//	{"InactiveInstanceException": "text"}
//
// [Codec] encodes and decodes the messages of one of them.
package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// MaxFrame is the size of the largest frame that is taken or made, in bytes.
const MaxFrame = 4 << 20

// UnknownTypeError is a message of a type that is not known.
type UnknownTypeError struct{ Type string }

func (e *UnknownTypeError) Error() string { return fmt.Sprintf("unknown message type %q", e.Type) }

// FormatError is a frame that is not a message: not JSON, not an envelope, too large, or a member of the wrong type. Type
// is the message's type if that could be read.
type FormatError struct {
	Type   string
	Reason string
}

func (e *FormatError) Error() string {
	if e.Type == "" {
		return "malformed message: " + e.Reason
	}
	return "malformed " + e.Type + ": " + e.Reason
}

// Exception is an error that one end tells the other, or the answer to a refused handshake.
type Exception struct {
	Type    string `json:"-"`
	Message string `json:"message"`
}

// Error makes an Exception usable as a Go error.
func (e *Exception) Error() string { return e.Type + ": " + e.Message }

// A Codec knows the messages of one protocol. It is safe for concurrent use.
type Codec struct {
	messages   map[string]reflect.Type
	exceptions []string
}

// New makes a codec for messages, structs whose names are those on the wire, and for exceptions of these types.
func New(exceptions []string, messages ...any) *Codec {
	c := &Codec{map[string]reflect.Type{}, exceptions}
	for _, m := range messages {
		t := reflect.TypeOf(m)
		c.messages[t.Name()] = t
	}
	return c
}

// TypeOf is the name of a message's type on the wire; empty if m is not a message of the protocol.
func (c *Codec) TypeOf(m any) string {
	if e, ok := m.(*Exception); ok {
		if e != nil && slices.Contains(c.exceptions, e.Type) {
			return e.Type
		}
		return ""
	}
	t := reflect.TypeOf(m)
	if t == nil || t.Kind() != reflect.Pointer || c.messages[t.Elem().Name()] != t.Elem() {
		return ""
	}
	return t.Elem().Name()
}

// Messages are empty messages of all types, in order of their names.
func (c *Codec) Messages() []any {
	var all []any
	for _, name := range slices.Sorted(maps.Keys(c.messages)) {
		all = append(all, reflect.New(c.messages[name]).Interface())
	}
	return all
}

// Encode makes the frame of a message, a non-nil pointer to one of the message types.
func (c *Codec) Encode(m any) ([]byte, error) {
	name := c.TypeOf(m)
	if name == "" || reflect.ValueOf(m).IsNil() {
		return nil, fmt.Errorf("%T is not a message", m)
	}
	frame, err := Marshal(struct {
		Type    string `json:"type"`
		Message any    `json:"message"`
	}{name, m})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(frame) > MaxFrame {
		return nil, fmt.Errorf("%s: the frame has %d bytes; at most %d are allowed", name, len(frame), MaxFrame)
	}
	return frame, nil
}

// Marshal is encoding/json without the escapes that are meant for HTML pages.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Decode reads a frame: a pointer to one of the message types. A member that the type lacks is ignored, null is the same as
// absent, and null entries of lists are dropped. Errors are [*UnknownTypeError] and [*FormatError]. The message does not
// refer to frame.
func (c *Codec) Decode(frame []byte) (any, error) {
	if len(frame) > MaxFrame {
		return nil, &FormatError{Reason: fmt.Sprintf("%d bytes; at most %d are accepted", len(frame), MaxFrame)}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(frame, &members); err != nil {
		return nil, &FormatError{Reason: Reason(err)}
	}
	if len(members) == 1 {
		for name, text := range members {
			if slices.Contains(c.exceptions, name) {
				return bare(name, text), nil
			}
		}
	}
	var kind string
	var body json.RawMessage
	for name, text := range members { // as encoding/json matches names
		switch {
		case strings.EqualFold(name, "type"):
			if err := json.Unmarshal(text, &kind); err != nil {
				return nil, &FormatError{Reason: "type: " + Reason(err)}
			}
		case strings.EqualFold(name, "message"):
			body = text
		}
	}
	if kind == "" {
		return nil, &FormatError{Reason: `the member "type" is missing`}
	}
	m := any(&Exception{Type: kind})
	if !slices.Contains(c.exceptions, kind) {
		t := c.messages[kind]
		if t == nil {
			return nil, &UnknownTypeError{Clip(kind)}
		}
		m = reflect.New(t).Interface()
	}
	if len(body) > 0 && string(body) != "null" {
		if err := json.Unmarshal(body, m); err != nil {
			return nil, &FormatError{Type: kind, Reason: Reason(err)}
		}
	}
	dropNulls(reflect.ValueOf(m).Elem())
	return m, nil
}

// bare reads the second form of an exception: its value is the text, or an object that has it.
func bare(name string, text json.RawMessage) *Exception {
	e := &Exception{Type: name}
	var object struct{ Message string }
	if json.Unmarshal(text, &e.Message) != nil && json.Unmarshal(text, &object) == nil {
		e.Message = object.Message
	}
	return e
}

// EncodeBare makes the second form of an exception, which is the body of a refused handshake.
func EncodeBare(e *Exception) []byte {
	b, err := Marshal(map[string]string{e.Type: e.Message})
	if err != nil {
		panic(err) // strings cannot fail
	}
	return b
}

// Reason is what encoding/json found, without its package prefix and with the member's path.
func Reason(err error) string {
	var e *json.UnmarshalTypeError
	if errors.As(err, &e) {
		text := fmt.Sprintf("JSON %s where %s belongs", e.Value, e.Type)
		if e.Field != "" {
			text = e.Field + ": " + text
		}
		return text
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// Clip bounds what a peer sent, for a message.
func Clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// dropNulls removes nil pointers from every list in a message. What is in a struct with no exported field, such as a time,
// is its own.
func dropNulls(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			dropNulls(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				dropNulls(v.Field(i))
			}
		}
	case reflect.Slice:
		kind := v.Type().Elem().Kind()
		if kind != reflect.Pointer && kind != reflect.Struct {
			return
		}
		n := 0
		for i := range v.Len() {
			e := v.Index(i)
			if kind == reflect.Pointer && e.IsNil() {
				continue
			}
			dropNulls(e)
			v.Index(n).Set(e)
			n++
		}
		v.SetLen(n)
	}
}
