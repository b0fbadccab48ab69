package main

import (
	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/api"
)

// sizingCommand asks a running control plane what containers used beside what they reserve.
func sizingCommand() *cobra.Command {
	var (
		asking controlplane.Asking
		asJSON bool
		in     api.SizingInput
	)
	cmd := &cobra.Command{
		Use:   "sizing",
		Short: "What containers used beside what they reserve, and what they should reserve",
		Long: "Print of each container of each service the 50th and 95th percentile and the maximum of cpu and memory in the last day, beside its\n" +
			"reservation, and a reservation to choose with the reasons. The control plane keeps this in memory: a replica knows the instances whose\n" +
			"telemetry it holds, since its start.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := asking.Sizing(cmd.Context(), in)
			return show(cmd, answer, err, asJSON)
		},
	}
	f := cmd.Flags()
	askingFlags(f, &asking, &asJSON)
	f.StringVar(&in.Cluster, "cluster", "", "the cluster's name (default: default)")
	f.StringVar(&in.Service, "service", "", "only this service")
	return cmd
}
