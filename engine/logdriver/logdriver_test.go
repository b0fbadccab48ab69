package logdriver_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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

// append writes a line as json-file does.
func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	b, err := json.Marshal(logdriver.Line{Log: text, Stream: "stdout", Time: time.Now()})
	if err == nil {
		_, err = f.Write(append(b, '\n'))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// asked is an output whose every write and end a test waits for.
type asked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (a *asked) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buf.Write(p)
}

func (a *asked) has(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.HasSuffix(a.buf.String(), text)
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("in vain")
		}
	}
}

func TestFilesAreFollowedAcrossRotationsSeveralAtOnceToo(t *testing.T) {
	dir := t.TempDir()
	open := func() *os.File {
		f, err := os.OpenFile(logdriver.Numbered(dir, 0), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	rotate := func() *os.File {
		for n := 3; n > 0; n-- {
			if err := os.Rename(logdriver.Numbered(dir, n-1), logdriver.Numbered(dir, n)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		return open()
	}
	f := open()
	write(t, f, "zero\n")
	write(t, f, "one\n")
	out, done := &asked{}, make(chan error, 1)
	var mu sync.Mutex
	running := true
	go func() {
		done <- logdriver.Read(t.Context(), dir, logdriver.ReadOptions{Lines: 1, Running: func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return running, nil
		}}, out)
	}()
	want := "one\n"
	until(t, func() bool { return out.has(want) })
	for i := range 3 { // each time a line goes into the old file, and two rotations follow, before it is looked again
		mu.Lock() // nobody looks
		for j := range 2 {
			text := fmt.Sprintf("%d.%d\n", i, j)
			write(t, f, text)
			f = rotate()
			want += text
		}
		mu.Unlock()
		until(t, func() bool { return out.has(want) })
	}
	write(t, f, "half a line")
	mu.Lock()
	running = false
	mu.Unlock()
	if err := <-done; err != nil || !out.has(want+"half a line") {
		t.Errorf("%v: %q", err, out.buf.String())
	}
}

func TestAnObjectThatIsWrittenInTwoPiecesIsOne(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(logdriver.Numbered(dir, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_, _ = io.WriteString(f, `{"log":"who`)
	out, looks := &asked{}, 0
	err = logdriver.Read(t.Context(), dir, logdriver.ReadOptions{Running: func() (bool, error) {
		if looks++; looks == 2 {
			_, err := io.WriteString(f, `le\n","time":"2026-11-20T08:00:00Z"}`+"\n"+strings.Repeat("x", 300<<10)+"\n"+`{"log":"next\n"}`+"\n")
			return true, err
		}
		return looks < 4, nil
	}}, out)
	if err != nil || !out.has("whole\nnext\n") {
		t.Errorf("%v: %q", err, out.buf.String())
	}
}
