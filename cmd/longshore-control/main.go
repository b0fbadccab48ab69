// Command longshore-control is the control plane: the ECS API, the service scheduler and the agents' endpoint, over etcd.
//
// It exits with 0 after SIGTERM or SIGINT, 1 when it failed, and 2 when it was told something that can't be.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/limits"
	"github.com/longshore-project/longshore/internal/collector"
	"github.com/longshore-project/longshore/internal/logfmt"
	"github.com/longshore-project/longshore/internal/nodump"
	"github.com/longshore-project/longshore/internal/version"
)

func main() {
	if err := nodump.Set(); err != nil {
		fmt.Fprintln(os.Stderr, "longshore-control:", err)
	}
	// The first signal ends it in order; a second one ends it at once, as the handler is gone by then.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "longshore-control:", err)
	var failure failed
	if errors.As(err, &failure) && !errors.Is(err, controlplane.ErrConfig) {
		os.Exit(1)
	}
	os.Exit(2)
}

// failed is an error of the running control plane; all others are about the command line.
type failed struct{ error }

func (f failed) Unwrap() error { return f.error }

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "longshore-control",
		Short:         "The control plane of Longshore: the ECS API, the service scheduler and the agents' endpoint",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	root.AddCommand(runCommand(), keysCommand(), sealCommand(), caCommand(), hostCommand(), initCommand(), tokenCommand(), explainCommand(), sizingCommand(), auditCommand(),
		backupCommand(), restoreCommand(), checkCommand(), &cobra.Command{
			Use:   "version",
			Short: "Say which version this is",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "longshore-control", version.Version)
				return err
			},
		})
	return root
}

// etcdFiles are the files that make the TLS configuration for an external etcd.
type etcdFiles struct{ ca, cert, key string }

func runCommand() *cobra.Command {
	var (
		cfg       controlplane.Config
		files     etcdFiles
		rollout   string
		logFormat string
		logLevel  string
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the control plane in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch rollout {
			case "waves", "parallel":
				cfg.RolloutParallel = rollout == "parallel"
			default:
				return fmt.Errorf("--rollout %q is neither waves nor parallel", rollout)
			}
			if cfg.EtcdTLS, err = files.config(); err != nil {
				return err
			}
			if cfg.Log, err = logger(logFormat, logLevel); err != nil {
				return err
			}
			if cfg.RolloutWaveWait == 0 {
				cfg.RolloutWaveWait = time.Nanosecond // none, and not the default
			}
			if cfg.ReplicaHealthyAfter == 0 {
				cfg.ReplicaHealthyAfter = time.Nanosecond
			}
			cfg.MetricsOptional = !cmd.Flags().Changed("metrics-listen")
			cfg.EtcdPassword = etcdPassword()
			fromCredentials(&cfg, os.Getenv("CREDENTIALS_DIRECTORY"))
			go collector.Govern(cmd.Context(), cfg.Log)
			if err := controlplane.Run(cmd.Context(), cfg); err != nil {
				return failed{err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/longshore", "directory for the embedded etcd and the key files admin.env and host.env")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:8480", "address of the API and of the agents' endpoint")
	f.StringVar(&cfg.Region, "region", "us-west-2", "region in ARNs")
	f.StringVar(&cfg.AccountID, "account-id", "000000000000", "account in ARNs, 12 digits")
	f.StringVar(&cfg.AdvertiseURL, "advertise-url", "", "URL that agents are told to connect to, and that is in the own CA's certificate; not set: the one of their requests")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "file with the certificate and those up to its CA, PEM, read again when it changes; not set: one of the control plane's own CA")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "file with the certificate's key, PEM")
	f.BoolVar(&cfg.TLS, "tls", false, "speak TLS on loopback too; on all other addresses nothing else is spoken")
	f.BoolVar(&cfg.InsecureHTTP, "insecure-http", false, "speak plain HTTP on an address that other machines reach, secrets of tasks included")
	f.StringVar(&cfg.SealKeyFile, "seal-key-file", "", "file with the key that seals secrets in the store; replicas have the same; not set: seal.key in the data directory, made at the first start")
	f.BoolVar(&cfg.ForgetSealed, "forget-sealed", false, "the seal key is lost: end the own CA and every access key but those of admin.env and host.env")
	etcdFlags(f, &cfg, &files)
	f.StringVar(&cfg.BackupDir, "backup-dir", "", "directory of the daily backups, of which 7 are kept; not set: backups in the data directory")
	f.BoolVar(&cfg.EtcdMaintain, "etcd-maintain", false, "compact and defragment the external etcd, and disarm its alarm, when its quota comes near; for one that nobody else uses")
	f.StringVar(&cfg.Network, "network", "", "file with the subnets and security groups of tasks in network mode awsvpc, JSON; it is read again when it changes")
	f.StringVar(&cfg.RoleCredentials, "role-credentials", "", "file with the credentials of tasks' roles, JSON; only its owner may have rights to it")
	f.BoolVar(&cfg.AssumeRoles, "assume-roles", false, "have AWS STS assume the tasks' roles that are in no file, with the AWS credentials that the control plane finds as the SDK does")
	f.StringVar(&cfg.STSEndpoint, "sts-endpoint", "", "URL of STS for --assume-roles; not set: the region's own")
	f.StringVar(&cfg.STSRegion, "sts-region", "", "region of STS; not set: --region")
	f.DurationVar(&cfg.RoleDuration, "role-duration", time.Hour, "how long the credentials of assumed roles live, 15m to 12h; roles allow 1h unless they say more")
	f.StringVar(&cfg.MetricsListen, "metrics-listen", "127.0.0.1:8481", "address of the Prometheus metrics at /metrics; empty: they are not served. When it is not given and the default is taken, they are not served either")
	f.DurationVar(&cfg.InstanceLostAfter, "instance-lost-after", 15*time.Minute, "how long a host may be away before it is deregistered")
	f.DurationVar(&cfg.PrepareImagesWait, "prepare-images-wait", 10*time.Minute, "how long an old daemon runs on while its host says nothing about the images of the new one; negative: they are not asked for")
	f.DurationVar(&cfg.RolloutWaveWait, "rollout-wave-wait", 10*time.Second, "how long a wave of a roll-out has to be healthy before the next")
	f.DurationVar(&cfg.ReplicaHealthyAfter, "replica-healthy-after", 40*time.Second, "how long a task of a REPLICA service without health checks must have run to count as healthy in a roll-out")
	f.StringVar(&rollout, "rollout", "waves", "how services are rolled out: waves, of 1, 2, 4 … hosts, or parallel, as ECS does")
	f.Int64Var(&cfg.AuditSize, "audit-size", 128<<20, "largest size of each of the two books of the audit log in bytes")
	f.Float64Var(&cfg.RateLimit, "rate-limit", limits.DefaultRate, "how many calls a second an access key may make, with four seconds' worth at once")
	f.Float64Var(&cfg.EnrolmentRateLimit, "enrolment-rate-limit", limits.DefaultEnrolmentRate, "how many a key for enrolment may make, which may be that of all hosts")
	f.IntVar(&cfg.KeyConnections, "connections-per-key", limits.DefaultConnectionsPerKey, "how many connections an access key that is not for enrolment may have, beside its hosts' web sockets")
	f.IntVar(&cfg.PendingConnections, "pending-connections", 0, "how many connections there may be on which nobody has signed a call; 0: 16384, and not more than a quarter of the files that may be open")
	f.DurationVar(&cfg.Purge.StoppedTasks, "keep-stopped-tasks", time.Hour, "how long a STOPPED task stays describable")
	f.DurationVar(&cfg.Purge.Inactive, "keep-inactive", 6*time.Hour, "how long INACTIVE clusters, services and container instances stay describable")
	f.StringVar(&logFormat, "log-format", "logfmt", "logfmt or json, on standard error")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// etcdFlags are those of the store.
func etcdFlags(f *pflag.FlagSet, cfg *controlplane.Config, files *etcdFiles) {
	f.StringSliceVar(&cfg.EtcdEndpoints, "etcd-endpoints", nil, "URLs of an external etcd cluster, instead of the embedded one")
	f.StringVar(&files.ca, "etcd-ca", "", "file with the CA of the external etcd, PEM")
	f.StringVar(&files.cert, "etcd-cert", "", "file with the client certificate for the external etcd, PEM")
	f.StringVar(&files.key, "etcd-key", "", "file with the client certificate's key, PEM")
	f.StringVar(&cfg.EtcdUsername, "etcd-username", "", "user of the external etcd; the password is in LONGSHORE_ETCD_PASSWORD")
	f.Int64Var(&cfg.EtcdQuota, "etcd-quota", 8<<30, "largest size of the embedded etcd's database in bytes")
}

// etcdPassword is the password of the external etcd's user.
func etcdPassword() string { return os.Getenv("LONGSHORE_ETCD_PASSWORD") }

// config is nil when no file is named.
func (f etcdFiles) config() (*tls.Config, error) {
	if f == (etcdFiles{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("--etcd-ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--etcd-ca %s has no certificate in PEM", f.ca)
		}
	}
	if f.cert != "" || f.key != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cert and --etcd-key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func logger(format, level string) (*zap.Logger, error) {
	l, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("--log-level %q is none of debug, info, warn and error", level)
	}
	if format != "logfmt" && format != "json" {
		return nil, fmt.Errorf("--log-format %q is neither logfmt nor json", format)
	}
	return zap.New(logfmt.New(format, l, os.Stderr)), nil
}
