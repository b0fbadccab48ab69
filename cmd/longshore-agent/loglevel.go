package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
)

func newLogLevel(stdout io.Writer) *cobra.Command {
	var a asking
	return a.flags(&cobra.Command{
		Use: "log-level [LEVEL]", Short: "Show what the agent of this host logs, or change it while it runs", Args: cobra.MaximumNArgs(1), ValidArgs: []string{"crit", "error", "warn", "info", "debug", "none"},
		Long: "Show the least level that is logged, to the file and to the journal, or set both to crit, error, warn, info, debug or none. It holds until the agent is started\n" +
			"again or told to read its configuration (systemctl reload longshore-agent); ECS_LOGLEVEL in " + config.DefaultFile + " is what lasts.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var now local.LogLevel
			if len(args) == 0 {
				return a.get(cmd, stdout, "/v1/log-level", &now)
			}
			cfg, _, err := config.Load(config.Options{File: a.file})
			if err != nil {
				return fmt.Errorf("the configuration: %w", err)
			}
			if err := (local.Client{Dir: cfg.DataDir}).Call(cmd.Context(), http.MethodPost, "/v1/log-level", map[string]string{"level": args[0]}, &now); err != nil {
				return err
			}
			return now.Print(stdout)
		},
	})
}
