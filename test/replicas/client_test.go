package replicas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// callTimeout bounds a call: more than a control plane takes to say that it can't.
const callTimeout = 15 * time.Second

// client makes API calls, each once: what a retry would hide is to be seen.
type client struct {
	url  string
	key  aws.Credentials
	http *http.Client
}

func (w *world) client(url string, key aws.Credentials) *client {
	c := &client{url: url, key: key, http: &http.Client{Timeout: callTimeout, Transport: &http.Transport{MaxIdleConns: 4}}}
	w.Cleanup(c.http.CloseIdleConnections)
	return c
}

// answer is how a call ended.
type answer struct {
	status  int // 0: there is no answer
	code    string
	message string
	stale   string // since when what it says may be old; empty: it is not
	body    []byte
	err     error
	took    time.Duration
}

// done: it was done, and the answer says what came of it. refused: it was certainly not done. Else nobody knows.
func (a *answer) done() bool { return a.status == http.StatusOK }

// refused tells whether it was certainly not done: a client's error, or a store that could not even be asked.
func (a *answer) refused() bool {
	return a.status >= 400 && a.status < 500 || a.status == http.StatusServiceUnavailable
}

func (a *answer) String() string {
	return fmt.Sprintf("%d %s %s %v after %s", a.status, a.code, a.message, a.err, a.took)
}

// call makes one.
func (c *client) call(ctx context.Context, operation string, in, out any) *answer {
	begun := time.Now()
	a := c.send(ctx, operation, in)
	a.took = time.Since(begun)
	if a.done() && out != nil {
		if err := json.Unmarshal(a.body, out); err != nil {
			a.err, a.status = err, 0
		}
	}
	return a
}

func (c *client) send(ctx context.Context, operation string, in any) *answer {
	body, err := json.Marshal(in)
	if err != nil {
		return &answer{err: err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/", bytes.NewReader(body))
	if err != nil {
		return &answer{err: err}
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonEC2ContainerServiceV20141113."+operation)
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, c.key, r, hex.EncodeToString(hash[:]), "ecs", "us-west-2", time.Now()); err != nil {
		return &answer{err: err}
	}
	response, err := c.http.Do(r)
	if err != nil {
		return &answer{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return &answer{err: err}
	}
	a := &answer{status: response.StatusCode, body: text, stale: response.Header.Get("X-Longshore-Stale")}
	if a.status != http.StatusOK {
		var e struct {
			Type    string `json:"__type"`
			Message string `json:"message"`
		}
		_ = json.Unmarshal(text, &e) // what is no exception has no code
		a.code, a.message = e.Type, e.Message
	}
	return a
}

// must repeats a call until it is answered with success.
func (c *client) must(ctx context.Context, operation string, in, out any) error {
	for {
		a := c.call(ctx, operation, in, out)
		if a.done() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %s", operation, a)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// object is a value of JSON.
type object = map[string]any
