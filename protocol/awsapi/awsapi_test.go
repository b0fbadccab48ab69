package awsapi_test

import (
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
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var keys = credentials.NewStaticCredentialsProvider("AKID", "SECRET", "TOKEN")

// world is a server that takes only requests which the SDK's signer would have signed the same way, and a client of it.
type world struct {
	t       *testing.T
	server  *httptest.Server
	client  *awsapi.Client
	service string
	region  string
	answer  func(w http.ResponseWriter, r *http.Request, body []byte)
	targets []string
}

func newWorld(t *testing.T, service string, answer func(w http.ResponseWriter, r *http.Request, body []byte)) *world {
	w := &world{t: t, service: service, region: "eu-west-1", answer: answer}
	w.server = httptest.NewServer(w)
	transport := &http.Transport{}
	t.Cleanup(func() { w.server.Close(); transport.CloseIdleConnections() })
	w.client = awsapi.New(awsapi.Config{
		Endpoints: awsapi.Endpoints{All: w.server.URL}, HTTPClient: &http.Client{Transport: transport}, MaxDelay: time.Millisecond, AttemptTimeout: 5 * time.Second,
	})
	return w
}

func (w *world) caller() awsapi.Caller {
	return awsapi.Caller{Region: "eu-west-1", Credentials: keys}
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.targets = append(w.targets, r.Header.Get("X-Amz-Target"))
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		w.t.Error(err)
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.EscapedPath(), bytes.NewReader(body))
	if err != nil {
		w.t.Error(err)
		return
	}
	for _, name := range []string{"Content-Type", "X-Amz-Target", "Amz-Sdk-Invocation-Id", "Amz-Sdk-Request", "X-Amz-Content-Sha256"} {
		if v := r.Header.Get(name); v != "" {
			again.Header.Set(name, v)
		}
	}
	sum := sha256.Sum256(body)
	if w.service == "s3" && r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		w.t.Errorf("X-Amz-Content-Sha256 is %q", r.Header.Get("X-Amz-Content-Sha256"))
	}
	k, _ := keys.Retrieve(context.Background())
	err = v4.NewSigner().SignHTTP(context.Background(), k, again, hex.EncodeToString(sum[:]), w.service, w.region, at, func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = w.service == "s3"
	})
	if err != nil || again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		w.t.Errorf("signature of %s %s\n got  %s\n want %s %v", r.Method, r.URL, r.Header.Get("Authorization"), again.Header.Get("Authorization"), err)
	}
	w.answer(rw, r, body)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-RequestId", "req-1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"__type":"com.amazonaws.x#%s","message":%q}`, code, message)
}

func TestParametersAreFetchedTenAtATime(t *testing.T) {
	var sizes []int
	w := newWorld(t, "ssm", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		var in struct {
			Names          []string
			WithDecryption bool
		}
		if err := json.Unmarshal(body, &in); err != nil || !in.WithDecryption {
			t.Errorf("%s %v", body, err)
		}
		sizes = append(sizes, len(in.Names))
		var found []string
		for _, n := range in.Names {
			if n != "gone" {
				found = append(found, fmt.Sprintf(`{"Name":%q,"ARN":"arn:…/%s","Type":"SecureString","Version":3,"LastModifiedDate":1.5e9,"Value":"of %s"}`, n, n, n))
			}
		}
		fmt.Fprintf(w, `{"Parameters":[%s],"InvalidParameters":["gone"]}`, strings.Join(found, ","))
	})
	names := []string{"gone"}
	for i := range 10 {
		names = append(names, fmt.Sprint("p", i))
	}
	found, missing, err := w.client.GetParameters(t.Context(), w.caller(), names)
	if err != nil || len(found) != 10 || found[9].Name != "p9" || string(found[9].Value) != "of p9" || missing[0] != "gone" {
		t.Errorf("%v %v %v", found, missing, err)
	}
	if fmt.Sprint(sizes, w.targets) != "[10 1] [AmazonSSM.GetParameters AmazonSSM.GetParameters]" {
		t.Error(sizes, w.targets)
	}
	if s := fmt.Sprintf("%v %+v %#v", found, found, found); strings.Contains(s, "of p9") {
		t.Error("a value is shown: " + s)
	}
}

func TestASecretsVersionIsAskedForAsItWasNamed(t *testing.T) {
	w := newWorld(t, "secretsmanager", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		switch string(body) {
		case `{"SecretId":"s"}`:
			fmt.Fprint(w, `{"SecretString":"plain","VersionStages":["AWSCURRENT"],"CreatedDate":1.5}`)
		case `{"SecretId":"s","VersionId":"v1","VersionStage":"AWSPREVIOUS"}`:
			fmt.Fprint(w, `{"SecretString":""}`)
		default:
			fmt.Fprint(w, `{"SecretBinary":"AAEC"}`)
		}
	})
	for id, want := range map[awsapi.SecretID]string{{ID: "s"}: "plain", {ID: "s", Stage: "AWSPREVIOUS", Version: "v1"}: ""} {
		if got, err := w.client.GetSecretValue(t.Context(), w.caller(), id); err != nil || string(got) != want {
			t.Errorf("%v: %q %v", id, string(got), err)
		}
	}
	if _, err := w.client.GetSecretValue(t.Context(), w.caller(), awsapi.SecretID{ID: "binary"}); !errors.Is(err, awsapi.ErrBinary) {
		t.Error(err)
	}
}

func TestATokenOfARegistryIsUserAndPassword(t *testing.T) {
	token := "QVdTOnBhc3M6d29yZA=="
	w := newWorld(t, "ecr", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		if string(body) != `{"registryIds":["123456789012"]}` {
			t.Errorf("%s", body)
		}
		fmt.Fprintf(w, `{"authorizationData":[{"authorizationToken":%q,"expiresAt":1767225600.5,"proxyEndpoint":"https://123456789012.dkr.ecr.eu-west-1.amazonaws.com"}]}`, token)
	})
	got, err := w.client.GetAuthorizationToken(t.Context(), w.caller(), "123456789012", "")
	if err != nil || got.Username != "AWS" || string(got.Password) != "pass:word" || !got.ExpiresAt.Equal(time.Unix(1767225600, 500e6)) {
		t.Errorf("%+v %v", got, err)
	}
	token = "bm90IGl0"
	if _, err := w.client.GetAuthorizationToken(t.Context(), w.caller(), "123456789012", w.server.URL); err == nil || strings.Contains(err.Error(), token) {
		t.Error(err)
	}
}

func TestAnObjectIsFetchedWhereItsBucketIs(t *testing.T) {
	var w *world
	w = newWorld(t, "s3", func(rw http.ResponseWriter, r *http.Request, _ []byte) {
		if !strings.Contains(r.Header.Get("Authorization"), "/us-east-2/") {
			rw.Header().Set("X-Amz-Bucket-Region", "us-east-2")
			rw.WriteHeader(http.StatusMovedPermanently)
			fmt.Fprint(rw, `<?xml version="1.0"?><Error><Code>PermanentRedirect</Code><Message>elsewhere</Message><RequestId>r</RequestId></Error>`)
			w.region = "us-east-2"
			return
		}
		fmt.Fprint(rw, r.URL.EscapedPath())
	})
	got, err := w.client.GetObject(t.Context(), w.caller(), "buck.et", "a b/ü//~x+1.env", 100)
	if err != nil || string(got) != "/buck.et/a%20b/%C3%BC//~x%2B1.env" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := w.client.GetObject(t.Context(), awsapi.Caller{Region: "us-east-2", Credentials: keys}, "bucket", "key", 3); err == nil || !strings.Contains(err.Error(), "more than the 3 bytes") {
		t.Error(err)
	}
	if _, err := w.client.GetObject(t.Context(), w.caller(), "../x", "key", 3); err == nil {
		t.Error("a path was taken for a bucket")
	}
}

func TestARefusalHasItsCodeAndItsRequest(t *testing.T) {
	w := newWorld(t, "ssm", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		refuse(w, 400, "AccessDeniedException", "User: x is not authorized to perform: ssm:GetParameters")
	})
	_, _, err := w.client.GetParameters(t.Context(), w.caller(), []string{"p"})
	var api *agentapi.APIError
	if !errors.As(err, &api) || api.Code != "AccessDeniedException" || api.StatusCode != 400 || api.RequestID != "req-1" || len(w.targets) != 1 {
		t.Errorf("%v %v", err, w.targets)
	}
	w = newWorld(t, "s3", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		w.WriteHeader(404)
		fmt.Fprint(w, `<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>k</Key><RequestId>R7</RequestId></Error>`)
	})
	_, err = w.client.GetObject(t.Context(), w.caller(), "bucket", "k", 9)
	if !errors.As(err, &api) || api.Code != "NoSuchKey" || api.StatusCode != 404 || api.RequestID != "R7" {
		t.Error(err)
	}
}

func TestThrottlingAndFaultsAreTriedAgain(t *testing.T) {
	n := 0
	w := newWorld(t, "secretsmanager", func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		switch n++; n {
		case 1:
			refuse(w, 400, "ThrottlingException", "Rate exceeded")
		case 2:
			refuse(w, 500, "InternalServiceError", "oops")
		case 3:
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprint(w, `{"SecretString":"at last"}`)
		}
	})
	w.server.Config.ErrorLog = nil
	if got, err := w.client.GetSecretValue(t.Context(), w.caller(), awsapi.SecretID{ID: "s"}); err != nil || string(got) != "at last" || n != 4 {
		t.Error(string(got), err, n)
	}
}

func TestCredentialsThatCanNotBeHadAreAnErrorOfTheCall(t *testing.T) {
	c := awsapi.New(awsapi.Config{Endpoints: awsapi.Endpoints{All: "http://127.0.0.1:1"}, MaxAttempts: 1})
	none := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("no role") })
	if _, _, err := c.GetParameters(t.Context(), awsapi.Caller{Region: "r", Credentials: none}, []string{"p"}); err == nil || !strings.Contains(err.Error(), "no role") {
		t.Error(err)
	}
	if _, _, err := c.GetParameters(t.Context(), awsapi.Caller{Credentials: keys}, []string{"p"}); err == nil || !strings.Contains(err.Error(), "region") {
		t.Error(err)
	}
}
