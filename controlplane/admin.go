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
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
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
	Enrolment       bool       `json:"enrolment,omitempty"` // a host key that may register any number of instances
	Created         time.Time  `json:"created"`
}

// CreateKey makes a key in the control plane that runs with a data directory.
func CreateKey(ctx context.Context, dir string, role store.Role, enrolment bool) (Key, error) {
	var k Key
	return k, ask(ctx, dir, http.MethodPost, "/keys", Key{Role: role, Enrolment: enrolment}, &k)
}

// Keys lists the keys, without their secrets, in order of their ids.
func Keys(ctx context.Context, dir string) (keys []Key, err error) {
	return keys, ask(ctx, dir, http.MethodGet, "/keys", nil, &keys)
}

// DeleteKey deletes a key, which is refused from then on. The last administrator's key can't be deleted.
func DeleteKey(ctx context.Context, dir, id string) error {
	return ask(ctx, dir, http.MethodDelete, "/keys/"+id, nil, nil)
}

// socketPath is short whatever the directory is: a socket's path has at most 108 bytes.
func socketPath(dir string) (path string, done func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), socketFile), func() { _ = d.Close() }, nil
}

// ask calls the running process.
func ask(ctx context.Context, dir, method, path string, in, out any) error {
	socket, done, err := socketPath(dir)
	if err != nil {
		return fmt.Errorf("%w: --data-dir: %w", ErrConfig, err)
	}
	defer done()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://longshore-control"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		return fmt.Errorf("no longshore-control runs with --data-dir %s: %w", dir, err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(data)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
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
	mux.HandleFunc("GET /keys", p.listKeys)
	mux.HandleFunc("POST /keys", p.createKey)
	mux.HandleFunc("DELETE /keys/{id}", p.deleteKey)
	server := p.httpServer(mux)
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

func (p *ControlPlane) listKeys(w http.ResponseWriter, r *http.Request) {
	keys := []Key{}
	if err := p.store.Read(r.Context(), func(v *store.View) error {
		for k := range v.Keys() {
			keys = append(keys, Key{AccessKeyID: k.AccessKeyID, Role: k.Role, Enrolment: k.Enrolment, Created: k.Created})
		}
		return nil
	}); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answerJSON(w, http.StatusOK, keys)
}

func (p *ControlPlane) createKey(w http.ResponseWriter, r *http.Request) {
	var in Key
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch in.Role {
	case store.RoleAdmin, store.RoleReadOnly, store.RoleHost:
	default:
		http.Error(w, fmt.Sprintf("the role %q is none of %s, %s and %s", in.Role, store.RoleAdmin, store.RoleReadOnly, store.RoleHost), http.StatusBadRequest)
		return
	}
	if in.Enrolment && in.Role != store.RoleHost {
		http.Error(w, "only a host's key can be one for enrolment", http.StatusBadRequest)
		return
	}
	k := auth.NewKey(in.Role, in.Enrolment, time.Now())
	if err := p.store.Txn().Create(k).Commit(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	p.log.Info("an access key was made", zap.String("key", k.AccessKeyID), zap.String("role", string(k.Role)))
	answerJSON(w, http.StatusOK, Key{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, Role: k.Role, Enrolment: k.Enrolment, Created: k.Created})
}

func (p *ControlPlane) deleteKey(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	var refused string
	err := store.Retry(r.Context(), func() error {
		var key, admin *store.Key
		if err := p.store.Read(r.Context(), func(v *store.View) error {
			key = v.Key(id)
			for k := range v.Keys() {
				if k.Role == store.RoleAdmin && k.AccessKeyID != id {
					admin = k
				}
			}
			return nil
		}); err != nil {
			return err
		}
		switch {
		case key == nil:
			refused = fmt.Sprintf("there is no key %q", id)
			return nil
		case key.Role == store.RoleAdmin && admin == nil:
			refused = id + " is the last administrator's key: make another one first"
			return nil
		}
		txn := p.store.Txn().Delete(key)
		if key.Role == store.RoleAdmin {
			txn.Unchanged(admin) // two can't delete each other's
		}
		return txn.Commit(r.Context())
	})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case refused != "":
		http.Error(w, refused, http.StatusBadRequest)
	default:
		p.log.Info("an access key was deleted", zap.String("key", id))
		if err := auth.ForgetKey(p.cfg.DataDir, id); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answerJSON(w, http.StatusOK, struct{}{})
	}
}
