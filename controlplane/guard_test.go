package controlplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// entries are those of the audit log that match.
func (p *plane) entries(t *testing.T, q audit.Query) (all []audit.Entry) {
	t.Helper()
	if err := audit.Read(t.Context(), p.dir, q, func(e *audit.Entry, _ []byte) error { all = append(all, *e); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// a host that is registered, with a definition that it can run.
func (p *plane) registered(t *testing.T, host aws.Credentials) (instance string) {
	t.Helper()
	admin := p.client(p.key(t, auth.AdminFile), "us-west-2")
	if _, err := admin.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("default"), Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}}); err != nil {
		t.Fatal(err)
	}
	made, err := admin.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("app"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("app"), Image: aws.String("app:1"), Memory: aws.Int32(64),
			Environment: []types.KeyValuePair{{Name: aws.String("PASSWORD"), Value: aws.String("planted-environment")}}}}})
	if err != nil {
		t.Fatal(err)
	}
	resource := func(name string, n int32) types.Resource {
		return types.Resource{Name: aws.String(name), Type: aws.String("INTEGER"), IntegerValue: n}
	}
	out, err := p.client(host, "us-west-2").RegisterContainerInstance(t.Context(), &ecs.RegisterContainerInstanceInput{Cluster: aws.String("default"),
		TotalResources: []types.Resource{resource("CPU", 1<<20), resource("MEMORY", 1<<20)}, VersionInfo: &types.VersionInfo{AgentVersion: aws.String("1.105.1")},
		Attributes: made.TaskDefinition.RequiresAttributes})
	if err != nil {
		t.Fatal(err)
	}
	return *out.ContainerInstance.ContainerInstanceArn
}

func TestTheAuditLogHasWhoDidWhatToWhatAndHowItEndedAndNoSecret(t *testing.T) {
	p := start(t, controlplane.Config{})
	adminKey, hostKey := p.key(t, auth.AdminFile), p.key(t, auth.HostFile)
	admin := p.client(adminKey, "us-west-2")
	instance := p.registered(t, hostKey)
	p.session(t, hostKey, "default", instance)
	p.connected(t, admin, instance)
	ran, err := admin.RunTask(t.Context(), &ecs.RunTaskInput{TaskDefinition: aws.String("app"), Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("planted-tag")}},
		Overrides: &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("app"), Command: []string{"planted-command"},
			Environment: []types.KeyValuePair{{Name: aws.String("TOKEN"), Value: aws.String("planted-override")}}}}}})
	if err != nil || len(ran.Tasks) != 1 {
		t.Fatal(ran, err)
	}
	if _, err := admin.ListTasks(t.Context(), &ecs.ListTasksInput{}); err != nil {
		t.Error(err)
	}
	_, err = admin.DeleteCluster(t.Context(), &ecs.DeleteClusterInput{Cluster: aws.String("nowhere")})
	refused(t, err, "ClusterNotFoundException", "")
	_, err = p.client(hostKey, "us-west-2").DeleteCluster(t.Context(), &ecs.DeleteClusterInput{Cluster: aws.String("default")})
	refused(t, err, "AccessDeniedException", "")
	_, err = p.client(aws.Credentials{AccessKeyID: adminKey.AccessKeyID, SecretAccessKey: "planted-guess"}, "us-west-2").DeleteCluster(t.Context(), &ecs.DeleteClusterInput{Cluster: aws.String("default")})
	refused(t, err, "InvalidSignatureException", "")
	made, err := controlplane.CreateKey(t.Context(), p.dir, controlplane.Key{Role: store.RoleReadOnly})
	if err == nil {
		_, err = controlplane.RevokeKey(t.Context(), p.dir, made.AccessKeyID)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ operation, key, outcome, resource string }{
		{"CreateCluster", adminKey.AccessKeyID, "ok", "clusterName=default"},
		{"RegisterTaskDefinition", adminKey.AccessKeyID, "ok", "family=app made=arn:aws:ecs:us-west-2:000000000000:task-definition/app:1"},
		{"RegisterContainerInstance", hostKey.AccessKeyID, "ok", "cluster=default made=" + instance},
		{"acs", hostKey.AccessKeyID, "opened", "containerInstance=" + instance},
		{"RunTask", adminKey.AccessKeyID, "ok", "taskDefinition=app made=" + *ran.Tasks[0].TaskArn},
		{"DeleteCluster", adminKey.AccessKeyID, "ClusterNotFoundException", "cluster=nowhere"},
		{"DeleteCluster", hostKey.AccessKeyID, "AccessDeniedException", ""},
		{"DeleteCluster", "", "InvalidSignatureException", ""},
		{"CreateKey", audit.Local, "ok", "made=" + made.AccessKeyID},
		{"RevokeKey", audit.Local, "ok", "key=" + made.AccessKeyID + " made=" + made.AccessKeyID},
	} {
		found := false
		all := p.entries(t, audit.Query{Operation: want.operation})
		for _, e := range all {
			local := e.Key == audit.Local || want.operation == "acs"
			found = found || e.Key == want.key && e.Outcome == want.outcome && strings.Join(e.Resource, " ") == want.resource &&
				(local || e.RequestID != "") && (e.Key == audit.Local || strings.HasPrefix(e.Address, "127.0.0.1:")) && (e.Key != "" || e.Claimed == adminKey.AccessKeyID)
		}
		if !found {
			t.Errorf("no entry is %+v of %+v", want, all)
		}
	}
	if reads := p.entries(t, audit.Query{Operation: "List*"}); len(reads) != 0 {
		t.Errorf("a read that was answered is in it: %+v", reads)
	}
	files, err := filepath.Glob(filepath.Join(p.dir, audit.Dir, "*"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"planted", adminKey.SecretAccessKey, hostKey.SecretAccessKey, made.SecretAccessKey, "Signature="} {
			if strings.Contains(string(data), secret) {
				t.Errorf("%s has the secret %s", f, secret)
			}
		}
	}
}

// connected waits until the instance's agent is known to be connected.
func (p *plane) connected(t *testing.T, admin *ecs.Client, instance string) {
	t.Helper()
	eventually(t, "the agent is connected", func() bool {
		out, err := admin.DescribeContainerInstances(t.Context(), &ecs.DescribeContainerInstancesInput{ContainerInstances: []string{instance}})
		return err == nil && len(out.ContainerInstances) == 1 && out.ContainerInstances[0].AgentConnected
	})
}

// The attack is from the address that the agent and the client have as well.
func TestTenThousandConnectionsOnWhichNobodySignsTakeNothingFromAnAgentAndAClient(t *testing.T) {
	p := start(t, controlplane.Config{Log: zap.NewNop()})
	hostKey := p.key(t, auth.HostFile)
	instance := p.registered(t, hostKey)
	agent := p.session(t, hostKey, "default", instance)
	told, ended := make(chan string, 1000), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		for {
			_, frame, err := agent.conn.Read(ctx)
			if err != nil {
				ended <- err
				return
			}
			if m, err := acs.Decode(frame); err == nil {
				if payload, ok := m.(*acs.PayloadMessage); ok {
					for _, task := range payload.Tasks {
						told <- task.Arn
					}
				}
			}
		}
	}()
	p.connected(t, p.client(p.key(t, auth.AdminFile), "us-west-2"), instance)
	const connections = 10000
	address, begin := p.Addr().String(), make(chan struct{})
	var attack sync.WaitGroup
	var mu sync.Mutex
	var held []net.Conn
	for worker := range 8 {
		attack.Go(func() {
			<-begin
			for i := range connections / 8 {
				conn, err := net.DialTimeout("tcp", address, time.Minute)
				if err != nil {
					continue // it was closed before this end knew that it was open
				}
				switch (worker + i) % 3 { // what is left is silent
				case 0:
					_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ") // it may be closed by now
				case 1:
					_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
				}
				mu.Lock()
				held = append(held, conn)
				mu.Unlock()
			}
		})
	}
	close(begin)
	// Meanwhile: calls on new connections, and tasks to the agent.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	admin := ecs.New(p.client(p.key(t, auth.AdminFile), "us-west-2").Options(), func(o *ecs.Options) { o.HTTPClient = client })
	const tasks = 50
	for range tasks {
		ran, err := admin.RunTask(t.Context(), &ecs.RunTaskInput{TaskDefinition: aws.String("app")})
		if err != nil || len(ran.Tasks) != 1 {
			t.Fatalf("a call is not served: %v, %v", ran, err)
		}
	}
	attack.Wait()
	if _, err := admin.ListTasks(t.Context(), &ecs.ListTasksInput{}); err != nil {
		t.Errorf("after the attack: %v", err)
	}
	seen := map[string]bool{}
	patience := time.After(time.Minute)
	for len(seen) < tasks {
		select {
		case arn := <-told:
			seen[arn] = true
		case err := <-ended:
			t.Fatalf("the agent's socket ended: %v", err)
		case <-patience:
			t.Fatalf("the agent was told of %d tasks of %d", len(seen), tasks)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	cancel()
	<-ended
}

func TestAKeyThatAsksTooMuchIsThrottledAsClientsKnowItAndTheyTryAgain(t *testing.T) {
	p := start(t, controlplane.Config{RateLimit: 2})
	adminKey := p.key(t, auth.AdminFile)
	admin := p.client(adminKey, "us-west-2")
	var err error
	for range 100 {
		if _, err = admin.ListClusters(t.Context(), &ecs.ListClustersInput{}); err != nil {
			break
		}
	}
	refused(t, err, "ThrottlingException", "2 calls a second")
	// The real command comes with nothing left in the bucket, and gets through by trying again.
	if _, err := admin.ListClusters(t.Context(), &ecs.ListClustersInput{}); err == nil {
		t.Log("a call went through meanwhile")
	}
	cmd := exec.CommandContext(t.Context(), "aws", "--endpoint-url", p.url, "--region", "us-west-2", "ecs", "create-cluster", "--cluster-name", "through")
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+adminKey.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+adminKey.SecretAccessKey, "AWS_CONFIG_FILE=/dev/null", "AWS_MAX_ATTEMPTS=10")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("aws: %v: %s", err, out)
	}
	hostKey := p.key(t, auth.HostFile)
	if _, err := p.client(hostKey, "us-west-2").DiscoverPollEndpoint(t.Context(), &ecs.DiscoverPollEndpointInput{}); err != nil {
		t.Errorf("another key: %v", err)
	}
}

func TestHeadersBodiesAndFramesAreBounded(t *testing.T) {
	p := start(t, controlplane.Config{Log: zap.NewNop()})
	say := func(request string) string {
		t.Helper()
		conn, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		go func() { _, _ = io.WriteString(conn, request) }() // it is not read to its end
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%.40q: %v", request, err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1000)) // the rest is cut off
		return fmt.Sprint(answer.StatusCode, " ", string(text))
	}
	if got := say("POST / HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 40<<10) + "\r\n\r\n"); !strings.HasPrefix(got, "431") {
		t.Errorf("a header of 40 KiB: %s", got)
	}
	if got := say("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + strings.Repeat("x", 3000000)); !strings.HasPrefix(got, "413") || !strings.Contains(got, "RequestEntityTooLargeException") {
		t.Errorf("a body of 3 MB: %s", got)
	}
	hostKey := p.key(t, auth.HostFile)
	agent := p.session(t, hostKey, "default", p.registered(t, hostKey))
	if err := agent.conn.Write(t.Context(), websocket.MessageText, make([]byte, acs.MaxFrame+1)); err != nil {
		t.Log("it is cut off while it is written:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if _, _, err := agent.conn.Read(ctx); err != nil {
			if ctx.Err() != nil {
				t.Error("a frame that is too large does not end the socket")
			}
			break
		}
	}
	if _, err := p.client(hostKey, "us-west-2").DiscoverPollEndpoint(t.Context(), &ecs.DiscoverPollEndpointInput{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}
