package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

// The manual pages are made of the commands' own help; packages have them. UPDATE=1 writes them.
func TestTheManualPagesSayWhatTheCommandsSay(t *testing.T) {
	root := newRoot(&bytes.Buffer{}, &bytes.Buffer{}, nil)
	root.DisableAutoGenTag = true
	made, kept := t.TempDir(), "../../packaging/man"
	if os.Getenv("UPDATE") != "" {
		made = kept
	}
	date := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "Longshore", Manual: "Longshore", Date: &date}, made); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(made, root.Name()+"*.8"))
	if err != nil || len(pages) == 0 {
		t.Fatal(err)
	}
	have, err := filepath.Glob(filepath.Join(kept, root.Name()+"*.8"))
	if err != nil || len(have) != len(pages) {
		t.Errorf("%d pages are kept, and there are %d commands; make them again: UPDATE=1 go test ./cmd/... -run ManualPages", len(have), len(pages))
	}
	for _, p := range pages {
		want, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(kept, filepath.Base(p))); err != nil || !bytes.Equal(got, want) {
			t.Errorf("packaging/man/%s is not what the command says; make it again: UPDATE=1 go test ./cmd/... -run ManualPages", filepath.Base(p))
		}
	}
}
