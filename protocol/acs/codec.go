package acs

import (
	"encoding/json"

	"github.com/longshore-project/longshore/protocol/envelope"
)

// MaxFrame is the size of the largest frame that [Decode] takes and [Encode] makes. Set it as the read limit of both ends
// of a socket.
const MaxFrame = envelope.MaxFrame

// UnknownTypeError is a message of a type that this package does not know. Agents drop such messages; they do not count
// as traffic for the heartbeat timer.
type UnknownTypeError = envelope.UnknownTypeError

// FormatError is a frame that is not a message.
type FormatError = envelope.FormatError

// Exception is an error of the service, or the answer to a refused handshake.
type Exception = envelope.Exception

// The types of [Exception].
const (
	ServerException           = "ServerException"
	BadRequestException       = "BadRequestException"
	InvalidClusterException   = "InvalidClusterException"
	InvalidInstanceException  = "InvalidInstanceException"
	AccessDeniedException     = "AccessDeniedException"
	InactiveInstanceException = "InactiveInstanceException"
)

var codec = envelope.New(
	[]string{ServerException, BadRequestException, InvalidClusterException, InvalidInstanceException, AccessDeniedException, InactiveInstanceException},
	HeartbeatMessage{}, HeartbeatAckRequest{}, PayloadMessage{}, CloseMessage{}, AckRequest{}, NackRequest{}, PerformUpdateMessage{}, StageUpdateMessage{},
	IAMRoleCredentialsMessage{}, IAMRoleCredentialsAckRequest{}, ErrorMessage{}, AttachTaskNetworkInterfacesMessage{},
	AttachInstanceNetworkInterfacesMessage{}, ConfirmAttachmentMessage{}, TaskManifestMessage{}, TaskStopVerificationMessage{}, TaskStopVerificationAck{},
	PrepareImagesMessage{}, ImagesPreparedMessage{}, SecurityGroupsMessage{},
	TaskListMessage{}, DescribeTasksMessage{}, TasksDescribedMessage{}, AuthoritiesMessage{}, AuthoritiesSavedMessage{},
)

// Messages are empty messages of all types, in order of their names.
func Messages() []any { return codec.Messages() }

// TypeOf is the name of a message's type on the wire; empty if m is not a message of this package.
func TypeOf(m any) string { return codec.TypeOf(m) }

// Encode makes the frame of a message, a non-nil pointer to one of the message types.
func Encode(m any) ([]byte, error) { return codec.Encode(m) }

// EncodeBare makes the second form of an exception, {"InactiveInstanceException":"text"}, which is the body of a refused
// handshake.
func EncodeBare(e *Exception) []byte { return envelope.EncodeBare(e) }

// Decode reads a frame, or the body of a refused handshake: a pointer to one of the message types. A member that the type
// lacks is ignored, null is the same as absent, and null entries of lists are dropped. Errors are [*UnknownTypeError] and
// [*FormatError]. The message does not refer to frame.
func Decode(frame []byte) (any, error) { return codec.Decode(frame) }

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
			m.Undecodable = append(m.Undecodable, UndecodableTask{arn, &FormatError{Type: "Task", Reason: envelope.Reason(err)}})
			continue
		}
		if string(text) != "null" {
			m.Tasks = append(m.Tasks, task)
		}
	}
	return nil
}
