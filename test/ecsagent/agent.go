package ecsagent

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// What the agent says about itself.
const (
	agentVersion = "1.105.1"
	agentHash    = "8dfceca6"
	engineACS    = "DockerVersion: 20.10.24"
	engineTCS    = "20.10.24+dfsg1"
	userAgent    = "Amazon ECS Agent - v1.105.1 (*8dfceca6) (linux; LINUX) (+http://aws.amazon.com/ecs/)"
)

// The exit codes of the agent's process.
const (
	ExitNormal   = 0 // by signal
	ExitError    = 1 // its supervisor starts it again
	ExitCrash    = 2
	ExitTerminal = 5 // it is not started again
)

// Config is the agent's configuration.
type Config struct {
	Endpoint string // ECS_BACKEND_HOST
	Region   string // AWS_DEFAULT_REGION
	Key      aws.Credentials
	Cluster  string // ECS_CLUSTER; empty for the implicit default
	// Attributes are ECS_INSTANCE_ATTRIBUTES, sent with the first registration only.
	Attributes map[string]string
	CPU        int64 // units, default 4096
	Memory     int64 // MiB, default 8192
	// Identity is an instance identity document, for a machine in EC2; empty for an external one.
	Identity string
	Timers   Timers
	// Interfaces is for an agent whose host can have network interfaces for tasks; nil for one that can not.
	Interfaces *Interfaces
	// Lose says of a message about to be sent that it is lost on the way.
	Lose func(Entry) bool
	// AnyCertificate is the flag -k.
	AnyCertificate bool
	// Handling runs before a payload is acted upon, where the frames are read: while it takes its time the agent reads
	// nothing, and answers no ping either.
	Handling func(Entry)
	// SpacesAsPercent has spaces in a socket's URL sent as %20 instead of +.
	SpacesAsPercent bool
}

// Timers are the agent's; zero values are the real ones.
type Timers struct {
	Heartbeat, HeartbeatJitter   time.Duration // without traffic for so long a socket is closed: 60 s + 0…60 s
	MaxAge, MaxAgeJitter         time.Duration // of a connection: 30 min + 0…5 min
	Reconnect, ReconnectMax      time.Duration // of the control channel: 250 ms to 2 min
	Telemetry, TelemetryMax      time.Duration // reconnects of telemetry: 1 s to 1 min
	Inactive                     time.Duration // of a deregistered instance: 1 h
	Publish                      time.Duration // of telemetry: 20 s
	Drain, DrainJitter           time.Duration // of container changes that wait for their task's: 10 s + 0…20 s
	Register, RegisterMax        time.Duration // between attempts: 3 s to 192 s
	RegisterTotal                time.Duration // 1 h
	Retry                        time.Duration // first pause of an API call's attempts: 1 s
	SubmitRetry                  time.Duration // first pause of a state change's attempts: 30 ms
	SubmitAgain, SubmitAgainMost time.Duration // around those: 1 s to 30 s
}

func (c *Config) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.AnyCertificate}
}

func (t Timers) complete() Timers {
	set := func(d *time.Duration, standard time.Duration) {
		if *d == 0 {
			*d = standard
		}
	}
	if t.Heartbeat == 0 {
		set(&t.HeartbeatJitter, time.Minute)
	}
	if t.MaxAge == 0 {
		set(&t.MaxAgeJitter, 5*time.Minute)
	}
	if t.Drain == 0 {
		set(&t.DrainJitter, 20*time.Second)
	}
	set(&t.Heartbeat, time.Minute)
	set(&t.MaxAge, 30*time.Minute)
	set(&t.Reconnect, 250*time.Millisecond)
	set(&t.ReconnectMax, 2*time.Minute)
	set(&t.Telemetry, time.Second)
	set(&t.TelemetryMax, time.Minute)
	set(&t.Inactive, time.Hour)
	set(&t.Publish, 20*time.Second)
	set(&t.Drain, 10*time.Second)
	set(&t.Register, 3*time.Second)
	set(&t.RegisterMax, 192*time.Second)
	set(&t.RegisterTotal, time.Hour)
	set(&t.Retry, time.Second)
	set(&t.SubmitRetry, 30*time.Millisecond)
	set(&t.SubmitAgain, time.Second)
	set(&t.SubmitAgainMost, 30*time.Second)
	return t
}

// Agent is one process of the agent.
type Agent struct {
	m      *Machine
	cfg    Config
	number int
	signer *v4.Signer
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	done   chan struct{}
	slots  chan struct{} // at most ten tasks submit at once

	mu              sync.Mutex
	exit            int
	dead            bool
	endpoints       *endpoints
	highest         int64  // sequence number
	lastManifest    string // message id
	sendCredentials bool
	credentials     map[string]credentials // by id
	tasks           map[string]*managed
	ledger          ledger
	deregistered    chan struct{} // closed while the instance is inactive
	doctorRan       atomic.Bool
}

// Start starts an agent's process on the machine, whose state it takes up.
func (m *Machine) Start(cfg Config) *Agent {
	cfg.Timers = cfg.Timers.complete()
	if cfg.CPU == 0 {
		cfg.CPU = 4096
	}
	if cfg.Memory == 0 {
		cfg.Memory = 8192
	}
	m.mu.Lock()
	m.processes++
	number := m.processes
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	a := &Agent{
		m: m, cfg: cfg, number: number, signer: v4.NewSigner(), ctx: ctx, cancel: cancel, done: make(chan struct{}), slots: make(chan struct{}, 10),
		client: &http.Client{Transport: &http.Transport{DisableCompression: true, TLSClientConfig: cfg.tls()}, Timeout: 42 * time.Second},
		exit:   ExitNormal, sendCredentials: true, credentials: map[string]credentials{}, tasks: map[string]*managed{}, deregistered: make(chan struct{}),
	}
	a.wg.Go(a.run)
	go func() {
		defer close(a.done)
		a.wg.Wait()
		a.client.CloseIdleConnections()
		a.write(Entry{Kind: Process, Text: []string{0: "0", 1: "1", 2: "2", 5: "5"}[a.exit]})
	}()
	return a
}

// Number is the process's, as in the journal.
func (a *Agent) Number() int { return a.number }

// Stop is SIGTERM: the process ends, its sockets without a word, the containers stay. It returns the exit code.
func (a *Agent) Stop() int {
	a.die(ExitNormal)
	return a.Wait()
}

// Wait waits for the process's end and returns its exit code.
func (a *Agent) Wait() int {
	<-a.done
	return a.exit
}

// die ends the process; the first reason counts.
func (a *Agent) die(code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.dead {
		a.dead, a.exit = true, code
		a.cancel()
	}
}

// crash is a fault that ends the process.
func (a *Agent) crash(c crash) {
	a.m.fault("%v", c)
	a.die(ExitCrash)
}

func (a *Agent) write(e Entry) {
	e.Process = a.number
	a.m.write(e)
}

// run is the process: it registers, and then works until it dies.
func (a *Agent) run() {
	if code := a.load(); code != ExitNormal {
		a.die(code)
		return
	}
	if code := a.register(); code != ExitNormal {
		a.die(code)
		return
	}
	a.recover()
	a.resumeAttachments()
	a.wg.Go(a.control)
	a.wg.Go(a.telemetry)
	a.wg.Go(a.drain)
}

// load reads the saved state. One of another cluster is an error that no restart mends.
func (a *Agent) load() int {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	d := &a.m.disk
	if d.cluster != "" && a.cfg.Cluster != "" && d.cluster != a.cfg.Cluster {
		return ExitTerminal
	}
	if d.cluster != "" {
		a.cfg.Cluster = d.cluster
	}
	a.highest = d.manifestSeq
	return ExitNormal
}

func (a *Agent) cluster() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg.Cluster == "" {
		return "default"
	}
	return a.cfg.Cluster
}

// sleep waits, and is false when the process ends before.
func (a *Agent) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-a.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// backoff grows from first to most, with a fifth of it at random.
type backoff struct {
	first, most time.Duration
	factor      float64
	now         time.Duration
}

func (b *backoff) next() time.Duration {
	if b.now == 0 {
		b.now = b.first
	} else {
		b.now = min(b.most, time.Duration(float64(b.now)*b.factor))
	}
	return time.Duration(float64(b.now) * (0.8 + 0.4*rand.Float64()))
}

func (b *backoff) reset() { b.now = 0 }

// SpotInterruption is what the agent does when EC2 announces the end of a spot instance: it drains itself.
func (a *Agent) SpotInterruption() error {
	return a.call("UpdateContainerInstancesState", struct {
		Cluster            string   `json:"cluster"`
		ContainerInstances []string `json:"containerInstances"`
		Status             string   `json:"status"`
	}{a.cluster(), []string{a.m.InstanceARN()}, "DRAINING"}, nil, 3)
}

// Tags asks for a resource's tags, as metadata with tags does.
func (a *Agent) Tags(arn string) (map[string]string, error) {
	var out struct {
		Tags []struct{ Key, Value string } `json:"tags"`
	}
	err := a.call("ListTagsForResource", struct {
		ResourceArn string `json:"resourceArn"`
	}{arn}, &out, 3)
	tags := map[string]string{}
	for _, t := range out.Tags {
		tags[t.Key] = t.Value
	}
	return tags, err
}
