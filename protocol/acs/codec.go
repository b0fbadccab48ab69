package acs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// MaxFrame is the size of the largest frame that [Decode] takes and [Encode] makes. Set it as the read limit of both ends
// of a socket.
const MaxFrame = 4 << 20

// UnknownTypeError is a message of a type that this package does not know. Agents drop such messages; they do not count
// as traffic for the heartbeat timer.
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

var messages = map[string]reflect.Type{}

func init() {
	for _, m := range []any{
		HeartbeatMessage{}, HeartbeatAckRequest{}, PayloadMessage{}, CloseMessage{}, AckRequest{}, NackRequest{}, PerformUpdateMessage{}, StageUpdateMessage{},
		IAMRoleCredentialsMessage{}, IAMRoleCredentialsAckRequest{}, ErrorMessage{}, AttachTaskNetworkInterfacesMessage{},
		AttachInstanceNetworkInterfacesMessage{}, ConfirmAttachmentMessage{}, TaskManifestMessage{}, TaskStopVerificationMessage{}, TaskStopVerificationAck{},
		PrepareImagesMessage{}, ImagesPreparedMessage{},
	} {
		t := reflect.TypeOf(m)
		messages[t.Name()] = t
	}
}

// The types of [Exception].
const (
	ServerException           = "ServerException"
	BadRequestException       = "BadRequestException"
	InvalidClusterException   = "InvalidClusterException"
	InvalidInstanceException  = "InvalidInstanceException"
	AccessDeniedException     = "AccessDeniedException"
	InactiveInstanceException = "InactiveInstanceException"
)

func isException(name string) bool {
	switch name {
	case ServerException, BadRequestException, InvalidClusterException, InvalidInstanceException, AccessDeniedException, InactiveInstanceException:
		return true
	}
	return false
}

type envelope struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message"`
}

// TypeOf is the name of a message's type on the wire; empty if m is not a message of this package.
func TypeOf(m any) string {
	if e, ok := m.(*Exception); ok {
		if e != nil && isException(e.Type) {
			return e.Type
		}
		return ""
	}
	t := reflect.TypeOf(m)
	if t == nil || t.Kind() != reflect.Pointer || messages[t.Elem().Name()] != t.Elem() {
		return ""
	}
	return t.Elem().Name()
}

// Encode makes the frame of a message, a non-nil pointer to one of the message types.
func Encode(m any) ([]byte, error) {
	name := TypeOf(m)
	if name == "" || reflect.ValueOf(m).IsNil() {
		return nil, fmt.Errorf("%T is not a message", m)
	}
	body, err := marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	frame, err := marshal(envelope{name, body})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(frame) > MaxFrame {
		return nil, fmt.Errorf("%s: the frame has %d bytes; at most %d are allowed", name, len(frame), MaxFrame)
	}
	return frame, nil
}

// marshal is encoding/json without the escapes that are meant for HTML pages.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// EncodeBare makes the second form of an exception, {"InactiveInstanceException":"text"}, which is the body of a refused
// handshake.
func EncodeBare(e *Exception) []byte {
	b, err := marshal(map[string]string{e.Type: e.Message})
	if err != nil {
		panic(err) // strings cannot fail
	}
	return b
}

// Decode reads a frame, or the body of a refused handshake: a pointer to one of the message types. A member that the type
// lacks is ignored, null is the same as absent, and null entries of lists are dropped. Errors are [*UnknownTypeError] and
// [*FormatError]. The message does not refer to frame.
func Decode(frame []byte) (any, error) {
	if len(frame) > MaxFrame {
		return nil, &FormatError{Reason: fmt.Sprintf("%d bytes; at most %d are accepted", len(frame), MaxFrame)}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(frame, &members); err != nil {
		return nil, &FormatError{Reason: reason(err)}
	}
	if len(members) == 1 {
		for name, text := range members {
			if isException(name) {
				return bare(name, text), nil
			}
		}
	}
	var env envelope
	if err := json.Unmarshal(frame, &env); err != nil {
		return nil, &FormatError{Reason: reason(err)}
	}
	if env.Type == "" {
		return nil, &FormatError{Reason: `the member "type" is missing`}
	}
	if isException(env.Type) {
		e := &Exception{Type: env.Type}
		return e, decodeBody(env, e)
	}
	t := messages[env.Type]
	if t == nil {
		return nil, &UnknownTypeError{clip(env.Type)}
	}
	m := reflect.New(t)
	if err := decodeBody(env, m.Interface()); err != nil {
		return nil, err
	}
	dropNulls(m.Elem())
	return m.Interface(), nil
}

func decodeBody(env envelope, m any) error {
	if len(env.Message) == 0 || string(env.Message) == "null" {
		return nil
	}
	if err := json.Unmarshal(env.Message, m); err != nil {
		return &FormatError{env.Type, reason(err)}
	}
	return nil
}

func bare(name string, text json.RawMessage) *Exception {
	e := &Exception{Type: name}
	var object struct{ Message string }
	if json.Unmarshal(text, &e.Message) != nil && json.Unmarshal(text, &object) == nil {
		e.Message = object.Message
	}
	return e
}

// reason is what encoding/json found, without its package prefix and with the member's path.
func reason(err error) string {
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

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// dropNulls removes nil pointers from every list in a message.
func dropNulls(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			dropNulls(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			dropNulls(v.Field(i))
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

// UndecodableTask is a task of a payload whose members have wrong types.
type UndecodableTask struct {
	Arn string // if that much could be read
	Err error
}

// UnmarshalJSON decodes each task by itself, so that one that cannot be decoded does not take the others with it.
func (m *PayloadMessage) UnmarshalJSON(b []byte) error {
	type plain PayloadMessage
	var raw struct {
		*plain
		Tasks []json.RawMessage `json:"tasks"`
	}
	raw.plain = (*plain)(m)
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	m.Tasks, m.Undecodable = nil, nil
	for _, text := range raw.Tasks {
		task := new(Task)
		if err := json.Unmarshal(text, task); err != nil {
			var id struct {
				Arn any `json:"arn"`
			}
			_ = json.Unmarshal(text, &id) // what can be read is read
			arn, _ := id.Arn.(string)
			m.Undecodable = append(m.Undecodable, UndecodableTask{arn, &FormatError{"Task", reason(err)}})
			continue
		}
		if string(text) != "null" {
			m.Tasks = append(m.Tasks, task)
		}
	}
	return nil
}
