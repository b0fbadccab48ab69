package agent

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestWhatIsToBeTrustedIsSavedCountsAtOnceAndAfterARestart(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	core, logs := observer.New(zapcore.WarnLevel)
	cfg := &config.Config{DataDir: dir}
	client, err := clientBy(&agentapi.Clock{}, cfg, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	a := &Agent{cfg: cfg, log: zap.New(core), client: client, reserve: newReserve(dir, zap.NewNop())}
	reaches := func(c *http.Client) bool {
		res, err := c.Get(server.URL)
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return true
	}
	if reaches(client) || len(a.trusts()) != 0 {
		t.Fatal("it is trusted before anything was said")
	}
	for _, nonsense := range [][]byte{nil, []byte("no certificate"), bytes.Repeat([]byte("x"), 1<<20)} {
		if _, err := a.trust(nonsense); err == nil {
			t.Errorf("%.20q is trusted", nonsense)
		}
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	saved, err := a.trust(certificate)
	if err != nil || len(saved) != 1 || !reaches(client) {
		t.Errorf("%v, %v", saved, err)
	}
	again, err := clientBy(&agentapi.Clock{}, cfg, false)
	if err != nil || !reaches(again) || len(a.trusts()) != 1 {
		t.Errorf("after a restart it is not trusted: %v", err)
	}
	t.Cleanup(again.CloseIdleConnections)

	if err := os.WriteFile(filepath.Join(dir, authoritiesName), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	damaged, err := clientBy(&agentapi.Clock{}, cfg, false)
	if err != nil || reaches(damaged) || len(a.trusts()) != 0 || logs.Len() == 0 {
		t.Errorf("a damaged file: %v, %d lines", err, logs.Len())
	}
	t.Cleanup(damaged.CloseIdleConnections)
}
