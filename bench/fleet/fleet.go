// Package fleet plays many container agents in one process, over the real protocols: each registers, asks where to connect,
// holds a signed ACS web socket, acknowledges what it is told and reports RUNNING and STOPPED at once, as if
// containers took no time. Some have a TCS web socket too. It is to cost as little as it can: it shares the machine with what it
// measures.
//
// # Model
//
//	agent     a socket; one more for telemetry. One goroutine reads them all, by epoll
//	reports   made by a fixed number of workers over a kept-alive connection each; real agents have their own
//	tally     per task definition family and agent: what was acknowledged, RUNNING and STOPPED, and when
//
// Sockets that end are not opened again: they are counted, and a measurement with lost sockets is none.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"

	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/tcs"
)

const (
	// reporters is how many reports are under way at once, and connections how many connections are kept for API calls.
	reporters, connections = 32, 128
	// metricsPeriod is the pause between two publishes of an agent's telemetry.
	metricsPeriod = 20 * time.Second
)

// Config configures [New]; all fields are required.
type Config struct {
	URL, Region     string // of the control plane
	AccessKeyID     string // of an enrolment key
	SecretAccessKey string
	Cluster         string
}

// Fleet is the agents of one cluster. Its methods may be called concurrently.
type Fleet struct {
	cfg     Config
	api     *agentapi.Client
	http    *http.Client
	keys    aws.CredentialsProvider
	signer  *v4.Signer
	poller  *poller
	reports chan report
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	agents []*Agent
	tally  map[string]*Tally

	lost, failed atomic.Int64
	owed         atomic.Int64 // reports that are still to be made
	firstErr     atomic.Pointer[error]
}

// New makes a fleet without agents. [Fleet.Close] ends it.
func New(cfg Config) (*Fleet, error) {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Fleet{
		cfg: cfg, keys: credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, ""), signer: v4.NewSigner(),
		http:    &http.Client{Transport: &http.Transport{MaxIdleConns: connections, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}},
		reports: make(chan report, 1<<16), ctx: ctx, cancel: cancel, tally: map[string]*Tally{},
	}
	var err error
	f.api, err = agentapi.New(agentapi.Config{Endpoint: cfg.URL, Region: cfg.Region, Credentials: f.keys, UserAgent: "Longshore Agent - bench", HTTPClient: f.http})
	if err != nil {
		cancel()
		return nil, err
	}
	if f.poller, err = newPoller(); err != nil {
		cancel()
		return nil, err
	}
	for range reporters {
		f.wg.Go(f.report)
	}
	f.wg.Go(func() {
		f.poller.run(ctx, func(err error) {
			f.lost.Add(1)
			f.note(err)
		})
	})
	f.wg.Go(f.publish)
	return f, nil
}

// Close closes every socket and waits for all goroutines.
func (f *Fleet) Close() {
	f.cancel()
	f.wg.Wait()
	f.http.CloseIdleConnections()
}

// Lost is how many sockets ended, and Failed how many reports were refused, since the start; the error is the first one.
func (f *Fleet) Lost() (sockets, reports int64, first error) {
	if e := f.firstErr.Load(); e != nil {
		first = *e
	}
	return f.lost.Load(), f.failed.Load(), first
}

func (f *Fleet) note(err error) { f.firstErr.CompareAndSwap(nil, &err) }

// Agents are those that joined, in order.
func (f *Fleet) Agents() []*Agent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.agents[:len(f.agents):len(f.agents)]
}

// Join registers an agent and opens its ACS socket, and its TCS socket with telemetry.
func (f *Fleet) Join(ctx context.Context, telemetry bool) (*Agent, error) {
	a := &Agent{fleet: f, cluster: f.cfg.Cluster}
	token, empty := uuid.NewString(), ""
	var out agentapi.RegisterContainerInstanceOutput
	a.Began = time.Now()
	err := f.api.Call(ctx, "RegisterContainerInstance", &agentapi.RegisterContainerInstanceInput{
		Cluster: &a.cluster, ClientToken: &token, InstanceIdentityDocument: &empty, InstanceIdentityDocumentSignature: &empty,
		Attributes: attributes, TotalResources: resources,
		VersionInfo: &agentapi.VersionInfo{AgentVersion: aws.String("0.1.0"), AgentHash: aws.String("1234567"), DockerVersion: aws.String("DockerVersion: 20.10.24")},
	}, &out)
	if err != nil {
		return nil, err
	}
	a.Registered = time.Now()
	if out.ContainerInstance == nil || aws.ToString(out.ContainerInstance.ContainerInstanceArn) == "" {
		return nil, errors.New("RegisterContainerInstance answered no ARN")
	}
	a.ARN = *out.ContainerInstance.ContainerInstanceArn
	var at agentapi.DiscoverPollEndpointOutput
	if err := f.api.Call(ctx, "DiscoverPollEndpoint", &agentapi.DiscoverPollEndpointInput{Cluster: &a.cluster, ContainerInstance: &a.ARN, ZoneId: &empty}, &at); err != nil {
		return nil, err
	}
	if a.acs, err = f.dial(ctx, aws.ToString(at.Endpoint)+"ws?"+a.acsQuery(), a.receive); err != nil {
		return nil, fmt.Errorf("ACS: %w", err)
	}
	a.Connected = time.Now()
	if telemetry {
		if a.tcs, err = f.dial(ctx, aws.ToString(at.TelemetryEndpoint)+"ws?"+a.tcsQuery(), func(*socket, []byte) error { return nil }); err != nil {
			return nil, fmt.Errorf("TCS: %w", err)
		}
	}
	f.mu.Lock()
	f.agents = append(f.agents, a)
	f.mu.Unlock()
	return a, nil
}

// publish has each agent with telemetry publish its metrics once in metricsPeriod, evenly spread.
func (f *Fleet) publish() {
	const slots = 200
	tick := time.NewTicker(metricsPeriod / slots)
	defer tick.Stop()
	for slot := 0; ; slot = (slot + 1) % slots {
		select {
		case <-f.ctx.Done():
			return
		case <-tick.C:
		}
		agents := f.Agents()
		for i := slot; i < len(agents); i += slots {
			if a := agents[i]; a.tcs != nil {
				frame, err := tcs.Encode(&tcs.PublishMetricsRequest{
					Metadata:  &tcs.MetricsMetadata{Cluster: a.cluster, ContainerInstance: a.ARN, Fin: true, Idle: true, MessageID: uuid.NewString()},
					Timestamp: &tcs.Time{Time: time.Now()},
				})
				if err != nil {
					f.note(err)
					continue
				}
				_ = a.tcs.write(opText, tcs.Frame(http.Header{}, frame)) // the reader learns of an error too
			}
		}
	}
}
