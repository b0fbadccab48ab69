package controlplane

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Config configures [Start]. The zero value of a field that has a default is that default.
type Config struct {
	// DataDir holds the embedded etcd, the lock and the key files; it is made if missing. Needed.
	DataDir string
	// Listen is the address of the API and of the agents' endpoints. Default 127.0.0.1:8480.
	Listen string
	// Region and AccountID are those of every ARN. Defaults us-west-2 and 000000000000.
	Region, AccountID string
	// AdvertiseURL is where agents are told to connect, and is in the own CA's certificate. Empty: where they called.
	AdvertiseURL string

	// TLSCert and TLSKey are files in PEM, read again when they change. With both, only TLS is spoken, with them.
	TLSCert, TLSKey string
	// TLS speaks TLS on loopback too. On an address that other machines reach nothing else is spoken, with a certificate of
	// the control plane's own CA unless TLSCert is set.
	TLS bool
	// InsecureHTTP speaks plain HTTP there instead.
	InsecureHTTP bool
	// CertInterval is how often it is looked whether there is another certificate. Default 2 s.
	CertInterval time.Duration

	// CertLife is how long a certificate of the own CA lives; it is replaced when two thirds of that have passed. Default 90 days.
	CertLife time.Duration

	// SealKeyFile has the key with which secrets in the store are sealed, see package seal. Default: seal.key in DataDir, made
	// at the first start. Replicas have the same.
	SealKeyFile string
	// ForgetSealed deletes what is sealed in the store, for when that key is lost.
	ForgetSealed bool

	// EtcdEndpoints are those of an external etcd cluster; without, one runs inside this process.
	EtcdEndpoints []string
	// EtcdTLS is how an external cluster is spoken to; nil for plain http.
	EtcdTLS *tls.Config
	// EtcdUsername and EtcdPassword are for an external cluster with authentication.
	EtcdUsername, EtcdPassword string
	// EtcdMaintain has the external cluster compacted and defragmented, and its alarm disarmed, when its quota comes near: for one
	// that nobody else uses. The embedded one always is.
	EtcdMaintain bool
	// EtcdQuota bounds the embedded etcd's database, in bytes. Default 8 GiB.
	EtcdQuota int64

	// InstanceLostAfter is how long a host may be away before it is deregistered. Default 15 m.
	InstanceLostAfter time.Duration
	// PrepareImagesWait is how long an old daemon runs on while its host says nothing about the images of the new one. Default
	// 10 m; negative: it is stopped without asking.
	PrepareImagesWait time.Duration
	// RolloutWaveWait is how long each wave of a roll-out has to be healthy before the next. Default 10 s.
	RolloutWaveWait time.Duration
	// ReplicaHealthyAfter is how long a task of a REPLICA service without health checks must have been RUNNING to count
	// towards minimumHealthyPercent. Default 40 s.
	ReplicaHealthyAfter time.Duration
	// RolloutParallel replaces on all hosts at once, as ECS does, instead of in waves.
	RolloutParallel bool

	// RoleCredentials is a file with the credentials of tasks' roles, see package roles; empty for none.
	RoleCredentials string
	// AssumeRoles has STS assume the roles that are in no file, with the control plane's own AWS credentials, which the SDK finds
	// as it does. STSEndpoint is where STS is, empty for the region's own; STSRegion is its region, Region if empty.
	AssumeRoles            bool
	STSEndpoint, STSRegion string
	// RoleDuration is how long the credentials of STS are to live. Default 1 h.
	RoleDuration time.Duration

	// Network is a file with subnets and security groups for tasks in network mode awsvpc, see package network; empty for none.
	Network string
	// NetworkInterval is how often that is looked at for a change. Default 2 s.
	NetworkInterval time.Duration

	// MetricsListen is the address of the Prometheus metrics, at /metrics; empty: they are not served. It follows the rules of
	// Listen: with TLSCert it speaks TLS, and in clear it is on loopback unless InsecureHTTP allows more.
	MetricsListen string
	// MetricsOptional goes on without metrics when another process has the address.
	MetricsOptional bool

	// AuditSize bounds each of the two books of the audit log, in bytes. Default 128 MiB.
	AuditSize int64
	// RateLimit is how many calls a second an access key may make, EnrolmentRateLimit the same for a key for enrolment, and
	// KeyConnections how many connections a key may have; PendingConnections how many there may be on which nobody has signed.
	// Defaults: those of package limits.
	RateLimit, EnrolmentRateLimit      float64
	KeyConnections, PendingConnections int

	// BackupDir is where daily backups are kept. Default: backups, in the data directory.
	BackupDir string
	// Purge says how long what has ended stays describable.
	Purge store.PurgeConfig
	// Overlap is how long the connection of an agent that does not say in which boot its machine is may stand when another one wants to be the
	// same container instance: then that one is refused. Default task.Overlap.
	Overlap time.Duration
	// ReplicasWait is how long it is waited for what all replicas do by themselves when something that they share is replaced. Default 10 s.
	ReplicasWait time.Duration
	// ShutdownGrace bounds how long calls under way may take to end. Default 10 s.
	ShutdownGrace time.Duration

	Log *zap.Logger // default: none
}

// ErrConfig is the class of errors that another configuration would not have; test with errors.Is.
var ErrConfig = errors.New("configuration")

var (
	regionForm  = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
)

// complete fills in the defaults and refuses what can't work.
func (c Config) complete() (Config, error) {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:8480")
	c.Region = cmp.Or(c.Region, "us-west-2")
	c.AccountID = cmp.Or(c.AccountID, "000000000000")
	c.BackupDir = cmp.Or(c.BackupDir, filepath.Join(c.DataDir, "backups"))
	c.ReplicasWait = cmp.Or(c.ReplicasWait, 10*time.Second)
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, 10*time.Second)
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	switch {
	case c.DataDir == "":
		return c, fmt.Errorf("%w: --data-dir is missing: name a directory for the state and the keys", ErrConfig)
	case !regionForm.MatchString(c.Region):
		return c, fmt.Errorf("%w: --region %q is not like us-west-2", ErrConfig, c.Region)
	case !accountForm.MatchString(c.AccountID):
		return c, fmt.Errorf("%w: --account-id %q is not 12 digits", ErrConfig, c.AccountID)
	case c.AuditSize < 0 || c.RateLimit < 0 || c.EnrolmentRateLimit < 0 || c.KeyConnections < 0 || c.PendingConnections < 0:
		return c, fmt.Errorf("%w: --audit-size, --rate-limit, --enrolment-rate-limit, --connections-per-key and --pending-connections can't be negative", ErrConfig)
	case c.InstanceLostAfter < 0 || c.RolloutWaveWait < 0 || c.ReplicaHealthyAfter < 0:
		return c, fmt.Errorf("%w: --instance-lost-after, --rollout-wave-wait and --replica-healthy-after can't be negative", ErrConfig)
	}
	if err := c.checkRoles(); err != nil {
		return c, err
	}
	if c.AdvertiseURL != "" {
		if u, err := url.Parse(c.AdvertiseURL); err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return c, fmt.Errorf("%w: --advertise-url %q is not like https://longshore.example.com", ErrConfig, c.AdvertiseURL)
		}
	}
	if c.MetricsListen != "" {
		metrics := c
		metrics.Listen = c.MetricsListen
		if err := metrics.checkListener(); err != nil {
			return c, fmt.Errorf("--metrics-listen: %w", err)
		}
	}
	return c, c.checkListener()
}

// checkListener refuses what contradicts itself.
func (c Config) checkListener() error {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("%w: --listen %q is not like 127.0.0.1:8480: %w", ErrConfig, c.Listen, err)
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return fmt.Errorf("%w: --tls-cert and --tls-key go together", ErrConfig)
	case (c.TLSCert != "" || c.TLS) && c.InsecureHTTP:
		return fmt.Errorf("%w: --insecure-http contradicts --tls, --tls-cert and --tls-key", ErrConfig)
	}
	return nil
}

// speaksTLS tells whether TLS is spoken at an address: signatures and secrets don't travel in clear unless that was asked for.
func (c Config) speaksTLS(listen string) bool {
	host, _, _ := net.SplitHostPort(listen) // was checked
	return c.TLSCert != "" || c.TLS || !c.InsecureHTTP && !loopback(host)
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
