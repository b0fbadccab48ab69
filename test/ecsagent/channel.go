package ecsagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// channel is one web socket of the agent's. One goroutine reads and runs the handlers, in order; anyone writes.
type channel struct {
	*websocket.Conn
	a    *Agent
	name string // ACS or TCS
	url  string
	wmu  sync.Mutex
}

// dial opens a socket. Of its request only the host and the date are signed.
func (a *Agent) dial(name, base string, query map[string]string) (*channel, error) {
	u, err := socketURL(base, query)
	if err != nil {
		return nil, err
	}
	if a.cfg.SpacesAsPercent {
		u.RawQuery = strings.ReplaceAll(u.RawQuery, "+", "%20")
	}
	r, err := http.NewRequestWithContext(a.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if err := a.sign(r, nil, signedByFrame); err != nil {
		return nil, err
	}
	dialer := websocket.Dialer{HandshakeTimeout: 30 * time.Second, ReadBufferSize: 4096, WriteBufferSize: 32768,
		TLSClientConfig: a.cfg.tls(), Proxy: http.ProxyFromEnvironment}
	header := http.Header{"Authorization": r.Header["Authorization"], "X-Amz-Date": r.Header["X-Amz-Date"]}
	conn, answer, err := dialer.DialContext(a.ctx, u.String(), header)
	if err != nil {
		if answer == nil {
			return nil, err
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		a.write(Entry{Kind: Rejected, Type: name, Text: fmt.Sprintf("%d %s", answer.StatusCode, body), Body: body})
		return nil, a.refusal(answer.StatusCode, body)
	}
	a.write(Entry{Kind: Connected, Type: name, Text: u.String()})
	return &channel{Conn: conn, a: a, name: name, url: u.String()}, nil
}

// refusal reads a refused handshake's answer: an object with one member, whose name is the error's type.
func (a *Agent) refusal(status int, body []byte) error {
	var bare map[string]json.RawMessage
	if err := json.Unmarshal(body, &bare); err != nil || len(bare) != 1 {
		return fmt.Errorf("handshake refused with %d: %.200s", status, body)
	}
	for typ, text := range bare {
		return fmt.Errorf("%s: %s", typ, text)
	}
	return nil
}

// errClean is the end of a stream, after which the agent reconnects at once.
var errClean = errors.New("the stream ended")

// serve reads until the socket ends. handle gets each message of a type that known lists; only those count as traffic.
func (c *channel) serve(known map[string]bool, handle func(typ string, message json.RawMessage)) error {
	t := c.a.cfg.Timers
	expire := func() time.Duration { return t.Heartbeat + jitter(t.HeartbeatJitter) }
	why := make(chan string, 2)
	silent := time.AfterFunc(expire(), func() { why <- "no heartbeat"; _ = c.Close() })
	defer silent.Stop()
	aged := time.AfterFunc(t.MaxAge+jitter(t.MaxAgeJitter), func() {
		why <- "maximum age"
		text := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "ConnectionExpired: Reconnect to continue")
		_ = c.WriteControl(websocket.CloseMessage, text, time.Now().Add(time.Second))
		_ = c.Close()
	})
	defer aged.Stop()
	stop := context.AfterFunc(c.a.ctx, func() { _ = c.Close() }) // without a close frame
	defer stop()
	defer c.Close()
	for {
		_ = c.SetReadDeadline(time.Now().Add(2*t.Heartbeat + t.HeartbeatJitter))
		_, frame, err := c.ReadMessage()
		if err != nil {
			return c.ended(err, why)
		}
		var e envelope
		if err := json.Unmarshal(frame, &e); err != nil || e.Type == "" {
			c.a.m.fault("%s: a frame is no message: %.200s", c.name, frame)
			continue
		}
		if !known[e.Type] {
			c.a.write(Entry{Kind: Unknown, Type: e.Type, Body: frame})
			continue
		}
		silent.Reset(expire())
		handle(e.Type, e.Message)
	}
}

func (c *channel) ended(err error, why chan string) error {
	select {
	case own := <-why:
		c.a.write(Entry{Kind: Ended, Type: c.name, Text: own})
		if own == "maximum age" {
			return errClean
		}
		return errors.New(own)
	default:
	}
	c.a.write(Entry{Kind: Ended, Type: c.name, Text: err.Error()})
	if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway, websocket.CloseAbnormalClosure, websocket.CloseInternalServerErr) {
		return errClean
	}
	return err
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

// write sends one text frame, unless the test has it lost.
func (c *channel) write(e Entry, frame []byte) {
	if c.a.cfg.Lose != nil && c.a.cfg.Lose(e) {
		e.Kind = Lost
		c.a.write(e)
		return
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.a.ctx.Err() != nil {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(3 * time.Minute))
	if err := c.WriteMessage(websocket.TextMessage, frame); err == nil {
		c.a.write(e)
	} // the reader finds a broken socket
}
