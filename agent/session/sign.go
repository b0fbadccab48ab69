package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// SigV4 signs for the service "ecs" with the credentials of a provider.
type SigV4 struct {
	Credentials aws.CredentialsProvider
	Region      string
	// Clock is what is signed by; nil: the host's.
	Clock  *agentapi.Clock
	signer *v4.Signer
}

// NewSigV4 makes a signer; it may be used concurrently.
func NewSigV4(credentials aws.CredentialsProvider, region string) *SigV4 {
	return &SigV4{Credentials: credentials, Region: region, signer: v4.NewSigner()}
}

// Sign signs a request over the headers it has, host and x-amz-date, and the body; it sets X-Amz-Date, Authorization and,
// with temporary credentials, X-Amz-Security-Token.
func (s *SigV4) Sign(ctx context.Context, r *http.Request, body []byte) error {
	credentials, err := s.Credentials.Retrieve(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	return s.signer.SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), "ecs", s.Region, s.now())
}

func (s *SigV4) now() time.Time {
	if s.Clock == nil {
		return time.Now()
	}
	return s.Clock.Time()
}

// Learn takes the control plane's time from the answer that refused a signature for its date.
func (s *SigV4) Learn(answer http.Header) bool { return s.Clock != nil && s.Clock.Learn(answer) }
