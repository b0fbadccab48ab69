package fleet

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// caller makes API calls over one connection that is kept, one after the other. It signs them with Signature Version 4 itself: the
// SDK's client would take as long for a call as the control plane does.
type caller struct {
	cfg  *Config
	host string
	conn net.Conn
	in   *bufio.Reader
	body []byte // of the next call
	out  []byte
	key  []byte // of the day
	day  string
}

func (f *Fleet) caller() *caller {
	at, err := url.Parse(f.cfg.URL)
	if err != nil {
		f.note(err)
		at = &url.URL{}
	}
	return &caller{cfg: &f.cfg, host: at.Host}
}

func (c *caller) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

func mac(key []byte, of string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = io.WriteString(h, of) // a hash takes everything
	return h.Sum(nil)
}

// call makes a call with the body.
func (c *caller) call(operation string) (err error) {
	if c.conn == nil {
		if c.conn, err = net.Dial("tcp", c.host); err != nil {
			return err
		}
		c.in = bufio.NewReader(c.conn)
	}
	now := time.Now().UTC()
	at, day := now.Format("20060102T150405Z"), now.Format("20060102")
	if day != c.day {
		c.day, c.key = day, mac(mac(mac(mac([]byte("AWS4"+c.cfg.SecretAccessKey), day), c.cfg.Region), "ecs"), "aws4_request")
	}
	const target, signed = "AmazonEC2ContainerServiceV20141113.", "content-type;host;x-amz-date;x-amz-target"
	scope := day + "/" + c.cfg.Region + "/ecs/aws4_request"
	sum := sha256.Sum256(c.body)
	canonical := sha256.Sum256(fmt.Appendf(nil, "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:%s\nx-amz-date:%s\nx-amz-target:%s%s\n\n%s\n%x", c.host, at, target, operation, signed, sum))
	signature := hex.EncodeToString(mac(c.key, "AWS4-HMAC-SHA256\n"+at+"\n"+scope+"\n"+hex.EncodeToString(canonical[:])))
	c.out = fmt.Appendf(c.out[:0], "POST / HTTP/1.1\r\nHost: %s\r\nUser-Agent: Longshore Agent - bench\r\nContent-Length: %d\r\nContent-Type: application/x-amz-json-1.1\r\n"+
		"X-Amz-Date: %s\r\nX-Amz-Target: %s%s\r\nAuthorization: AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s\r\n\r\n%s",
		c.host, len(c.body), at, target, operation, c.cfg.AccessKeyID, scope, signed, signature, c.body)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if err := c.conn.SetDeadline(now.Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.out); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.300s", operation, answer.Status, said)
	}
	return err
}
