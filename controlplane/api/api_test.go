package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// served are the operations that this version serves.
var served = strings.Fields(`CreateCluster CreateService DeleteAccountSetting DeleteAttributes DeleteCluster DeleteService
	DeleteTaskDefinitions DeregisterContainerInstance DeregisterTaskDefinition DescribeClusters DescribeContainerInstances
	DescribeServices DescribeTaskDefinition DescribeTasks DiscoverPollEndpoint ListAccountSettings ListAttributes ListClusters
	ListContainerInstances ListServices ListTagsForResource ListTaskDefinitionFamilies ListTaskDefinitions ListTasks
	PutAccountSetting PutAccountSettingDefault PutAttributes RegisterContainerInstance RegisterTaskDefinition RunTask StartTask
	StopTask SubmitAttachmentStateChanges SubmitContainerStateChange SubmitTaskStateChange TagResource UntagResource
	UpdateCluster UpdateClusterSettings UpdateContainerAgent UpdateContainerInstancesState UpdateService
	ListServiceDeployments DescribeServiceDeployments DescribeServiceRevisions StopServiceDeployment ContinueServiceDeployment UpdateTaskProtection GetTaskProtection`)

func TestAnOperationThatIsNotServedIsRefusedByNameAndNeverAServersFault(t *testing.T) {
	p := newPlane(t)
	isServed := map[string]bool{}
	for _, name := range served {
		isServed[name] = true
	}
	for _, op := range ecsapi.Operations() {
		answer, status := p.call(op.Name, `{}`)
		code, _ := answer["__type"].(string)
		message, _ := answer["message"].(string)
		if status >= 500 {
			t.Errorf("%s with an empty body: status %d: %v", op.Name, status, answer)
		}
		unsupported := code == "UnsupportedFeatureException" && strings.Contains(message, "operation "+op.Name)
		if unsupported == isServed[op.Name] || unsupported && status != http.StatusBadRequest {
			t.Errorf("%s: status %d: %v", op.Name, status, answer)
		}
	}
	for _, name := range []string{"NoSuchOperation", "createCluster", "", strings.Repeat("x", 5000)} {
		if answer, status := p.call(name, `{}`); status != 400 || answer["__type"] != "UnknownOperationException" {
			t.Errorf("%.20q: status %d: %v", name, status, answer)
		}
	}
}

// bare sends a request that nobody signed.
func bare(t *testing.T, p *plane, method, path, target, body string) (*http.Response, map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(p.ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if target != "" {
		r.Header.Set("X-Amz-Target", target)
	}
	resp, err := p.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatalf("%s %s answered %q: %v", method, path, raw, err)
	}
	return resp, answer
}

func TestEveryAnswerIsJSONWithARequestID(t *testing.T) {
	p := newPlane(t)
	for _, c := range []struct {
		method, path, target, body, code string
		status                           int
	}{
		{"POST", "/", "", "Action=GetCallerIdentity&Version=2011-06-15", "UnknownOperationException", 400},
		{"POST", "/", "Logs_20140328.PutLogEvents", "{}", "UnknownOperationException", 400},
		{"POST", "/", ecsapi.TargetPrefix + "Nonsense", "{}", "UnknownOperationException", 400},
		{"POST", "/", ecsapi.TargetPrefix + "ListClusters", "{}", "MissingAuthenticationTokenException", 400},
		{"POST", "/", ecsapi.TargetPrefix + "CreateCapacityProvider", "{}", "MissingAuthenticationTokenException", 400},
		{"POST", "/", ecsapi.TargetPrefix + "ListClusters", strings.Repeat(" ", 1<<20+1), "RequestEntityTooLargeException", 413},
		{"GET", "/", ecsapi.TargetPrefix + "ListClusters", "", "UnknownOperationException", 404},
		{"POST", "/v1", ecsapi.TargetPrefix + "ListClusters", "{}", "UnknownOperationException", 404},
	} {
		resp, answer := bare(t, p, c.method, c.path, c.target, c.body)
		if resp.StatusCode != c.status || answer["__type"] != c.code || answer["message"] == "" {
			t.Errorf("%s %s %s: status %d: %v; want %d %s", c.method, c.path, c.target, resp.StatusCode, answer, c.status, c.code)
		}
		if len(resp.Header.Get("x-amzn-RequestId")) != 36 || resp.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
			t.Errorf("%s %s %s: headers %v", c.method, c.path, c.target, resp.Header)
		}
	}
}

func TestMalformedBodiesAreRefusedAndChangeNothing(t *testing.T) {
	p := newPlane(t)
	for _, body := range []string{
		`{`, `[]`, `"x"`, `null`, `{"clusterName":"a"} {}`, `{"clusterName":1}`, `{"clusterName":["a"]}`, `{"tags":{}}`, `{"tags":[null]}`,
		`{"clusterName":"a","clusterName":"b"}`, "{\"clusterName\":\"\xff\"}", strings.Repeat(`{"tags":[`, 5000),
	} {
		if answer, status := p.call("CreateCluster", body); status != 400 || answer["__type"] != "SerializationException" {
			t.Errorf("%.60q: status %d: %v", body, status, answer)
		}
	}
	if answer, status := p.call("CreateCluster", ""); status != 200 {
		t.Errorf("an empty body, which is {}: status %d: %v", status, answer)
	}
	if answer, status := p.call("DeleteCluster", "{}"); status != 400 || answer["__type"] != "InvalidParameterException" || !strings.Contains(answer["message"].(string), "cluster") {
		t.Errorf("DeleteCluster without its required member: status %d: %v", status, answer)
	}
	out, err := p.admin.ListClusters(p.ctx, &ecs.ListClustersInput{})
	p.must(err)
	if len(out.ClusterArns) != 2 {
		t.Errorf("there are %v", out.ClusterArns)
	}
}

func TestAMemberThatNobodyKnowsIsAcceptedAndLoggedOnceForEachClient(t *testing.T) {
	core, logs := observer.New(zapcore.InfoLevel)
	p := newPlane(t)
	handler := api.New(api.Config{Store: p.store, Verifier: anybody{}, Region: "us-west-2", AccountID: "123456789012", Log: zap.New(core)})
	send := func(agent, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("X-Amz-Target", ecsapi.TargetPrefix+"CreateCluster")
		r.Header.Set("User-Agent", agent)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: status %d: %s", body, w.Code, w.Body)
		}
	}
	send("a/1", `{"clusterName":"x","future":{"a":1},"tags":[{"key":"k","colour":"red"},{"key":"l","colour":"red"}]}`)
	send("a/1", `{"clusterName":"x","future":2}`)
	send("b/1", `{"clusterName":"x","future":2}`)
	var got []string
	for _, e := range logs.FilterMessageSnippet("does not know").All() {
		m := e.ContextMap()
		got = append(got, m["client"].(string)+" "+m["operation"].(string)+" "+m["member"].(string))
	}
	if want := "a/1 CreateCluster future, a/1 CreateCluster tags[].colour, b/1 CreateCluster future"; strings.Join(got, ", ") != want {
		t.Errorf("logged %q, want %q", strings.Join(got, ", "), want)
	}
	calls := logs.FilterMessage("api call").All()
	if len(calls) != 3 {
		t.Fatalf("%d lines for 3 calls", len(calls))
	}
	line := calls[0].ContextMap()
	for _, field := range []string{"operation", "key", "client", "duration", "outcome", "request_id"} {
		if line[field] == nil || line[field] == "" {
			t.Errorf("the line of a call has no %s: %v", field, line)
		}
	}
}

// anybody takes every request for an administrator's, and fails as it is told.
type anybody struct{ err error }

func (v anybody) Verify(*http.Request, []byte) (*auth.Identity, error) {
	if v.err != nil && v.err.Error() == "panic" {
		panic("in the verifier")
	}
	return &auth.Identity{AccessKeyID: "AKIDTEST", Role: store.RoleAdmin}, v.err
}

func TestAPanicIsOneCallsServerException(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	handler := api.New(api.Config{Verifier: anybody{errors.New("panic")}, Region: "us-west-2", AccountID: "123456789012", Log: zap.New(core)})
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader([]byte("{}")))
	r.Header.Set("X-Amz-Target", ecsapi.TargetPrefix+"ListClusters")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"ServerException"`) || strings.Contains(w.Body.String(), "verifier") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
	if logs.FilterMessageSnippet("panicked").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

func TestAKeyMayDoWhatItsRoleMay(t *testing.T) {
	p := newPlane(t)
	reader := p.client(p.keys[store.RoleReadOnly])
	_, err := reader.DescribeClusters(p.ctx, &ecs.DescribeClustersInput{})
	p.must(err)
	_, err = reader.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster)})
	p.must(err)
	_, err = reader.CreateCluster(p.ctx, &ecs.CreateClusterInput{})
	p.refused(err, "AccessDeniedException", "is not authorized to perform: ecs:CreateCluster on resource: ")
	_, err = p.host.ListClusters(p.ctx, &ecs.ListClustersInput{})
	p.refused(err, "AccessDeniedException", "ecs:ListClusters")
	_, err = p.host.PutAttributes(p.ctx, &ecs.PutAttributesInput{Attributes: []types.Attribute{{Name: aws.String("a")}}})
	p.refused(err, "AccessDeniedException", "ecs:PutAttributes")
	_, err = p.host.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String("mine")})
	p.refused(err, "AccessDeniedException", "cluster/mine")
	_, err = p.host.CreateCluster(p.ctx, &ecs.CreateClusterInput{ClusterName: aws.String("default")})
	p.must(err)
}

func TestACallEndsWhenItsTimeIsOver(t *testing.T) {
	p := newPlane(t)
	ctx, cancel := context.WithCancel(p.ctx)
	cancel()
	handler := api.New(api.Config{Store: p.store, Verifier: anybody{}, Region: "us-west-2", AccountID: "123456789012"})
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}")).WithContext(ctx)
	r.Header.Set("X-Amz-Target", ecsapi.TargetPrefix+"CreateCluster")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != 500 || !strings.Contains(w.Body.String(), "did not end in time") {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
