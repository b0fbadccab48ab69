package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
)

// socketFile, in the data directory, is how the key commands reach the running process: whoever may read the directory
// could read the keys in it as well.
const socketFile = "longshore-control.sock"

// Key is an access key as the key commands show it.
type Key struct {
	AccessKeyID     string     `json:"accessKeyId"`
	SecretAccessKey string     `json:"secretAccessKey,omitempty"` // only when it was just made
	Role            store.Role `json:"role"`
	Name            string     `json:"name,omitempty"`
	Enrolment       bool       `json:"enrolment,omitempty"` // a join key
	Instance        string     `json:"instance,omitempty"`  // ARN of the container instance that it speaks for
	From            string     `json:"from,omitempty"`      // the join key that was exchanged for it
	Successor       string     `json:"successor,omitempty"` // the key that replaces it
	MaxUses         int32      `json:"maxUses,omitempty"`   // how many instances a join key may register; 0: any number
	Uses            int32      `json:"uses,omitempty"`
	Created         time.Time  `json:"created,omitzero"`
	Expires         time.Time  `json:"expires,omitzero"`
	Revoked         time.Time  `json:"revoked,omitzero"`
}

// State is "active", "expired" or "revoked".
func (k Key) State(now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return "expired"
	}
	return "active"
}

// CreateKey makes a key in the control plane that runs with a data directory. Of like Role, Name, Enrolment, Instance,
// MaxUses and Expires count. The answer has the secret.
func CreateKey(ctx context.Context, dir string, like Key) (k Key, err error) {
	return k, ask(ctx, dir, http.MethodPost, "/keys", like, &k)
}

// Keys lists the keys, without their secrets, in order of their ids. Those that ended are among them for a while.
func Keys(ctx context.Context, dir string) (keys []Key, err error) {
	return keys, ask(ctx, dir, http.MethodGet, "/keys", nil, &keys)
}

// RotateKey makes a key that replaces another one, which ends after overlap. The answer has the secret.
func RotateKey(ctx context.Context, dir, id string, overlap time.Duration) (k Key, err error) {
	return k, ask(ctx, dir, http.MethodPost, "/keys/"+url.PathEscape(id)+"/rotate", rotation{overlap}, &k)
}

// RevokeKey ends a key: it is refused from then on, on every replica, and the sockets that were opened with it are closed.
// The last administrator's key can't be revoked.
func RevokeKey(ctx context.Context, dir, id string) (k Key, err error) {
	return k, ask(ctx, dir, http.MethodPost, "/keys/"+url.PathEscape(id)+"/revoke", nil, &k)
}

// socketPath is short whatever the directory is: a socket's path has at most 108 bytes.
func socketPath(dir string) (path string, done func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketFile), func() { _ = d.Close() }, nil
}

// ask calls the running process; the answer is decoded into out.
func ask(ctx context.Context, dir, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	var data bytes.Buffer
	if err := call(ctx, dir, method, path, body, &limited{&data, 16 << 20}); err != nil || out == nil {
		return err
	}
	return json.Unmarshal(data.Bytes(), out)
}

// stream copies what the running process answers, however long that takes.
func stream(ctx context.Context, dir, path string, to io.Writer) error {
	return call(ctx, dir, http.MethodGet, path, nil, to)
}

// limited refuses more than left bytes.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, errors.New("the answer is too long")
	}
	return l.to.Write(b)
}

// call calls the running process and copies its answer.
func call(ctx context.Context, dir, method, path string, body []byte, to io.Writer) error {
	socket, done, err := socketPath(dir)
	if err != nil {
		return fmt.Errorf("%w: --data-dir: %w", ErrConfig, err)
	}
	defer done()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, method, "http://longshore-control"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("no longshore-control runs with --data-dir %s: %w", dir, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
		if err != nil {
			return err
		}
		return errors.New(string(bytes.TrimSpace(said)))
	}
	_, err = io.Copy(to, answer.Body)
	return err
}

// serveKeys answers the key commands until Close.
func (p *ControlPlane) serveKeys() error {
	path, done, err := socketPath(p.cfg.DataDir)
	if err != nil {
		return err
	}
	defer done()
	real := filepath.Join(p.cfg.DataDir, socketFile)
	if err := os.Remove(real); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that was killed; the lock is ours
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", real, err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // the path is that of a descriptor which is closed by then
	if err := os.Chmod(real, 0o600); err != nil {
		_ = listener.Close()
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /alive", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /keys", p.listKeys)
	mux.HandleFunc("POST /keys", p.createKey)
	mux.HandleFunc("POST /keys/{id}/rotate", p.rotateKey)
	mux.HandleFunc("POST /keys/{id}/revoke", p.revokeKey)
	mux.HandleFunc("POST /tokens", p.createToken)
	mux.HandleFunc("POST /hosts", p.createHost)
	mux.HandleFunc("GET /ca", p.showAuthorities)
	mux.HandleFunc("POST /ca/rotate", p.serveAuthorityRotation)
	mux.HandleFunc("POST /ca/abandon", p.abandonAuthority)
	mux.HandleFunc("POST /seal/rotate", p.serveSealRotation)
	mux.HandleFunc("GET /backup", p.serveBackup)
	mux.HandleFunc("GET /check", p.serveCheck)
	server := p.httpServer(p.audited(mux))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = server.Serve(listener) // ends with Close
	}()
	p.onClose("key socket", func() error {
		err := server.Close()
		<-stopped
		return errors.Join(err, os.Remove(real))
	})
	return nil
}
