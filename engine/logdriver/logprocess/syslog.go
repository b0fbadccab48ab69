package logprocess

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/RackSec/srslog"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// syslogged writes to a syslog server: this host's, or one over UDP, TCP or TLS.
type syslogged struct{ w *srslog.Writer }

var facilities = []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "", "", "", "",
	"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

func newSyslog(s logdriver.Settings) (Driver, error) {
	network, address, err := syslogAddress(s.Options["syslog-address"])
	if err != nil {
		return nil, err
	}
	facility, err := syslogFacility(s.Options["syslog-facility"])
	if err != nil {
		return nil, err
	}
	tag, err := tag(s)
	if err != nil {
		return nil, err
	}
	var w *srslog.Writer
	if network == "tcp+tls" {
		config, err := syslogTLS(s.Options)
		if err != nil {
			return nil, err
		}
		w, err = srslog.DialWithTLSConfig(network, address, facility, tag, config)
		if err != nil {
			return nil, fmt.Errorf("syslog server %s: %w", address, err)
		}
	} else if w, err = srslog.Dial(network, address, facility, tag); err != nil {
		return nil, fmt.Errorf("syslog server %s: %w", address, err)
	}
	switch f := s.Options["syslog-format"]; f {
	case "":
		w.SetFormatter(srslog.UnixFormatter)
	case "rfc3164":
		w.SetFormatter(srslog.RFC3164Formatter)
	case "rfc5424":
		w.SetFormatter(rfc5424("2006-01-02T15:04:05Z07:00"))
	case "rfc5424micro":
		w.SetFormatter(rfc5424("2006-01-02T15:04:05.000000Z07:00"))
	default:
		return nil, fmt.Errorf("option syslog-format is %q; it must be rfc3164, rfc5424 or rfc5424micro", f)
	}
	if f := s.Options["syslog-format"]; network == "tcp+tls" && strings.HasPrefix(f, "rfc5424") {
		w.SetFramer(srslog.RFC5425MessageLengthFramer)
	}
	return &syslogged{w}, nil
}

// rfc5424 is the format of RFC 5424, section 6, as Docker writes it: the tag is application name and message id.
func rfc5424(layout string) srslog.Formatter {
	return func(p srslog.Priority, hostname, tag, content string) string {
		return fmt.Sprintf("<%d>1 %s %s %s %d %s - %s", p, time.Now().Format(layout), hostname, tag, os.Getpid(), tag, content)
	}
}

// syslogAddress is the network and the address of [tcp|udp|tcp+tls]://host:port or unix[gram]://path; of nothing, this host's server.
func syslogAddress(text string) (network, address string, err error) {
	if text == "" {
		return "", "", nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", "", fmt.Errorf("option syslog-address %q: %w", text, err)
	}
	switch u.Scheme {
	case "unix", "unixgram":
		return u.Scheme, u.Path, nil
	case "udp", "tcp", "tcp+tls":
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			return u.Scheme, net.JoinHostPort(u.Hostname(), "514"), nil
		}
		return u.Scheme, u.Host, nil
	}
	return "", "", fmt.Errorf("option syslog-address is %q; it must begin with udp://, tcp://, tcp+tls://, unix:// or unixgram://", text)
}

func syslogFacility(text string) (srslog.Priority, error) {
	if text == "" {
		text = "daemon"
	}
	if n, err := strconv.Atoi(text); err == nil && n >= 0 && n <= 23 {
		return srslog.Priority(n << 3), nil
	}
	for n, name := range facilities {
		if name == text {
			return srslog.Priority(n << 3), nil
		}
	}
	return 0, fmt.Errorf("option syslog-facility is %q; it must be one of %s", text, strings.Join(strings.Fields(strings.Join(facilities, " ")), ", "))
}

func syslogTLS(o map[string]string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	_, config.InsecureSkipVerify = o["syslog-tls-skip-verify"] //nolint:gosec // the definition asks for it by name
	if ca := o["syslog-tls-ca-cert"]; ca != "" {
		b, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("option syslog-tls-ca-cert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("option syslog-tls-ca-cert: %s holds no certificate", ca)
		}
	}
	if o["syslog-tls-cert"] != "" {
		pair, err := tls.LoadX509KeyPair(o["syslog-tls-cert"], o["syslog-tls-key"])
		if err != nil {
			return nil, fmt.Errorf("options syslog-tls-cert and syslog-tls-key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (d *syslogged) Write(e Entry) error {
	text := string(bytes.TrimSuffix(e.Line, []byte("\n")))
	if e.Stream == "stderr" {
		return d.w.Err(text)
	}
	return d.w.Info(text)
}

func (d *syslogged) Close() error { return d.w.Close() }
