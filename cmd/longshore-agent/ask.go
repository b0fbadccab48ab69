package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/doctor"
	"github.com/longshore-project/longshore/agent/local"
)

// asking is what the commands share that ask the running agent.
type asking struct {
	file   string
	asJSON bool
}

func (a *asking) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.file, "config", "", "environment file (default "+config.DefaultFile+")")
	cmd.Flags().BoolVar(&a.asJSON, "json", false, "answer in JSON")
	return cmd
}

// get asks the agent, and prints its answer in JSON or as out does.
func (a *asking) get(cmd *cobra.Command, stdout io.Writer, path string, out interface{ Print(io.Writer) error }) error {
	cfg, _, err := config.Load(config.Options{File: a.file})
	if err != nil {
		return fmt.Errorf("the configuration: %w", err)
	}
	if err := (local.Client{Dir: cfg.DataDir}).Call(cmd.Context(), http.MethodGet, path, nil, out); err != nil {
		return err
	}
	if a.asJSON {
		return printJSON(stdout, out)
	}
	return out.Print(stdout)
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newStatus(stdout io.Writer) *cobra.Command {
	var a asking
	return a.flags(&cobra.Command{
		Use: "status", Short: "Whom the agent of this host is connected to, and what the host has", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.get(cmd, stdout, "/v1/status", &local.Status{}) },
	})
}

func newTasks(stdout io.Writer) *cobra.Command {
	var a asking
	return a.flags(&cobra.Command{
		Use: "tasks", Short: "The tasks of this host", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.get(cmd, stdout, "/v1/tasks", &local.Tasks{}) },
	})
}

func newExplain(stdout io.Writer) *cobra.Command {
	var a asking
	return a.flags(&cobra.Command{
		Use: "explain TASK", Short: "What a task waits for and why, its errors and its timeline", Args: cobra.ExactArgs(1),
		Long: "Explain a task of this host, which is named by its ARN, its id, or the beginning of its id.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.get(cmd, stdout, "/v1/explain?"+url.Values{"task": args}.Encode(), &local.Explanation{})
		},
	})
}

func newDoctor(stdout io.Writer) *cobra.Command {
	var a asking
	var opt agent.Options
	cmd := a.flags(&cobra.Command{
		Use: "doctor", Short: "Look at what the agent needs of this host, and say how to mend what is not well", Args: cobra.NoArgs,
		Long: "Look at the engine, disks, permissions, clock, kernel and the way to the control plane. Nothing is changed, and no agent needs to run.\n" +
			"The exit status is 0 if nothing fails, 1 if something does, and 5 if the configuration can't be read.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			opt.Config.File = a.file
			report, err := agent.Doctor(cmd.Context(), opt)
			if err != nil {
				return err
			}
			if a.asJSON {
				err = printJSON(stdout, report)
			} else {
				err = report.Print(stdout)
			}
			if err == nil && report.Failed > 0 {
				err = doctor.ErrFailed
			}
			return err
		},
	})
	cmd.Flags().BoolVarP(&opt.AnyTLS, "insecure", "k", false, "accept any TLS certificate of the control plane")
	return cmd
}
