package controlplane_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/test/awsfake"
)

// session is an agent's ACS socket at one replica.
type session struct {
	t    *testing.T
	conn *websocket.Conn
}

func (p *plane) session(t *testing.T, host aws.Credentials, cluster, instance string) *session {
	t.Helper()
	query := url.Values{"agentHash": {"abcdef01"}, "agentVersion": {"1.105.1"}, "clusterArn": {cluster}, "containerInstanceArn": {instance},
		"dockerVersion": {"DockerVersion: 20.10.24"}, "protocolVersion": {"2"}, "seqNum": {"1"}, "sendCredentials": {"true"}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/acs/ws?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(t.Context(), host, r, hex.EncodeToString(empty[:]), "ecs", "us-west-2", time.Now()); err != nil {
		t.Fatal(err)
	}
	conn, _, err := websocket.Dial(t.Context(), r.URL.String(), &websocket.DialOptions{HTTPHeader: r.Header})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(acs.MaxFrame)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &session{t, conn}
}

// credentials waits for those of the task's role, in a payload or by themselves, and acknowledges what it reads.
func (s *session) credentials() *acs.IAMRoleCredentials {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		_, frame, err := s.conn.Read(ctx)
		if err != nil {
			s.t.Fatalf("waiting for credentials: %v", err)
		}
		m, err := acs.Decode(frame)
		if err != nil {
			s.t.Fatal(err)
		}
		switch m := m.(type) {
		case *acs.PayloadMessage:
			ack, err := acs.Encode(&acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID})
			if err == nil {
				err = s.conn.Write(ctx, websocket.MessageText, ack)
			}
			if err != nil {
				s.t.Fatal(err)
			}
			if len(m.Tasks) == 1 && m.Tasks[0].RoleCredentials != nil {
				return m.Tasks[0].RoleCredentials
			}
		case *acs.IAMRoleCredentialsMessage:
			if m.RoleType == acs.RoleTypeTask {
				return m.RoleCredentials
			}
		}
	}
}

func TestATasksKeysThatOneReplicaIssuedAreVerifiedByTheOthersAndRenewedWhereTheAgentIs(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/app"
	own := aws.Credentials{AccessKeyID: "AKCONTROL", SecretAccessKey: "planted-control"}
	t.Setenv("AWS_ACCESS_KEY_ID", own.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", own.SecretAccessKey)
	sts := httptest.NewServer(&awsfake.Server{Keys: []aws.Credentials{own}, Roles: map[string]time.Duration{role: 0}})
	t.Cleanup(sts.Close)
	endpoints, shared := []string{externalEtcd(t)}, sealKey(t)
	replica := func() *plane {
		return start(t, controlplane.Config{EtcdEndpoints: endpoints, SealKeyFile: shared, AssumeRoles: true, STSEndpoint: sts.URL})
	}
	a, b, c := replica(), replica(), replica()
	admin, host := a.key(t, auth.AdminFile), a.key(t, auth.HostFile)
	one := a.client(admin, "us-west-2")
	if _, err := one.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("default")}); err != nil {
		t.Fatal(err)
	}
	made, err := one.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("app"), TaskRoleArn: aws.String(role),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("app"), Image: aws.String("app:1"), Memory: aws.Int32(64)}}})
	if err != nil {
		t.Fatal(err)
	}
	resource := func(name string, n int32) types.Resource {
		return types.Resource{Name: aws.String(name), Type: aws.String("INTEGER"), IntegerValue: n}
	}
	registered, err := a.client(host, "us-west-2").RegisterContainerInstance(t.Context(), &ecs.RegisterContainerInstanceInput{
		Cluster: aws.String("default"), TotalResources: []types.Resource{resource("CPU", 1024), resource("MEMORY", 1024)},
		VersionInfo: &types.VersionInfo{AgentVersion: aws.String("1.105.1")},
		Attributes:  made.TaskDefinition.RequiresAttributes,
	})
	if err != nil {
		t.Fatal(err)
	}
	instance := *registered.ContainerInstance.ContainerInstanceArn
	first := a.session(t, host, "default", instance)
	if _, err := one.CreateService(t.Context(), &ecs.CreateServiceInput{ServiceName: aws.String("app"), TaskDefinition: aws.String("app"), DesiredCount: aws.Int32(1)}); err != nil {
		t.Fatal(err)
	}
	issued := first.credentials()
	tasks, err := one.ListTasks(t.Context(), &ecs.ListTasksInput{})
	if err != nil || len(tasks.TaskArns) != 1 {
		t.Fatalf("%+v %v", tasks, err)
	}
	protect := func(what string, at *plane, keys *acs.IAMRoleCredentials, on bool) {
		t.Helper()
		signed := at.client(aws.Credentials{AccessKeyID: keys.AccessKeyID, SecretAccessKey: keys.SecretAccessKey, SessionToken: keys.SessionToken}, "us-west-2")
		out, err := signed.UpdateTaskProtection(t.Context(), &ecs.UpdateTaskProtectionInput{Cluster: aws.String("default"), Tasks: tasks.TaskArns, ProtectionEnabled: on})
		if err != nil || len(out.ProtectedTasks) != 1 || len(out.Failures) != 0 || out.ProtectedTasks[0].ProtectionEnabled != on {
			answer, _ := json.Marshal(out)
			t.Fatalf("%s: %s %v", what, answer, err)
		}
	}
	protect("the replica that issued them", a, issued, true)
	protect("another one", b, issued, false)
	protect("the third", c, issued, true)

	// The agent comes to another replica, which has it renewed there; the ids stay, and all verify the new ones too.
	_ = first.conn.CloseNow()
	renewed := b.session(t, host, "default", instance).credentials()
	if renewed.CredentialsID != issued.CredentialsID || renewed.AccessKeyID == issued.AccessKeyID {
		t.Errorf("id %s then %s, keys %s then %s", issued.CredentialsID, renewed.CredentialsID, issued.AccessKeyID, renewed.AccessKeyID)
	}
	for what, at := range map[string]*plane{"a": a, "b": b, "c": c} {
		protect("the new ones at "+what, at, renewed, false)
	}
	protect("the old ones, which are good still", c, issued, true)
	other := *renewed
	other.SessionToken += "x"
	if _, err := c.client(aws.Credentials{AccessKeyID: other.AccessKeyID, SecretAccessKey: other.SecretAccessKey, SessionToken: other.SessionToken}, "us-west-2").
		UpdateTaskProtection(t.Context(), &ecs.UpdateTaskProtectionInput{Tasks: tasks.TaskArns}); err == nil {
		t.Error("keys with another session's token are believed")
	}
}
