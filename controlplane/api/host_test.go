package api_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// about asks about an instance, or about none.
func (p *plane) about(k auth.Key, cluster, instance string) (*join.HostOutput, error) {
	p.t.Helper()
	in := &join.HostInput{Cluster: &cluster}
	if instance != "" {
		in.ContainerInstance = &instance
	}
	out := &join.HostOutput{}
	return out, p.own(k, join.HostOperation, in, out)
}

func TestAHostIsToldWhatItJoins(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("logging-agent", "agent")
	id := p.register(p.host, 1024, 1000)
	host := p.keys[store.RoleHost]
	look := func() join.HostInstance {
		t.Helper()
		out, err := p.about(host, testCluster, id)
		if err != nil || out.Instance == nil || len(out.Instance.Daemons) != 1 || *out.Region != "us-west-2" {
			t.Fatalf("%+v, %v", out, err)
		}
		return *out.Instance
	}
	i := look()
	if d := i.Daemons[0]; *i.Status != "ACTIVE" || !*i.AgentConnected || *i.Tasks != 0 || *d.Service != "logging-agent" || *d.Ready || !strings.HasPrefix(*d.State, "FITS: ") {
		t.Errorf("%+v: %s", i, *d.State)
	}
	p.schedule("logging-agent", id)
	i = look()
	if d := i.Daemons[0]; *i.Tasks != 1 || *d.Ready || !strings.HasPrefix(*d.State, "PENDING: task ") {
		t.Errorf("%+v: %s", i, *d.State)
	}
	for cluster, code := range map[string]string{testCluster: "", "default": "", "nowhere": "ClusterNotFoundException"} {
		out, err := p.about(host, cluster, "")
		var refused *agentapi.APIError
		if errors.As(err, &refused) != (code != "") || refused != nil && refused.Code != code || err == nil && out.Instance != nil {
			t.Errorf("%s: %+v, %v", cluster, out, err)
		}
	}
	if _, err := p.about(p.keys[store.RoleReadOnly], testCluster, id); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") {
		t.Errorf("a reader: %v", err)
	}
}

func TestAJoinKeySaysHowLongAndHowOftenItIsGood(t *testing.T) {
	p := newPlane(t)
	k := p.key(store.Key{Role: store.RoleHost, Enrolment: true, MaxUses: 2, Expires: time.Now().Add(time.Hour)})
	if _, err := p.join(k, "", "3f0a0f0e-0000-4000-8000-000000000001"); err != nil {
		t.Fatal(err)
	}
	out, err := p.about(k, testCluster, "")
	if err != nil || aws.ToInt32(out.Uses) != 1 || aws.ToString(out.Expires) != p.stored(k.AccessKeyID).Expires.UTC().Format(time.RFC3339) {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestAHostThatLeavesEndsItsOwnKeyAndNoOther(t *testing.T) {
	p := newPlane(t)
	joint := p.key(store.Key{Role: store.RoleHost, Enrolment: true})
	const token = "3f0a0f0e-0000-4000-8000-000000000001"
	arn, err := p.join(joint, "", token)
	if err != nil {
		t.Fatal(err)
	}
	own, err := p.exchange(joint, arn, token)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.own(joint, join.EndKeyOperation, &struct{}{}, nil); err != nil {
			t.Error(err)
		}
	}
	if err := p.own(*own, join.EndKeyOperation, &struct{}{}, nil); err != nil {
		t.Error(err)
	}
	if p.stored(own.AccessKeyID).Usable(time.Now()) || !p.stored(joint.AccessKeyID).Usable(time.Now()) {
		t.Errorf("%+v %+v", p.stored(own.AccessKeyID), p.stored(joint.AccessKeyID))
	}
	if _, err := p.about(*own, testCluster, arn); err == nil || !strings.Contains(err.Error(), "UnrecognizedClientException") {
		t.Errorf("with a key that has ended: %v", err)
	}
}
