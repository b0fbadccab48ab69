package certs

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/durable"
)

// DefaultInterval is how often a [Source] looks whether there is another certificate.
const DefaultInterval = 2 * time.Second

// Source has the certificate of the moment.
type Source struct {
	log     *zap.Logger
	current atomic.Pointer[tls.Certificate]
	looking sync.Mutex
	// next is another certificate than the current one, nil if that is to stay.
	next func(now time.Time) (*tls.Certificate, error)
	ca   func() []byte
}

// Own is a source of certificates of the own CA. ca and names are asked each time: a CA is replaced, and addresses come and go. A
// certificate lives for life, 90 days if that is 0, and is replaced when two thirds of that have passed. trust is what CA answers.
func Own(ca func() *Authority, names func() []string, life time.Duration, trust func() []byte, log *zap.Logger) (*Source, error) {
	s := &Source{log: log, ca: trust}
	life = cmp.Or(life, serverLife)
	var issued []string
	var by *Authority
	s.next = func(now time.Time) (*tls.Certificate, error) {
		want, a := names(), ca()
		if c := s.current.Load(); c != nil && a == by && slices.Equal(want, issued) && now.Before(c.Leaf.NotAfter.Add(-life/3)) {
			return nil, nil
		}
		c, err := a.issue(want, life, now)
		if err == nil {
			issued, by = want, a
		}
		return c, err
	}
	return s, s.look(time.Now())
}

// Refresh looks whether there is another certificate, now.
func (s *Source) Refresh() error { return s.look(time.Now()) }

// Files is a source of the certificate chain and key in two files in PEM.
func Files(certFile, keyFile string, log *zap.Logger) (*Source, error) {
	s := &Source{log: log}
	var seen *[2]stamp // nil: never looked; files that are not there have stamps as well
	s.next = func(now time.Time) (*tls.Certificate, error) {
		is := [2]stamp{stampOf(certFile), stampOf(keyFile)}
		if seen != nil && is == *seen {
			return nil, nil
		}
		seen = &is
		return load(certFile, keyFile, now)
	}
	s.ca = func() []byte { return trusted(s.current.Load()) }
	return s, s.look(time.Now())
}

// Config is a server's configuration, with whatever certificate is there when a client comes.
func (s *Source) Config() *tls.Config {
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current.Load(), nil },
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
	}
}

// CA is the certificate that hosts are to trust, PEM: the own CA, or the last one of the chain in a file if that is a CA or
// signed by itself. It is nil when the chain ends below a CA that is not in it, which hosts are taken to know.
func (s *Source) CA() []byte { return s.ca() }

// Run looks for another certificate again and again until ctx ends, and returns nil.
func (s *Source) Run(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.look(time.Now()); err != nil {
			s.log.Error("the certificate can't be replaced; the one before stays in use", zap.Error(err), zap.Time("ends", s.current.Load().Leaf.NotAfter))
		}
	}
}

// look takes another certificate if there is one.
func (s *Source) look(now time.Time) error {
	s.looking.Lock()
	defer s.looking.Unlock()
	c, err := s.next(now)
	if err != nil || c == nil {
		return err
	}
	first := s.current.Swap(c) == nil
	s.log.Info("certificate", zap.Bool("replaced", !first), zap.String("subject", c.Leaf.Subject.String()), zap.Strings("names", c.Leaf.DNSNames),
		zap.Stringers("addresses", c.Leaf.IPAddresses), zap.Time("ends", c.Leaf.NotAfter))
	return nil
}

// stamp is by what a file is seen to have changed.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{} // reading it tells
	}
	return stamp{info.ModTime(), info.Size()}
}

func load(certFile, keyFile string, now time.Time) (*tls.Certificate, error) {
	var pems [2][]byte
	for i, path := range []string{certFile, keyFile} {
		var err error
		if pems[i], err = durable.Read(path, maxFile); err != nil {
			return nil, err
		}
	}
	c, err := tls.X509KeyPair(pems[0], pems[1])
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
	}
	if now.After(c.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate in %s ended at %s", certFile, c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &c, nil
}

// trusted is the last certificate of a chain, if others may be told to trust it.
func trusted(c *tls.Certificate) []byte {
	der := c.Certificate[len(c.Certificate)-1]
	last, err := x509.ParseCertificate(der)
	if err != nil || !last.IsCA && last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) != nil {
		return nil
	}
	return encodePEM("CERTIFICATE", der)
}

// Names are the names and addresses under which a machine is reached that listens at some addresses: that of advertise, a URL
// which may be empty; the machine's own; loopback. Sorted.
func Names(advertise string, listen ...string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if u, err := url.Parse(advertise); err == nil && u.Hostname() != "" {
		names = append(names, u.Hostname())
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		names = append(names, host)
	}
	for _, address := range listen {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			names = append(names, addresses()...)
		} else {
			names = append(names, host)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Address is the first address of the machine that others can reach; empty if there is none.
func Address() string {
	if all := addresses(); len(all) > 0 {
		return all[0]
	}
	return ""
}

// addresses are those of the machine's interfaces that others can reach.
func addresses() (found []string) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			found = append(found, n.IP.String())
		}
	}
	return found
}
