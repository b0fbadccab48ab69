package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/longshore-project/longshore/controlplane"
)

const runsWith = "the data directory that it runs with"

func backupCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a backup of the control plane that runs on this machine: its records, the seal key, the key files and its CA",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if err := controlplane.Backup(cmd.Context(), dir, path); err != nil {
				return failed{err}
			}
			b, err := controlplane.ReadBackup(path)
			if err != nil {
				return failed{err}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d records. Whoever has this file has every key in it: keep it as you keep keys.\n", path, b.Records())
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "/var/lib/longshore", runsWith)
	return cmd
}

func restoreCommand() *cobra.Command {
	var cfg controlplane.Config
	var files etcdFiles
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Read a backup into a data directory, or an external etcd, that has no records; no control plane may run on it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if cfg.EtcdTLS, err = files.config(); err != nil {
				return err
			}
			cfg.EtcdPassword = etcdPassword()
			if cfg.Log, err = logger("logfmt", zapcore.WarnLevel.String()); err != nil {
				return err
			}
			b, err := controlplane.Restore(cmd.Context(), cfg, args[0])
			if err != nil {
				return failed{err}
			}
			cfg.Log.Debug("restored", zap.String("file", args[0]))
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d records of %s, region %s, account %s. Start longshore-control: what hosts run that the backup does not know is adopted as they connect.\n",
				b.Records(), b.About.Made.Format("2006-01-02 15:04:05 MST"), b.About.Region, b.About.AccountID)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.DataDir, "data-dir", "/var/lib/longshore", "the data directory that is to be filled")
	f.StringVar(&cfg.SealKeyFile, "seal-key-file", "", "where the seal key is to be, when not in the data directory")
	etcdFlags(f, &cfg, &files)
	return cmd
}

func checkCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Read every record of a backup, or of the control plane that runs on this machine, and tell what is wrong",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var wrong []string
			what := "the control plane's records"
			if len(args) == 1 {
				b, err := controlplane.ReadBackup(args[0])
				if err != nil {
					return failed{err}
				}
				wrong, what = b.Check(), fmt.Sprintf("%s: %d records of %s", args[0], b.Records(), b.About.Made.Format("2006-01-02 15:04:05 MST"))
			} else {
				var err error
				if wrong, err = controlplane.CheckRunning(cmd.Context(), dir); err != nil {
					return failed{err}
				}
			}
			for _, w := range wrong {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), w); err != nil {
					return err
				}
			}
			if len(wrong) > 0 {
				return failed{fmt.Errorf("%s: %d faults", what, len(wrong))}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), what+" are in order")
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "/var/lib/longshore", runsWith)
	return cmd
}
