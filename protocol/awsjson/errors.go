package awsjson

import (
	"net/http"
	"strings"
)

// ContentType is what requests and answers carry.
const ContentType = "application/x-amz-json-1.1"

// errorBody is an error on the wire. Clients read either spelling of the message.
type errorBody struct {
	Type    string  `awsjson:"__type"`
	Code    string  `awsjson:"code"`
	Message *string `awsjson:"message"`
	Legacy  *string `awsjson:"Message"`
}

// EncodeError is the body of an error answer: {"Message":…,"__type":…,"message":…}.
func EncodeError(code, message string) []byte {
	b, err := Marshal(&errorBody{Type: code, Message: &message, Legacy: &message})
	if err != nil {
		panic(err) // two strings cannot fail
	}
	return b
}

// DecodeError reads the code and message of an error answer as the SDKs do: the code is the body's __type, else the header
// X-Amzn-ErrorType, else the body's code, without a namespace before '#' and without anything after ':'. A body that is not
// JSON becomes the message. The code is empty if the answer names none.
func DecodeError(header http.Header, body []byte) (code, message string) {
	var e errorBody
	if _, err := Unmarshal(body, &e); err != nil {
		e = errorBody{}
		text := strings.TrimSpace(strings.ToValidUTF8(string(body), "\ufffd"))
		e.Message = &text
	}
	for _, c := range []string{e.Type, header.Get("X-Amzn-ErrorType"), e.Code} {
		c, _, _ = strings.Cut(c[strings.LastIndexByte(c, '#')+1:], ":")
		if code = strings.TrimSpace(c); code != "" {
			break
		}
	}
	switch {
	case e.Message != nil:
		message = *e.Message
	case e.Legacy != nil:
		message = *e.Legacy
	}
	return code, message
}
