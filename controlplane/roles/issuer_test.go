package roles

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/test/awsfake"
)

// bank is an issuer whose STS is a server of this process.
type bank struct {
	*testing.T
	sts    *awsfake.Server
	issuer *Issuer
	kept   []string
	logs   *observer.ObservedLogs
}

func newBank(t *testing.T, file *Roles) *bank {
	control := aws.Credentials{AccessKeyID: "AKCONTROL", SecretAccessKey: "planted-control"}
	b := &bank{T: t, sts: &awsfake.Server{Keys: []aws.Credentials{control}, Roles: map[string]time.Duration{app: 0}}}
	server := httptest.NewServer(b.sts)
	core, logs := observer.New(zap.DebugLevel)
	b.logs = logs
	client := sts.New(sts.Options{Region: "us-west-2", BaseEndpoint: &server.URL, Retryer: aws.NopRetryer{}, HTTPClient: server.Client(),
		Credentials: credentials.NewStaticCredentialsProvider(control.AccessKeyID, control.SecretAccessKey, "")})
	b.issuer = NewIssuer(IssuerConfig{File: file, STS: client, Account: "123456789012", Log: zap.New(core), Issued: func(_ context.Context, task Task, c Credentials) error {
		b.kept = append(b.kept, task.ID+" "+c.AccessKeyID)
		return nil
	}})
	t.Cleanup(func() { b.issuer.Close(); server.Close() })
	return b
}

// get waits while the credentials are asked for.
func (b *bank) get(role, task string) (Credentials, error) {
	b.Helper()
	for {
		ready := make(chan struct{})
		c, err := b.issuer.Get(role, Task{"c", task}, false, func() { close(ready) })
		if !errors.Is(err, ErrPending) {
			return c, err
		}
		select {
		case <-ready:
		case <-time.After(30 * time.Second):
			b.Fatal("nobody was told")
		}
	}
}

func TestEachTaskHasASessionOfItsOwnNamedAfterIt(t *testing.T) {
	b := newBank(t, nil)
	one, err := b.get(app, "0123456789abcdef0123456789abcdef")
	two, err2 := b.get("app", "1123456789abcdef0123456789abcdef") // by name, of the own account
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	sessions := b.sts.Sessions(app)
	if len(sessions) != 2 || one.AccessKeyID == two.AccessKeyID || sessions[0].Name != "0123456789abcdef0123456789abcdef" || sessions[1].Name != "1123456789abcdef0123456789abcdef" ||
		one.SecretAccessKey != sessions[0].SecretAccessKey || one.SessionToken != sessions[0].SessionToken || !one.Expiration.Equal(sessions[0].Expires) || one.RoleArn != app {
		t.Errorf("%+v", sessions)
	}
	if fmt.Sprint(b.kept) != fmt.Sprintf("[%s %s %s %s]", sessions[0].Name, one.AccessKeyID, sessions[1].Name, two.AccessKeyID) {
		t.Errorf("kept: %v", b.kept)
	}
	if again, err := b.get(app, "0123456789abcdef0123456789abcdef"); err != nil || again != one {
		t.Errorf("asked again although they are fresh: %v", err)
	}
	for _, l := range b.logs.All() {
		if strings.Contains(fmt.Sprint(l.Message, l.ContextMap()), "planted") {
			t.Error("a log line has a secret in it")
		}
	}
}

func TestCredentialsAreAskedForAnewBeforeTheyEnd(t *testing.T) {
	b := newBank(t, nil)
	one, err := b.get(app, "0123")
	if err != nil {
		t.Fatal(err)
	}
	b.issuer.now = func() time.Time { return one.Expiration.Add(-renewAhead) }
	two, err := b.get(app, "0123")
	if err != nil || two.AccessKeyID == one.AccessKeyID {
		t.Errorf("the old ones were handed out again, %v", err)
	}
}

func TestARoleThatSTSRefusesIsRefusedWithItsWordsAndAskedForAgainLater(t *testing.T) {
	b := newBank(t, nil)
	const gone = "arn:aws:iam::123456789012:role/gone"
	if _, err := b.get(gone, "0123"); err == nil || err.Error() != "STS AssumeRole: AccessDenied: User: arn:aws:iam::123456789012:user/control is not authorized to perform: sts:AssumeRole on resource: "+gone {
		t.Error(err)
	}
	b.sts.Set(func(s *awsfake.Server) { s.Roles[gone] = 0 })
	if _, err := b.get(gone, "0123"); err != nil {
		t.Error(err)
	}
}

func TestARoleOfTheFileIsNotAssumed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "roles.json")
	write(t, name, `{"roles":{"`+app+`":{"accessKeyId":"AKFILE","secretAccessKey":"s"}}}`, 0o600)
	file, err := Open(name, "123456789012", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	b := newBank(t, file)
	if c, err := b.get(app, "0123"); err != nil || c.AccessKeyID != "AKFILE" || len(b.sts.Calls()) != 0 {
		t.Errorf("%v %v", c.AccessKeyID, err)
	}
}
