// Package controlplane is the control plane as a whole: the ECS API, the agents' endpoint and the service scheduler over
// one store.
//
// [Start] brings it up in the order lock, listener, etcd, store, seal, keys, CA, scheduler, server: what can be refused is refused
// before anything is written, and the first connection is served by something complete. [ControlPlane.Close] goes the
// other way round. Containers on hosts know nothing of either.
//
//	POST /            the ECS API (package api), signed
//	/acs/ws, /tcs/ws  the agents' web sockets (package poll), signed
//	GET /             who is here
//	GET /longshore/v1/ca   the certificate that hosts are to trust, PEM
//	GET /healthz      200 while the store answers
//	GET /metrics      Prometheus metrics, on a listener of their own
//
// # The data directory
//
//	longshore-control.lock   locked by the running process
//	etcd/                    the embedded etcd; not there with an external one
//	longshore-control.sock   where the key commands reach the running process
//	backups/                 one a day, the last seven
//	seal.key                 opens what is sealed in the store, see package seal
//	admin.env, host.env      the first keys, see package auth
//	tls/                     copies of the own CA, see package certs
package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/limits"
	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/poll"
	"github.com/longshore-project/longshore/controlplane/roles"
	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/telemetry"
	"github.com/longshore-project/longshore/internal/version"
	"github.com/longshore-project/longshore/protocol/arn"
)

// startTimeout bounds the opening of etcd and the store.
const startTimeout = time.Minute

// ControlPlane is a running control plane.
type ControlPlane struct {
	cfg    Config
	log    *zap.Logger
	store  *store.Store
	etcd   *clientv3.Client
	roles  *roles.Roles // nil: none
	issuer *roles.Issuer

	network *network.Network

	seal      *seal.Key
	rotating  sync.Mutex // held while the seal key or the own CA is replaced
	authority atomic.Pointer[certs.Authority]
	certs     *certs.Source // nil: TLS is spoken nowhere

	audit  *audit.Log
	limits *limits.Limits

	figures     *figures
	book        *telemetry.Book
	replica     string
	metricsAddr net.Addr // nil: metrics are not served

	addr   net.Addr
	server *http.Server
	// closers undo the start, the last one first.
	closers []closer
	once    sync.Once
	failed  chan error
}

type closer struct {
	name  string
	close func() error
}

// Run starts the control plane, and stops it when ctx ends or it fails by itself. It returns nil after a wanted end.
func Run(ctx context.Context, cfg Config) error {
	p, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	told, end := context.WithCancel(ctx)
	var systemd sync.WaitGroup
	systemd.Go(func() { p.serveSystemd(told) })
	select {
	case <-ctx.Done():
	case err = <-p.failed:
	}
	end()
	systemd.Wait()
	return errors.Join(err, p.Close())
}

// Start starts the control plane; when it returns, calls are served. An error of the class [ErrConfig] is for whoever
// wrote the configuration.
func Start(ctx context.Context, cfg Config) (_ *ControlPlane, err error) {
	if cfg, err = cfg.complete(); err != nil {
		return nil, err
	}
	started := time.Now()
	p := &ControlPlane{cfg: cfg, log: cfg.Log, failed: make(chan error, 4), figures: newFigures(), replica: replicaName()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.openRoles(); err != nil {
		return nil, err
	}
	if err := p.openNetwork(); err != nil {
		return nil, err
	}
	if err := p.openCerts(); err != nil {
		return nil, err
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	p.onClose("lock", func() error { unlock(); return nil })
	if err := p.openGuard(); err != nil {
		return nil, err
	}
	listener, err := listen(ctx, cfg.Listen)
	if err != nil {
		return nil, err
	}
	p.onClose("listener", func() error { _ = listener.Close(); return nil })
	p.addr = listener.Addr()
	if err := p.openData(ctx); err != nil {
		return nil, err
	}
	if err := p.startRoles(ctx); err != nil {
		return nil, err
	}
	handler, err := p.startParts()
	if err != nil {
		return nil, err
	}
	if err := p.serveKeys(); err != nil {
		return nil, err
	}
	p.serve(p.secured(listener, cfg.Listen), handler)
	p.log.Info("serving", zap.Stringer("address", p.addr), zap.Bool("tls", cfg.speaksTLS(cfg.Listen)), zap.String("region", cfg.Region),
		zap.String("account", cfg.AccountID), zap.String("data_dir", cfg.DataDir), zap.String("version", version.Version),
		zap.Duration("duration", time.Since(started)))
	return p, nil
}

// Addr is where it listens.
func (p *ControlPlane) Addr() net.Addr { return p.addr }

// Failed gets an error when the control plane can't go on by itself.
func (p *ControlPlane) Failed() <-chan error { return p.failed }

// Close ends all in order: calls under way are answered, sockets closed, leaderships given up, the store flushed.
func (p *ControlPlane) Close() (err error) {
	p.once.Do(func() {
		for i := len(p.closers) - 1; i >= 0; i-- {
			c := p.closers[i]
			begun := time.Now()
			e := c.close()
			p.log.Debug("closed", zap.String("part", c.name), zap.Duration("duration", time.Since(begun)), zap.Error(e))
			if e != nil {
				err = errors.Join(err, fmt.Errorf("close the %s: %w", c.name, e))
			}
		}
		if p.server != nil {
			p.log.Info("stopped", zap.Error(err))
		}
	})
	return err
}

func (p *ControlPlane) onClose(name string, f func() error) {
	p.closers = append(p.closers, closer{name, f})
}

// fail tells that the control plane can't go on.
func (p *ControlPlane) fail(err error) {
	select {
	case p.failed <- err:
	default: // enough reasons are there already
	}
}

// openStore opens etcd and the store on it.
func (p *ControlPlane) openStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	client, err := p.openEtcd(ctx)
	if err != nil {
		return err
	}
	cfg := store.Config{Client: client, Log: p.log.Named("store"), Observe: p.figures.stored, Maintain: p.cfg.EtcdMaintain}
	if len(p.cfg.EtcdEndpoints) == 0 {
		cfg.Alone, cfg.Maintain, cfg.Disk = true, true, p.cfg.DataDir
	}
	p.etcd = client
	p.store, err = store.Open(ctx, cfg)
	if err != nil {
		return err
	}
	p.onClose("store", p.store.Close)
	return p.refuseNewer()
}

// openEtcd opens etcd, the embedded one or an external one.
func (p *ControlPlane) openEtcd(ctx context.Context) (*clientv3.Client, error) {
	if len(p.cfg.EtcdEndpoints) > 0 {
		client, err := etcd.Connect(ctx, etcd.External{Endpoints: p.cfg.EtcdEndpoints, TLS: p.cfg.EtcdTLS,
			Username: p.cfg.EtcdUsername, Password: p.cfg.EtcdPassword, Log: p.log})
		if err != nil {
			return nil, err
		}
		p.onClose("etcd client", client.Close)
		return client, nil
	}
	server, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(p.cfg.DataDir, "etcd"), Quota: p.cfg.EtcdQuota, Log: p.log})
	if err != nil {
		return nil, err
	}
	closing := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-closing:
		case err := <-server.Err():
			p.fail(fmt.Errorf("etcd failed: %w", err))
		case <-server.Stopped():
			p.fail(errors.New("etcd stopped by itself; its log lines say why"))
		}
	})
	p.onClose("etcd", func() error {
		close(closing)
		watching.Wait()
		return server.Close()
	})
	return server.Client(), nil
}

// embeddedSession is how long a session in the embedded etcd outlives a store that does not answer.
const embeddedSession = 30 * time.Second

// startParts starts what works on the store, and returns what serves the requests.
func (p *ControlPlane) startParts() (http.Handler, error) {
	verifier := p.limits.Verifier(auth.NewVerifier(auth.StoredKeys(p.store, p.seal), auth.Options{TaskKeys: p.taskKeys()}))
	scheduling := scheduler.Config{
		Store:             p.store,
		Log:               p.log.Named("scheduler"),
		InstanceLostAfter: p.cfg.InstanceLostAfter,
		RolloutWait:       p.cfg.RolloutWaveWait,
		PrepareWait:       p.cfg.PrepareImagesWait,
		RolloutParallel:   p.cfg.RolloutParallel,
		HealthyAfter:      p.cfg.ReplicaHealthyAfter,
		Waits:             p.waits,
		Passed:            p.figures.passed,
	}
	p.followNetwork()
	scheduling.Network = p.network
	p.book = telemetry.New(telemetry.FromStore(p.store), nil)
	session := time.Duration(0) // the rooms' defaults: other replicas must learn soon that this one is gone
	if len(p.cfg.EtcdEndpoints) == 0 {
		// There is no other replica, and the next start revokes what this process leaves. A store that is slow for some seconds
		// must not cost every agent its connection.
		session = embeddedSession
	}
	scheduling.SessionTTL = session
	sched := scheduler.New(scheduling)
	sockets, err := poll.New(poll.Config{Store: p.store, Verifier: witness{verifier}, Log: p.log.Named("poll"), Role: p.role, SessionTTL: session, Replica: p.replica, Telemetry: p.book, Network: p.network,
		Overlap: p.cfg.Overlap, Authorities: p.cfg.TLSCert == "" && p.cfg.speaksTLS(p.cfg.Listen), Owner: arn.Owner{Region: p.cfg.Region, Account: p.cfg.AccountID}})
	if err != nil {
		return nil, err
	}
	p.background("purge", func(ctx context.Context) error { p.store.Purge(ctx, p.cfg.Purge); return nil })
	p.background("backups", p.keepBackups)
	p.background("presence", p.keepPresence)
	p.background("scheduler", sched.Run)
	p.background("poll", sockets.Run)
	calls := api.New(api.Config{
		Store:     p.store,
		Verifier:  verifier,
		Region:    p.cfg.Region,
		AccountID: p.cfg.AccountID,
		BaseURL:   p.baseURL,
		Seal:      p.seal,
		Overlap:   p.cfg.Overlap,
		Audit:     p.audit,
		Log:       p.log.Named("api"),

		Scheduling: scheduling,
		Sizing:     p.book.Sizing,
	})
	return p.guarded(p.routes(p.figures.timed(calls), p.witnessed(sockets))), p.serveMetrics(p.book, sockets)
}

// openNetwork opens the file of the subnets and security groups.
func (p *ControlPlane) openNetwork() (err error) {
	if p.network, err = network.Open(p.cfg.Network, p.log.Named("network")); err != nil {
		return fmt.Errorf("%w: --network: %w", ErrConfig, err)
	}
	return nil
}

// followNetwork follows the file, and the addresses in the store.
func (p *ControlPlane) followNetwork() {
	p.network.Follow(p.store)
	p.background("network", func(ctx context.Context) error {
		return p.network.Run(ctx, cmp.Or(p.cfg.NetworkInterval, network.DefaultInterval))
	})
}

// replicaName names this process in the records of agents' connections.
func replicaName() string {
	host, _ := os.Hostname() // without one the random part is name enough
	return host + "-" + uuid.NewString()[:8]
}

// waits says what a task waits for on its instance and of STS, or which replica knows.
func (p *ControlPlane) waits(c *store.Connection, t *store.Task) []string {
	told := p.book.Waits(t.Cluster, t.Instance, t.ID)
	if len(told) == 0 && c != nil && c.Replica != p.replica {
		return []string{"its agent speaks with the replica " + c.Replica + "; ask that one for more"}
	}
	return append(told, p.issuer.Waits(roles.Task{Cluster: t.Cluster, ID: t.ID})...)
}

// background runs a part until Close, which waits for its end. A part that ends before fails the whole.
func (p *ControlPlane) background(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); err != nil && ctx.Err() == nil {
			p.fail(fmt.Errorf("the %s failed: %w", name, err))
		}
	}()
	p.onClose(name, func() error {
		cancel()
		<-done
		return nil
	})
}

// serve answers requests until Close, which lets those under way end.
func (p *ControlPlane) serve(listener net.Listener, handler http.Handler) {
	p.server = p.httpServer(handler)
	p.limits.Bound(p.server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			p.fail(fmt.Errorf("serve on %s: %w", p.addr, err))
		}
	}()
	p.onClose("server", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.ShutdownGrace)
		defer cancel()
		err := p.server.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			p.log.Warn("calls were cut off at shutdown", zap.Duration("after", p.cfg.ShutdownGrace))
			err = p.server.Close()
		}
		<-done
		return err
	})
}
