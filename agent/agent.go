// Package agent is the agent as a whole: what is started in which order, who this host is to the control plane, and how
// the process leaves.
//
//	configuration → log → state (database, identity) → introspection, local socket → engine answers → restore and adopt
//	                                                                                  → register → ACS, TCS
//	                                                                  reports go out as soon as there is an identity
//
// Restoring and adopting depend on nothing but this host: containers are looked after while the control plane is away. An
// engine or a control plane that does not answer is waited for, and that is said. What ends the process is wrong
// configuration, a refusal by the control plane, or a signal; the containers stay as they are in every case.
//
// Exit codes: 0 after a signal, 1 for errors that a restart may heal, 5 ([*TerminalError]) for those that it does not.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/agent/dropin"
	"github.com/longshore-project/longshore/agent/endpoints/audit"
	"github.com/longshore-project/longshore/agent/endpoints/introspection"
	"github.com/longshore-project/longshore/agent/join"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/agent/logging"
	"github.com/longshore-project/longshore/agent/metrics"
	"github.com/longshore-project/longshore/agent/poll"
	"github.com/longshore-project/longshore/agent/report"
	"github.com/longshore-project/longshore/agent/secrets"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/telemetry"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/policy"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/imagecache/preload"
	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/internal/watchdog"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/statemgr"
)

// Options are what the command line says, and what tests replace.
type Options struct {
	Config     config.Options
	Version    string
	Hash       string // of the source, at most 8 characters
	License    string
	AnyTLS     bool // accept any certificate
	NoMetadata bool // never ask the instance metadata service
	LogLevel   string
	Stderr     io.Writer
	Root       string          // of the host, "/" if empty
	Introspect string          // address of introspection; its own port, for this host and its containers only, if empty
	AskedAt    string          // address at which containers ask, without anything done to the host's network; the real one if empty
	Reload     <-chan struct{} // each asks for the configuration to be read again
	AskedRetry time.Duration   // wait before that is tried again when it can't be had; 10 s if zero
	// LossInterval is how often it is looked at what log drivers have lost; 10 s if zero.
	LossInterval time.Duration
	// WarmPoolLook is how often it is looked whether the instance leaves its warm pool, and NoticeLook whether it is about to be taken
	// away; a minute and a second if zero.
	WarmPoolLook, NoticeLook time.Duration
	Logind                   func() (depart.Logind, error) // nil: this host's shutdowns are not delayed
	Runtime                  engine.Runtime
	Clock                    func() time.Time // of this host, for signatures and certificates; time.Now if nil
	EngineRetry              time.Duration    // wait between looks at an engine that does not answer; 1 s if zero
	// Engine, if set, changes the configuration of the engine of tasks: its intervals and deadlines have no settings.
	Engine func(*engine.Config)
}

// Agent is one run of the agent.
type Agent struct {
	opt      Options
	cfg      *config.Config
	log      *zap.Logger
	level    *logging.Level
	warnings atomic.Pointer[[]string] // of the configuration
	state    *State

	reserve    *reserve
	client     *http.Client
	clock      *agentapi.Clock
	key        ownKey
	guard      *policy.Guard
	identity   *statemgr.Identity // nil before the first registration
	copied     *copied            // nil: the disk is this machine's own
	lastSeen   dropin.State       // what another agent has left, without the tasks; zero: nothing
	runtime    engine.Runtime
	network    netns.HostNetwork // the host's own
	bridge     *netns.Bridge     // of an engine that leaves networking to us; nil otherwise
	engine     *engine.Engine
	host       Host
	gpus       map[string]engine.GPU       // by id
	lookout    *lookout                    // is this an EC2 instance?
	info       atomic.Pointer[engine.Info] // as the engine answered last
	arn        atomic.Pointer[string]
	roles      *poll.Credentials // of tasks; in memory only
	cache      *imagecache.Cache[engine.Image]
	preloads   *preload.Loader // nil: the engine can't
	preparer   *preparer
	secrets    *secrets.Resolver
	asked      *asked     // what containers ask; nil where that is switched off
	audit      *audit.Log // nil where that is switched off
	losses     atomic.Pointer[[]engine.LogLoss]
	offered    abilities   // as registered last
	registered time.Time   // when that was
	networking *networking // of tasks; nil where that is switched off
	measured   *measured
	metrics    *metrics.Metrics
	reporter   *report.Reporter
	telling    atomic.Pointer[telemetry.Publisher]
	polling    atomic.Pointer[poll.Poller]
	departure  *depart.Departure                                       // there once the engine of tasks is
	enrolled   atomic.Pointer[agentapi.RegisterContainerInstanceInput] // as it would be made again
	trouble    trouble
	link       link            // with the control plane
	looks      *watchdog.Pulse // of the engine's look at its containers
	reports    *watchdog.Pulse // of the reporter
}

// errRegisterAnew ends a session so that the host registers as a new container instance.
var errRegisterAnew = errors.New("the container instance is not registered any more")

// Run runs the agent until ctx ends, which is no error, or until it can't go on.
func Run(ctx context.Context, opt Options) error {
	if opt.Stderr == nil {
		opt.Stderr = os.Stderr
	}
	opt.Root, opt.EngineRetry = cmp.Or(opt.Root, "/"), cmp.Or(opt.EngineRetry, time.Second)
	opt.AskedRetry, opt.LossInterval = cmp.Or(opt.AskedRetry, 10*time.Second), cmp.Or(opt.LossInterval, 10*time.Second)
	opt.WarmPoolLook, opt.NoticeLook = cmp.Or(opt.WarmPoolLook, time.Minute), cmp.Or(opt.NoticeLook, time.Second)
	cfg, warnings, err := config.Load(opt.Config)
	if err != nil {
		return &TerminalError{fmt.Errorf("the configuration: %w", err)}
	}
	if join.LoadMark(cfg.DataDir) != nil {
		return &TerminalError{errors.New("this host began to leave its control plane: finish that with \"longshore-agent leave\", or it would register again")}
	}
	if err := checkCleaning(cfg.DataDir); err != nil {
		return err
	}
	if opt.Runtime == nil {
		if err := becomeContainerd(cfg); err != nil {
			return &TerminalError{err}
		}
	}
	log, level, done := logging.Open(logging.Options{File: cfg.Log.File, Level: cmp.Or(opt.LogLevel, cfg.Log.Level), FileLevel: cmp.Or(opt.LogLevel, cfg.Log.FileLevel), Format: cfg.Log.Format, RolloverType: cfg.Log.RolloverType, MaxSizeMB: cfg.Log.MaxSizeMB, MaxRollCount: cfg.Log.MaxRollCount, Stderr: opt.Stderr})
	defer done()
	log.Info("Longshore agent starts", zap.String("version", opt.Version), zap.String("hash", opt.Hash), zap.Int("pid", os.Getpid()), zap.String("cluster", cfg.ClusterOrDefault()), zap.String("endpoint", cfg.APIEndpoint))
	for _, w := range warnings {
		log.Warn("Configuration: " + w)
	}
	a := &Agent{opt: opt, cfg: cfg, log: log, level: level, roles: &poll.Credentials{}, metrics: metrics.New()}
	a.warnings.Store(&warnings)
	a.looks, a.reports = watchdog.NewPulse("look at the containers", lookAtLeast), watchdog.NewPulse("reports to the control plane", reportAtLeast)
	err = a.run(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		(&starts{file: filepath.Join(opt.Root, runFolder, startsName)}).end()
		log.Info("Longshore agent leaves; containers stay as they are")
		return nil
	}
	if errors.Is(err, ErrReload) {
		return err
	}
	log.Error("Longshore agent can't go on; containers stay as they are", zap.Error(err))
	return err
}

// run is Run once there is a log.
func (a *Agent) run(ctx context.Context) error {
	var err error
	a.clock = a.newClock()
	if a.client, err = clientBy(a.clock, a.cfg, a.opt.AnyTLS); err != nil {
		return &TerminalError{err}
	}
	defer a.client.CloseIdleConnections()
	if err = a.settleReserve(); err != nil {
		return err
	}
	if a.host, err = hostFacts(a.opt.Root, a.cfg); err != nil {
		return err
	}
	askToBeSpared(a.opt.Root, a.log)
	a.findGPUs()
	closeState, err := a.openState(ctx)
	if err != nil {
		return err
	}
	defer closeState()
	if err := a.checkEngine(); err != nil {
		return err
	}
	listener, watch, err := a.listenIntrospection()
	if err != nil {
		return err
	}
	ask, err := local.Listen(a.cfg.DataDir)
	if err != nil {
		_ = listener.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	started := make(chan struct{})
	a.lookout = &lookout{answered: make(chan struct{})}
	group.Go(func() error { return a.lookOut(ctx) })
	group.Go(func() error { return a.serveLocal(ctx, ask, started) })
	group.Go(func() error {
		return introspection.Serve(ctx, listener, introspection.Config{Engine: lateEngine{a, started}, Log: a.log, Version: a.userAgent(), License: a.opt.License, Instance: a.instance})
	})
	group.Go(func() error { return watch(ctx) })
	group.Go(func() error { return a.work(ctx, started) })
	group.Go(func() error { a.serveSystemd(ctx, started); return nil })
	group.Go(func() error { return a.reload(ctx) })
	return group.Wait()
}

// openState opens what the agent remembers, and returns what closes it.
func (a *Agent) openState(ctx context.Context) (func(), error) {
	dir := a.cfg.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the state directory: %w; set ECS_DATADIR to a directory that can be written", err)
	}
	a.reserve = newReserve(dir, a.log)
	var err error
	if a.identity, err = statemgr.LoadIdentity(dir); err != nil {
		return nil, &TerminalError{err}
	}
	if err := a.checkIdentity(ctx, dir); err != nil {
		return nil, err
	}
	var db *statemgr.DB
	var aside *statemgr.Quarantine
	err = a.reserve.try(func() (err error) {
		db, aside, err = statemgr.Open(dir)
		return err
	})
	if err != nil {
		var newer *statemgr.NewerError
		if errors.As(err, &newer) {
			return nil, &TerminalError{err}
		}
		return nil, err
	}
	if aside != nil {
		a.log.Error("The state database could not be used and was set aside; tasks are found again by their containers' labels, and by what the control plane sends", zap.String("path", aside.Path), zap.Error(aside.Cause))
	}
	if a.state, err = NewState(db, a.log); err != nil {
		_ = db.Close()
		return nil, err
	}
	a.state.reserve = a.reserve
	letGo, err := a.takeOver()
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	return func() {
		letGo()
		if err := db.Close(); err != nil {
			a.log.Error("The state database could not be closed", zap.Error(err))
		}
	}, nil
}

// checkIdentity compares the saved identity with the machine and the configuration.
func (a *Agent) checkIdentity(ctx context.Context, dir string) error {
	if a.identity != nil {
		if why := a.otherMachine(ctx); why != "" {
			if err := a.setAside(dir, why); err != nil {
				return err
			}
		}
	}
	a.copied = loadCopied(dir)
	switch {
	case a.identity == nil:
		return nil
	case a.identity.Cluster != a.cfg.ClusterOrDefault():
		return &TerminalError{fmt.Errorf("this host is registered with the cluster %q, and the configuration says %q: set ECS_CLUSTER back, or stop this host's tasks and remove %s to join the other cluster as a new container instance", a.identity.Cluster, a.cfg.ClusterOrDefault(), dir)}
	}
	a.arn.Store(&a.identity.ContainerInstanceArn)
	return a.noteBoot(dir)
}

// noteBoot says whether the host was rebooted since the agent's last start, and remembers this boot. What a reboot ended is
// the engine's to find out: it has the boot of each start on record.
func (a *Agent) noteBoot(dir string) error {
	if a.host.BootID == "" || a.identity.BootID == a.host.BootID {
		return nil
	}
	if a.identity.BootID != "" {
		a.log.Warn("The host was rebooted since the agent ran last: what ran on it has ended", zap.String("boot", a.host.BootID), zap.String("last", a.identity.BootID), zap.String("resumed", a.cfg.ResumeOnBoot))
	}
	next := *a.identity
	next.BootID = a.host.BootID
	if err := a.saveIdentity(next); err != nil {
		return err
	}
	a.identity = &next
	return nil
}

// saveIdentity keeps who this host is, on a full disk out of the reserve.
func (a *Agent) saveIdentity(id statemgr.Identity) error {
	return a.reserve.try(func() error { return statemgr.SaveIdentity(a.cfg.DataDir, id) })
}

// work connects the engine, starts it, and keeps this host a container instance.
func (a *Agent) work(ctx context.Context, started chan<- struct{}) error {
	var err error
	if a.runtime, err = a.newRuntime(); err != nil {
		return err
	}
	defer func() { _ = a.runtime.Close() }()
	if err := a.engineAnswers(ctx); err != nil {
		return err
	}
	if err := a.settleRegion(ctx); err != nil {
		return err
	}
	credentials := a.credentials()
	patient, err := a.api(credentials, 0)
	if err != nil {
		return &TerminalError{err}
	}
	once, err := a.api(credentials, 1)
	if err != nil {
		return &TerminalError{err}
	}
	if err := a.openKey(); err != nil {
		return &TerminalError{err}
	}
	a.reporter = report.New(report.Config{API: once, Queue: a.state, Log: a.log, Cluster: a.cfg.ClusterOrDefault(), IPv6BindingsExcluded: a.cfg.IPv6BindingsExcluded, Beat: a.reports.Beat})
	a.secrets = a.newSecrets(credentials)
	if !a.cfg.AuditOff {
		file, err := logging.OpenFile(logging.Options{File: a.cfg.AuditFile, RolloverType: a.cfg.Log.RolloverType, MaxSizeMB: a.cfg.Log.MaxSizeMB, MaxRollCount: a.cfg.Log.MaxRollCount})
		if err != nil {
			return fmt.Errorf("the audit log (ECS_AUDIT_LOGFILE): %w", err)
		}
		a.audit = audit.New(file, a.instance)
		defer func() { _ = a.audit.Close() }()
	}
	if err := a.openAsked(); err != nil {
		return err
	}
	a.openMeasured(once)
	if a.engine, err = a.newEngine(); err != nil {
		return err
	}
	a.departure = a.newDeparture(once)
	close(started)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.engine.Run(ctx) })
	group.Go(func() error { return a.cache.Run(ctx) })
	group.Go(func() error { return a.runPreloads(ctx) })
	group.Go(func() error { return a.preparer.run(ctx) })
	group.Go(func() error { return a.reporter.Run(ctx) })
	group.Go(func() error { return a.serveAsked(ctx) })
	if a.bridge != nil {
		group.Go(func() error { return a.network.Keep(ctx, a.log) })
	}
	group.Go(func() error { return a.runMeasured(ctx) })
	group.Go(func() error { return a.watchLosses(ctx) })
	group.Go(func() error { return a.watchNotices(ctx) })
	group.Go(func() error { return a.watchShutdowns(ctx) })
	if a.networking != nil {
		group.Go(func() error { return a.networking.Run(ctx) })
		group.Go(func() error { return a.networking.keeper.Keep(ctx) })
		group.Go(func() error { return a.sweepNetworks(ctx) })
	}
	signer := session.NewSigV4(credentials, a.cfg.Region)
	signer.Clock = a.clock
	group.Go(func() error { return a.belong(ctx, patient, once, signer) })
	return group.Wait()
}

// engineAnswers waits until the engine does, and keeps what it says about itself.
func (a *Agent) engineAnswers(ctx context.Context) error {
	begun, said := time.Now(), time.Time{}
	for {
		look, cancel := context.WithTimeout(ctx, 10*time.Second)
		info, err := a.runtime.Info(look)
		cancel()
		if err == nil {
			a.info.Store(&info)
			a.log.Info("The container engine answers", zap.String("engine", info.Name), zap.String("version", info.Version), zap.String("api", info.APIVersion), zap.Duration("duration", time.Since(begun)))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(said) > time.Minute {
			level := zapcore.WarnLevel
			if said.IsZero() {
				level = zapcore.ErrorLevel
			}
			said = time.Now()
			a.log.Log(level, "The container engine does not answer; waiting for it. Is it running?", zap.String("address", engineAddress(a.cfg)), zap.Error(err), zap.Duration("waited", time.Since(begun)),
				zap.String("step", "engine"), zap.String("remedy", remedy.Of("the container engine does not answer").Do))
		}
		waitingFor("The container engine does not answer: " + err.Error())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.opt.EngineRetry):
		}
	}
}

// afterLook is the engine as payloads see it: they wait until the containers that are on no record were looked for.
type afterLook struct{ *engine.Engine }

// Accept takes a task of a payload.
func (l afterLook) Accept(ctx context.Context, t *acs.Task) error {
	select {
	case <-l.Ready():
		return l.Engine.Accept(ctx, t)
	case <-ctx.Done():
		return fmt.Errorf("the container engine was not looked at yet, so that it is not known which containers the task has already: %w", ctx.Err())
	}
}

func (a *Agent) api(credentials aws.CredentialsProvider, attempts int) (*agentapi.Client, error) {
	return agentapi.New(agentapi.Config{Endpoint: a.cfg.APIEndpoint, Region: a.cfg.Region, Credentials: credentials, HTTPClient: a.client, UserAgent: a.userAgent(), MaxAttempts: attempts, Clock: a.clock})
}

func (a *Agent) userAgent() string {
	return fmt.Sprintf("Longshore Agent - v%s (%s)", a.opt.Version, a.opt.Hash)
}

// changed is the engine's hint that something is to be told.
func (a *Agent) changed() {
	a.reporter.Wake()
	if a.measured.files != nil {
		a.measured.files.Wake()
	}
	if p := a.telling.Load(); p != nil {
		p.Changed()
	}
}

// engineName is the engine as ACS is told.
func (a *Agent) engineName() string {
	info := a.engineInfo()
	if info.Name == "docker" {
		return "DockerVersion: " + info.Version
	}
	return info.Name
}

// engineVersion is the engine as TCS is told.
func (a *Agent) engineVersion() string { return a.engineInfo().Version }

// engineInfo is what the engine said about itself last.
func (a *Agent) engineInfo() engine.Info {
	if now := a.engine.Health().Engine; now.Version != "" {
		return now
	}
	return *a.info.Load()
}

// instance is who this host is, for introspection.
func (a *Agent) instance() (cluster, arn string) {
	if p := a.arn.Load(); p != nil {
		arn = *p
	}
	return a.cfg.ClusterOrDefault(), arn
}
