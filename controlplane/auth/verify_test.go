package auth_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const (
	keyID  = "AKIAADMINADMINADMIN0"
	secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func lookup(_ context.Context, id string) (*auth.Key, error) {
	if id != keyID {
		return nil, nil
	}
	return &auth.Key{Key: &store.Key{AccessKeyID: keyID, Role: store.RoleAdmin}, Secret: secret}, nil
}

func verifier() *auth.Verifier {
	return auth.NewVerifier(lookup, auth.Options{Now: func() time.Time { return now }})
}

// message is a request as it travels, so that a test can change any byte of it.
type message struct {
	method, uri, host string
	header            http.Header
	body              []byte
}

// sign makes a message and signs it with the SDK's signer.
func sign(t testing.TB, m message, at time.Time, change func(*http.Request)) message {
	t.Helper()
	r, err := http.NewRequest(m.method, "http://"+m.host+m.uri, bytes.NewReader(m.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = m.header.Clone()
	if change != nil {
		change(r)
	}
	hash := sha256.Sum256(m.body)
	credentials := aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hex.EncodeToString(hash[:]), "ecs", "eu-central-1", at); err != nil {
		t.Fatal(err)
	}
	m.header, m.uri = r.Header, r.URL.RequestURI()
	return m
}

// receive is what a server makes of the message.
func receive(t testing.TB, m message) *http.Request {
	t.Helper()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", m.method, m.uri, m.host)
	for name, values := range m.header {
		for _, v := range values {
			fmt.Fprintf(&b, "%s: %s\r\n", name, v)
		}
	}
	if m.method == http.MethodPost && m.header.Get("Content-Length") == "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(m.body))
	}
	b.WriteString("\r\n")
	b.Write(m.body)
	r, err := http.ReadRequest(bufio.NewReader(&b))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func call() message {
	return message{method: http.MethodPost, uri: "/", host: "127.0.0.1:8480", body: []byte(`{"cluster":"default"}`), header: http.Header{
		"Content-Type": {"application/x-amz-json-1.1"}, "X-Amz-Target": {"AmazonEC2ContainerServiceV20141113.ListTasks"}}}
}

// refused checks that err is a refusal with this code and something of this text.
func refused(t *testing.T, err error, code, text string) {
	t.Helper()
	var e *auth.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		t.Errorf("%v, want %s: …%s…", err, code, text)
	}
}

func TestWhateverHeadersTheSDKsSignerSignedAreVerified(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"the least":                nil,
		"the Go SDK's":             func(r *http.Request) { r.Header.Set("Amz-Sdk-Request", "attempt=1; max=3") },
		"no content type":          func(r *http.Request) { r.Header.Del("Content-Type") },
		"the body's hash":          func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", hashOf(`{"cluster":"default"}`)) },
		"blanks":                   func(r *http.Request) { r.Header.Set("X-Custom", "  a   b \t c    d  ") },
		"one header twice":         func(r *http.Request) { r.Header["X-Custom"] = []string{"b", " a  a ", ""} },
		"an empty header":          func(r *http.Request) { r.Header.Set("X-Empty", "") },
		"letters of other tongues": func(r *http.Request) { r.Header.Set("X-Custom", "höst") },
		"a query":                  func(r *http.Request) { r.URL.RawQuery = "b=2&a=x%20y&a=1&c=%2F&e&f=" },
		"a path":                   func(r *http.Request) { r.URL.Path = "/a b/ü/(c)" },
		"a name for host":          func(r *http.Request) { r.Host = "longshore.example.com" },
	} {
		m := call()
		host := m.host
		m = sign(t, m, now, func(r *http.Request) {
			if change != nil {
				change(r)
			}
			host = r.Host
		})
		m.host = host
		id, err := verifier().Verify(receive(t, m), m.body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want := (auth.Identity{AccessKeyID: keyID, Role: store.RoleAdmin, Region: "eu-central-1", Service: "ecs"}); *id != want {
			t.Errorf("%s: %+v", name, id)
		}
	}
}

func hashOf(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func TestTheUpgradeToAWebSocketIsVerified(t *testing.T) {
	m := sign(t, message{method: http.MethodGet, host: "127.0.0.1:8480", header: http.Header{},
		uri: "/acs/ws?agentVersion=1.2&dockerVersion=DockerVersion%3A%2020.10.24&containerInstanceArn=arn%3Aaws%3Aecs%3Aus-west-2%3A1%3Acontainer-instance%2Fdefault%2Fabc"}, now, nil)
	if _, err := verifier().VerifyUpgrade(receive(t, m)); err != nil {
		t.Error(err)
	}
	m.uri = strings.Replace(m.uri, "abc", "abd", 1)
	_, err := verifier().VerifyUpgrade(receive(t, m))
	refused(t, err, auth.CodeInvalid, "does not match")
}

func TestRefusalsHaveTheCodeAndTextOfAWS(t *testing.T) {
	for name, c := range map[string]struct {
		at         time.Time
		change     func(m *message)
		code, text string
	}{
		"nothing signed": {change: func(m *message) { m.header.Del("Authorization") }, code: auth.CodeMissingToken, text: "Missing Authentication Token"},
		"basic":          {change: func(m *message) { m.header.Set("Authorization", "Basic YTpi") }, code: auth.CodeMissingToken},
		"expired": {at: now.Add(-5*time.Minute - time.Second), code: auth.CodeInvalid,
			text: "Signature expired: 20261120T115459Z is now earlier than 20261120T115500Z (20261120T120000Z - 5 min.)"},
		"early": {at: now.Add(5*time.Minute + time.Second), code: auth.CodeInvalid,
			text: "Signature not yet current: 20261120T120501Z is still later than 20261120T120500Z (20261120T120000Z + 5 min.)"},
		"another day in the scope": {change: replace("20261120/", "20261119/"), code: auth.CodeInvalid, text: "Date in Credential scope does not match YYYYMMDD"},
		"another service":          {change: replace("/ecs/", "/ec2/"), code: auth.CodeInvalid, text: "correct service: 'ecs'"},
		"another terminator":       {change: replace("aws4_request", "aws5_request"), code: auth.CodeInvalid, text: "valid terminator"},
		"another region":           {change: replace("eu-central-1", "eu-central-2"), code: auth.CodeInvalid, text: "does not match"},
		"another key":              {change: replace(keyID, "AKIAOTHEROTHEROTHER0"), code: auth.CodeUnknownKey, text: "The security token included in the request is invalid."},
		"another algorithm":        {change: replace("HMAC", "ECDSA-P256"), code: auth.CodeIncomplete, text: "algorithm"},
		"no signature":             {change: replace("Signature=", "Signatur="), code: auth.CodeIncomplete, text: "requires 'Signature' parameter"},
		"no credential":            {change: replace("Credential=", "Credentials="), code: auth.CodeIncomplete, text: "requires 'Credential' parameter"},
		"four elements":            {change: replace("/ecs/", "/"), code: auth.CodeIncomplete, text: "exactly 5 slash-delimited elements"},
		"host unsigned":            {change: replace("host;", ""), code: auth.CodeInvalid, text: "'Host' must be a 'SignedHeader'"},
		"target unsigned":          {change: replace(";x-amz-target", ""), code: auth.CodeInvalid, text: "'X-Amz-Target' must be a 'SignedHeader'"},
		"date unsigned":            {change: replace("x-amz-date;", ""), code: auth.CodeInvalid, text: "'X-Amz-Date' must be a 'SignedHeader'"},
		"a signed header is gone":  {change: func(m *message) { m.header.Del("Content-Type") }, code: auth.CodeInvalid, text: "'content-type' is not in the request"},
		"no date":                  {change: func(m *message) { m.header.Del("X-Amz-Date") }, code: auth.CodeIncomplete, text: "'X-Amz-Date' or a 'Date'"},
		"a date of another form":   {change: func(m *message) { m.header.Set("X-Amz-Date", "2026-11-20") }, code: auth.CodeIncomplete, text: "Got '2026-11-20'"},
		"two dates":                {change: func(m *message) { m.header.Add("X-Amz-Date", "20261120T120000Z") }, code: auth.CodeIncomplete, text: "there are 2"},
		"two authorizations":       {change: func(m *message) { m.header.Add("Authorization", "x") }, code: auth.CodeIncomplete, text: "2 Authorization headers"},
		"a temporary token":        {change: func(m *message) { m.header.Set("X-Amz-Security-Token", "t") }, code: auth.CodeUnknownKey, text: "Only keys that were issued for a task"},
		"presigned":                {change: func(m *message) { m.uri = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00" }, code: auth.CodeIncomplete, text: "Presigned"},
		"another hash sent":        {change: func(m *message) { m.header.Set("X-Amz-Content-Sha256", hashOf("x")) }, code: auth.CodeInvalid, text: "the body's SHA-256 is"},
		"payload unsigned":         {change: func(m *message) { m.header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") }, code: auth.CodeInvalid, text: "UNSIGNED-PAYLOAD"},
		"another port":             {change: func(m *message) { m.host = "127.0.0.1:8481" }, code: auth.CodeInvalid, text: "does not match"},
	} {
		t.Run(name, func(t *testing.T) {
			at := c.at
			if at.IsZero() {
				at = now
			}
			m := sign(t, call(), at, nil)
			if c.change != nil {
				c.change(&m)
			}
			_, err := verifier().Verify(receive(t, m), m.body)
			refused(t, err, c.code, c.text)
		})
	}
}

func replace(old, new string) func(*message) {
	return func(m *message) {
		m.header.Set("Authorization", strings.Replace(m.header.Get("Authorization"), old, new, 1))
	}
}

func TestTheClockMayBeOffByFiveMinutesEitherWay(t *testing.T) {
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		m := sign(t, call(), now.Add(off), nil)
		if _, err := verifier().Verify(receive(t, m), m.body); err != nil {
			t.Errorf("%s: %v", off, err)
		}
	}
	m := sign(t, call(), now.Add(-time.Minute), nil)
	strict := auth.NewVerifier(lookup, auth.Options{Skew: 30 * time.Second, Now: func() time.Time { return now }})
	_, err := strict.Verify(receive(t, m), m.body)
	refused(t, err, auth.CodeInvalid, "- 30s)")
}

func TestAKeyThatCannotBeLookedUpIsNoRefusal(t *testing.T) {
	broken := auth.NewVerifier(func(context.Context, string) (*auth.Key, error) { return nil, store.ErrUnavailable },
		auth.Options{Now: func() time.Time { return now }})
	m := sign(t, call(), now, nil)
	_, err := broken.Verify(receive(t, m), m.body)
	var e *auth.Error
	if errors.As(err, &e) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("the error is %v", err)
	}
}

func TestAnyChangeOfASignedPartIsRefused(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := call()
		m.header.Set("X-Custom", rapid.StringMatching(`[a-z]{1,10}( [a-z]{1,10}){0,2}`).Draw(rt, "header"))
		m.body = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(rt, "body")
		m = sign(t, m, now, nil)
		if _, err := verifier().Verify(receive(t, m), m.body); err != nil {
			rt.Fatalf("unchanged: %v", err)
		}
		// Blanks are left out: a canonical request has no runs of them. So are bytes that no request can have.
		mutate := func(s, letters string) string {
			i := rapid.IntRange(0, len(s)-1).Draw(rt, "at")
			c := letters[rapid.IntRange(0, len(letters)-1).Draw(rt, "to")]
			if s[i] == c || s[i] == ' ' {
				return ""
			}
			return s[:i] + string(c) + s[i+1:]
		}
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=;,"
		changed := ""
		switch part := rapid.SampledFrom([]string{"body", "host", "method", "path", "Authorization", "X-Amz-Date", "X-Amz-Target", "Content-Type", "X-Custom"}).Draw(rt, "part"); part {
		case "body":
			i := rapid.IntRange(0, len(m.body)-1).Draw(rt, "at")
			m.body = bytes.Clone(m.body)
			m.body[i] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			changed = "body"
		case "host":
			if changed = mutate(m.host, "0123456789"); changed != "" {
				m.host = changed
			}
		case "method":
			m.method, changed = http.MethodPut, "method"
		case "path":
			m.uri, changed = rapid.SampledFrom([]string{"/x", "//", "/?a=b", "/%2F"}).Draw(rt, "uri"), "path"
		default:
			if changed = mutate(m.header.Get(part), letters); changed != "" {
				m.header.Set(part, changed)
			}
		}
		if changed == "" {
			return
		}
		r := receive(t, m)
		if _, err := verifier().Verify(r, m.body); err == nil {
			rt.Fatalf("accepted with %q", changed)
		}
	})
}

func TestTheRealCommandLineIsVerified(t *testing.T) {
	clis := map[string]string{} // by version
	for _, name := range []string{"/usr/bin/aws", "aws"} {
		if path, err := exec.LookPath(name); err == nil {
			version, err := exec.Command(path, "--version").CombinedOutput()
			if err != nil {
				t.Fatalf("%s --version: %v", path, err)
			}
			clis[string(bytes.TrimSpace(version))] = path
		}
	}
	if len(clis) == 0 {
		t.Fatal("there is no aws command: apt-get install awscli")
	}
	v := auth.NewVerifier(lookup, auth.Options{})
	var accepted atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if _, err := v.Verify(r, body); err != nil {
			var e *auth.Error
			if !errors.As(err, &e) {
				t.Error(err)
				return
			}
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.Code, "message": e.Message})
			return
		}
		accepted.Add(1)
		_, _ = w.Write([]byte(`{"taskArns":["arn:aws:ecs:us-west-2:1:task/default/abc"]}`))
	}))
	defer server.Close()
	for version, cli := range clis {
		t.Logf("%s is %s", cli, version)
		run := func(secret string) (string, error) {
			cmd := exec.Command(cli, "ecs", "list-tasks", "--cluster", "défault", "--endpoint-url", server.URL, "--region", "ap-south-1", "--output", "text")
			cmd.Env = append(os.Environ(), "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_SESSION_TOKEN=", "AWS_ACCESS_KEY_ID="+keyID, "AWS_SECRET_ACCESS_KEY="+secret,
				"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "LC_ALL=C.UTF-8")
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		before := accepted.Load()
		if out, err := run(secret); err != nil || !strings.Contains(out, "task/default/abc") || accepted.Load() == before {
			t.Errorf("%s: %v\n%s", cli, err, out)
		}
		if out, err := run("wrong"); err == nil || !strings.Contains(out, "InvalidSignatureException") {
			t.Errorf("%s with a wrong secret: %v\n%s", cli, err, out)
		}
	}
}

func TestEachRoleMayCallWhatItIsFor(t *testing.T) {
	operations := []string{"ListTasks", "DescribeTasks", "CreateService", "RegisterContainerInstance", "SubmitTaskStateChange", "DiscoverPollEndpoint", "ListTagsForResource", "UpdateContainerInstancesState", "CreateCluster"}
	for role, want := range map[store.Role]string{
		store.RoleAdmin:    "111111111",
		store.RoleReadOnly: "110000100",
		store.RoleHost:     "000111111",
		"":                 "000000000",
	} {
		got := ""
		for _, op := range operations {
			if (&auth.Identity{Role: role}).May(op) {
				got += "1"
			} else {
				got += "0"
			}
		}
		if got != want {
			t.Errorf("%q may %s, want %s of %v", role, got, want, operations)
		}
	}
	e := (&auth.Identity{AccessKeyID: keyID, Role: store.RoleHost}).Denied("000000000001", "CreateService", "*")
	refused(t, e, auth.CodeAccessDenied, "User: arn:aws:iam::000000000001:user/"+keyID+" is not authorized to perform: ecs:CreateService on resource: *")
}

func FuzzAnyAuthorizationHeaderIsReadOrRefused(f *testing.F) {
	f.Add(sign(f, call(), now, nil).header.Get("Authorization"))
	f.Add("AWS4-HMAC-SHA256 Credential=a/20261120/r/ecs/aws4_request, SignedHeaders=host;x-amz-date, Signature=00")
	f.Add("AWS4-HMAC-SHA256 Credential=////,SignedHeaders=;;,Signature=")
	f.Add("Bearer x")
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.Header["Authorization"] = []string{header}
		r.Header.Set("X-Amz-Date", "20261120T120000Z")
		id, err := verifier().Verify(r, nil)
		var e *auth.Error
		if id != nil || !errors.As(err, &e) || e.Message == "" || len(e.Message) > 2000 {
			t.Fatalf("%v, %v", id, err)
		}
	})
}
