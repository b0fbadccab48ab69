package execstream_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/execstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// served serves a web socket with run, and dials it.
func served(t testing.TB, run func(context.Context, execstream.Start) (int, error)) *websocket.Conn {
	t.Helper()
	over := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		_, _ = execstream.Serve(r.Context(), ws, run)
		over <- struct{}{}
	}))
	ws, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{HTTPClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ws.CloseNow()
		<-over // it ends, whatever was said
		server.Close()
	})
	return ws
}

func TestAnErrorComesWithItsClassAndText(t *testing.T) {
	ws := served(t, func(_ context.Context, s execstream.Start) (int, error) {
		return 0, errors.Join(errors.New("no container "+s.Container+" of "+s.Task), errdefs.ErrNotFound)
	})
	_, err := execstream.Run(t.Context(), ws, execstream.Start{Task: "t", Container: "web"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no container web of t") {
		t.Error(err)
	}
}

func TestAProcessThatReadsNoInputHoldsUpNeitherSignalsNorMemory(t *testing.T) {
	signals := make(chan syscall.Signal, 1)
	ws := served(t, func(_ context.Context, s execstream.Start) (int, error) {
		_, _ = io.WriteString(s.Stdout, "ready")
		got := <-s.Signals
		n, err := io.ReadFull(s.Stdin, make([]byte, 1<<20)) // more than may be on its way
		if n != 1<<20 || err != nil {
			return 0, errors.Join(errors.New("the input broke off"), err)
		}
		return 100 + int(got), nil
	})
	read := make(chan int, 1)
	code, err := execstream.Run(t.Context(), ws, execstream.Start{Exec: engine.Exec{
		Stdin: io.NopCloser(endless{}), Signals: signals, Stdout: onWrite(func() { signals <- syscall.SIGTERM; read <- 1 }),
	}})
	if err != nil || code != 115 || len(read) != 1 {
		t.Errorf("%d, %v", code, err)
	}
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type onWrite func()

func (f onWrite) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestAnEndThatGoesAwayEndsTheProcess(t *testing.T) {
	began, ended := make(chan struct{}), make(chan error, 1)
	ws := served(t, func(ctx context.Context, s execstream.Start) (int, error) {
		close(began)
		_, err := s.Stdin.Read(make([]byte, 1))
		<-ctx.Done()
		ended <- err
		return 0, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	r, w := io.Pipe()
	_, err := execstream.Run(ctx, ws, execstream.Start{Exec: engine.Exec{Stdin: r}})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("its input: %v", err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the caller's input is not closed: %v", err)
	}
}

// FuzzWhatIsSaidToServe sends whatever, and then goes away. Each run must end.
func FuzzWhatIsSaidToServe(f *testing.F) {
	f.Add(`{"container":"c","args":["sh"],"input":true}`, `{"size":{"Width":1,"Height":2}}`, []byte("input"))
	f.Add(`{}`, `{"signal":9}`, []byte{})
	f.Add(`[]`, `{"result":{"code":1}}`, make([]byte, 300<<10))
	f.Fuzz(func(t *testing.T, start, word string, input []byte) {
		ws := served(t, func(ctx context.Context, s execstream.Start) (int, error) {
			if s.Stdin != nil {
				_, _ = io.Copy(s.Stdout, s.Stdin)
			}
			select {
			case <-ctx.Done():
			case <-s.Signals:
			case <-s.Resize:
			}
			return 0, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_ = ws.Write(ctx, websocket.MessageText, []byte(start))
		_ = ws.Write(ctx, websocket.MessageBinary, input)
		_ = ws.Write(ctx, websocket.MessageText, []byte(word))
	})
}

// FuzzWhatIsSaidToRun answers whatever.
func FuzzWhatIsSaidToRun(f *testing.F) {
	f.Add([]byte("\x01out"), `{"result":{"code":3}}`)
	f.Add([]byte{}, `{"read":-5}`)
	f.Add([]byte{9}, `{"read":99999999999}`)
	f.Fuzz(func(t *testing.T, piece []byte, word string) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			_ = ws.Write(r.Context(), websocket.MessageBinary, piece)
			_ = ws.Write(r.Context(), websocket.MessageText, []byte(word))
			_ = ws.CloseNow()
		}))
		defer server.Close()
		ws, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{HTTPClient: server.Client()})
		if err != nil {
			return
		}
		_, _ = execstream.Run(t.Context(), ws, execstream.Start{Exec: engine.Exec{Stdin: io.NopCloser(strings.NewReader("x")), Stdout: io.Discard}})
	})
}
