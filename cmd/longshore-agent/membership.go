package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
)

func newJoin(stdout, stderr io.Writer) *cobra.Command {
	opt := agent.JoinOptions{Options: agent.Options{Version: release(), Hash: hash(), License: license, Stderr: stderr}, Out: stdout}
	cmd := &cobra.Command{
		Use: "join URL --token TOKEN", Short: "Make this host a container instance of a control plane of Longshore", Args: cobra.ExactArgs(1),
		Long: "Join the control plane at URL with a token of its \"longshore-control token create\". In turn: the name, the port, the certificate against the CA that the token pins,\n" +
			"the clock, the key and the cluster, the engine, another agent, the ports. Then " + config.DefaultFile + " is written (mode 0600; what it has stays), the agent is started by\n" +
			"systemd, and waited for until every daemon that belongs here runs. What fails says what to do, and the same command can be run again.",
		RunE: func(cmd *cobra.Command, args []string) error {
			opt.URL = args[0]
			return agent.Join(cmd.Context(), opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.Token, "token", "", "the token")
	f.StringVar(&opt.TokenFile, "token-file", "", "file with the token, which is removed when the host has joined; for user data")
	f.StringVar(&opt.Cluster, "cluster", "default", "cluster to join")
	f.StringVar(&opt.Proxy, "https-proxy", "", "URL of a proxy through which the control plane is reached; written to ecs.config (default that of HTTPS_PROXY, which is not written)")
	f.StringVar(&opt.CA, "ca", "", "file with the CA, PEM, of a reverse proxy that has a certificate of its own, in place of the token's pin")
	f.BoolVar(&opt.Force, "force", false, "overrule settings for another control plane or cluster")
	f.BoolVar(&opt.NoStart, "no-start", false, "write the settings, and don't start the agent")
	f.BoolVar(&opt.Foreground, "foreground", false, "be the agent from then on, for hosts without systemd")
	f.DurationVar(&opt.Wait, "wait", 5*time.Minute, "how long the agent and its daemons are waited for")
	f.StringVar(&opt.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	cmd.MarkFlagsOneRequired("token", "token-file")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	cmd.MarkFlagsMutuallyExclusive("no-start", "foreground")
	return cmd
}

func newLeave(stdout, stderr io.Writer) *cobra.Command {
	opt := agent.LeaveOptions{Options: agent.Options{Version: release(), Hash: hash(), License: license, Stderr: stderr}, Out: stdout}
	cmd := &cobra.Command{
		Use: "leave", Short: "Take this host out of its control plane, and the agent's traces off it", Args: cobra.NoArgs,
		Long: "Leave: the control plane moves the tasks away, daemons last; the container instance is deregistered, its key revoked; the agent is ended and kept from starting;\n" +
			"the tasks' containers, the agent's rules, addresses, namespaces and control groups, its state, and what join wrote to " + config.DefaultFile + " are removed.\n" +
			"What stays is said. It can be repeated, also after it was killed.",
		RunE: func(cmd *cobra.Command, _ []string) error { return agent.Leave(cmd.Context(), opt) },
	}
	f := cmd.Flags()
	f.BoolVar(&opt.Force, "force", false, "end the tasks as they are, without a drain")
	f.BoolVar(&opt.Alone, "without-control-plane", false, "leave a control plane that is not there any more: nothing is drained or deregistered")
	f.DurationVar(&opt.Wait, "wait", time.Hour, "how long the drain may take")
	f.StringVar(&opt.Config.File, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

func newCleanInstance(stdout, stderr io.Writer) *cobra.Command {
	opt := agent.CleanOptions{Options: agent.Options{Version: release(), Hash: hash(), License: license, Stderr: stderr}, Out: stdout}
	cmd := &cobra.Command{
		Use: "clean-instance", Short: "Take out of this host what makes it a container instance, before an image is taken of its disk", Args: cobra.NoArgs,
		Long: "Take out this host's identity: the registered container instance and its key, the agent's state and logs, the tasks' containers (those that run are\n" +
			"stopped), rules, addresses, namespaces and control groups. Each machine that is made from the image registers as one of its own. The images of the\n" +
			"engine, " + config.DefaultFile + " and the data of volumes stay. It refuses while an agent runs, says what it removes, and can be repeated, also after it was killed.",
		RunE: func(cmd *cobra.Command, _ []string) error { return agent.CleanInstance(cmd.Context(), opt) },
	}
	f := cmd.Flags()
	f.BoolVar(&opt.Settings, "config", false, "remove the configuration, too: "+config.DefaultFile+" and the control plane's CA beside it")
	f.BoolVar(&opt.MachineID, "machine-id", false, "empty /etc/machine-id, so that the first boot of each machine makes its own; hosts outside EC2 are told apart by it")
	f.BoolVar(&opt.WithoutEngine, "without-engine", false, "go on where the engine does not answer, with the tasks' containers left; the new instances leave them alone")
	f.StringVar(&opt.Options.Config.File, "config-file", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}
