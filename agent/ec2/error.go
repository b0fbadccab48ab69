package ec2

import (
	"fmt"
	"net/http"
)

// Error says why a question has no answer, and what to do.
type Error struct {
	Path   string // below /latest
	Status int    // of the answer; 0: there was none
	Silent bool   // the question was sent, and no answer came
	Err    error
	token  bool // it was the question for a token
}

// Busy says that the service is there, by its answer, and can't answer now.
func (e *Error) Busy() bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	return false
}

// Off says that the service is switched off for this instance.
func (e *Error) Off() bool { return e.Status == http.StatusForbidden }

// Error is one sentence, with the remedy.
func (e *Error) Error() string {
	what := "the instance metadata service, asked for " + e.Path
	switch {
	case e.Silent:
		return what + ", took the question and did not answer. In a container or a network namespace the answer's hop limit is too low: aws ec2 modify-instance-metadata-options --instance-id ID --http-put-response-hop-limit 2"
	case e.Off():
		return what + ", answers 403: it is switched off for this instance. aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled switches it on; AWS_EC2_METADATA_DISABLED=true makes this an own host"
	case e.token && (e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed):
		return what + fmt.Sprintf(", gives no token (HTTP %d): it does not speak version 2 (IMDSv2), and version 1 is not used", e.Status)
	case e.Status == http.StatusUnauthorized:
		return what + ", does not take the token that it gave (401). Is there something on the way that drops the header X-aws-ec2-metadata-token, or a hop limit (--http-put-response-hop-limit) that is too low?"
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable:
		return what + fmt.Sprintf(", is throttling (HTTP %d): too many questions come from this instance", e.Status)
	case e.Status/100 > 2:
		return what + fmt.Sprintf(", answers HTTP %d", e.Status)
	}
	return fmt.Sprintf("%s: %v", what, e.Err)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// explained says what a question's trail tells of its error.
func explained(path string, t *trail, err error) *Error {
	e := &Error{Path: path, Status: t.status, Silent: t.silent, Err: err, token: t.token}
	if t.err != nil {
		e.Err = t.err
	}
	return e
}

// none says that the service has no such page.
func (e *Error) none() bool { return e.Status == http.StatusNotFound && !e.token }
