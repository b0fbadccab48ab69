package logdriver_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/longshore-project/longshore/engine/logdriver"
)

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"log":"a\n","stream":"stdout","time":"2026-11-20T12:00:00Z"}` + "\n"))
	f.Add([]byte("{\n[]\nnull\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "container.log"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = logdriver.Read(t.Context(), dir, logdriver.ReadOptions{Lines: 3, Times: true}, io.Discard)
		_ = logdriver.Read(t.Context(), dir, logdriver.ReadOptions{}, io.Discard)
	})
}
