package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
)

func caCommand() *cobra.Command {
	var dir string
	var force bool
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Show and replace the own CA of the control plane that runs on this machine",
		Args:  cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&dir, "data-dir", "/var/lib/longshore", runsWith)
	rotate := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the own CA, when all hosts trust the next one",
		Long: "Replace the own CA, when all hosts trust the next one.\n\n" +
			"The next CA is announced: our agents are told over the connections that they have, save it and say so. When all of them have, it signs; nobody loses a connection.\n" +
			"Until then this command names the hosts that do not trust it yet, unmodified agents among them, which can't be told, and changes nothing else; ask again, as often as you like.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := controlplane.RotateCA(cmd.Context(), dir, force)
			if err != nil {
				return failed{err}
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), "The own CA is replaced. Give clients its certificate, tls/ca.pem in the data directory. Tokens from before pin the old one: make others. Make a backup: the ones before have the old CA."); err != nil {
				return err
			}
			return printCA(cmd.OutOrStdout(), a, false)
		},
	}
	rotate.Flags().BoolVar(&force, "force", false, "replace it whoever does not trust the next one: these hosts do not connect again before they are given its certificate")
	var certificate bool
	show := &cobra.Command{
		Use:   "show",
		Short: "Show the own CA, when it ends, and while it is replaced which hosts do not trust the next one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := controlplane.ShowCA(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			return printCA(cmd.OutOrStdout(), a, certificate)
		},
	}
	show.Flags().BoolVar(&certificate, "pem", false, "print what hosts and clients are to trust, and nothing else")
	cmd.AddCommand(rotate, show, &cobra.Command{
		Use:   "abandon",
		Short: "Forget the next CA that was announced",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := controlplane.AbandonCA(cmd.Context(), dir)
			if err != nil {
				return failed{err}
			}
			return printCA(cmd.OutOrStdout(), a, false)
		},
	})
	return cmd
}

func printCA(out io.Writer, a controlplane.Authorities, certificate bool) error {
	if certificate {
		_, err := io.WriteString(out, a.Certificate)
		return err
	}
	_, err := fmt.Fprintf(out, "signs  %s, until %s\n", a.Signs, a.Ends.UTC().Format(time.RFC3339))
	if a.EndsSoon {
		_, err = fmt.Fprintln(out, "       It ends soon: longshore-control ca rotate")
	}
	if a.Next != "" {
		_, err = fmt.Fprintf(out, "next   %s, which %d hosts do not trust yet\n", a.Next, len(a.Lacking))
		for _, host := range a.Lacking {
			_, err = fmt.Fprintln(out, "       "+host)
		}
	}
	return err
}
