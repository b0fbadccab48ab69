package ec2

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/imds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAnInstanceIsAskedWhoItIsWithATokenAlways(t *testing.T) {
	t.Parallel()
	s := imds.New(t, "i-1")
	s.Set("meta-data/outpost-arn", "arn:aws:outposts:us-west-2:123456789012:outpost/op-1")
	i, err := New(s.URL).Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Instance{
		InstanceID: "i-1", Region: "us-west-2", AvailabilityZone: "us-west-2b", InstanceType: "m5.large", ImageID: "ami-0123456789abcdef0",
		Document: imds.Document("i-1"), Signature: "c2lnbmVk", VPC: "vpc-1", Subnet: "subnet-1", Outpost: "arn:aws:outposts:us-west-2:123456789012:outpost/op-1",
	}
	if *i != want {
		t.Errorf("%+v", *i)
	}
	if pages, naked := s.Asked(); len(naked) > 0 || pages["api/token"] != 1 {
		t.Errorf("asked without a token: %q; for tokens: %d", naked, pages["api/token"])
	}
}

func TestATokenThatEndedOrIsNotTakenIsRenewed(t *testing.T) {
	t.Parallel()
	s := imds.New(t, "i-1")
	m := New(s.URL)
	for range 3 {
		s.Forget(6 * time.Hour) // as after a restart of the service: 401
		if _, err := m.LifecycleState(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if pages, naked := s.Asked(); pages["api/token"] != 3 || len(naked) > 0 {
		t.Errorf("%v %v", pages, naked)
	}
}

func TestAThrottlingServiceIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		s := imds.New(t, "i-1")
		m := New(s.URL)
		s.Throttle(2, status)
		if i, err := m.Instance(t.Context()); err != nil || i.InstanceID != "i-1" {
			t.Errorf("%d: %v", status, err)
		}
		s.Throttle(1000, status)
		if _, err := m.LifecycleState(t.Context()); err == nil || !strings.Contains(err.Error(), "is throttling (HTTP ") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestWhatStandsInTheWayIsSaidWithTheRemedy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		weather imds.Weather
		says    string
	}{
		"absent":               {imds.Absent, "EOF"},
		"beyond the hop limit": {imds.Beyond, "--http-put-response-hop-limit 2"},
		"off":                  {imds.Off, "--http-endpoint enabled"},
		"version 1":            {imds.Old, "gives no token (HTTP 404): it does not speak version 2"},
	} {
		s := imds.New(t, "i-1")
		s.Is(c.weather)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := New(s.URL).Instance(ctx)
		cancel()
		var e *Error
		if !errors.As(err, &e) || e.Busy() || e.Off() != (c.weather == imds.Off) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if _, naked := s.Asked(); len(naked) > 0 {
			t.Errorf("%s: asked without a token: %q", name, naked)
		}
	}
	s := imds.New(t, "i-1")
	s.Forget(-time.Hour) // no token is any good
	if _, err := New(s.URL).LifecycleState(t.Context()); err == nil || !strings.Contains(err.Error(), "does not take the token that it gave (401)") {
		t.Error(err)
	}
}

func TestNoticesComeAndAreNotThereBefore(t *testing.T) {
	t.Parallel()
	s := imds.New(t, "i-1")
	m := New(s.URL)
	for range 2 {
		n, err := m.Interruption(t.Context())
		r, err2 := m.Rebalance(t.Context())
		state, err3 := m.LifecycleState(t.Context())
		data, err4 := m.HasUserData(t.Context())
		if err = errors.Join(err, err2, err3, err4); err != nil || n != nil || r != nil || state != "" || data {
			t.Fatal(n, r, state, data, err)
		}
	}
	s.Set("meta-data/spot/instance-action", `{"action":"terminate","time":"2026-01-01T08:22:00Z"}`)
	s.Set("meta-data/events/recommendations/rebalance", `{"noticeTime":"2026-01-01T08:00:00Z"}`)
	s.Set("meta-data/autoscaling/target-lifecycle-state", "Warmed:Stopped\n")
	s.Set("user-data", "#!/bin/sh\n")
	n, err := m.Interruption(t.Context())
	if err != nil || n.Action != "terminate" || n.At.Hour() != 8 {
		t.Error(n, err)
	}
	if r, err := m.Rebalance(t.Context()); err != nil || r.Action != "" || r.At.IsZero() {
		t.Error(r, err)
	}
	if state, err := m.LifecycleState(t.Context()); err != nil || state != "Warmed:Stopped" {
		t.Error(state, err)
	}
	if data, err := m.HasUserData(t.Context()); err != nil || !data {
		t.Error(data, err)
	}
	for page, text := range map[string]string{"meta-data/spot/instance-action": "<html>", "meta-data/events/recommendations/rebalance": strings.Repeat(" ", maxAnswer+1)} {
		s.Set(page, text)
	}
	_, err = m.Interruption(t.Context())
	_, err2 := m.Rebalance(t.Context())
	if err == nil || err2 == nil || !strings.Contains(err2.Error(), "too large") {
		t.Error(err, err2)
	}
}

func TestAServiceThatIsSomethingElseIsNoInstance(t *testing.T) {
	t.Parallel()
	for _, document := range []string{"", "<html>", "{}", "[]"} {
		s := imds.New(t, "i-1")
		s.Set("dynamic/instance-identity/document", document)
		if i, err := New(s.URL).Instance(t.Context()); err == nil {
			t.Errorf("%q: %+v", document, i)
		}
	}
	s := imds.New(t, "i-1")
	s.Set("meta-data/mac", "../../x")
	if i, err := New(s.URL).Instance(t.Context()); err != nil || i.VPC != "" {
		t.Error(i, err)
	}
	pages, _ := s.Asked()
	for page := range pages {
		if slices.Contains(strings.Split(page, "/"), "..") {
			t.Error(page)
		}
	}
}

func TestTheInstancesRoleIsHadWithAToken(t *testing.T) {
	t.Parallel()
	s := imds.New(t, "i-1")
	s.Set("meta-data/iam/security-credentials/", "role")
	s.Set("meta-data/iam/security-credentials/role", `{"Code":"Success","AccessKeyId":"AKIA","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`)
	c, err := New(s.URL).Role().Retrieve(t.Context())
	if err != nil || c.AccessKeyID != "AKIA" || c.SessionToken != "t" {
		t.Error(c.AccessKeyID, err)
	}
	if _, naked := s.Asked(); len(naked) > 0 {
		t.Error(naked)
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add(imds.Document("i-1"))
	f.Add(`{"action":"stop","time":"2026-01-01T08:22:00Z"}`)
	f.Add(`{"noticeTime":5}`)
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := parseInstance(text); err == nil && (i.InstanceID == "" || i.Document != text) {
			t.Error(i)
		}
		if n, err := parseNotice(text); (n == nil) == (err == nil) {
			t.Error(n, err)
		}
	})
}
