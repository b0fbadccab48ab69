package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/api"
)

// explainCommand asks a running control plane why things are as they are, or what a change would do.
func explainCommand() *cobra.Command {
	var (
		asking controlplane.Asking
		asJSON bool
		in     api.ExplainInput
	)
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Ask the running control plane why a service, task or host is as it is, or what a change would do",
		Args:  cobra.NoArgs,
	}
	f := cmd.PersistentFlags()
	askingFlags(f, &asking, &asJSON)
	f.StringVar(&in.Cluster, "cluster", "", "the cluster's name (default: default)")

	run := func(kind string, read func(args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			in.Kind = kind
			if err := read(args); err != nil {
				return err
			}
			answer, err := asking.Explain(cmd.Context(), in)
			return show(cmd, answer, err, asJSON)
		}
	}
	none := func([]string) error { return nil }
	hosts := func(args []string) error { in.ContainerInstances = args; return nil }
	add := func(use, short string, args cobra.PositionalArgs, kind string, read func([]string) error) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: args, RunE: run(kind, read)}
		cmd.AddCommand(c)
		return c
	}
	add("service NAME", "Where a service runs, and why not elsewhere", cobra.ExactArgs(1), "service", func(args []string) error { in.Service = args[0]; return nil })
	add("task ID", "What a task does, and what it waits for", cobra.ExactArgs(1), "task", func(args []string) error { in.Task = args[0]; return nil })
	add("host ID", "What a container instance has, and what it takes", cobra.ExactArgs(1), "host", hosts)
	add("drain ID...", "What draining container instances would stop, start elsewhere and leave", cobra.MinimumNArgs(1), "drain", hosts)

	var constraints, strategies []string
	place := add("placement --task-definition FAMILY", "Where run-task would place tasks", cobra.NoArgs, "placement", func([]string) error {
		for _, c := range constraints {
			kind, expression, _ := strings.Cut(c, ":")
			in.PlacementConstraints = append(in.PlacementConstraints, api.ExplainPart{Type: kind, Expression: expression})
		}
		for _, s := range strategies {
			kind, field, _ := strings.Cut(s, ":")
			in.PlacementStrategy = append(in.PlacementStrategy, api.ExplainPart{Type: kind, Field: field})
		}
		return nil
	})
	place.Flags().StringVar(&in.TaskDefinition, "task-definition", "", "family, or family:revision")
	place.Flags().IntVar(&in.Count, "count", 1, "how many tasks")
	place.Flags().StringVar(&in.Group, "group", "", "the tasks' group")
	place.Flags().StringArrayVar(&constraints, "constraint", nil, "a placement constraint, such as 'memberOf:attribute:env==prod' or distinctInstance; may be given again")
	place.Flags().StringArrayVar(&strategies, "strategy", nil, "a placement strategy, such as spread:instanceId, binpack:memory or random; may be given again")
	place.Flags().StringArrayVar(&in.Subnets, "subnet", nil, "a subnet for a task in network mode awsvpc; may be given again")
	place.Flags().StringArrayVar(&in.SecurityGroups, "security-group", nil, "a security group for it; may be given again")
	required(place, "task-definition")

	var desired int32
	update := add("update-service NAME", "What an update of a service would stop, start and leave without room", cobra.ExactArgs(1), "update-service", none)
	update.RunE = run("update-service", func(args []string) error {
		in.Service = args[0]
		if update.Flags().Changed("desired-count") {
			in.DesiredCount = &desired
		}
		return nil
	})
	update.Flags().StringVar(&in.TaskDefinition, "task-definition", "", "family, or family:revision")
	update.Flags().Int32Var(&desired, "desired-count", 0, "how many tasks the service would want")
	update.Flags().BoolVar(&in.ForceNewDeployment, "force-new-deployment", false, "replace the tasks though nothing changed")

	var attributes []string
	put := add("put-attributes --attribute NAME=VALUE ID...", "What other attributes of container instances would stop, start and leave without room", cobra.MinimumNArgs(1), "put-attributes", func(args []string) error {
		in.ContainerInstances, in.Attributes = args, map[string]*string{}
		for _, a := range attributes {
			name, value, ok := strings.Cut(a, "=")
			if name == "" {
				return fmt.Errorf("--attribute %q is not like env=prod", a)
			}
			if in.Attributes[name] = &value; !ok {
				in.Attributes[name] = nil
			}
		}
		return nil
	})
	put.Flags().StringArrayVar(&attributes, "attribute", nil, "name=value; a name alone takes the attribute away; may be given again")
	required(put, "attribute")
	return cmd
}

type flags interface {
	StringVar(p *string, name, value, usage string)
	BoolVar(p *bool, name string, value bool, usage string)
}

// askingFlags are those of the commands that ask a running control plane.
func askingFlags(f flags, asking *controlplane.Asking, asJSON *bool) {
	f.StringVar(&asking.Endpoint, "endpoint", "http://127.0.0.1:8480", "URL of the control plane")
	f.StringVar(&asking.DataDir, "data-dir", "/var/lib/longshore", "directory with the administrator's key, unless AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set")
	f.StringVar(&asking.CA, "ca", "", "file with the CA of the control plane's certificate, PEM")
	f.BoolVar(asJSON, "json", false, "answer in JSON")
}

func required(cmd *cobra.Command, flag string) {
	if err := cmd.MarkFlagRequired(flag); err != nil {
		panic(err)
	}
}

// show prints an answer of the control plane: its text, or all of it as it is.
func show(cmd *cobra.Command, answer []byte, err error, asJSON bool) error {
	if err != nil {
		return failed{err}
	}
	if asJSON {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(answer))
		return err
	}
	var told struct {
		Text []string `json:"text"`
	}
	if err := json.Unmarshal(answer, &told); err != nil {
		return failed{fmt.Errorf("read the answer: %w", err)}
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), strings.Join(told.Text, "\n"))
	return err
}
