package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
)

func sealCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Replace the key that seals secrets in the store of the control plane that runs on this machine",
		Args:  cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", "/var/lib/longshore", runsWith)
	cmd.AddCommand(&cobra.Command{
		Use:   "rotate",
		Short: "Make a new seal key, seal everything with it, and forget the old one",
		Long: "Make a new seal key, seal everything with it, and forget the old one.\n\n" +
			"The file of the seal key has both meanwhile, so that whatever is interrupted goes on when it is asked for again. Replicas that have a copy of the file are to be given\n" +
			"the new key before: they are named, and nothing else is changed, until they have it. Make a backup afterwards: the ones before have the old key with the old records.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := controlplane.RotateSeal(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			out := cmd.OutOrStdout()
			_, err = fmt.Fprintf(out, "Everything is sealed with the key %s; %d records were sealed again.\n", done.Key, done.Renewed)
			if len(done.Damaged) > 0 {
				_, err = fmt.Fprintf(out, "These opened with neither key before either, and are as they were: %s\n", strings.Join(done.Damaged, ", "))
			}
			if len(done.Others) > 0 {
				_, err = fmt.Fprintf(out, "These replicas have the old key in their file still, which opens nothing any more; copy this one over theirs: %s\n", strings.Join(done.Others, ", "))
			}
			return err
		},
	})
	return cmd
}
