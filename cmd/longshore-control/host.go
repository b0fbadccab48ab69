package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
)

func hostCommand() *cobra.Command {
	var dir, cluster, caFile string
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Settings of one host at a time, for agents that can't join with a token",
		Args:  cobra.NoArgs,
	}
	add := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a key of one host's own and print the host's ecs.config",
		Long: "Make a key of one host's own and print the host's ecs.config, which is a secret: put it to /etc/ecs/ecs.config of that host, with mode 0600.\n" +
			"The key speaks for the first container instance that it registers, and for no other. Hosts with Longshore's agent are better joined by a token:\n" +
			"see longshore-control token. An unmodified amazon-ecs-agent finds the certificate's CA in the host's own store of trusted ones,\n" +
			"and verifies a certificate on port 443 only.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := controlplane.CreateHost(cmd.Context(), dir, args[0])
			if err != nil {
				return failed{err}
			}
			if caFile != "" && h.CA != "" {
				if err := os.WriteFile(caFile, []byte(h.CA), 0o644); err != nil { //nolint:gosec // everybody may see it
					return failed{err}
				}
			}
			return printHost(cmd.OutOrStdout(), h, cluster)
		},
	}
	cmd.AddCommand(add)
	f := add.Flags()
	f.StringVar(&dir, "data-dir", "/var/lib/longshore", "the data directory that the control plane runs with")
	f.StringVar(&cluster, "cluster", "default", "the cluster of the host")
	f.StringVar(&caFile, "ca-file", "", "file to write the CA to that the host is to trust, PEM; it is no secret")
	return cmd
}

// hostCA is where the host has the CA.
const hostCA = "/etc/ecs/longshore-ca.pem"

func printHost(out io.Writer, h controlplane.HostSettings, cluster string) error {
	text := fmt.Sprintf("ECS_CLUSTER=%s\nECS_BACKEND_HOST=%s\nAWS_DEFAULT_REGION=%s\nAWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n",
		cluster, h.URL, h.Region, h.AccessKeyID, h.SecretAccessKey)
	if h.CA != "" {
		text += "AWS_CA_BUNDLE=" + hostCA + "\n"
	}
	_, err := io.WriteString(out, text)
	return err
}
