// Package ec2 asks the instance metadata service what this host is as an EC2 instance.
//
// Version 2 of the service alone is spoken: a token is had by PUT and sent with each question, and renewed before it ends. A service that
// gives no token is not asked in the old way. Each question is bounded in time and in bytes; what is throttled (429, 503) is asked again,
// with growing pauses; an [Error] says what stands in the way and what to do about it. Nobody's proxy is ever asked.
//
//	ec2.go       Metadata: the questions
//	error.go     why one has no answer
//	transport.go the way there
//	documents.go what the answers say
//
// That the service comes up some seconds after the host, or never, is the caller's to wait for; see agent/metadata.go.
package ec2

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

const (
	// answerTime bounds one question with its token and its tries.
	answerTime = 5 * time.Second
	// mostPause bounds the pause between two tries of a question.
	mostPause = 500 * time.Millisecond
	// maxAnswer bounds an answer; user data, the longest, has at most 16 KiB.
	maxAnswer = 64 << 10

	userData = "user-data"
)

// Metadata is the service. It is safe for concurrent use.
type Metadata struct{ client *imds.Client }

// New is the service at an address, http://169.254.169.254 if that is empty. Nothing is asked yet.
func New(address string) *Metadata {
	return &Metadata{imds.New(imds.Options{
		Endpoint: address, ClientEnableState: imds.ClientEnabled, EnableFallback: aws.FalseTernary, DisableDefaultMaxBackoff: true,
		HTTPClient: &http.Client{Transport: transport{&http.Transport{DisableKeepAlives: true}}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.RateLimiter, o.MaxBackoff = ratelimit.None, mostPause
			o.Retryables = append([]retry.IsErrorRetryable{final{}, retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}}}, o.Retryables...)
		}),
	})}
}

// ask is the answer to one question, below /latest; found is false when the service has none.
func (m *Metadata) ask(ctx context.Context, path string) (answer string, found bool, err error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answerTime)
		defer cancel()
	}
	ctx, trail := followed(ctx)
	var content io.ReadCloser
	rest, dynamic := strings.CutPrefix(path, "dynamic/")
	switch {
	case dynamic:
		var out *imds.GetDynamicDataOutput
		if out, err = m.client.GetDynamicData(ctx, &imds.GetDynamicDataInput{Path: rest}); err == nil {
			content = out.Content
		}
	case path == userData:
		var out *imds.GetUserDataOutput
		if out, err = m.client.GetUserData(ctx, &imds.GetUserDataInput{}); err == nil {
			content = out.Content
		}
	default:
		var out *imds.GetMetadataOutput
		if out, err = m.client.GetMetadata(ctx, &imds.GetMetadataInput{Path: path}); err == nil {
			content = out.Content
		}
	}
	if err != nil {
		if e := explained(path, trail, err); !e.none() {
			return "", false, e
		}
		return "", false, nil
	}
	defer func() { _ = content.Close() }()
	data, err := io.ReadAll(content)
	if err != nil {
		return "", false, explained(path, trail, err)
	}
	return string(data), true, nil
}

// required is ask of what each instance has.
func (m *Metadata) required(ctx context.Context, path string) (string, error) {
	answer, found, err := m.ask(ctx, path)
	if err == nil && !found {
		err = &Error{Path: path, Status: http.StatusNotFound, Err: errors.New("each EC2 instance has this")}
	}
	return answer, err
}

// Instance is what the identity document says, with its signature, and where the instance is.
func (m *Metadata) Instance(ctx context.Context) (*Instance, error) {
	document, err := m.required(ctx, "dynamic/instance-identity/document")
	if err != nil {
		return nil, err
	}
	out, err := parseInstance(document)
	if err != nil {
		return nil, &Error{Path: "dynamic/instance-identity/document", Err: err}
	}
	if out.Signature, err = m.required(ctx, "dynamic/instance-identity/signature"); err != nil {
		return nil, err
	}
	if out.Outpost, _, err = m.ask(ctx, "outpost-arn"); err != nil {
		return nil, err
	}
	mac, found, err := m.ask(ctx, "mac")
	if err != nil || !found || !plainMAC(mac) {
		return out, err
	}
	if out.VPC, _, err = m.ask(ctx, "network/interfaces/macs/"+mac+"/vpc-id"); err != nil {
		return nil, err
	}
	if out.Subnet, _, err = m.ask(ctx, "network/interfaces/macs/"+mac+"/subnet-id"); err != nil {
		return nil, err
	}
	return out, nil
}

// LifecycleState is the state that the instance's Auto Scaling group moves it to, such as InService or Warmed:Stopped; empty in none.
func (m *Metadata) LifecycleState(ctx context.Context) (string, error) {
	state, _, err := m.ask(ctx, "autoscaling/target-lifecycle-state")
	return strings.TrimSpace(state), err
}

// Interruption is the notice that a spot instance is to be stopped, terminated or hibernated; nil as long as there is none.
func (m *Metadata) Interruption(ctx context.Context) (*Notice, error) {
	return m.notice(ctx, "spot/instance-action")
}

// Rebalance is the recommendation to move away from a spot instance that is at an elevated risk; nil as long as there is none.
func (m *Metadata) Rebalance(ctx context.Context) (*Notice, error) {
	return m.notice(ctx, "events/recommendations/rebalance")
}

func (m *Metadata) notice(ctx context.Context, path string) (*Notice, error) {
	text, found, err := m.ask(ctx, path)
	if err != nil || !found {
		return nil, err
	}
	n, err := parseNotice(text)
	if err != nil {
		return nil, &Error{Path: path, Err: err}
	}
	return n, nil
}

// HasUserData says whether the instance was given user data.
func (m *Metadata) HasUserData(ctx context.Context) (bool, error) {
	text, _, err := m.ask(ctx, userData)
	return text != "", err
}

// Role are the credentials of the instance's profile.
func (m *Metadata) Role() aws.CredentialsProvider {
	return ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = m.client })
}
