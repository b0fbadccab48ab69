package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/longshore-project/longshore/test/hosts"
)

// connectProxy is a proxy on the LAN that takes CONNECT, and nothing else.
type connectProxy struct{ tunnels atomic.Int64 }

func (l *lan) connectProxy(address string) *connectProxy {
	p := &connectProxy{}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	end := l.serve(address, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		up, err := hosts.Dial(r.Context(), l.farm.LANNamespace(), r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			_ = up.Close()
			return
		}
		p.tunnels.Add(1)
		_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		stop := context.AfterFunc(ctx, func() { _ = up.Close(); _ = down.Close() })
		for _, way := range [][2]net.Conn{{up, down}, {down, up}} {
			all.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_ = up.Close()
				_ = down.Close()
				stop()
			})
		}
	}))
	l.ends = append(l.ends, func() { cancel(); end(); all.Wait() })
	return p
}

// reverseProxy is one before the control plane, with a certificate of a CA of its own. It ends a connection that is idle.
type reverseProxy struct {
	caFile       string
	opened, idle atomic.Int64 // of web sockets
}

func (l *lan) reverseProxy(address, target string, limit time.Duration) *reverseProxy {
	p := &reverseProxy{caFile: filepath.Join(l.dir, "proxy-ca.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		l.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.ParseIP(l.farm.LAN())}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		l.t.Fatal(err)
	}
	writePEM(l.t, p.caFile, der)
	behind, err := url.Parse(target)
	if err != nil {
		l.t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(l.dir, "control", "tls/ca.pem"))
	if err != nil {
		l.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DialContext: func(ctx context.Context, _, at string) (net.Conn, error) {
		return hosts.Dial(ctx, l.farm.LANNamespace(), at)
	}}
	proxy := &httputil.ReverseProxy{Transport: transport, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.Out.Host = r.In.Host // is signed
	}}
	secure := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	end := l.serve(address, &serving{tls: secure, limit: limit, idle: &p.idle}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			p.opened.Add(1)
			r.Context().Value(connection{}).(*idling).socket.Store(true)
		}
		gone, stop := context.WithCancel(r.Context())
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		proxy.ServeHTTP(w, r.WithContext(gone))
	}))
	l.ends = append(l.ends, func() { cancel(); end(); transport.CloseIdleConnections() })
	return p
}

// serving is how a server on the LAN treats its connections.
type serving struct {
	tls   *tls.Config
	limit time.Duration
	idle  *atomic.Int64
}

// serve serves at an address of the LAN, until the function that it returns is called, which waits for requests under way.
func (l *lan) serve(address string, how *serving, h http.Handler) (end func()) {
	listener, err := hosts.Listen(l.farm.LANNamespace(), address)
	if err != nil {
		l.t.Fatal(err)
	}
	var all sync.WaitGroup
	var entry sync.Mutex // nobody comes in any more when it is closed
	closed := false
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entry.Lock()
		if closed {
			entry.Unlock()
			return
		}
		all.Add(1)
		entry.Unlock()
		defer all.Done()
		h.ServeHTTP(w, r)
	})
	s := &http.Server{Handler: counted, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	if how != nil {
		listener = tls.NewListener(limited{listener, how}, how.tls)
		s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connection{}, c.(*tls.Conn).NetConn())
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(listener) }()
	return func() {
		_ = s.Close()
		<-done
		entry.Lock()
		closed = true
		entry.Unlock()
		all.Wait()
	}
}

// connection is the key of a request's connection in its context.
type connection struct{}

type limited struct {
	net.Listener
	how *serving
}

func (l limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &idling{Conn: c, how: l.how}, nil
}

// idling is a connection that ends when nothing comes or goes for too long.
type idling struct {
	net.Conn
	how    *serving
	socket atomic.Bool // a web socket by now
	hands  sync.Mutex
	moved  time.Time // when something came or went, or was waited for
}

// SetDeadline, SetReadDeadline and SetWriteDeadline are the server's; ours is shorter.
func (c *idling) SetDeadline(time.Time) error { return nil }
func (c *idling) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) { // how net/http ends a read
		return c.Conn.SetReadDeadline(t)
	}
	return nil
}
func (c *idling) SetWriteDeadline(time.Time) error { return nil }

func (c *idling) move() {
	c.hands.Lock()
	defer c.hands.Unlock()
	c.moved = time.Now()
	_ = c.Conn.SetReadDeadline(c.moved.Add(c.how.limit))
}

// still says that nothing has moved for as long as is allowed.
func (c *idling) still() bool {
	c.hands.Lock()
	defer c.hands.Unlock()
	return time.Since(c.moved) >= c.how.limit
}

func (c *idling) Read(b []byte) (int, error) {
	c.move()
	n, err := c.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) && c.socket.Load() && c.still() {
		c.how.idle.Add(1)
	}
	return n, err
}

func (c *idling) Write(b []byte) (int, error) {
	c.move()
	return c.Conn.Write(b)
}
