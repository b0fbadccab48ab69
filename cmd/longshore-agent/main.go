// Command longshore-agent is the container agent of one host: it registers the host with an ECS control plane, and runs
// the tasks that the control plane assigns to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/engine/policy"
	"github.com/longshore-project/longshore/internal/nodump"
	"github.com/longshore-project/longshore/internal/version"
)

func main() {
	if err := nodump.Set(); err != nil {
		fmt.Fprintln(os.Stderr, "longshore-agent:", err)
	}
	reload := hangups()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, reload)
	stop()
	os.Exit(code)
}

// hangups are the SIGHUPs that come from now on; of several that nobody has looked at yet there is one.
func hangups() <-chan struct{} {
	signals, out := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for range signals {
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out
}

// startOver goes on as a new process image with the same id and command line. It returns only if it can't.
func startOver() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	self = strings.TrimSuffix(self, " (deleted)") // an upgrade has put another there
	return fmt.Errorf("start over as %s: %w", self, syscall.Exec(self, os.Args, os.Environ()))
}

// run runs a command line and returns the exit code: 0, 1 for an error that a restart may heal, 5 for one that it does not.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, reload <-chan struct{}) int {
	root := newRoot(stdout, stderr, reload)
	root.SetArgs(aliases(args))
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if errors.Is(err, agent.ErrReload) {
		err = startOver()
	}
	fmt.Fprintln(stderr, "longshore-agent:", err)
	var terminal *agent.TerminalError
	if errors.As(err, &terminal) {
		return 5
	}
	return 1
}

// aliases turns the flags of the Amazon ECS agent into commands.
func aliases(args []string) []string {
	if len(args) == 0 {
		return args
	}
	switch strings.TrimLeft(args[0], "-") {
	case "version", "license", "healthcheck":
		if strings.HasPrefix(args[0], "-") {
			return append([]string{strings.TrimLeft(args[0], "-")}, args[1:]...)
		}
	}
	return args
}

func newRoot(stdout, stderr io.Writer, reload <-chan struct{}) *cobra.Command {
	root := &cobra.Command{
		Use: "longshore-agent", Short: "The container agent of one host", SilenceUsage: true, SilenceErrors: true,
		Long: "longshore-agent registers this host with an ECS control plane and runs the tasks that are assigned to it.\n\n" +
			"EXIT STATUS\n  0  ended by a signal; the containers stay\n  1  an error that starting again may heal\n  5  an error that it does not: the configuration or the registration is refused\n",
	}
	root.AddCommand(newRun(stderr, reload), newVersion(stdout), newLicense(stdout), newHealthcheck(), newPrepare(stdout), newCleanup(stdout), newSettings(stdout), newConfig(stdout, stderr), newPolicy(stdout),
		newStatus(stdout), newTasks(stdout), newExplain(stdout), newDoctor(stdout), newGC(stdout), newBundle(stdout, stderr), newLogLevel(stdout), newLogs(stdout), newExec(stdout, stderr), newJoin(stdout, stderr), newLeave(stdout, stderr), newCleanInstance(stdout, stderr), newDepart(stderr))
	return root
}

func newRun(stderr io.Writer, reload <-chan struct{}) *cobra.Command {
	opt := agent.Options{Version: release(), Hash: hash(), License: license, Stderr: stderr, Reload: reload, Logind: depart.OpenLogind}
	cmd := &cobra.Command{
		Use: "run", Short: "Run the agent until a signal ends it", Args: cobra.NoArgs,
		Long: "Run the agent. It is configured by the environment and by " + config.DefaultFile + "; \"longshore-agent settings\" lists every setting.\n" +
			"SIGTERM and SIGINT end the agent and leave every container running. SIGHUP has it read its configuration again.",
		RunE: func(cmd *cobra.Command, _ []string) error { return agent.Run(cmd.Context(), opt) },
	}
	cmd.Flags().StringVar(&opt.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	cmd.Flags().StringVar(&opt.LogLevel, "loglevel", "", "least level that is logged, in place of ECS_LOGLEVEL")
	cmd.Flags().BoolVarP(&opt.AnyTLS, "insecure", "k", false, "accept any TLS certificate of the control plane")
	cmd.Flags().BoolVar(&opt.NoMetadata, "blackhole-ec2-metadata", false, "never ask the instance metadata service")
	return cmd
}

func newVersion(stdout io.Writer) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintf(stdout, "Longshore Agent - v%s (%s)\n", release(), hash())
		return err
	}}
}

func newLicense(stdout io.Writer) *cobra.Command {
	return &cobra.Command{Use: "license", Short: "Print the license", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintln(stdout, license)
		return err
	}}
}

func newSettings(stdout io.Writer) *cobra.Command {
	return &cobra.Command{Use: "settings", Short: "List every setting of ecs.config with its type, default, bounds and meaning", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		for i := range config.Knobs {
			k := &config.Knobs[i]
			line := fmt.Sprintf("%s\n    %s", k.Name, k.Type)
			if k.Bounds != "" {
				line += ", " + k.Bounds
			}
			if k.Default != "" {
				line += "; default " + k.Default
			}
			line += "\n    " + k.Meaning
			if k.Support != config.Supported {
				line += "\n    " + string(k.Support)
			}
			if _, err := fmt.Fprintln(stdout, line); err != nil {
				return err
			}
		}
		return nil
	}}
}

func newPolicy(stdout io.Writer) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "The host's own word on what tasks may ask for"}
	var check agent.PolicyCheck
	run := &cobra.Command{
		Use: "check", Short: "Check the policy file, and say what it would deny of what runs now", Args: cobra.NoArgs,
		Long: "Read the policy, judge every running container of a task by it, and print what would be denied or warned about, with the rule. Nothing is changed.\n" +
			"The exit status is 0 if nothing would be denied, and 1 if something would, or if the policy has a mistake in it.",
		RunE: func(cmd *cobra.Command, _ []string) error { return check.Run(cmd.Context(), stdout) },
	}
	run.Flags().StringVar(&check.File, "file", "", "policy file (default the configured one, "+policy.DefaultFile+")")
	run.Flags().BoolVar(&check.All, "all", false, "every container of the engine, not only those of tasks")
	run.Flags().StringVar(&check.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	cmd.AddCommand(run)
	return cmd
}

func newCleanup(stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "cleanup", Short: "Remove what the agent has added to this host's network", Args: cobra.NoArgs,
		Long: "Remove the address 169.254.170.2 and the nftables table \"inet longshore\", which stay when the agent ends so that containers ask nobody else.\n" +
			"It is for hosts that the agent is removed from. It can be repeated, and refuses while an agent runs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.Cleanup(cmd.Context(), func(line string) { fmt.Fprintln(stdout, line) })
		},
	}
}

func newPrepare(stdout io.Writer) *cobra.Command {
	var opt agent.Options
	cmd := &cobra.Command{
		Use: "prepare", Short: "Make this host ready for an agent that is about to start", Args: cobra.NoArgs,
		Long: "Load the kernel's modules, make the agent's directories, and say what the kernel lacks. The unit calls it before each start; it can be repeated.\n" +
			"Where agents have died one after the other it waits, up to a minute, before it lets the next one start.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return agent.Prepare(cmd.Context(), opt, func(line string) { fmt.Fprintln(stdout, line) })
		},
	}
	cmd.Flags().StringVar(&opt.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

func newHealthcheck() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Exit with 0 if the agent on this host answers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := config.Load(config.Options{File: file})
			if err != nil {
				return fmt.Errorf("the configuration: %w", err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 25*time.Second)
			defer cancel()
			return healthcheck(ctx, "http://"+cfg.HealthcheckHost+":51678/v1/metadata")
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

func healthcheck(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("the agent does not answer: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answers %s", response.Status)
	}
	return nil
}

// license is what "license" prints and introspection serves.
const license = "Longshore is licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0"

// release is the version without the "v" that tags have.
func release() string { return strings.TrimPrefix(version.Version, "v") }

// hash names the source that the binary was built from.
func hash() string {
	id := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				id = s.Value
			}
		}
	}
	if len(id) > 8 {
		id = id[:8]
	}
	if id == "" {
		return "unknown"
	}
	return id
}
