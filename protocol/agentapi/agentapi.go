// Package agentapi is the part of the ECS API that an agent calls: a small client and the shapes of those operations. It is
// what the AWS SDK's client would put on the wire, without linking that client: importing service/ecs/types alone costs
// 1.8 MiB of resident memory and service/ecs 2.1 MiB, this package 0.1 MiB beyond the signer.
//
// The shapes (gen_shapes.go) are generated from the SDK's source, together with the members that only the agent's own model
// has: clientToken of RegisterContainerInstance, zoneId and systemLogsEndpoint of DiscoverPollEndpoint. An operation X
// takes an *XInput and fills an *XOutput:
//
//	c, err := agentapi.New(agentapi.Config{Endpoint: cfg.BackendHost, Region: cfg.Region, Credentials: provider, UserAgent: "Longshore Agent - v0.1"})
//	var out agentapi.RegisterContainerInstanceOutput
//	err = c.Call(ctx, "RegisterContainerInstance", &agentapi.RegisterContainerInstanceInput{Cluster: &cluster, …}, &out)
//	var refused *agentapi.APIError
//	if errors.As(err, &refused) && refused.Code == "ClusterNotFoundException" { … }
//
// The operations: CreateCluster, DeregisterContainerInstance, DiscoverPollEndpoint, GetTaskProtection, ListTagsForResource,
// RegisterContainerInstance, SubmitAttachmentStateChanges, SubmitContainerStateChange, SubmitTaskStateChange,
// UpdateContainerInstancesState, UpdateTaskProtection.
//
// With [Config.Service] and [Config.Target] a Client speaks to another service of the same protocol, and [Client.Get] is a
// signed GET for those that are no JSON services; package awsapi builds on both.
package agentapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/uuid"

	"github.com/longshore-project/longshore/protocol/awsjson"
)

// Defaults of [Config].
const (
	DefaultAttemptTimeout = 42 * time.Second
	DefaultMaxAttempts    = 3
	DefaultMaxDelay       = 20 * time.Second
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = awsjson.MaxSize

// Config configures a [Client].
type Config struct {
	// Endpoint is the base URL. Without a scheme https is meant; empty is the region's ECS endpoint.
	Endpoint string
	// Region is what requests are signed for.
	Region string
	// Service is the name that requests are signed for, "ecs" if empty; Target is what the operation's name follows in
	// X-Amz-Target, that of ECS if empty. Both or none are set, and with them an Endpoint.
	Service, Target string
	// Credentials sign each attempt. Without a cache in it, it is asked each time.
	Credentials aws.CredentialsProvider
	// HTTPClient sends; nil is one with the default transport. Redirects are never followed.
	HTTPClient *http.Client
	// UserAgent is the header of that name.
	UserAgent string
	// AttemptTimeout bounds one attempt, from the credentials to the last byte of the answer.
	AttemptTimeout time.Duration
	// MaxAttempts bounds the attempts of one call; 1 leaves retrying to the caller.
	MaxAttempts int
	// Clock is what requests are signed by; nil: one of the client's own. A request that is refused for its date is made once more
	// by the time of the refusal.
	Clock *Clock
	// MaxDelay bounds the pause between two attempts, which is random below a bound that starts at 1 s and doubles.
	MaxDelay time.Duration
	// Now dates the signatures; nil is this host's clock.
	Now func() time.Time
}

// Client calls the ECS API. It is safe for concurrent use.
type Client struct {
	cfg    Config
	url    string
	http   http.Client
	signer *v4.Signer
	header map[string]string // further ones of calls
}

// New checks the configuration and makes a client. It connects to nothing.
func New(cfg Config) (*Client, error) {
	if cfg.Region == "" {
		return nil, errors.New("agentapi: no region to sign for: set AWS_DEFAULT_REGION")
	}
	if cfg.Credentials == nil {
		return nil, errors.New("agentapi: no credentials to sign with")
	}
	if cfg.Service != "" && cfg.Endpoint == "" {
		return nil, fmt.Errorf("agentapi: no endpoint for the service %s", cfg.Service)
	}
	if cfg.Service == "" {
		cfg.Service, cfg.Target = "ecs", "AmazonEC2ContainerServiceV20141113."
	}
	u, err := endpoint(cfg.Endpoint, cfg.Region)
	if err != nil {
		return nil, err
	}
	if cfg.AttemptTimeout <= 0 {
		cfg.AttemptTimeout = DefaultAttemptTimeout
	}
	if cfg.MaxAttempts <= 0 {
		cfg.MaxAttempts = DefaultMaxAttempts
	}
	if cfg.MaxDelay <= 0 {
		cfg.MaxDelay = DefaultMaxDelay
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Clock == nil {
		cfg.Clock = &Clock{}
	}
	c := &Client{cfg: cfg, url: u, signer: v4.NewSigner()}
	if cfg.HTTPClient != nil {
		c.http = *cfg.HTTPClient
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c, nil
}

func endpoint(text, region string) (string, error) {
	if text == "" {
		text = "ecs." + region + ".amazonaws.com"
		if strings.HasPrefix(region, "cn-") {
			text += ".cn"
		}
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("agentapi: the endpoint is not a URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("agentapi: the endpoint %q must be http(s)://host[:port]", u.Redacted())
	}
	if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

// APIError is an answer that is an error. A connection that failed or timed out is not one.
type APIError struct {
	Operation  string
	Code       string // "InvalidParameterException"; the status' text when the answer named none
	Message    string
	StatusCode int
	RequestID  string
	Region     string // where S3 says that a bucket is
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("%s: %s: %s (HTTP %d", e.Operation, e.Code, e.Message, e.StatusCode)
	if e.RequestID != "" {
		text += ", request " + e.RequestID
	}
	return text + ")"
}

// Throttled tells whether the service asks to come back later.
func (e *APIError) Throttled() bool {
	switch e.Code {
	case "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottledException", "RequestThrottled", "TooManyRequestsException",
		"RequestLimitExceeded", "BandwidthLimitExceeded", "SlowDown", "PriorRequestNotComplete", "TransactionInProgressException",
		"EC2ThrottledException", "ProvisionedThroughputExceededException", "LimitExceededException":
		return true
	}
	return e.StatusCode == http.StatusTooManyRequests
}

// Retryable tells whether the same call may succeed later: the service throttles or has a fault of its own.
func (e *APIError) Retryable() bool { return e.Throttled() || e.StatusCode >= 500 }

// With is the client with one more header in its calls, which is signed too.
func (c *Client) With(name, value string) *Client {
	more := *c
	if more.header = maps.Clone(c.header); more.header == nil {
		more.header = map[string]string{}
	}
	more.header[name] = value
	return &more
}

// Call calls the operation with in and decodes the answer into out, which may be nil. It tries again, at most MaxAttempts
// times, what [APIError.Retryable] says and connections that fail, always with the same body. Errors: an [*APIError], or
// that of the last attempt, wrapped with the operation's name; the context's if it ends.
func (c *Client) Call(ctx context.Context, operation string, in, out any) error {
	body, err := awsjson.MarshalRequest(in)
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	id := newID()
	return c.retry(ctx, operation, func(ctx context.Context, attempt int) error {
		answer, err := c.attempt(ctx, operation, maxAnswer, func() (*http.Request, error) { return c.post(ctx, operation, id, attempt, body) })
		if err != nil || out == nil {
			return err
		}
		if _, err := awsjson.Unmarshal(answer, out); err != nil {
			return &answerError{err}
		}
		return nil
	})
}

// Get fetches url, at most limit bytes, with retries and errors as those of [Client.Call]; operation names it in errors.
// The request is signed as S3 wants it. An answer of more than limit bytes is an error.
func (c *Client) Get(ctx context.Context, operation, url string, limit int64) (answer []byte, err error) {
	err = c.retry(ctx, operation, func(ctx context.Context, _ int) (err error) {
		if answer, err = c.attempt(ctx, operation, limit, func() (*http.Request, error) { return c.get(ctx, url) }); err != nil {
			return err
		}
		if int64(len(answer)) > limit {
			return &answerError{fmt.Errorf("it has more than the %d bytes that are allowed", limit)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Query calls an operation of a service that speaks the Query protocol, as EC2 does: form has Action and Version among its parameters. The
// answer, at most limit bytes, is XML; retries and errors are those of [Client.Call].
func (c *Client) Query(ctx context.Context, form url.Values, limit int64) (answer []byte, err error) {
	operation, body := form.Get("Action"), []byte(form.Encode())
	err = c.retry(ctx, operation, func(ctx context.Context, _ int) (err error) {
		answer, err = c.attempt(ctx, operation, limit, func() (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
			if err != nil {
				return nil, err
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
			return req, c.sign(ctx, req, hash(body))
		})
		if err == nil && int64(len(answer)) > limit {
			err = &answerError{fmt.Errorf("it has more than the %d bytes that are allowed", limit)}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// retry makes attempts until one succeeds, another one is of no use, or there were enough.
func (c *Client) retry(ctx context.Context, operation string, once func(ctx context.Context, attempt int) error) error {
	for attempt := 1; ; attempt++ {
		err := c.bounded(ctx, attempt, once)
		if err == nil {
			return nil
		}
		var api *APIError
		if !errors.As(err, &api) {
			err = fmt.Errorf("%s: %w", operation, err)
		}
		var broken *answerError
		if attempt >= c.cfg.MaxAttempts || ctx.Err() != nil || api != nil && !api.Retryable() || errors.As(err, &broken) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(mathrand.N(min(c.cfg.MaxDelay, time.Second<<min(attempt-1, 30)))):
		}
	}
}

func (c *Client) bounded(ctx context.Context, attempt int, once func(ctx context.Context, attempt int) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.AttemptTimeout, fmt.Errorf("no answer within %s", c.cfg.AttemptTimeout))
	defer cancel()
	return once(ctx, attempt)
}

// answerError is a successful answer that cannot be used; asking again would repeat the side effect.
type answerError struct{ err error }

func (e *answerError) Error() string { return "the answer cannot be used: " + e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// attempt makes and sends one request and reads the answer, of which at most limit+1 bytes count.
func (c *Client) attempt(ctx context.Context, operation string, limit int64, request func() (*http.Request, error)) ([]byte, error) {
	answer, err := c.exchange(operation, limit, request)
	if errors.As(err, new(*redated)) {
		answer, err = c.exchange(operation, limit, request)
	}
	var api *APIError
	if err != nil && !errors.As(err, &api) {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
	}
	return answer, err
}

func (c *Client) exchange(operation string, limit int64, request func() (*http.Request, error)) ([]byte, error) {
	req, err := request()
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		limit = maxAnswer
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		refused := apiError(operation, resp, answer)
		if ForItsDate(refused.Code, refused.Message) && c.cfg.Clock.Learn(resp.Header) {
			return nil, &redated{refused}
		}
		return nil, refused
	}
	return answer, nil
}

// redated is a refusal of a request for its date, after which the service's time is known.
type redated struct{ refused *APIError }

func (e *redated) Error() string { return e.refused.Error() }
func (e *redated) Unwrap() error { return e.refused }

func apiError(operation string, resp *http.Response, answer []byte) *APIError {
	e := &APIError{Operation: operation, StatusCode: resp.StatusCode, RequestID: resp.Header.Get("X-Amzn-RequestId"), Region: resp.Header.Get("X-Amz-Bucket-Region")}
	var document struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
	}
	var query struct { // EC2
		XMLName   xml.Name `xml:"Response"`
		Code      string   `xml:"Errors>Error>Code"`
		Message   string   `xml:"Errors>Error>Message"`
		RequestID string
	}
	switch {
	case xml.Unmarshal(answer, &document) == nil: // S3
		e.Code, e.Message, e.RequestID = document.Code, document.Message, document.RequestID
	case xml.Unmarshal(answer, &query) == nil:
		e.Code, e.Message, e.RequestID = query.Code, query.Message, query.RequestID
	default:
		e.Code, e.Message = awsjson.DecodeError(resp.Header, answer)
	}
	if e.Code == "" {
		e.Code = http.StatusText(resp.StatusCode)
	}
	if len(e.Message) > 1024 {
		e.Message = strings.ToValidUTF8(e.Message[:1024], "") + "…"
	}
	return e
}

// post is one attempt of an operation, signed.
func (c *Client) post(ctx context.Context, operation, id string, attempt int, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	h := req.Header
	h.Set("Content-Type", awsjson.ContentType)
	h.Set("X-Amz-Target", c.cfg.Target+operation)
	h.Set("Amz-Sdk-Invocation-Id", id)
	h.Set("Amz-Sdk-Request", fmt.Sprintf("attempt=%d; max=%d", attempt, c.cfg.MaxAttempts))
	for name, value := range c.header {
		h.Set(name, value)
	}
	return req, c.sign(ctx, req, hash(body))
}

// get is one attempt to fetch a URL, signed over the path as it is and with the hash of the body that it doesn't have.
func (c *Client) get(ctx context.Context, url string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	empty := hash(nil)
	req.Header.Set("X-Amz-Content-Sha256", empty)
	return req, c.sign(ctx, req, empty, func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
}

func (c *Client) sign(ctx context.Context, req *http.Request, sum string, options ...func(*v4.SignerOptions)) error {
	if c.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	credentials, err := c.cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("no credentials: %w", err)
	}
	if err := c.signer.SignHTTP(ctx, credentials, req, sum, c.cfg.Service, c.cfg.Region, c.cfg.Now(), options...); err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	return nil
}

func hash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

func newID() string {
	id, err := uuid.NewRandomFromReader(rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return id.String()
}
