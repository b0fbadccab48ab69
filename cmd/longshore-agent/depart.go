package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
)

func newDepart(stderr io.Writer) *cobra.Command {
	var file string
	var atShutdown bool
	cmd := &cobra.Command{
		Use: "depart", Short: "Stop this host's tasks in order, as before a shutdown", Args: cobra.NoArgs,
		Long: "Have the running agent make this host DRAINING and stop its tasks: first those of replica services and standalone ones, then, when all of\n" +
			"them have stopped, the daemons; it takes at most ECS_SHUTDOWN_TIMEOUT. longshore-drain.service calls it at each shutdown. After the next\n" +
			"boot the host is ACTIVE again by itself, unless an operator had drained it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if atShutdown && !goingDown(cmd.Context()) {
				return nil
			}
			cfg, _, err := config.Load(config.Options{File: file})
			if err != nil {
				return fmt.Errorf("the configuration: %w", err)
			}
			var out local.Departed
			if err := (local.Client{Dir: cfg.DataDir}).Call(cmd.Context(), http.MethodPost, "/v1/depart", nil, &out); err != nil {
				if atShutdown { // there is nobody to be asked, and a shutdown is not to be held up by that
					_, _ = fmt.Fprintln(stderr, "the tasks are not stopped in order:", err)
					return nil
				}
				return err
			}
			if out.Problem != "" {
				return errors.New(out.Problem)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "environment file (default "+config.DefaultFile+")")
	cmd.Flags().BoolVar(&atShutdown, "at-shutdown", false, "do nothing unless systemd is stopping the whole system")
	return cmd
}

// goingDown says whether systemd is stopping the whole system.
func goingDown(ctx context.Context) bool {
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output() // it fails for whatever is not "running"
	return strings.TrimSpace(string(out)) == "stopping"
}
