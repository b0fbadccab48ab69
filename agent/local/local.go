// Package local is how the commands of a host speak with the agent that runs on it: HTTP with JSON over a unix socket in the
// state directory, which only root can open. It is the only way; nothing of it is reachable over a network.
//
//	GET  /v1/status           who this agent is, whom it is connected to, what the host has (status.go)
//	GET  /v1/tasks            every task, those that ended and are still on record included
//	GET  /v1/explain?task=…   one task: what it waits for and why, its errors, its timeline (explain.go)
//	GET  /v1/explanations?name=…   the tasks of a family or service; without a name those that do not run as they should
//	GET  /v1/logs?task=…      a container's output, as it comes (output.go)
//	GET  /v1/exec             a web socket: a process in a container (package execstream)
//	     /debug/pprof/        profiles of the running process
//
// Other rooms add their own paths with [Server.Handle]; a command reaches them with [Client.Call]. [Resolve] finds the task
// that somebody means by a part of its id. What the commands print is made here too (print.go), so that a test sees it.
//
// The socket is made under another name, its rights are set, and then it is put in its place: there is no moment at which
// somebody else can connect, and one that a killed agent left behind is replaced. Beyond the file's rights, who connects is
// asked of the kernel: root or the agent's own user.
package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// SocketName is the socket's name in the agent's state directory.
const SocketName = "longshore-agent.sock"

const (
	maxRequest = 1 << 20  // bytes of a request's body
	maxAnswer  = 64 << 20 // bytes of an answer's
)

// Server answers the commands of this host.
type Server struct {
	mux  *http.ServeMux
	log  *zap.Logger
	work sync.WaitGroup // what is being answered

	patience time.Duration // for a request to be read
}

// New makes a server without paths but the profiles.
func New(log *zap.Logger) *Server {
	s := &Server{mux: http.NewServeMux(), log: log, patience: 10 * time.Second}
	s.profiles()
	return s
}

// Handle adds a path, in net/http's patterns: "POST /v1/gc". It is called before Serve.
func (s *Server) Handle(pattern string, h http.HandlerFunc) { s.mux.HandleFunc(pattern, h) }

// Listen makes the socket in the state directory dir, which must be locked by the caller: another agent's is replaced.
func Listen(dir string) (net.Listener, error) {
	name := filepath.Join(dir, SocketName)
	short, done, err := shortPath(dir)
	if err != nil {
		return nil, fmt.Errorf("the local socket: %w", err)
	}
	defer done()
	fresh := SocketName + ".new"
	if err := os.Remove(filepath.Join(dir, fresh)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the local socket: %w", err)
	}
	l, err := net.Listen("unix", filepath.Join(short, fresh))
	if err != nil {
		return nil, fmt.Errorf("the local socket %s: %w", name, err)
	}
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("the local socket %s is a %T", name, l)
	}
	unixListener.SetUnlinkOnClose(false) // its path is not this one
	err = os.Chmod(filepath.Join(dir, fresh), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(dir, fresh), name)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("the local socket: %w", err)
	}
	return &listener{UnixListener: unixListener, name: name}, nil
}

// shortPath is a path of dir that fits a socket's address, which has at most 108 bytes, however long dir is.
func shortPath(dir string) (path string, done func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", d.Fd()), func() { _ = d.Close() }, nil
}

// listener takes connections of root and of the agent's own user, and removes its file at the end.
type listener struct {
	*net.UnixListener
	name string
}

// Accept waits for the next connection of somebody who may.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if mayAsk(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

// mayAsk says whether the other end may ask anything.
func mayAsk(c *net.UnixConn) bool {
	who := peer(c)
	return who != nil && (who.Uid == 0 || int(who.Uid) == os.Geteuid())
}

// peer asks the kernel who the other end is; nil if it does not say.
func peer(c *net.UnixConn) (who *unix.Ucred) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	controlErr := raw.Control(func(fd uintptr) {
		who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if controlErr != nil || err != nil {
		return nil
	}
	return who
}

type peerKey struct{}

// Peer is who asks, in a word without blanks: the user and the process, and who had logged in, where the kernel knows that.
func Peer(r *http.Request) string {
	c, ok := r.Context().Value(peerKey{}).(*net.UnixConn)
	if !ok {
		return ""
	}
	who := peer(c)
	if who == nil {
		return ""
	}
	out := fmt.Sprintf("uid=%d,pid=%d", who.Uid, who.Pid)
	const unset = "4294967295" // nobody has logged in to what the process descends from
	if login, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", who.Pid)); err == nil && string(login) != unset {
		out += ",loginuid=" + strings.TrimSpace(string(login))
	}
	return out
}

// Close ends it.
func (l *listener) Close() error {
	return errors.Join(l.UnixListener.Close(), os.Remove(l.name))
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.work.Add(1)
	defer s.work.Done()
	s.mux.ServeHTTP(w, r)
}

// Serve answers until ctx ends, which ends what is being answered too.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.work.Wait()
	server := &http.Server{
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, peerKey{}, c) },
		Handler:     http.MaxBytesHandler(s, maxRequest), ReadTimeout: s.patience, WriteTimeout: 10 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: zap.NewStdLog(s.log.With(zap.String("source", "local"))), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve the local socket: %w", err)
}

// Answer answers with JSON.
func Answer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		Refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a command that is gone misses nothing
}

// Refuse answers with an error; [Client.Call] returns its text.
func Refuse(w http.ResponseWriter, status int, err error) {
	data, marshalErr := json.Marshal(refusal{err.Error()})
	if marshalErr != nil {
		data = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

type refusal struct {
	Error string `json:"error"`
}

// Client asks the agent whose state directory is Dir.
type Client struct{ Dir string }

// NotRunningError is that no agent answers on the socket.
type NotRunningError struct {
	Socket string
	Err    error
}

// Error says what to do.
func (e *NotRunningError) Error() string {
	hint := "start it with: systemctl start longshore-agent"
	if errors.Is(e.Err, os.ErrPermission) {
		hint = "only root may ask it: use sudo"
	}
	return fmt.Sprintf("no agent answers on %s (%v); %s", e.Socket, root(e.Err), hint)
}

// Unwrap is the cause.
func (e *NotRunningError) Unwrap() error { return e.Err }

// root is the innermost error: the outer ones repeat paths.
func root(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// open makes what speaks over the socket; done lets go of it.
func (c Client) open() (speak *http.Client, done func(), err error) {
	name := filepath.Join(c.Dir, SocketName)
	short, release, err := shortPath(c.Dir)
	if err != nil {
		return nil, nil, &NotRunningError{name, err}
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(short, SocketName))
		if err != nil {
			return nil, &NotRunningError{name, err}
		}
		return conn, nil
	}}
	return &http.Client{Transport: transport}, func() {
		transport.CloseIdleConnections()
		release()
	}, nil
}

// asked is why the agent could not be asked.
func asked(err error) error {
	var absent *NotRunningError
	if errors.As(err, &absent) {
		return absent
	}
	return fmt.Errorf("ask the agent: %w", err)
}

// refused is what the agent says that does not answer.
func refused(answer *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxRequest))
	var said refusal
	if err != nil || json.Unmarshal(data, &said) != nil || said.Error == "" {
		said.Error = fmt.Sprintf("the agent answers %s to %s %s: is it of another version than this command?", answer.Status, answer.Request.Method, answer.Request.URL.Path)
	}
	return errors.New(said.Error)
}

// Call makes a request and reads the answer into out, which may be nil. An agent that is not there is a
// [*NotRunningError]; what it refuses is an error with its text.
func (c Client) Call(ctx context.Context, method, path string, in, out any) error {
	transport, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://longshore-agent"+path, body)
	if err != nil {
		return err
	}
	answer, err := transport.Do(r)
	if err != nil {
		return asked(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return refused(answer)
	}
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the agent's answer can't be read: %w", err)
	}
	return nil
}
