package agentapi

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// Clock is the time by which requests are signed: this host's, and how far the service's is from it, once a request was refused
// for its date. It is safe for concurrent use. The zero value is the host's own time.
type Clock struct {
	// Now is the host's time; nil means time.Now. It is set before the first use.
	Now func() time.Time
	// Learned, if set, is called when the offset changes; it must return at once.
	Learned func(offset time.Duration)

	mu     sync.Mutex
	offset time.Duration
}

// skewSteps is how precise the offset is: the Date of an answer is in seconds, and some of them may be old.
const skewSteps = 5 * time.Second

// Host is the host's own time.
func (c *Clock) Host() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// Offset is how far the service's time is ahead of the host's; negative when it is behind.
func (c *Clock) Offset() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offset
}

// Time is the service's time, as far as it is known.
func (c *Clock) Time() time.Time { return c.Host().Add(c.Offset()) }

// Learn takes the service's time from the Date of an answer, and tells whether that changed what is known: then a request that
// was refused for its date is worth another attempt.
func (c *Clock) Learn(answer http.Header) bool {
	date, err := http.ParseTime(answer.Get("Date"))
	if err != nil {
		return false
	}
	offset := date.Sub(c.Host()).Round(time.Second)
	if offset.Abs() < skewSteps {
		offset = 0
	}
	c.mu.Lock()
	changed := (offset - c.offset).Abs() >= skewSteps
	if changed {
		c.offset = offset
	}
	c.mu.Unlock()
	if changed && c.Learned != nil {
		c.Learned(offset)
	}
	return changed
}

// ForItsDate tells whether a refusal's code and message say that the request's date is too far from the service's time.
func ForItsDate(code, message string) bool {
	switch code {
	case "RequestExpired", "RequestTimeTooSkewed", "RequestInTheFuture":
		return true
	}
	return strings.Contains(message, "Signature expired") || strings.Contains(message, "Signature not yet current")
}
