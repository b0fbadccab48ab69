package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
)

// ask asks for an explanation over HTTP, as a role.
func (p *plane) ask(role store.Role, body string) (e scheduler.Explanation, status int, text string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.ctx, http.MethodPost, p.url+"/", bytes.NewReader([]byte(body)))
	p.must(err)
	r.Header.Set("X-Amz-Target", api.OwnTargetPrefix+"Explain")
	sum := sha256.Sum256([]byte(body))
	p.must(v4.NewSigner().SignHTTP(p.ctx, aws.Credentials{AccessKeyID: p.keys[role].AccessKeyID, SecretAccessKey: p.keys[role].Secret}, r, hex.EncodeToString(sum[:]), "ecs", "us-west-2", time.Now()))
	answer, err := p.http.Do(r)
	p.must(err)
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	p.must(err)
	if answer.StatusCode == http.StatusOK {
		p.must(json.Unmarshal(data, &e))
	}
	return e, answer.StatusCode, string(data)
}

func TestExplanationsOverHTTP(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("logging-agent", "agent")
	id := p.register(p.host, 1024, 1000)
	own := p.schedule("logging-agent", id)
	ownID := (*own)[strings.LastIndexByte(*own, '/')+1:]
	for body, want := range map[string]string{
		`{"kind":"service","cluster":"daemonset","service":"logging-agent"}`:                                          "1 instance: 1 PENDING.",
		`{"kind":"task","cluster":"daemonset","task":"` + *own + `"}`:                                                 "the agent has not acknowledged it",
		`{"kind":"host","cluster":"daemonset","containerInstances":["` + id + `"]}`:                                   "comes first: its task " + ownID + " is PENDING",
		`{"kind":"placement","cluster":"daemonset","taskDefinition":"agent"}`:                                         "1 instance: 1 DAEMON.",
		`{"kind":"drain","cluster":"daemonset","containerInstances":["` + id + `"]}`:                                  "1 tasks would be stopped and 0 started",
		`{"kind":"update-service","cluster":"daemonset","service":"logging-agent","forceNewDeployment":true}`:         "1 tasks would be stopped and 1 started",
		`{"kind":"put-attributes","cluster":"daemonset","containerInstances":["` + id + `"],"attributes":{"x":null}}`: "0 tasks would be stopped and 0 started",
	} {
		e, status, text := p.ask(store.RoleReadOnly, body)
		if status != http.StatusOK || !strings.Contains(strings.Join(e.Text, "\n"), want) {
			t.Errorf("%s: %d, %q is not in %s", body, status, want, text)
		}
	}
	for body, want := range map[string]string{
		`{"kind":"weather","cluster":"daemonset"}`:                                                                    "kind should be one of [service, task, host",
		`{"kind":"service","cluster":"daemonset","service":"nobody"}`:                                                 "ResourceNotFoundException",
		`{"kind":"service","cluster":"nowhere","service":"nobody"}`:                                                   "ClusterNotFoundException",
		`{"kind":"service","cluster":"daemonset","colour":"blue"}`:                                                    "SerializationException",
		`{"kind":"placement","cluster":"daemonset","taskDefinition":"agent","count":1001}`:                            "count should be between 1 and 1000",
		`{"kind":"placement","cluster":"daemonset","taskDefinition":"agent","placementStrategy":[{"type":"spread"}]}`: "is not a field for the type spread",
		`{"kind":"host","cluster":"daemonset"}`:                                                                       "cannot be empty",
		`{"kind":"put-attributes","cluster":"daemonset","containerInstances":["` + id + `"]}`:                         "attributes cannot be empty",
		``: "SerializationException",
	} {
		if _, status, text := p.ask(store.RoleAdmin, body); status != http.StatusBadRequest || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s, want %q", body, status, text, want)
		}
	}
	if _, status, text := p.ask(store.RoleHost, `{"kind":"service","cluster":"daemonset","service":"logging-agent"}`); status != http.StatusBadRequest || !strings.Contains(text, "AccessDeniedException") {
		t.Errorf("a host is told %d %s", status, text)
	}
	if p.describe(own).StoppedReason != nil {
		t.Error("asking stopped a task")
	}
}

func FuzzExplain(f *testing.F) {
	f.Add([]byte(`{"kind":"placement","count":3,"placementConstraints":[{"type":"memberOf","expression":"attribute:a==b"}]}`))
	f.Add([]byte(`{"kind":"put-attributes","attributes":{"a":null}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var in api.ExplainInput
		if json.Unmarshal(body, &in) == nil {
			_ = in.Check()
		}
	})
}
