package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/store"
)

// defaultOverlap is how long the old key counts beside the one that replaces it.
const defaultOverlap = 24 * time.Hour

func keysCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "List, make, rotate and revoke access keys of the control plane that runs on this machine",
		Args:  cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", "/var/lib/longshore", "the data directory that it runs with")
	cmd.AddCommand(listKeys(&dir), createKey(&dir), rotateKey(&dir), revokeKey(&dir))
	return cmd
}

func listKeys(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys, without their secrets; those that ended are shown for 30 days",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := controlplane.Keys(cmd.Context(), *dir)
			if err != nil {
				return failed{err}
			}
			return printKeys(cmd.OutOrStdout(), keys, time.Now())
		},
	}
}

func printKeys(out io.Writer, keys []controlplane.Key, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ACCESS KEY ID\tROLE\tSTATE\tNAME\tCREATED\tENDS\tFOR")
	for _, k := range keys {
		role, speaksFor := string(k.Role), cmp.Or(k.Instance, "-")
		if k.Enrolment {
			role, speaksFor = "join", "any instance"
			if k.MaxUses > 0 {
				speaksFor = fmt.Sprintf("%d of %d instances registered", k.Uses, k.MaxUses)
			}
		}
		ends := "never"
		if end := cmp.Or(k.Revoked, k.Expires); !end.IsZero() {
			ends = end.UTC().Format(time.RFC3339)
		}
		if k.Successor != "" {
			ends += ", replaced by " + k.Successor
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.AccessKeyID, role, k.State(now), cmp.Or(k.Name, "-"), k.Created.UTC().Format(time.RFC3339), ends, speaksFor)
	}
	return table.Flush()
}

func createKey(dir *string) *cobra.Command {
	var like controlplane.Key
	var role string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create --role admin|readonly|host",
		Short: "Make a key and print it, as lines to be put into an environment",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			like.Role = store.Role(role)
			if cmd.Flags().Changed("expires") {
				like.Expires = time.Now().Add(expires)
			}
			k, err := controlplane.CreateKey(cmd.Context(), *dir, like)
			if err != nil {
				return failed{err}
			}
			return printKey(cmd.OutOrStdout(), k)
		},
	}
	f := cmd.Flags()
	f.StringVar(&role, "role", "", "admin, readonly or host")
	f.BoolVar(&like.Enrolment, "enrolment", false, "a join key: any number of hosts may register with it, and ours then get keys of their own")
	f.StringVar(&like.Name, "name", "", "what to call it in the list")
	f.StringVar(&like.Instance, "instance", "", "ARN of the registered container instance that a host's key is for")
	f.DurationVar(&expires, "expires", 0, "when the key ends, from now; not set: never")
	if err := cmd.MarkFlagRequired("role"); err != nil {
		panic(err)
	}
	return cmd
}

func printKey(out io.Writer, k controlplane.Key) error {
	_, err := fmt.Fprintf(out, "AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n", k.AccessKeyID, k.SecretAccessKey)
	return err
}

func rotateKey(dir *string) *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:   "rotate ACCESS_KEY_ID",
		Short: "Make a key that replaces this one, print it, and have the old one end",
		Long: "Make a key that replaces this one, print it, and have the old one end after the overlap.\n" +
			"Our own agent fetches the new key of its host by itself. admin.env and host.env get theirs. Everybody else is to be given the new key.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := controlplane.RotateKey(cmd.Context(), *dir, args[0], overlap)
			if err != nil {
				return failed{err}
			}
			return printKey(cmd.OutOrStdout(), k)
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", defaultOverlap, "how long the old key counts beside the new one")
	return cmd
}

func revokeKey(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ACCESS_KEY_ID",
		Short: "End a key at once: what is signed with it is refused, and the sockets that were opened with it are closed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := controlplane.RevokeKey(cmd.Context(), *dir, args[0])
			if err != nil {
				return failed{err}
			}
			if k.Successor != "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s, which replaces it, still counts: revoke that one too if its holder is not to be trusted\n", k.Successor)
			}
			return err
		},
	}
}
