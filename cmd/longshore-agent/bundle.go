package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
)

func newBundle(stdout, stderr io.Writer) *cobra.Command {
	opt := agent.BundleOptions{Options: agent.Options{Version: release(), Hash: hash()}}
	var output string
	cmd := &cobra.Command{
		Use: "bundle", Short: "Write an archive with what somebody who helps with this host needs, without secrets", Args: cobra.NoArgs,
		Long: "Write a tar archive, compressed with gzip: settings with their sources, doctor's report, the agent's state and tasks, why tasks do not run, the kernel,\n" +
			"the engine, network rules of the host and of tasks, units, and the last log lines. No agent and no engine needs to run; what can't be had is\n" +
			"noted in the archive. Secrets, variables of containers and what they have printed are left out; look at it before you send it all the same.\n" +
			"With --output - it goes to standard output, for a host whose disk is full: ssh HOST longshore-agent bundle --output - > bundle.tar.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, _ := os.Hostname()
			opt.Name = fmt.Sprintf("longshore-%s-%s", host, time.Now().UTC().Format("20060102T150405Z"))
			opt.Out = stdout
			if output == "" {
				output = opt.Name + ".tar.gz"
			}
			if output == "-" {
				return bundled(agent.Bundle(cmd.Context(), opt))(stderr, "standard output")
			}
			f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return fmt.Errorf("%w; name another file, or - for standard output, with --output", err)
			}
			opt.Out = f
			failed, err := agent.Bundle(cmd.Context(), opt)
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(output)
				err = fmt.Errorf("write %s: %w; with --output - it goes to standard output", output, err)
			}
			return bundled(failed, err)(stderr, output)
		},
	}
	cmd.Flags().StringVar(&output, "output", "", "file to write, which must not exist, or - for standard output (default longshore-HOST-TIME.tar.gz)")
	cmd.Flags().DurationVar(&opt.Since, "since", 24*time.Hour, "how far back log lines go")
	cmd.Flags().StringVar(&opt.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

// bundled tells what was written.
func bundled(failed int, err error) func(stderr io.Writer, where string) error {
	return func(stderr io.Writer, where string) error {
		if err != nil {
			return err
		}
		if failed > 0 {
			_, err = fmt.Fprintf(stderr, "%s: written; %d of its files could not be made, see its contents.txt\n", where, failed)
			return err
		}
		_, err = fmt.Fprintf(stderr, "%s: written\n", where)
		return err
	}
}
