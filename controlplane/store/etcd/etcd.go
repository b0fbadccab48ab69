// Package etcd opens the etcd that the store stands on: a server inside this process, without any listener, or a cluster
// that somebody else runs.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// DefaultQuota is the largest size of the embedded server's database, in bytes.
const DefaultQuota = 8 << 30

// Config configures [Start].
type Config struct {
	// Dir is where the data lives; it is made if missing.
	Dir string
	// Quota is the database's largest size in bytes; default [DefaultQuota].
	Quota int64
	// UnsafeNoFsync is for tests whose data need not survive the machine.
	UnsafeNoFsync bool
	Log           *zap.Logger
}

// Server is an etcd inside this process.
type Server struct {
	etcd   *embed.Etcd
	client *clientv3.Client
	once   sync.Once
}

// Start opens the data below dir and returns when the server takes writes, or with an error when ctx ends before.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Quota == 0 {
		cfg.Quota = DefaultQuota
	}
	if err := checkDatabase(cfg.Dir); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	e, err := embed.StartEtcd(settings(cfg))
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-e.Server.ReadyNotify():
	case <-e.Server.StopNotify():
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: it stopped by itself", cfg.Dir)
	case <-ctx.Done():
		e.Close()
		return nil, fmt.Errorf("start etcd in %s: not ready: %w", cfg.Dir, ctx.Err())
	}
	client := v3client.New(e.Server)
	client.Maintenance = maintenance{client.Maintenance, e.Server}
	s := &Server{etcd: e, client: client}
	if err := s.revokeLeases(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("start etcd in %s: end the sessions of the process before: %w", cfg.Dir, err)
	}
	return s, nil
}

// revokeLeases ends the leases that are there at a start. Nobody but this process uses this etcd, so they belong to one
// that was killed: without this its leaderships would bind the new one until they expire.
func (s *Server) revokeLeases(ctx context.Context) error {
	leases, err := s.client.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases.Leases {
		if _, err := s.client.Revoke(ctx, l.ID); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return err
		}
	}
	return nil
}

// maintenance defragments by itself: the in-process client of etcd 3.7 has no health server to notify, and panics.
type maintenance struct {
	clientv3.Maintenance
	server *etcdserver.EtcdServer
}

func (m maintenance) Defragment(context.Context, string) (*clientv3.DefragmentResponse, error) {
	return &clientv3.DefragmentResponse{}, m.server.Backend().Defrag()
}

// settings are those of a server with one member that nobody but this process talks to.
func settings(cfg Config) *embed.Config {
	c := embed.NewConfig()
	c.Name = "longshore"
	c.Dir = cfg.Dir
	// No listeners: peers don't exist and the client calls the server directly. A member has to have a peer URL all the
	// same; this one is never dialled.
	c.ListenPeerUrls, c.ListenClientUrls, c.ListenClientHttpUrls = nil, nil, nil
	nowhere := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = nowhere, nowhere
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	// Alone it elects itself: there is no network whose delays have to be waited out.
	c.TickMs, c.ElectionMs = 10, 100
	c.QuotaBackendBytes = cfg.Quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	// Each entry is kept in memory until it is in a snapshot, and as many after it for members that lag; there are none.
	c.SnapshotCount, c.SnapshotCatchUpEntries = 1000, 1000
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.MaxTxnOps = 256
	c.UnsafeNoFsync = cfg.UnsafeNoFsync
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quieter(cfg.Log))
	return c
}

// Client calls the server directly. It is closed with the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Err tells of a failure after which the server is of no more use.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Stopped is closed when the server has stopped, wanted or not.
func (s *Server) Stopped() <-chan struct{} { return s.etcd.Server.StopNotify() }

// Close stops the server; what it has acknowledged is on disk.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		err = s.client.Close()
		s.etcd.Close()
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// External is an etcd cluster that somebody else runs.
type External struct {
	Endpoints []string
	TLS       *tls.Config // nil for plain http
	Username  string
	Password  string
	Log       *zap.Logger
}

// Connect makes a client of an external cluster and checks that it answers before ctx ends.
func Connect(ctx context.Context, x External) (*clientv3.Client, error) {
	if x.Log == nil {
		x.Log = zap.NewNop()
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            x.Endpoints,
		TLS:                  x.TLS,
		Username:             x.Username,
		Password:             x.Password,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream:  true,
		Logger:               quieter(x.Log),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %v: %w", x.Endpoints, err)
	}
	if _, err := client.Get(ctx, "/", clientv3.WithCountOnly()); err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("connect to etcd at %v: %w", x.Endpoints, err)
	}
	return client, nil
}
