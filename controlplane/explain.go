package controlplane

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

// Asking is how a running control plane is asked for explanations and sizes.
type Asking struct {
	// Endpoint is its URL.
	Endpoint string
	// DataDir has the administrator's key, unless AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are in the environment.
	DataDir string
	// CA is a file with the certificates that the endpoint's is checked with, PEM; empty: the system's.
	CA string
}

// askTimeout bounds a question. A trial on a large cluster takes a while.
const askTimeout = 60 * time.Second

// maxExplanation bounds an answer in bytes.
const maxExplanation = 64 << 20

// Explain asks, and returns the answer's JSON, which is a scheduler.Explanation. An error of the class [ErrConfig] is for
// whoever wrote the command.
func (a Asking) Explain(ctx context.Context, in api.ExplainInput) ([]byte, error) {
	return a.ask(ctx, "Explain", in)
}

// Sizing asks, and returns the answer's JSON, which is a telemetry.Sizing. Errors are as those of Explain.
func (a Asking) Sizing(ctx context.Context, in api.SizingInput) ([]byte, error) {
	return a.ask(ctx, "Sizing", in)
}

// ask calls an operation of our own.
func (a Asking) ask(ctx context.Context, operation string, in any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	r, err := a.request(ctx, operation, body)
	if err != nil {
		return nil, err
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	answer, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the control plane: %w: is it running, and is --endpoint %s its address?", err, a.Endpoint)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxExplanation))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", a.Endpoint, err)
	}
	if answer.StatusCode != http.StatusOK {
		var e struct {
			Type    string `json:"__type"`
			Message string `json:"message"`
		}
		if json.Unmarshal(data, &e) != nil || e.Type == "" {
			return nil, fmt.Errorf("%s answered %s", a.Endpoint, answer.Status)
		}
		return nil, fmt.Errorf("%s: %s", e.Type, e.Message)
	}
	return data, nil
}

// request is a signed call.
func (a Asking) request(ctx context.Context, operation string, body []byte) (*http.Request, error) {
	if u, err := url.Parse(a.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: --endpoint %q is not like http://127.0.0.1:8480", ErrConfig, a.Endpoint)
	}
	key := aws.Credentials{AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY")}
	if key.AccessKeyID == "" || key.SecretAccessKey == "" {
		k, err := auth.ReadKey(filepath.Join(a.DataDir, auth.AdminFile))
		if err != nil {
			return nil, fmt.Errorf("%w: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --data-dir to where the key is: %w", ErrConfig, err)
		}
		key.AccessKeyID, key.SecretAccessKey = k.AccessKeyID, k.Secret
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.Endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: --endpoint: %w", ErrConfig, err)
	}
	r.URL.Path = "/"
	r.Header.Set("Content-Type", awsjson.ContentType)
	r.Header.Set("X-Amz-Target", api.OwnTargetPrefix+operation)
	sum := sha256.Sum256(body)
	return r, v4.NewSigner().SignHTTP(ctx, key, r, hex.EncodeToString(sum[:]), "ecs", "us-west-2", time.Now())
}

func (a Asking) client() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if a.CA != "" {
		pem, err := os.ReadFile(a.CA)
		if err != nil {
			return nil, fmt.Errorf("%w: --ca: %w", ErrConfig, err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: --ca %s has no certificate in PEM", ErrConfig, a.CA)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	}
	return &http.Client{Transport: transport}, nil
}
