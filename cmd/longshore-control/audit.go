package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/longshore-project/longshore/controlplane/audit"
)

func auditCommand() *cobra.Command {
	var (
		dir, since string
		query      audit.Query
		asJSON     bool
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show what was asked of the control plane on this machine: when, with which key, from where, what, and how it ended",
		Long: "Show what was asked of the control plane on this machine: when, with which key, from where, what, and how it ended.\n" +
			"It reads the files below the data directory; no control plane needs to run. Each replica has what it was asked itself.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if query.Since, err = sinceTime(since, time.Now()); err != nil {
				return err
			}
			if err := query.Check(); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if err := audit.Read(cmd.Context(), dir, query, func(e *audit.Entry, line []byte) error {
				if asJSON {
					_, err := fmt.Fprintf(out, "%s\n", line)
					return err
				}
				return printEntry(out, e)
			}); err != nil {
				return failed{err}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "data-dir", "/var/lib/longshore", "the data directory that the control plane runs with")
	f.StringVar(&since, "since", "", "from when on: how long ago (90m, 24h) or a time (2026-01-02T15:04:05Z); everything that is kept when not given")
	f.StringVar(&query.Key, "key", "", "only of this access key, or local for what was done on this machine")
	f.StringVar(&query.Operation, "operation", "", "only this operation, or those like Delete*")
	f.BoolVar(&query.Follow, "follow", false, "go on with what is asked from now on")
	f.BoolVar(&asJSON, "json", false, "the lines as they are kept: one JSON object each")
	return cmd
}

// sinceTime is the time that --since means.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("--since %q is neither like 90m nor like 2026-01-02T15:04:05Z", text)
	}
	return at, nil
}

// printEntry writes an entry as a line of words.
func printEntry(out io.Writer, e *audit.Entry) error {
	who := e.Key
	if who == "" {
		who = "unverified:" + e.Claimed
	}
	words := append([]string{e.Time.Format("2006-01-02T15:04:05.000Z"), e.Outcome, e.Operation, who, e.Address}, e.Resource...)
	if e.RequestID != "" {
		words = append(words, "request="+e.RequestID)
	}
	if e.Unwritten > 0 {
		words = append(words, fmt.Sprintf("unwritten=%d", e.Unwritten))
	}
	for i, w := range words {
		if w == "" {
			words[i] = "-"
		}
		// Callers choose names: none of theirs is to steer a terminal, or look like two words.
		if strings.ContainsFunc(w, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }) {
			words[i] = strconv.QuoteToGraphic(w)
		}
	}
	_, err := fmt.Fprintln(out, strings.Join(words, " "))
	return err
}
