package agentapi

import (
	"net/http"
	"testing"
	"time"
)

func TestAClockLearnsTheServicesTimeAndSaysSoOnceEachTimeItChanges(t *testing.T) {
	host := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var said []time.Duration
	c := &Clock{Now: func() time.Time { return host }, Learned: func(d time.Duration) { said = append(said, d) }}
	answer := func(at time.Time) http.Header {
		return http.Header{"Date": {at.UTC().Format(http.TimeFormat)}}
	}
	for _, step := range []struct {
		at   time.Time
		news bool
	}{
		{host.Add(2 * time.Second), false}, {host.Add(time.Hour), true}, {host.Add(time.Hour + 3*time.Second), false},
		{host.Add(-365 * 24 * time.Hour), true}, {host, true}, {host, false},
	} {
		if got := c.Learn(answer(step.at)); got != step.news {
			t.Errorf("%s: %t", step.at, got)
		}
	}
	if len(said) != 3 || said[0] != time.Hour || said[2] != 0 || !c.Time().Equal(host) {
		t.Errorf("%v, and it is %s", said, c.Time())
	}
	if c.Learn(http.Header{"Date": {"yesterday"}}) || c.Learn(nil) {
		t.Error("an answer without a date was believed")
	}
}

func TestARefusalForTheDateIsKnownByItsCodeOrWords(t *testing.T) {
	for _, refused := range [][2]string{{"InvalidSignatureException", "Signature expired: 1 is now earlier than 2"}, {"InvalidSignatureException", "Signature not yet current: 2"}, {"RequestTimeTooSkewed", ""}} {
		if !ForItsDate(refused[0], refused[1]) {
			t.Error(refused)
		}
	}
	if ForItsDate("InvalidSignatureException", "The request signature we calculated does not match") {
		t.Error("a wrong secret is not a wrong clock")
	}
}
