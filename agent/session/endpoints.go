package session

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// endpointAge is how long an answer of DiscoverPollEndpoint is used.
const endpointAge = 12 * time.Hour

// API makes calls of the ECS API; protocol/agentapi's Client is one.
type API interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Endpoints finds where an instance's sessions connect, with DiscoverPollEndpoint. One answer serves both sessions for
// twelve hours; one that is old, or that led nowhere ([Endpoints.Doubt]), is still used when a new one can't be had.
// It may be used concurrently.
type Endpoints struct {
	API         API
	Cluster     string
	InstanceArn string

	mu      sync.Mutex
	answer  *agentapi.DiscoverPollEndpointOutput
	renewAt time.Time
}

// ACS is the URL of the ACS session, without query.
func (e *Endpoints) ACS(ctx context.Context) (string, error) {
	answer, err := e.discover(ctx)
	if err != nil {
		return "", err
	}
	return socketURL("endpoint", answer.Endpoint)
}

// TCS is the URL of the TCS session, without query.
func (e *Endpoints) TCS(ctx context.Context) (string, error) {
	answer, err := e.discover(ctx)
	if err != nil {
		return "", err
	}
	return socketURL("telemetryEndpoint", answer.TelemetryEndpoint)
}

// Doubt says that a connection could not be made with the present answer, so that a new one is asked for.
func (e *Endpoints) Doubt() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewAt = time.Time{}
}

func (e *Endpoints) discover(ctx context.Context) (*agentapi.DiscoverPollEndpointOutput, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answer != nil && time.Now().Before(e.renewAt) {
		return e.answer, nil
	}
	noZone := ""
	var out agentapi.DiscoverPollEndpointOutput
	err := e.API.Call(ctx, "DiscoverPollEndpoint", &agentapi.DiscoverPollEndpointInput{Cluster: &e.Cluster, ContainerInstance: &e.InstanceArn, ZoneId: &noZone}, &out)
	if err != nil {
		if e.answer != nil {
			return e.answer, nil
		}
		return nil, err
	}
	e.answer, e.renewAt = &out, time.Now().Add(endpointAge)
	return e.answer, nil
}

// socketURL is the base URL that was answered, with "ws" behind it and a web socket's scheme.
func socketURL(member string, base *string) (string, error) {
	if base == nil || *base == "" {
		return "", fmt.Errorf("DiscoverPollEndpoint answered no %s", member)
	}
	u, err := url.Parse(*base)
	if err != nil {
		return "", fmt.Errorf("DiscoverPollEndpoint answered the %s %q: %w", member, *base, errors.Unwrap(err))
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "ws"
	case "https", "wss":
		u.Scheme = "wss"
	default:
		return "", fmt.Errorf("DiscoverPollEndpoint answered the %s %q, which is neither http nor https", member, *base)
	}
	if u.Host == "" {
		return "", fmt.Errorf("DiscoverPollEndpoint answered the %s %q, which names no host", member, *base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/ws"
	return u.String(), nil
}
