// Package awsapi is the few AWS calls that an agent makes beside ECS, with the credentials of a task's execution role or
// of the host: values for containers from SSM Parameter Store and Secrets Manager, files of variables from S3, and tokens
// for Amazon ECR. They go over package agentapi, so that no service client of the SDK is linked.
//
//	c := awsapi.New(awsapi.Config{Endpoints: …, UserAgent: …})
//	found, missing, err := c.GetParameters(ctx, awsapi.Caller{Region: "us-west-2", Credentials: role}, names)
//
// A call goes to the region of its [Caller], at the region's own endpoint or where [Endpoints] says. Throttling, faults of
// the service and broken connections are tried again, with growing pauses; each attempt and each answer is bounded. What a
// service refuses is an [*agentapi.APIError] with code, status and request id; no error holds a value.
package awsapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go/encoding/httpbinding"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// Defaults of [Config].
const (
	DefaultAttemptTimeout = 15 * time.Second
	DefaultMaxAttempts    = 5
	DefaultMaxDelay       = 5 * time.Second
)

// Value is a secret. Formatting and marshalling it shows nothing of it; string(v) is the value.
type Value string

// String hides the value.
func (Value) String() string { return "[secret]" }

// GoString hides the value.
func (Value) GoString() string { return "[secret]" }

// MarshalText hides the value.
func (Value) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// Config configures a [Client]. Zero values mean the defaults.
type Config struct {
	Endpoints      Endpoints
	HTTPClient     *http.Client
	UserAgent      string
	AttemptTimeout time.Duration
	MaxAttempts    int
	MaxDelay       time.Duration
}

// Client makes the calls. It is safe for concurrent use.
type Client struct{ cfg Config }

// New makes a client. It connects to nothing.
func New(cfg Config) *Client {
	if cfg.AttemptTimeout <= 0 {
		cfg.AttemptTimeout = DefaultAttemptTimeout
	}
	if cfg.MaxAttempts <= 0 {
		cfg.MaxAttempts = DefaultMaxAttempts
	}
	if cfg.MaxDelay <= 0 {
		cfg.MaxDelay = DefaultMaxDelay
	}
	return &Client{cfg}
}

// Caller is where a call goes and whose it is.
type Caller struct {
	Region      string
	Credentials aws.CredentialsProvider
}

// client is one for a service at an endpoint.
func (c *Client) client(s *service, who Caller, endpoint string) (*agentapi.Client, error) {
	if who.Region == "" {
		return nil, fmt.Errorf("%s: no region to call", s.name)
	}
	if endpoint == "" {
		endpoint = c.cfg.Endpoints.of(s, who.Region)
	}
	return agentapi.New(agentapi.Config{
		Service: s.name, Target: s.target, Endpoint: endpoint, Region: who.Region, Credentials: who.Credentials, HTTPClient: c.cfg.HTTPClient,
		UserAgent: c.cfg.UserAgent, AttemptTimeout: c.cfg.AttemptTimeout, MaxAttempts: c.cfg.MaxAttempts, MaxDelay: c.cfg.MaxDelay,
	})
}

// maxParameters is how many parameters one call may ask for.
const maxParameters = 10

// Parameter is a parameter of SSM Parameter Store, decrypted. Selector is ":" and the version or label that was asked for.
type Parameter struct {
	Name     string `awsjson:"Name"`
	ARN      string `awsjson:"ARN"`
	Selector string `awsjson:"Selector"`
	Value    Value  `awsjson:"Value"`
}

type getParameters struct {
	Names          []string `awsjson:"Names"`
	WithDecryption bool     `awsjson:"WithDecryption"`
}

type parameters struct {
	Parameters []Parameter `awsjson:"Parameters"`
	Invalid    []string    `awsjson:"InvalidParameters"`
}

// GetParameters fetches parameters by names or ARNs, each of which stands once in names, ten with one call. missing are those that
// don't exist. An error of any call is one of all.
func (c *Client) GetParameters(ctx context.Context, who Caller, names []string) (found []Parameter, missing []string, err error) {
	client, err := c.client(&ssm, who, "")
	if err != nil {
		return nil, nil, err
	}
	for len(names) > 0 {
		n := min(len(names), maxParameters)
		var out parameters
		if err := client.Call(ctx, "GetParameters", &getParameters{names[:n], true}, &out); err != nil {
			return nil, nil, err
		}
		found, missing, names = append(found, out.Parameters...), append(missing, out.Invalid...), names[n:]
	}
	return found, missing, nil
}

// SecretID names a version of a secret: ARN or name, and a stage or a version's id, AWSCURRENT if both are empty.
type SecretID struct {
	ID      string `awsjson:"SecretId"`
	Stage   string `awsjson:"VersionStage"`
	Version string `awsjson:"VersionId"`
}

type secretValue struct {
	String *Value `awsjson:"SecretString"`
	Binary []byte `awsjson:"SecretBinary"`
}

// ErrBinary is the error about a secret without a text.
var ErrBinary = errors.New("the secret has a binary value, and no text that a variable could have")

// GetSecretValue fetches the text of a secret.
func (c *Client) GetSecretValue(ctx context.Context, who Caller, id SecretID) (Value, error) {
	client, err := c.client(&secretsManager, who, "")
	if err != nil {
		return "", err
	}
	var out secretValue
	if err := client.Call(ctx, "GetSecretValue", &id, &out); err != nil {
		return "", err
	}
	if out.String == nil {
		return "", ErrBinary
	}
	return *out.String, nil
}

// RegistryToken are credentials for an Amazon ECR registry.
type RegistryToken struct {
	Username  string
	Password  Value
	Registry  string // its URL
	ExpiresAt time.Time
}

type getAuthorizationToken struct {
	RegistryIDs []string `awsjson:"registryIds"`
}

type authorizationTokens struct {
	Data []struct {
		Token     Value     `awsjson:"authorizationToken"`
		ExpiresAt time.Time `awsjson:"expiresAt"`
		Endpoint  string    `awsjson:"proxyEndpoint"`
	} `awsjson:"authorizationData"`
}

// GetAuthorizationToken fetches credentials for an account's registry; the caller's own account if it is empty. endpoint
// overrides where the call goes, unless it is empty.
func (c *Client) GetAuthorizationToken(ctx context.Context, who Caller, account, endpoint string) (*RegistryToken, error) {
	client, err := c.client(&ecr, who, endpoint)
	if err != nil {
		return nil, err
	}
	in := &getAuthorizationToken{}
	if account != "" {
		in.RegistryIDs = []string{account}
	}
	var out authorizationTokens
	if err := client.Call(ctx, "GetAuthorizationToken", in, &out); err != nil {
		return nil, err
	}
	if len(out.Data) == 0 {
		return nil, errors.New("GetAuthorizationToken: the answer has no token")
	}
	d := out.Data[0]
	plain, err := base64.StdEncoding.DecodeString(string(d.Token))
	user, password, ok := strings.Cut(string(plain), ":")
	if err != nil || !ok || user == "" {
		return nil, errors.New("GetAuthorizationToken: the token in the answer is not the base64 form of user:password")
	}
	return &RegistryToken{Username: user, Password: Value(password), Registry: d.Endpoint, ExpiresAt: d.ExpiresAt}, nil
}

// GetObject fetches an object of S3, of at most limit bytes. A bucket that is in another region than the caller's is asked
// for there.
func (c *Client) GetObject(ctx context.Context, who Caller, bucket, key string, limit int64) ([]byte, error) {
	data, err := c.getObject(ctx, who, bucket, key, limit)
	var refused *agentapi.APIError
	if errors.As(err, &refused) && refused.Region != "" && refused.Region != who.Region {
		who.Region = refused.Region
		return c.getObject(ctx, who, bucket, key, limit)
	}
	return data, err
}

func (c *Client) getObject(ctx context.Context, who Caller, bucket, key string, limit int64) ([]byte, error) {
	base, err := c.cfg.Endpoints.bucket(who.Region, bucket)
	if err != nil {
		return nil, err
	}
	client, err := c.client(&s3, who, base)
	if err != nil {
		return nil, err
	}
	return client.Get(ctx, "GetObject", base+"/"+httpbinding.EscapePath(key, false), limit)
}
