package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/store"
)

func keyCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make, list and delete access keys of the control plane that runs on this machine",
		Args:  cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", "/var/lib/longshore", "the data directory that it runs with")

	var role string
	var enrolment bool
	create := &cobra.Command{
		Use:   "create --role admin|readonly|host",
		Short: "Make a key and print it, as lines to be put into an environment",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			k, err := controlplane.CreateKey(cmd.Context(), dir, store.Role(role), enrolment)
			if err != nil {
				return failed{err}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n", k.AccessKeyID, k.SecretAccessKey)
			return err
		},
	}
	create.Flags().StringVar(&role, "role", "", "admin, readonly or host")
	create.Flags().BoolVar(&enrolment, "enrolment", false, "a host's key that may register any number of container instances")
	if err := create.MarkFlagRequired("role"); err != nil {
		panic(err)
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the keys, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := controlplane.Keys(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ACCESS KEY ID\tROLE\tENROLMENT\tCREATED")
			for _, k := range keys {
				fmt.Fprintf(table, "%s\t%s\t%t\t%s\n", k.AccessKeyID, k.Role, k.Enrolment, k.Created.UTC().Format(time.RFC3339))
			}
			return table.Flush()
		},
	}
	remove := &cobra.Command{
		Use:   "delete ACCESS_KEY_ID",
		Short: "Delete a key: what is signed with it is refused from then on",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := controlplane.DeleteKey(cmd.Context(), dir, args[0]); err != nil {
				return failed{err}
			}
			return nil
		},
	}
	cmd.AddCommand(create, list, remove)
	return cmd
}
