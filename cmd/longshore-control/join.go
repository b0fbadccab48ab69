package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/logfmt"
)

// defaultTokenLife is how long hosts may join with a token.
const defaultTokenLife = 24 * time.Hour

// tokenFlags are what is said about a token.
type tokenFlags struct {
	like    controlplane.Key
	life    time.Duration
	cluster string
}

func (t *tokenFlags) on(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&t.life, "expires", defaultTokenLife, "how long hosts may join with it; 0: as long as nobody revokes it")
	f.Int32Var(&t.like.MaxUses, "uses", 0, "how many hosts may join with it; 0: any number")
	f.StringVar(&t.like.Name, "name", "", "what to call it in the list")
	f.StringVar(&t.cluster, "cluster", "", "cluster that the printed line joins; not set: default")
}

// key is the key to be made.
func (t *tokenFlags) key() (controlplane.Key, error) {
	switch {
	case t.life < 0:
		return t.like, fmt.Errorf("--expires %s has passed", t.life)
	case t.like.MaxUses < 0:
		return t.like, fmt.Errorf("--uses %d is not a number of hosts", t.like.MaxUses)
	case t.life > 0:
		t.like.Expires = time.Now().Add(t.life)
	}
	return t.like, nil
}

// print prints the line for a host on out, and what it is good for on told.
func (t *tokenFlags) print(out, told io.Writer, made controlplane.JoinToken) error {
	line := "longshore-agent join " + made.URL + " --token " + made.Token
	if t.cluster != "" {
		line += " --cluster " + t.cluster
	}
	hosts, until := "Any number of hosts", "until it is revoked"
	if made.MaxUses == 1 {
		hosts = "One host"
	} else if made.MaxUses > 1 {
		hosts = fmt.Sprintf("%d hosts", made.MaxUses)
	}
	if !made.Expires.IsZero() {
		until = "until " + made.Expires.UTC().Format(time.RFC3339)
	}
	if _, err := fmt.Fprintf(told, "%s may join with this line, as root, %s; whoever has it can, so keep it to yourself. \"longshore-control token revoke %s\" ends it.\n", hosts, until, made.AccessKeyID); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, line)
	return err
}

func initCommand() *cobra.Command {
	var (
		cfg    controlplane.Config
		token  tokenFlags
		listen []string
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the data directory, the keys and the CA of a new control plane, and print the line with which hosts join it",
		Long: "Make the data directory, the keys and the CA of a new control plane, and print the line with which hosts join it.\n" +
			"How it is then to be started is said on standard error. What is there already stays; a control plane that runs is asked by \"longshore-control token create\".",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			like, err := token.key()
			if err != nil {
				return err
			}
			cfg.Log = zap.New(logfmt.New("logfmt", zap.WarnLevel, os.Stderr))
			made, err := controlplane.Init(cmd.Context(), cfg, like)
			if err != nil {
				return failed{err}
			}
			for _, name := range []string{"data-dir", "listen", "advertise-url", "tls-cert", "tls-key", "seal-key-file", "region", "account-id"} {
				if f := cmd.Flags().Lookup(name); f.Changed || name == "data-dir" || name == "listen" {
					listen = append(listen, "--"+name, f.Value.String())
				}
			}
			told := cmd.ErrOrStderr()
			if _, err := fmt.Fprintf(told, "Start the control plane: longshore-control run %s\nIts administrator's key is in %s/admin.env.\n", strings.Join(listen, " "), cfg.DataDir); err != nil {
				return err
			}
			return token.print(cmd.OutOrStdout(), told, made)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/longshore", "directory for the embedded etcd, the key files and the CA")
	f.StringVar(&cfg.Listen, "listen", ":8480", "address that it will listen on; an unmodified amazon-ecs-agent needs port 443")
	f.StringVar(&cfg.AdvertiseURL, "advertise-url", "", "URL at which hosts reach it; not set: this machine's first address")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "file with a certificate of its own, PEM, in place of one of the CA that is made")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "file with that certificate's key, PEM")
	f.StringVar(&cfg.SealKeyFile, "seal-key-file", "", "file with the key that seals secrets in the store; not set: seal.key in the data directory")
	f.StringVar(&cfg.Region, "region", "us-west-2", "region in ARNs")
	f.StringVar(&cfg.AccountID, "account-id", "000000000000", "account in ARNs, 12 digits")
	token.on(cmd)
	return cmd
}

func tokenCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens with which hosts join the control plane that runs on this machine",
		Args:  cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", "/var/lib/longshore", "the data directory that it runs with")
	var token tokenFlags
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a token, and print the line with which hosts join",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			like, err := token.key()
			if err != nil {
				return err
			}
			made, err := controlplane.CreateToken(cmd.Context(), dir, like)
			if err != nil {
				return failed{err}
			}
			return token.print(cmd.OutOrStdout(), cmd.ErrOrStderr(), made)
		},
	}
	token.on(create)
	list := &cobra.Command{
		Use:   "list",
		Short: "List the tokens, and the join key in host.env, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := controlplane.Keys(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			return printTokens(cmd.OutOrStdout(), keys, time.Now())
		},
	}
	revoke := &cobra.Command{
		Use:   "revoke ID",
		Short: "End a token: no host joins with it from then on; those that have are not concerned",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := controlplane.Keys(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			for _, k := range keys {
				if k.AccessKeyID == args[0] && k.Enrolment {
					_, err := controlplane.RevokeKey(cmd.Context(), dir, args[0])
					if err != nil {
						return failed{err}
					}
					return nil
				}
			}
			return failed{fmt.Errorf("there is no token %.130q; \"longshore-control token list\" has all", args[0])}
		},
	}
	cmd.AddCommand(create, list, revoke)
	return cmd
}

func printTokens(out io.Writer, keys []controlplane.Key, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tNAME\tCREATED\tENDS\tHOSTS")
	for _, k := range keys {
		if k.Role != store.RoleHost || !k.Enrolment {
			continue
		}
		ends, hosts := "never", "any number"
		if end := cmp.Or(k.Revoked, k.Expires); !end.IsZero() {
			ends = end.UTC().Format(time.RFC3339)
		}
		if k.MaxUses > 0 {
			hosts = fmt.Sprintf("%d of %d", k.Uses, k.MaxUses)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.AccessKeyID, k.State(now), cmp.Or(k.Name, "-"), k.Created.UTC().Format(time.RFC3339), ends, hosts)
	}
	return table.Flush()
}
