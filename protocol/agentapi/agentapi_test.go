package agentapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var keys = credentials.NewStaticCredentialsProvider("AKID", "SECRET", "TOKEN")

// roundTripper answers requests without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Header: http.Header{"X-Amzn-Requestid": {"r-1"}}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func client(t *testing.T, cfg agentapi.Config, f roundTripper) *agentapi.Client {
	t.Helper()
	if cfg.Region == "" {
		cfg.Region = "us-west-2"
	}
	if cfg.Credentials == nil {
		cfg.Credentials = keys
	}
	cfg.HTTPClient = &http.Client{Transport: f}
	c, err := agentapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestARequestLooksLikeTheSDKsOnTheWire(t *testing.T) {
	var got *http.Request
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		_, _ = w.Write([]byte(`{"endpoint":"http://a/","telemetryEndpoint":"http://t/","systemLogsEndpoint":"http://s/","novel":{}}`))
	}))
	defer srv.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c, err := agentapi.New(agentapi.Config{Endpoint: srv.URL, Region: "us-west-2", Credentials: keys, UserAgent: "agent/1", HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	var out agentapi.DiscoverPollEndpointOutput
	in := agentapi.DiscoverPollEndpointInput{Cluster: aws.String("c"), ContainerInstance: aws.String("i"), ZoneId: aws.String("")}
	if err := c.Call(t.Context(), "DiscoverPollEndpoint", &in, &out); err != nil {
		t.Fatal(err)
	}
	if *out.Endpoint != "http://a/" || *out.SystemLogsEndpoint != "http://s/" {
		t.Errorf("%+v", out)
	}
	if body != `{"cluster":"c","containerInstance":"i","zoneId":""}` {
		t.Error(body)
	}
	h := got.Header
	if got.Method != "POST" || got.URL.Path != "/" || h.Get("X-Amz-Target") != ecsapi.TargetPrefix+"DiscoverPollEndpoint" || h.Get("Content-Type") != "application/x-amz-json-1.1" ||
		h.Get("User-Agent") != "agent/1" || h.Get("Amz-Sdk-Request") != "attempt=1; max=3" || len(h.Get("Amz-Sdk-Invocation-Id")) != 36 || h.Get("X-Amz-Security-Token") != "TOKEN" {
		t.Errorf("%s %s %v", got.Method, got.URL, h)
	}
	const signed = "SignedHeaders=amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-security-token;x-amz-target,"
	if !strings.Contains(h.Get("Authorization"), signed) || !strings.Contains(h.Get("Authorization"), "/us-west-2/ecs/aws4_request") {
		t.Error(h.Get("Authorization"))
	}
	verify(t, got, body)
}

// verify signs the request again at its own time and compares.
func verify(t *testing.T, r *http.Request, body string) {
	t.Helper()
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := http.NewRequest(r.Method, "http://"+r.Host+"/", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Content-Type", "X-Amz-Target", "Amz-Sdk-Invocation-Id", "Amz-Sdk-Request"} {
		again.Header.Set(name, r.Header.Get(name))
	}
	k, _ := keys.Retrieve(context.Background())
	if err := v4.NewSigner().SignHTTP(context.Background(), k, again, sha(body), "ecs", "us-west-2", at); err != nil {
		t.Fatal(err)
	}
	if again.Header.Get("Authorization") != r.Header.Get("Authorization") {
		t.Errorf("signature\n got  %s\n want %s", r.Header.Get("Authorization"), again.Header.Get("Authorization"))
	}
}

func TestZeroNumbersAreNotSentAndThePresentationOfResourcesIsTheAgents(t *testing.T) {
	var body string
	c := client(t, agentapi.Config{}, func(r *http.Request) (*http.Response, error) {
		b, _ := io.ReadAll(r.Body)
		body = string(b)
		return answer(200, "{}")
	})
	in := agentapi.RegisterContainerInstanceInput{ClientToken: aws.String("t"), InstanceIdentityDocument: aws.String(""),
		TotalResources: []agentapi.Resource{{Name: aws.String("CPU"), Type: aws.String("INTEGER"), IntegerValue: 2048}, {Name: aws.String("PORTS"), Type: aws.String("STRINGSET"), StringSetValue: []string{"22"}}}}
	if err := c.Call(t.Context(), "RegisterContainerInstance", &in, nil); err != nil {
		t.Fatal(err)
	}
	if body != `{"clientToken":"t","instanceIdentityDocument":"","totalResources":[{"integerValue":2048,"name":"CPU","type":"INTEGER"},{"name":"PORTS","stringSetValue":["22"],"type":"STRINGSET"}]}` {
		t.Error(body)
	}
}

func TestARefusalIsAnAPIErrorAndIsNotRetried(t *testing.T) {
	calls := 0
	c := client(t, agentapi.Config{}, func(*http.Request) (*http.Response, error) {
		calls++
		return answer(400, `{"__type":"ClusterNotFoundException","message":"Cluster not found."}`)
	})
	err := c.Call(t.Context(), "SubmitTaskStateChange", &agentapi.SubmitTaskStateChangeInput{}, nil)
	var e *agentapi.APIError
	if !errors.As(err, &e) || *e != (agentapi.APIError{Operation: "SubmitTaskStateChange", Code: "ClusterNotFoundException", Message: "Cluster not found.", StatusCode: 400, RequestID: "r-1"}) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	if err.Error() != "SubmitTaskStateChange: ClusterNotFoundException: Cluster not found. (HTTP 400, request r-1)" {
		t.Error(err)
	}
}

func TestFaultsThrottlingAndBrokenConnectionsAreRetriedWithTheSameInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := map[string]bool{}
		var numbers []string
		replies := []func() (*http.Response, error){
			func() (*http.Response, error) { return answer(503, "<html>") },
			func() (*http.Response, error) { return answer(400, `{"__type":"ThrottlingException"}`) },
			func() (*http.Response, error) { return nil, errors.New("connection reset") },
			func() (*http.Response, error) { return answer(200, "{}") },
		}
		c := client(t, agentapi.Config{MaxAttempts: 4}, func(r *http.Request) (*http.Response, error) {
			ids[r.Header.Get("Amz-Sdk-Invocation-Id")] = true
			numbers = append(numbers, r.Header.Get("Amz-Sdk-Request"))
			return replies[len(numbers)-1]()
		})
		if err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, nil); err != nil {
			t.Fatal(err)
		}
		if len(ids) != 1 || strings.Join(numbers, ",") != "attempt=1; max=4,attempt=2; max=4,attempt=3; max=4,attempt=4; max=4" {
			t.Error(ids, numbers)
		}
	})
}

func TestAnAttemptThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := client(t, agentapi.Config{MaxAttempts: 2, AttemptTimeout: time.Minute}, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, nil)
		if err == nil || err.Error() != "CreateCluster: no answer within 1m0s" {
			t.Error(err)
		}
		if d := time.Since(start); d < 2*time.Minute || d > 2*time.Minute+time.Second {
			t.Error(d)
		}
	})
}

func TestTheCallersContextEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		c := client(t, agentapi.Config{MaxAttempts: 1000}, func(*http.Request) (*http.Response, error) { return answer(500, "") })
		err := c.Call(ctx, "CreateCluster", &agentapi.CreateClusterInput{}, nil)
		var e *agentapi.APIError
		if !errors.As(err, &e) || e.Code != "Internal Server Error" {
			t.Error(err)
		}
	})
}

func TestAnAnswerThatCannotBeReadIsAnErrorAndNotAskedForAgain(t *testing.T) {
	calls := 0
	c := client(t, agentapi.Config{}, func(*http.Request) (*http.Response, error) { calls++; return answer(200, `{"cluster":7}`) })
	err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, new(agentapi.CreateClusterOutput))
	if err == nil || err.Error() != "CreateCluster: the answer cannot be used: cluster: expected an object, got a number" || calls != 1 {
		t.Error(err, calls)
	}
}

func TestARedirectIsAnErrorAndNotFollowed(t *testing.T) {
	c := client(t, agentapi.Config{}, func(r *http.Request) (*http.Response, error) {
		resp, _ := answer(307, "")
		resp.Header.Set("Location", "http://elsewhere/")
		resp.Request = r
		return resp, nil
	})
	var e *agentapi.APIError
	if err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, nil); !errors.As(err, &e) || e.StatusCode != 307 {
		t.Error(err)
	}
}

func TestTheEndpointIsCheckedAndCompleted(t *testing.T) {
	for in, want := range map[string]string{
		"": "https://ecs.us-west-2.amazonaws.com/", "http://127.0.0.1:8480": "http://127.0.0.1:8480/", "control.local:8480": "https://control.local:8480/",
		"ftp://x": "", "http://": "", "http://u:p@h": "", "http://h?q": "", ":": "",
	} {
		var got string
		c, err := agentapi.New(agentapi.Config{Endpoint: in, Region: "us-west-2", Credentials: keys, HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			got = r.URL.String()
			return answer(200, "{}")
		})}})
		if (err != nil) != (want == "") {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if err == nil {
			if err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, nil); err != nil || got != want {
				t.Errorf("%q: %q, %v", in, got, err)
			}
		}
	}
	for _, cfg := range []agentapi.Config{{Credentials: keys}, {Region: "r"}} {
		if _, err := agentapi.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestMissingCredentialsAreNamed(t *testing.T) {
	c := client(t, agentapi.Config{MaxAttempts: 1, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("no file")
	})}, nil)
	if err := c.Call(t.Context(), "CreateCluster", &agentapi.CreateClusterInput{}, nil); err == nil || err.Error() != "CreateCluster: no credentials: no file" {
		t.Error(err)
	}
}

func TestTheShapesAreTheSDKs(t *testing.T) {
	for name, v := range map[string]any{
		"RegisterContainerInstance": [2]any{agentapi.RegisterContainerInstanceInput{}, agentapi.RegisterContainerInstanceOutput{}},
		"DiscoverPollEndpoint":      [2]any{agentapi.DiscoverPollEndpointInput{}, agentapi.DiscoverPollEndpointOutput{}},
		"SubmitTaskStateChange":     [2]any{agentapi.SubmitTaskStateChangeInput{}, agentapi.SubmitTaskStateChangeOutput{}},
		"CreateCluster":             [2]any{agentapi.CreateClusterInput{}, agentapi.CreateClusterOutput{}},
	} {
		op := ecsapi.ByName(name)
		pair := v.([2]any)
		equal(t, name+" input", reflect.TypeOf(pair[0]), reflect.TypeOf(op.NewInput()).Elem())
		equal(t, name+" output", reflect.TypeOf(pair[1]), reflect.TypeOf(op.NewOutput()).Elem())
	}
}

func equal(t *testing.T, path string, ours, theirs reflect.Type) {
	if ours.Kind() != theirs.Kind() {
		t.Errorf("%s: %s, the SDK has %s", path, ours, theirs)
		return
	}
	switch ours.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		equal(t, path, ours.Elem(), theirs.Elem())
	case reflect.Struct:
		if ours == reflect.TypeFor[time.Time]() {
			return
		}
		for _, f := range reflect.VisibleFields(theirs) {
			if !f.IsExported() || f.Anonymous || f.Name == "ResultMetadata" {
				continue
			}
			if mine, ok := ours.FieldByName(f.Name); ok {
				equal(t, path+"."+f.Name, mine.Type, f.Type)
			} else {
				t.Errorf("%s.%s is missing: run go generate ./protocol/ecsapi", path, f.Name)
			}
		}
	}
}

func TestThePackageDoesNotLinkTheSDKsClient(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "aws-sdk-go-v2/service/") {
		t.Error("the package links a service of the AWS SDK, which costs the agent 2 MiB")
	}
}

func sha(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}
