// Command demo is what make up needs beside the product: a registry that serves the demonstration image, and forwards that let
// simulated hosts reach the registry and the control plane.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "demo", SilenceUsage: true}
	root.AddCommand(serveCommand(), readyCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		os.Exit(1)
	}
}

// serveCommand builds the image and serves it until the process is told to end.
func serveCommand() *cobra.Command {
	var listen, namespace string
	var forwards []string
	cmd := &cobra.Command{Use: "serve", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		registry, err := images.Serve(listen)
		if err != nil {
			return err
		}
		defer registry.Close()
		image, err := images.Build(images.LoggingAgent())
		if err != nil {
			return fmt.Errorf("building the image logging-agent:1: %w", err)
		}
		ref, digest, err := registry.Push(cmd.Context(), "logging-agent:1", image)
		if err != nil {
			return fmt.Errorf("pushing the image logging-agent:1: %w", err)
		}
		fmt.Println("serving", ref, digest)
		group, ctx := errgroup.WithContext(cmd.Context())
		for _, f := range forwards {
			address, target, ok := strings.Cut(f, "=")
			if !ok {
				return fmt.Errorf("--forward %s is not address=target", f)
			}
			group.Go(func() error { return hosts.Forward(ctx, namespace, address, target) })
		}
		group.Go(func() error { <-ctx.Done(); return nil })
		return group.Wait()
	}}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:5480", "address of the registry")
	cmd.Flags().StringVar(&namespace, "namespace", "", "network namespace of the forwards")
	cmd.Flags().StringArrayVar(&forwards, "forward", nil, "address=target: pass connections to address, in the namespace, on to target")
	return cmd
}

// readyCommand asks a URL once, and succeeds on an answer that is not a server error.
func readyCommand() *cobra.Command {
	return &cobra.Command{Use: "ready URL", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode >= http.StatusInternalServerError {
			return errors.New(res.Status)
		}
		return nil
	}}
}
