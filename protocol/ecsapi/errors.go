package ecsapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/longshore-project/longshore/protocol/awsjson"
)

// Code is the type of an error as clients see it (__type).
type Code string

// The codes outside the service model that every AWS service may answer.
const (
	UnrecognizedClientException         Code = "UnrecognizedClientException"
	InvalidSignatureException           Code = "InvalidSignatureException"
	MissingAuthenticationTokenException Code = "MissingAuthenticationTokenException"
	IncompleteSignatureException        Code = "IncompleteSignatureException"
	ExpiredTokenException               Code = "ExpiredTokenException"
	UnknownOperationException           Code = "UnknownOperationException"
	SerializationException              Code = "SerializationException"
	ThrottlingException                 Code = "ThrottlingException"
	ValidationException                 Code = "ValidationException"
)

// Known tells whether the code is one of ECS's model or one that every AWS service may answer.
func (c Code) Known() bool {
	switch c {
	case UnrecognizedClientException, InvalidSignatureException, MissingAuthenticationTokenException, IncompleteSignatureException,
		ExpiredTokenException, UnknownOperationException, SerializationException, ThrottlingException, ValidationException:
		return true
	}
	return serverFault[c] || clientFault[c]
}

// HTTPStatus is the status an error of that code is answered with: 500 for what the model calls the server's fault, 400
// for all else (clients retry a 5xx for minutes).
func (c Code) HTTPStatus() int {
	if serverFault[c] {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// Error is an error with its AWS code.
type Error struct {
	Code    Code
	Message string
}

// Errorf makes an [Error].
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Body is the error on the wire.
func (e *Error) Body() []byte { return awsjson.EncodeError(string(e.Code), e.Message) }

// AsError finds the [Error] in err, or makes one of an error that has a code, as those of protocol/awsjson and protocol/arn
// have; nil for any other error.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var coded interface {
		error
		Code() string
	}
	if errors.As(err, &coded) {
		return &Error{Code(coded.Code()), coded.Error()}
	}
	return nil
}
