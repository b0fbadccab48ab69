package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
)

func newGC(stdout io.Writer) *cobra.Command {
	var a asking
	var dryRun bool
	cmd := a.flags(&cobra.Command{
		Use: "gc", Short: "Remove the images of this host that nobody uses", Args: cobra.NoArgs,
		Long: "Have the running agent remove the images that no container and no task uses, as it does by itself every ECS_IMAGE_CLEANUP_INTERVAL:\n" +
			"the same rules hold, and at most ECS_NUM_IMAGES_DELETE_PER_CYCLE go unless the disk is short. Every image is listed with what becomes of it and why.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := config.Load(config.Options{File: a.file})
			if err != nil {
				return fmt.Errorf("the configuration: %w", err)
			}
			path := "/v1/gc"
			if dryRun {
				path += "?dryRun=true"
			}
			var out local.Collection
			if err := (local.Client{Dir: cfg.DataDir}).Call(cmd.Context(), http.MethodPost, path, nil, &out); err != nil {
				return err
			}
			if a.asJSON {
				return printJSON(stdout, &out)
			}
			return out.Print(stdout)
		},
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would go")
	return cmd
}
