package depart

import (
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/login1"
)

// Logind is systemd-logind, as far as a departure cares. Holding it back delays a shutdown until it is let go, at most by its own
// InhibitDelayMaxSec.
type Logind interface {
	// Hold delays the shutdowns to come until the file is closed, with the process at the latest.
	Hold() (*os.File, error)
	// Going tells when a shutdown begins (true), and when one is called off (false). It is closed when logind can't be heard any more.
	Going() <-chan bool
	Close()
}

// logind is the real one.
type logind struct {
	conn   *login1.Conn
	going  chan bool
	closed chan struct{}
}

// prepare is the signal before a shutdown.
const prepare = "PrepareForShutdown"

// OpenLogind connects to systemd-logind over the system's bus. The error is for a host that has none.
func OpenLogind() (Logind, error) {
	conn, err := login1.New()
	if err != nil {
		return nil, fmt.Errorf("systemd-logind: %w", err)
	}
	l := &logind{conn: conn, going: make(chan bool), closed: make(chan struct{})}
	signals := conn.Subscribe(prepare)
	go func() {
		defer close(l.going)
		for s := range signals {
			if s.Name != "org.freedesktop.login1.Manager."+prepare || len(s.Body) != 1 {
				continue
			}
			if going, ok := s.Body[0].(bool); ok {
				select {
				case l.going <- going:
				case <-l.closed:
					return
				}
			}
		}
	}()
	return l, nil
}

// Close ends the connection. It is called once.
func (l *logind) Close() {
	close(l.closed)
	l.conn.Close()
}

// Going tells of shutdowns.
func (l *logind) Going() <-chan bool { return l.going }

// Hold takes an inhibitor.
func (l *logind) Hold() (*os.File, error) {
	f, err := l.conn.Inhibit("shutdown", "Longshore", "tasks are stopped in order, daemons last", "delay")
	if err != nil {
		return nil, fmt.Errorf("systemd-logind: delay shutdowns: %w", err)
	}
	if f == nil {
		return nil, errors.New("systemd-logind: delay shutdowns: no file in the answer")
	}
	return f, nil
}
