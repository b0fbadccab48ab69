// Command victim is the agent that storms kill: the whole of it, as longshore-agent runs it, on a container engine behind a
// socket, and with short intervals where there are no settings for them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest/remote"
)

func main() {
	socket := flag.String("engine", "", "unix socket of the container engine")
	root := flag.String("root", "", "of the host")
	life := flag.String("life", "1.0.0", "which life of the agent this is: its version")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := agent.Run(ctx, agent.Options{
		Config: config.Options{Environ: os.Environ(), File: filepath.Join(*root, "ecs.config")}, Version: *life, Hash: "12345678", Root: *root,
		Introspect: "127.0.0.1:0", Runtime: remote.Dial(*socket), EngineRetry: 20 * time.Millisecond,
		Engine: func(c *engine.Config) {
			c.RelistInterval, c.ListTimeout = 200*time.Millisecond, 700*time.Millisecond
			c.CreateTimeout, c.StartTimeout = 1500*time.Millisecond, 1500*time.Millisecond
			c.Proc = filepath.Join(*root, "proc")
		},
	})
	stop()
	var terminal *agent.TerminalError
	switch {
	case errors.As(err, &terminal):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(5)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
