package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

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
		Use: "explain [TASK]", Short: "What a task waits for or failed by, what that means, what to do, and its timeline", Args: cobra.MaximumNArgs(1),
		Long: "Explain a task of this host, which is named by its ARN, its id, or the beginning of its id; or the tasks of a family, family:revision or\n" +
			"service; or, without a name, every task that does not run as it should. While no agent runs, its state and its log are read.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.explain(cmd, stdout, strings.Join(args, "")) },
	})
}

// explain asks the agent about the tasks of a name, or about one, or reads what it has left.
func (a *asking) explain(cmd *cobra.Command, stdout io.Writer, name string) error {
	cfg, _, err := config.Load(config.Options{File: a.file})
	if err != nil {
		return fmt.Errorf("the configuration: %w", err)
	}
	var all local.Explanations
	var absent *local.NotRunningError
	err = (local.Client{Dir: cfg.DataDir}).Call(cmd.Context(), http.MethodGet, "/v1/explanations?"+url.Values{"name": {name}}.Encode(), nil, &all)
	switch {
	case errors.As(err, &absent) && !errors.Is(err, os.ErrPermission):
		left, leftErr := agent.ExplainOffline(cfg, name, time.Now())
		if leftErr != nil {
			return errors.Join(absent, leftErr)
		}
		all = *left
	case err != nil:
		return err
	case name != "" && len(all.Tasks) == 0:
		return a.get(cmd, stdout, "/v1/explain?"+url.Values{"task": {name}}.Encode(), &local.Explanation{})
	}
	if a.asJSON {
		return printJSON(stdout, &all)
	}
	return all.Print(stdout)
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
