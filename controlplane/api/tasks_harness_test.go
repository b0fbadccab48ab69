package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// plane is an API server on a real etcd, spoken to over HTTP with the SDK's client. Nothing schedules and no agent is
// connected but what the test does in their place.
type plane struct {
	t       *testing.T
	ctx     context.Context
	store   *store.Store
	session *store.Session
	api     *api.Server
	url     string
	http    *http.Client
	seal    *seal.Key
	keys    map[store.Role]auth.Key
	static  map[string]*auth.TaskKey // keys of a file, by access key id
	admin   *ecs.Client
	host    *ecs.Client // an enrolment key
}

const testCluster = "daemonset"

func newPlane(t *testing.T) *plane {
	t.Helper()
	return newPlaneOn(t, storetest.New(t))
}

// newPlaneOn is a plane with the cluster daemonset on a given store.
func newPlaneOn(t *testing.T, st *store.Store) *plane {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	p := &plane{t: t, ctx: ctx, store: st, seal: seal.New(), keys: map[store.Role]auth.Key{}}
	txn := st.Txn()
	for _, role := range []store.Role{store.RoleAdmin, store.RoleReadOnly, store.RoleHost} {
		p.keys[role] = auth.NewKey(p.seal, store.Key{Role: role, Enrolment: role == store.RoleHost}, time.Now())
		txn.Create(p.keys[role].Key)
	}
	p.must(txn.Commit(ctx))
	session, err := st.Session(ctx, 30*time.Second)
	p.must(err)
	p.session = session
	t.Cleanup(func() {
		_ = session.Close()
		cancel()
	})
	p.serve(st)
	_, err = p.admin.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: aws.String(testCluster)})
	p.must(err)
	return p
}

// serve serves the API from a store, and points the clients to it.
func (p *plane) serve(st *store.Store) {
	p.serveWith(api.Config{Store: st, Verifier: auth.NewVerifier(auth.StoredKeys(st, p.seal), auth.Options{TaskKeys: auth.TaskKeys(st, p.staticKey)})})
}

func (p *plane) serveWith(cfg api.Config) {
	cfg.Seal = p.seal
	cfg.Region, cfg.AccountID = "us-west-2", "123456789012"
	cfg.BaseURL = func(r *http.Request) string { return "http://" + r.Host }
	p.api = api.New(cfg)
	server := httptest.NewServer(p.api)
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	p.url, p.http = server.URL, &http.Client{Transport: transport}
	p.t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	p.admin, p.host = p.client(p.keys[store.RoleAdmin]), p.client(p.keys[store.RoleHost])
}

func (p *plane) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) staticKey(id string) *auth.TaskKey { return p.static[id] }

// client signs with the key and asks once.
func (p *plane) client(k auth.Key) *ecs.Client {
	return ecs.New(ecs.Options{
		Region: "us-west-2", BaseEndpoint: aws.String(p.url), HTTPClient: p.http, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.Secret, ""),
	})
}

// call sends a body of its own as an administrator and returns the answer's JSON, which is an exception's on an error.
func (p *plane) call(operation, body string) (answer map[string]any, status int) {
	p.t.Helper()
	var raw []byte
	client := p.client(p.keys[store.RoleAdmin])
	_, err := client.ListClusters(p.ctx, &ecs.ListClustersInput{}, func(o *ecs.Options) {
		o.HTTPClient = doer(func(r *http.Request) (*http.Response, error) {
			resp, err := p.http.Do(r)
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			var b bytes.Buffer
			_, err = b.ReadFrom(resp.Body)
			raw, status = b.Bytes(), resp.StatusCode
			resp.Body = http.NoBody
			return resp, err
		})
		o.APIOptions = append(o.APIOptions, replaceBody(operation, body))
	})
	if raw == nil {
		p.t.Fatalf("%s: no answer: %v", operation, err)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		p.t.Fatalf("%s answered %q: %v", operation, raw, err)
	}
	return answer, status
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// replaceBody makes a request that of another operation, before it is signed.
func replaceBody(operation, body string) func(*smithymiddleware.Stack) error {
	return func(stack *smithymiddleware.Stack) error {
		return stack.Build.Add(smithymiddleware.BuildMiddlewareFunc("replaceBody", func(ctx context.Context, in smithymiddleware.BuildInput, next smithymiddleware.BuildHandler) (smithymiddleware.BuildOutput, smithymiddleware.Metadata, error) {
			r := in.Request.(*smithyhttp.Request)
			r.Header.Set("X-Amz-Target", ecsapi.TargetPrefix+operation)
			r, err := r.SetStream(strings.NewReader(body))
			if err != nil {
				return smithymiddleware.BuildOutput{}, smithymiddleware.Metadata{}, err
			}
			r.ContentLength = int64(len(body))
			in.Request = r
			return next.HandleBuild(ctx, in)
		}), smithymiddleware.Before)
	}
}

// refused fails unless err is an exception with the code and a text that contains text.
func (p *plane) refused(err error, code, text string) {
	p.t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) {
		p.t.Fatalf("got %v, want %s %q", err, code, text)
	}
	if e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), text) {
		p.t.Fatalf("got %s %q, want %s %q", e.ErrorCode(), e.ErrorMessage(), code, text)
	}
}

// register registers an instance of cpu units and memory MiB with the client, and connects it. It returns its id.
func (p *plane) register(client *ecs.Client, cpu, memory int32, more ...types.Attribute) string {
	p.t.Helper()
	out, err := client.RegisterContainerInstance(p.ctx, &ecs.RegisterContainerInstanceInput{
		Cluster: aws.String(testCluster),
		TotalResources: []types.Resource{
			{Name: aws.String("CPU"), Type: aws.String("INTEGER"), IntegerValue: cpu},
			{Name: aws.String("MEMORY"), Type: aws.String("INTEGER"), IntegerValue: memory},
			{Name: aws.String("PORTS"), Type: aws.String("STRINGSET"), StringSetValue: []string{"22"}},
			{Name: aws.String("PORTS_UDP"), Type: aws.String("STRINGSET"), StringSetValue: []string{}},
		},
		Attributes: append(more, []types.Attribute{
			{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("x86_64")}, {Name: aws.String("ecs.os-type"), Value: aws.String("linux")},
			{Name: aws.String("com.amazonaws.ecs.capability.docker-remote-api.1.18")}, {Name: aws.String("com.amazonaws.ecs.capability.docker-remote-api.1.19")},
			{Name: aws.String("com.amazonaws.ecs.capability.docker-remote-api.1.29")}, {Name: aws.String("ecs.capability.container-health-check")},
		}...),
		VersionInfo: &types.VersionInfo{AgentVersion: aws.String("1.0.0"), DockerVersion: aws.String("20.10")},
	})
	p.must(err)
	arn := aws.ToString(out.ContainerInstance.ContainerInstanceArn)
	id := arn[strings.LastIndex(arn, "/")+1:]
	p.connect(id)
	return id
}

// disconnect ends an instance's connection, as an agent's end does: one that is connected does not register.
func (p *plane) disconnect(instance string) {
	p.t.Helper()
	var c *store.Connection
	p.must(p.store.Read(p.ctx, func(v *store.View) error { c = v.Connection(testCluster, instance); return nil }))
	p.must(p.store.Txn().Delete(c).Commit(p.ctx))
}

func (p *plane) connect(instance string) {
	p.t.Helper()
	txn := p.store.Txn()
	txn.Put(&store.Connection{Cluster: testCluster, Instance: instance, Replica: "test", Since: time.Now()}, p.session.Lease())
	p.must(txn.Commit(p.ctx))
}

// define registers a definition of one container and returns family:revision.
func (p *plane) define(family string, cpu, memory int32, change ...func(*ecs.RegisterTaskDefinitionInput)) string {
	p.t.Helper()
	in := &ecs.RegisterTaskDefinitionInput{Family: aws.String(family), ContainerDefinitions: []types.ContainerDefinition{{
		Name: aws.String("main"), Image: aws.String("main:1"), Cpu: cpu, Memory: aws.Int32(memory), Essential: aws.Bool(true)}}}
	for _, f := range change {
		f(in)
	}
	out, err := p.admin.RegisterTaskDefinition(p.ctx, in)
	p.must(err)
	return fmt.Sprintf("%s:%d", family, out.TaskDefinition.Revision)
}

func port(number int32) func(*ecs.RegisterTaskDefinitionInput) {
	return func(in *ecs.RegisterTaskDefinitionInput) {
		in.NetworkMode = types.NetworkModeHost
		in.ContainerDefinitions[0].PortMappings = []types.PortMapping{{ContainerPort: aws.Int32(number)}}
	}
}

func (p *plane) run(in *ecs.RunTaskInput) *ecs.RunTaskOutput {
	p.t.Helper()
	if in.Cluster == nil {
		in.Cluster = aws.String(testCluster)
	}
	out, err := p.admin.RunTask(p.ctx, in)
	p.must(err)
	return out
}

// submit reports a status of a task with all its containers in it, as its agent.
func (p *plane) submit(arn *string, status string, change ...func(*ecs.SubmitTaskStateChangeInput)) {
	p.t.Helper()
	in := &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: arn, Status: aws.String(status), Reason: aws.String(""),
		Containers: []types.ContainerStateChange{{ContainerName: aws.String("main"), RuntimeId: aws.String("r"), Status: aws.String(status)}}}
	for _, f := range change {
		f(in)
	}
	out, err := p.host.SubmitTaskStateChange(p.ctx, in)
	p.must(err)
	if aws.ToString(out.Acknowledgment) == "" {
		p.t.Fatal("the report was not acknowledged")
	}
}

func (p *plane) describe(arn *string) types.Task {
	p.t.Helper()
	out, err := p.admin.DescribeTasks(p.ctx, &ecs.DescribeTasksInput{Cluster: aws.String(testCluster), Tasks: []string{*arn}, Include: []types.TaskField{types.TaskFieldTags}})
	p.must(err)
	if len(out.Tasks) != 1 {
		p.t.Fatalf("DescribeTasks of %s: %d tasks", *arn, len(out.Tasks))
	}
	return out.Tasks[0]
}

// schedule places a daemon task of the service's PRIMARY deployment on the instance, as the scheduler does.
func (p *plane) schedule(service, instance string) (arn *string) {
	p.t.Helper()
	p.must(store.Retry(p.ctx, func() (err error) {
		arn, err = p.trySchedule(service, instance)
		return err
	}))
	return arn
}

func (p *plane) trySchedule(service, instance string) (arn *string, err error) {
	p.t.Helper()
	txn := p.store.Txn()
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		svc := v.Service(testCluster, service)
		d := &svc.Object.Deployments[0]
		_, name, _ := strings.Cut(*d.TaskDefinition, "/")
		family, _, _ := strings.Cut(name, ":")
		for def := range v.TaskDefinitions(family) {
			if *def.Object.TaskDefinitionArn != *d.TaskDefinition {
				continue
			}
			t, err := task.New(task.ForService(svc, d, def, v.Instance(testCluster, instance), time.Now()))
			if err != nil {
				return err
			}
			task.Place(txn, v.Allocation(testCluster, instance), true, t)
			arn = t.Object.TaskArn
		}
		return nil
	}))
	return arn, txn.Commit(p.ctx)
}

// reserved is what tasks take on the instance.
func (p *plane) reserved(instance string) (r store.Resources, tasks int) {
	p.t.Helper()
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		for _, t := range v.Allocation(testCluster, instance).Tasks {
			r.CPU += t.CPU
			r.Memory += t.Memory
			r.PortsTCP = append(r.PortsTCP, t.PortsTCP...)
			tasks++
		}
		return nil
	}))
	return r, tasks
}
