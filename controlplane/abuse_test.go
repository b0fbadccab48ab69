package controlplane_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
)

func TestAHostKeyThatOpensManySocketsHoldsOne(t *testing.T) {
	p := start(t, controlplane.Config{})
	host := p.key(t, auth.HostFile)
	instance := p.registered(t, host)
	var all []*session
	for range 20 {
		all = append(all, p.session(t, host, "default", instance))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, s := range all[:len(all)-1] {
		for {
			if _, _, err := s.conn.Read(ctx); err != nil {
				if ctx.Err() != nil {
					t.Fatalf("socket %d of %d stays open", i, len(all))
				}
				break
			}
		}
	}
	p.connected(t, p.client(p.key(t, auth.AdminFile), "us-west-2"), instance)
}

func TestAPageThatNobodyGaveOutIsRefusedHoweverLong(t *testing.T) {
	p := start(t, controlplane.Config{})
	admin := p.client(p.key(t, auth.AdminFile), "us-west-2")
	for _, token := range []string{"x", strings.Repeat("A", 1000), strings.Repeat("/", 500_000), base64.StdEncoding.EncodeToString([]byte(strings.Repeat("cluster/", 50_000))), "\x00\xff", "-1", "9999999999999999999999"} {
		if _, err := admin.ListClusters(t.Context(), &ecs.ListClustersInput{NextToken: &token}); err == nil || !strings.Contains(err.Error(), "InvalidParameterException") && !strings.Contains(err.Error(), "SerializationException") {
			t.Errorf("a token of %d bytes (%.20q): %v", len(token), token, err)
		}
	}
	if _, err := admin.ListClusters(t.Context(), &ecs.ListClustersInput{MaxResults: aws.Int32(1)}); err != nil {
		t.Error(err)
	}
}

// Compression was not agreed upon, so that a small frame can't become a large one; and many small headers are as bad as one large.
func TestFramesThatAreCompressedEndTheSocketAndHeaderBombsTheConnection(t *testing.T) {
	p := start(t, controlplane.Config{})
	conn, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	var bomb strings.Builder
	bomb.WriteString("GET /acs/ws HTTP/1.1\r\nHost: x\r\n")
	for i := range 5000 {
		fmt.Fprintf(&bomb, "X-%d: y\r\n", i)
	}
	go func() { _, _ = io.WriteString(conn, bomb.String()+"\r\n") }() // it is not read to its end
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("5,000 headers: %s", answer.Status)
	}

	host := p.key(t, auth.HostFile)
	instance := p.registered(t, host)
	raw := p.upgraded(t, host, instance)
	// FIN, RSV1 (compressed), text, masked, 4 bytes.
	if _, err := raw.Write([]byte{0xC1, 0x84, 0, 0, 0, 0, 1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.Copy(io.Discard, raw); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("a compressed frame does not end the socket: %v", err)
	}
	next := p.session(t, host, "default", instance)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, _, err := next.conn.Read(ctx); err != nil {
		t.Errorf("the next socket: %v", err)
	}
}

// upgraded opens an agent's socket, and is the connection below it.
func (p *plane) upgraded(t *testing.T, host aws.Credentials, instance string) net.Conn {
	t.Helper()
	query := url.Values{"clusterArn": {"default"}, "containerInstanceArn": {instance}, "agentVersion": {"1.105.1"}, "agentHash": {"abcdef01"}, "seqNum": {"1"}, "protocolVersion": {"2"}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/acs/ws?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(t.Context(), host, r, hex.EncodeToString(empty[:]), "ecs", "us-west-2", time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Extensions": "permessage-deflate"} {
		r.Header.Set(name, value)
	}
	conn, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Fatalf("%s, and %q is agreed upon", answer.Status, answer.Header.Get("Sec-WebSocket-Extensions"))
	}
	return conn
}
