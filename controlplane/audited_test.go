package controlplane_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/ecsapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// planted is a request in which all is a secret that is not a name; what an operation does not have it ignores or refuses.
const planted = `{"cluster":"default","service":"nowhere","reason":"planted-reason","clientToken":"planted-token","secretAccessKey":"planted-key",
"tags":[{"key":"k","value":"planted-tag"}],"containerDefinitions":[{"name":"a","image":"planted-image","environment":[{"name":"P","value":"planted-environment"}]}],
"overrides":{"containerOverrides":[{"name":"a","command":["planted-command"]}]},"value":"planted-value"}`

// asks makes one signed call, and returns its request id and status.
func asks(t *testing.T, url, target string, key aws.Credentials) (id string, status int) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader([]byte(planted)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", target)
	sum := sha256.Sum256([]byte(planted))
	if err := v4.NewSigner().SignHTTP(context.Background(), key, r, hex.EncodeToString(sum[:]), "ecs", "us-west-2", time.Now()); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	return answer.Header.Get("X-Amzn-Requestid"), answer.StatusCode
}

func TestEachCallOfEachOperationHasOneLineOrIsAReadThatWasAnswered(t *testing.T) {
	p := start(t, controlplane.Config{})
	admin, host := p.key(t, auth.AdminFile), p.key(t, auth.HostFile)
	thief := aws.Credentials{AccessKeyID: admin.AccessKeyID, SecretAccessKey: "guessed"}
	var targets []string
	for _, o := range ecsapi.Operations() {
		targets = append(targets, ecsapi.TargetPrefix+o.Name)
	}
	for _, own := range []string{"Explain", "Sizing", join.HostOperation, agentapi.HostKeyOperation} {
		targets = append(targets, agentapi.OwnTarget+own)
	}
	type asked struct {
		operation string
		status    int
		reads     bool
	}
	all := map[string]asked{}
	for i, target := range targets {
		name := target[strings.LastIndexByte(target, '.')+1:]
		reads := name == "Explain" || name == "Sizing" || name == join.HostOperation
		for _, begin := range []string{"Describe", "List", "Get", "Discover"} {
			reads = reads || strings.HasPrefix(name, begin)
		}
		keys := []aws.Credentials{admin, host}
		if i < 90 { // of those without a right signature no more are written at once
			keys = append(keys, thief)
		}
		for _, key := range keys {
			id, status := asks(t, p.url, target, key)
			if id == "" || all[id].operation != "" {
				t.Fatalf("%s has the request id %q", target, id)
			}
			all[id] = asked{name, status, reads}
		}
	}
	lines := map[string]int{}
	for _, e := range p.entries(t, audit.Query{}) {
		lines[e.RequestID]++
		if was, ok := all[e.RequestID]; ok && (e.Operation != was.operation || (e.Outcome == audit.OK) != (was.status == http.StatusOK) || e.Time.IsZero() || e.Address == "") {
			t.Errorf("%+v is the line of %+v", e, was)
		}
	}
	for id, call := range all {
		switch {
		case lines[id] > 1, lines[id] == 0 && !call.reads:
			t.Errorf("%+v has %d lines", call, lines[id])
		case lines[id] == 1 && call.reads && call.status == http.StatusOK:
			t.Errorf("%+v is a read that was answered, and has a line", call)
		}
	}
	files, err := filepath.Glob(filepath.Join(p.dir, audit.Dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"planted", admin.SecretAccessKey, host.SecretAccessKey, "guessed", "Signature="} {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s has the secret %s", f, secret)
			}
		}
	}
}
