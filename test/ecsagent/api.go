package ecsagent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	target        = "AmazonEC2ContainerServiceV20141113."
	contentType   = "application/x-amz-json-1.1"
	signedByCall  = "amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target"
	signedByFrame = "host;x-amz-date"
)

// apiError is an error answer.
type apiError struct {
	Status        int
	Code, Message string
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s: %s (HTTP %d)", e.Code, e.Message, e.Status)
}

// transient is an error that another attempt of the same call may not have.
func transient(err error) bool {
	var e *apiError
	if !errors.As(err, &e) {
		return true // no answer
	}
	switch e.Code {
	case "ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown":
		return true
	}
	return e.Status >= 500
}

// call makes an API call, in as many attempts as the agent makes. in is a struct whose members stand in order of name, as
// they do on the wire; out is nil or what the answer is decoded into.
func (a *Agent) call(operation string, in, out any, attempts int) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	invocation := uuid.NewString()
	first := a.cfg.Timers.Retry
	if attempts > 3 {
		first = a.cfg.Timers.SubmitRetry
	}
	for n := 1; ; n++ {
		err := a.attempt(operation, body, out, invocation, n, attempts)
		if err == nil {
			a.write(Entry{Kind: Called, Type: operation, Body: body})
			return nil
		}
		if a.ctx.Err() != nil {
			return a.ctx.Err()
		}
		a.write(Entry{Kind: Refused, Type: operation, Body: body, Text: err.Error()})
		if !transient(err) || n == attempts {
			return err
		}
		pause := 5 * time.Minute
		if n <= 13 {
			pause = time.Duration(float64(first) * (1 + rand.Float64()) * float64(int(1)<<(n-1)))
		}
		if !a.sleep(pause) {
			return a.ctx.Err()
		}
	}
}

func (a *Agent) attempt(operation string, body []byte, out any, invocation string, n, most int) error {
	base := a.cfg.Endpoint
	if !strings.Contains(base, "://") {
		base = "https://" + base
	}
	r, err := http.NewRequestWithContext(a.ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header = http.Header{
		"Content-Type":          {contentType},
		"X-Amz-Target":          {target + operation},
		"Amz-Sdk-Invocation-Id": {invocation},
		"Amz-Sdk-Request":       {fmt.Sprintf("attempt=%d; max=%d", n, most)},
		"User-Agent":            {userAgent},
	}
	if err := a.sign(r, body, signedByCall); err != nil {
		return err
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return readError(answer, text)
	}
	if out == nil {
		out = &struct{}{}
	}
	if err := json.Unmarshal(text, out); err != nil {
		a.m.fault("the answer of %s can't be decoded: %v: %.500s", operation, err, text)
		return err
	}
	return nil
}

func readError(answer *http.Response, text []byte) error {
	var e struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	_ = json.Unmarshal(text, &e) // without a readable body the code is the header's, or none
	code := e.Type
	if h := answer.Header.Get("X-Amzn-ErrorType"); h != "" {
		code, _, _ = strings.Cut(h, ":")
	}
	code = code[strings.LastIndex(code, "#")+1:]
	return &apiError{answer.StatusCode, code, e.Message}
}

// sign signs a request for the service ecs, and insists on the set of headers that the agent signs.
func (a *Agent) sign(r *http.Request, body []byte, signed string) error {
	hash := sha256.Sum256(body)
	err := a.signer.SignHTTP(context.Background(), a.cfg.Key, r, hex.EncodeToString(hash[:]), "ecs", a.cfg.Region, time.Now())
	if err != nil {
		return err
	}
	if !strings.Contains(r.Header.Get("Authorization"), "SignedHeaders="+signed+",") {
		return fmt.Errorf("the agent signs %s, not as in %s", signed, r.Header.Get("Authorization"))
	}
	return nil
}

// endpoints are where the sockets are.
type endpoints struct{ ACS, TCS string }

// discover asks for the endpoints; an answer is kept for the life of the process, which is shorter than 12 h in any test.
func (a *Agent) discover() (endpoints, error) {
	a.mu.Lock()
	known := a.endpoints
	a.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	var out struct {
		Endpoint          string `json:"endpoint"`
		TelemetryEndpoint string `json:"telemetryEndpoint"`
	}
	err := a.call("DiscoverPollEndpoint", struct {
		Cluster           string `json:"cluster"`
		ContainerInstance string `json:"containerInstance"`
		ZoneID            string `json:"zoneId"`
	}{a.cluster(), a.m.InstanceARN(), ""}, &out, 3)
	if err != nil {
		return endpoints{}, err
	}
	if out.Endpoint == "" || out.TelemetryEndpoint == "" {
		return endpoints{}, errors.New("DiscoverPollEndpoint answered without an endpoint")
	}
	found := endpoints{out.Endpoint, out.TelemetryEndpoint}
	a.mu.Lock()
	a.endpoints = &found
	a.mu.Unlock()
	return found, nil
}

// socketURL is a socket's address: ws after the base's path, with or without a slash, and the keys in order of name.
func socketURL(base string, query map[string]string) (*url.URL, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "http":
		u.Scheme = "ws"
	case "https":
		u.Scheme = "wss"
	default:
		return nil, fmt.Errorf("the endpoint %q is neither http nor https", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/ws"
	values := url.Values{}
	for k, v := range query {
		values.Set(k, v)
	}
	u.RawQuery = values.Encode()
	return u, nil
}
