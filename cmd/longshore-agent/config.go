package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
)

func newConfig(stdout, stderr io.Writer) *cobra.Command {
	var a asking
	var all bool
	cmd := a.flags(&cobra.Command{
		Use: "config", Short: "Print every setting that is set, its value and where it comes from", Args: cobra.NoArgs,
		Long: "Print the settings as an agent that is started now has them: each one's effective value and its source, with the line of the file. Secrets are hidden.\n" +
			"What is not understood goes to standard error. The exit status is 5 if an agent would not start with this configuration.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(config.Options{File: a.file})
			for _, w := range warnings {
				fmt.Fprintln(stderr, "warning:", w)
			}
			if err != nil {
				return &agent.TerminalError{Err: err}
			}
			shown := cfg.Settings[:0:0]
			for _, s := range cfg.Settings {
				if all || s.Source != "default" || s.Note != "" {
					shown = append(shown, s)
				}
			}
			if a.asJSON {
				return printJSON(stdout, shown)
			}
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			for _, s := range shown {
				note := ""
				if s.Note != "" {
					note = " (" + s.Note + ")"
				}
				fmt.Fprintf(table, "%s\t%s\t%s%s\n", s.Name, s.Value, s.Source, note)
			}
			return table.Flush()
		},
	})
	cmd.Flags().BoolVar(&all, "all", false, "those that nobody set too, with their defaults")
	return cmd
}
