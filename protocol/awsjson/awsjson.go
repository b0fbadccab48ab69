// Package awsjson is Longshore's one codec for AWS JSON 1.1: it encodes and decodes the AWS SDK's own input, output and
// model types, and structs of our own (store records, saved state) that embed or mirror them. It knows no service: what a
// Go type alone cannot say is registered by the package that has the types (protocol/ecsapi for ECS).
//
// # Rules
//
//	member name   the Go field's name with its first letter lowered (ClusterArn → clusterArn, S3 → s3), or the field tag
//	              `awsjson:"name"`; `awsjson:"-"` leaves a field out. Matching is exact, upper and lower case differ.
//	left out      unexported fields, the SDK's ResultMetadata and noSmithyDocumentSerde
//	embedded      an embedded exported struct is inlined; a field of the outer struct hides an inner one of the same name
//	timestamps    time.Time ↔ seconds since the epoch, at most three decimals. Decoding takes ISO-8601 strings too. A
//	              time.Time that is zero and not behind a pointer is not written.
//	blobs         []byte ↔ base64
//	floats        NaN, Infinity and -Infinity travel as those strings
//	unions        an interface registered with [RegisterUnion] ↔ an object with exactly one member
//	documents     an interface registered with [RegisterDocument] ↔ any JSON value
//
// [Marshal] writes members in order of name. A nil pointer, list, map or interface is left out, and so is an empty string
// that is not behind a pointer (an enum that was not set); every other value is written, a zero number and a false boolean
// too, and an empty list that is not nil stays "[]". [MarshalRequest] also leaves zero numbers and false booleans out unless
// they stand behind a pointer, as the SDKs' clients do.
//
// [Unmarshal] takes null for absent. A member that the type does not have is skipped and listed in the [Report]; a value of
// the wrong JSON type, a null inside a list or map, a duplicate key, a number with a fraction or out of range for an
// integer, invalid UTF-8, trailing data and excessive size or depth are a [*SerializationError] with the member's path.
// An empty body counts as {}.
package awsjson

import (
	"reflect"
	"strconv"
)

// Bounds of what [Unmarshal] reads.
const (
	MaxSize  = 8 << 20 // bytes of a document
	MaxDepth = 64      // nested objects and lists
)

// Marshal encodes v, a struct or a pointer to one. Errors are programming errors (an unregistered interface type, a nil
// v) or a union with an unknown member.
func Marshal(v any) ([]byte, error) {
	e := encoder{buf: make([]byte, 0, 512)}
	err := e.marshal(v)
	return e.buf, err
}

// Append appends what [Marshal] makes of v to buf. exact tells whether it surely reads as v is: no time is of another zone than UTC or
// finer than what is written, and there is no union or document. On an error what is behind buf's end is undefined.
func Append(buf []byte, v any) (out []byte, exact bool, err error) {
	e := encoder{buf: buf}
	err = e.marshal(v)
	return e.buf, !e.inexact, err
}

// MarshalRequest is [Marshal] as a client does it: numbers that are zero and booleans that are false are left out unless
// they stand behind a pointer.
func MarshalRequest(v any) ([]byte, error) {
	e := encoder{buf: make([]byte, 0, 512), request: true}
	err := e.marshal(v)
	return e.buf, err
}

// Unmarshal decodes data into v, a non-nil pointer to a struct, whose fields it sets as the document says and otherwise
// leaves as they are. The Report refers to data, which must not be modified while the Report is used.
// On an error v is partly set and must be thrown away.
func Unmarshal(data []byte, v any) (Report, error) {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() || rv.Elem().Kind() != reflect.Struct {
		return Report{}, &typeError{"Unmarshal needs a non-nil pointer to a struct, not " + typeName(v)}
	}
	d := decoder{scanner: scanner{data: data}, report: Report{data: data}}
	if len(data) > MaxSize {
		return Report{}, &SerializationError{Reason: "the document has " + strconv.Itoa(len(data)) + " bytes; at most " + strconv.Itoa(MaxSize) + " are accepted"}
	}
	d.space()
	if d.pos == len(data) {
		d.data = []byte("{}")
		d.pos, d.report.data = 0, d.data
	}
	p, err := planOf(rv.Type().Elem())
	if err != nil {
		return Report{}, err
	}
	if err := p.decode(&d, rv.Elem()); err != nil {
		return Report{}, d.locate(err)
	}
	d.space()
	if d.pos != len(d.data) {
		return Report{}, d.locate(d.fail("unexpected data after the end of the document"))
	}
	return d.report, nil
}

func (e *encoder) marshal(v any) error {
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer && !rv.IsNil() {
		rv = rv.Elem()
	}
	err := error(&typeError{"Marshal needs a struct or a non-nil pointer to one, not " + typeName(v)})
	if rv.Kind() == reflect.Struct {
		var p *plan
		if p, err = planOf(rv.Type()); err == nil {
			err = p.encode(e, rv)
		}
	}
	if err != nil {
		e.buf = nil
	}
	return err
}

// SerializationError says what in a document could not be decoded. Its AWS error code is SerializationException.
type SerializationError struct {
	Path   string // of the member, as in "containerDefinitions[0].cpu"; empty for the document itself
	Reason string // "expected an integer, got a string"
	Offset int    // byte offset in the document
}

// Code is the AWS error code.
func (e *SerializationError) Code() string { return "SerializationException" }

func (e *SerializationError) Error() string {
	if e.Path == "" {
		return e.Reason + " (at byte " + strconv.Itoa(e.Offset) + ")"
	}
	return e.Path + ": " + e.Reason
}

// typeError is a mistake of the program, not of the document.
type typeError struct{ reason string }

func (e *typeError) Error() string { return "awsjson: " + e.reason }

func typeName(v any) string {
	if v == nil {
		return "nil"
	}
	return reflect.TypeOf(v).String()
}
