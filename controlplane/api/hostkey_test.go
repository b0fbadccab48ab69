package api_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// key stores a key like another one.
func (p *plane) key(like store.Key) auth.Key {
	p.t.Helper()
	k := auth.NewKey(p.seal, like, time.Now())
	p.must(p.store.Txn().Create(k.Key).Commit(p.ctx))
	return k
}

// rewrite changes a stored key.
func (p *plane) rewrite(id string, change func(k *store.Key)) {
	p.t.Helper()
	p.must(store.Retry(p.ctx, func() error {
		next := *p.stored(id)
		change(&next)
		return p.store.Txn().Update(&next).Commit(p.ctx)
	}))
}

func (p *plane) stored(id string) (k *store.Key) {
	p.t.Helper()
	p.must(p.store.Read(p.ctx, func(v *store.View) error { k = v.Key(id); return nil }))
	if k == nil {
		p.t.Fatalf("there is no key %s", id)
	}
	return k
}

// own calls an operation of Longshore's own, as an agent does.
func (p *plane) own(k auth.Key, operation string, in, out any) error {
	p.t.Helper()
	c, err := agentapi.New(agentapi.Config{Endpoint: p.url, Region: "us-west-2", Service: "ecs", Target: agentapi.OwnTarget, MaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.Secret, ""), HTTPClient: p.http})
	p.must(err)
	return c.Call(p.ctx, operation, in, out)
}

// exchange asks for the key that a host is to sign with; nil: the one it has.
func (p *plane) exchange(k auth.Key, instance, token string) (*auth.Key, error) {
	p.t.Helper()
	var out agentapi.HostKeyOutput
	if err := p.own(k, agentapi.HostKeyOperation, &agentapi.HostKeyInput{ContainerInstance: &instance, ClientToken: &token}, &out); err != nil {
		return nil, err
	}
	if out.AccessKeyId == nil {
		return nil, nil
	}
	return &auth.Key{Key: p.stored(*out.AccessKeyId), Secret: *out.SecretAccessKey}, nil
}

// join registers a host with a key and a token, again if instance is not empty.
func (p *plane) join(k auth.Key, instance, token string) (arn string, err error) {
	p.t.Helper()
	c, err := agentapi.New(agentapi.Config{Endpoint: p.url, Region: "us-west-2", MaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.Secret, ""), HTTPClient: p.http})
	p.must(err)
	in := &agentapi.RegisterContainerInstanceInput{Cluster: aws.String(testCluster), ClientToken: &token, TotalResources: []agentapi.Resource{
		{Name: aws.String("CPU"), Type: aws.String("INTEGER"), IntegerValue: 1024}, {Name: aws.String("MEMORY"), Type: aws.String("INTEGER"), IntegerValue: 1000}},
		Attributes: []agentapi.Attribute{{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("x86_64")}, {Name: aws.String("ecs.os-type"), Value: aws.String("linux")},
			{Name: aws.String("com.amazonaws.ecs.capability.docker-remote-api.1.18")}}}
	if instance != "" {
		in.ContainerInstanceArn = &instance
	}
	var out agentapi.RegisterContainerInstanceOutput
	if err := c.Call(p.ctx, "RegisterContainerInstance", in, &out); err != nil {
		return "", err
	}
	return *out.ContainerInstance.ContainerInstanceArn, nil
}

// deny checks that an error is an AccessDeniedException, or another refusal of the key, that says something.
func (p *plane) deny(err error, says string) {
	p.t.Helper()
	var refused *agentapi.APIError
	if !errors.As(err, &refused) || refused.Code != "AccessDeniedException" && refused.Code != "UnrecognizedClientException" || !strings.Contains(refused.Message, says) {
		p.t.Errorf("not refused with %q: %v", says, err)
	}
}

func TestAJoinKeyIsExchangedForAKeyThatAloneSpeaksForTheInstance(t *testing.T) {
	p := newPlane(t)
	joining := p.key(store.Key{Role: store.RoleHost, Enrolment: true, Name: "racks"})
	arn, err := p.join(joining, "", "token-1")
	p.must(err)
	if _, err := p.exchange(joining, arn, "token-2"); err == nil {
		t.Error("another token was taken")
	}
	stranger := p.key(store.Key{Role: store.RoleHost, Enrolment: true})
	_, err = p.exchange(stranger, arn, "token-1")
	p.deny(err, arn)
	own, err := p.exchange(joining, arn, "token-1")
	p.must(err)
	if k := own.Key; k.Role != store.RoleHost || k.Enrolment || k.Instance != arn || k.From != joining.AccessKeyID || k.Name != "racks" || strings.Contains(k.Exchange, "token") {
		t.Errorf("the key is %+v", k)
	}
	again, err := p.exchange(joining, arn, "token-1") // the answer was lost
	if p.must(err); again.AccessKeyID != own.AccessKeyID || again.Secret != own.Secret {
		t.Errorf("asked again it is %+v, not %+v", again, own)
	}
	if same, err := p.join(joining, arn, "token-1"); err != nil || same != arn { // and the agent started again meanwhile
		t.Errorf("registered again with the same token it is %s, %v", same, err)
	}
	_, err = p.join(joining, arn, "token-3")
	p.deny(err, arn)
	_, err = p.client(joining).DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(testCluster), ContainerInstance: &arn})
	if err == nil {
		t.Error("the join key still speaks for the instance")
	}
	if same, err := p.join(*own, arn, "token-3"); err != nil || same != arn {
		t.Errorf("its own key registers %s, %v", same, err)
	}
	if next, err := p.exchange(*own, arn, ""); next != nil || err != nil {
		t.Errorf("its own key is exchanged for %v, %v", next, err)
	}
	_, err = p.exchange(joining, arn, "token-3") // the present registration is not the join key's
	p.deny(err, arn)
	if _, err := p.join(*own, "", "token-4"); err == nil {
		t.Error("it registered a second instance")
	}
	for what, err := range map[string]error{
		"an administrator": second(p.exchange(p.keys[store.RoleAdmin], arn, "token-1")),
		"a reader":         second(p.exchange(p.keys[store.RoleReadOnly], arn, "token-1")),
	} {
		t.Log(what)
		p.deny(err, "HostKey")
	}
	if _, err := p.exchange(joining, "arn:aws:ecs:us-west-2:123456789012:cluster/"+testCluster, "x"); err == nil || !strings.Contains(err.Error(), "InvalidParameterException") {
		t.Errorf("a cluster's ARN: %v", err)
	}
}

func TestARevokedOwnKeyIsNotToBeHadAgainWithTheJoinKey(t *testing.T) {
	p := newPlane(t)
	joining := p.key(store.Key{Role: store.RoleHost, Enrolment: true})
	arn, err := p.join(joining, "", "token")
	p.must(err)
	own, err := p.exchange(joining, arn, "token")
	p.must(err)
	p.rewrite(own.AccessKeyID, func(k *store.Key) { k.Revoked = time.Now() })
	_, err = p.exchange(joining, arn, "token")
	p.deny(err, arn)
	_, err = p.join(joining, arn, "token")
	p.deny(err, arn)
	_, err = p.join(*own, arn, "token")
	p.deny(err, "was revoked at")
	forged := auth.Key{Key: own.Key, Secret: "forged"}
	if _, err = p.join(forged, arn, "token"); err == nil || strings.Contains(err.Error(), "revoked") {
		t.Errorf("who has not the secret is told %v", err)
	}
}

func TestAHostsOwnKeyIsBoundToTheFirstInstanceThatItRegisters(t *testing.T) {
	p := newPlane(t)
	own := p.key(store.Key{Role: store.RoleHost, Name: "rack1"})
	first, err := p.join(own, "", "a")
	p.must(err)
	if k := p.stored(own.AccessKeyID); k.Instance != first {
		t.Errorf("the key is bound to %q", k.Instance)
	}
	_, err = p.join(own, "", "b")
	p.deny(err, "registered the container instance "+first+" already")
	if same, err := p.join(own, first, "c"); err != nil || same != first {
		t.Errorf("registered again it is %s, %v", same, err)
	}
	_, err = p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(testCluster), ContainerInstance: &first, Force: aws.Bool(true)})
	p.must(err)
	next, err := p.join(own, "", "d")
	if p.must(err); p.stored(own.AccessKeyID).Instance != next {
		t.Error("a host that was given up as lost could not join again with its key")
	}
	other, err := p.join(p.key(store.Key{Role: store.RoleHost, Enrolment: true}), "", "e")
	p.must(err)
	_, err = p.join(own, other, "f")
	p.deny(err, other)
}

func TestAJoinKeyRegistersAsManyInstancesAsItIsFor(t *testing.T) {
	p := newPlane(t)
	joining := p.key(store.Key{Role: store.RoleHost, Enrolment: true, MaxUses: 2})
	first, err := p.join(joining, "", "a")
	p.must(err)
	if same, err := p.join(joining, "", "a"); err != nil || same != first {
		t.Errorf("asked again: %s, %v", same, err)
	}
	if _, err := p.exchange(joining, first, "a"); err != nil {
		t.Error(err)
	}
	_, err = p.join(joining, "", "b")
	p.must(err)
	for _, instance := range []string{"", strings.ReplaceAll(first, first[len(first)-32:], strings.Repeat("ab", 16))} {
		_, err = p.join(joining, instance, "c")
		p.deny(err, "was for 2 container instances")
	}
	if k := p.stored(joining.AccessKeyID); k.Uses != 2 {
		t.Errorf("%d uses were counted", k.Uses)
	}
}

func TestAHostIsGivenTheKeyThatReplacesItsOwn(t *testing.T) {
	p := newPlane(t)
	own := p.key(store.Key{Role: store.RoleHost})
	arn, err := p.join(own, "", "a")
	p.must(err)
	keys := []auth.Key{own}
	for range 2 { // and the one that replaces that one
		last := keys[len(keys)-1]
		next := p.key(store.Key{Role: store.RoleHost, Instance: arn})
		p.rewrite(last.AccessKeyID, func(k *store.Key) { k.Successor, k.Expires = next.AccessKeyID, time.Now().Add(time.Hour) })
		keys = append(keys, next)
	}
	for i := range 2 {
		next, err := p.exchange(keys[i], arn, "")
		if p.must(err); next == nil || next.Secret != keys[2].Secret {
			t.Errorf("key %d is replaced by %v", i, next)
		}
	}
	if same, err := p.join(keys[2], arn, "b"); err != nil || same != arn {
		t.Errorf("with the new key it is %s, %v", same, err)
	}
	_, err = p.exchange(keys[0], strings.ReplaceAll(arn, arn[len(arn)-32:], strings.Repeat("ab", 16)), "")
	p.deny(err, "")
	p.rewrite(keys[0].AccessKeyID, func(k *store.Key) { k.Expires = time.Now().Add(-time.Second) })
	_, err = p.exchange(keys[0], arn, "")
	p.deny(err, "expired at")
}

func TestAnInstanceWhoseKeyWasForgottenIsTakenByTheNextHostKeyThatRegistersIt(t *testing.T) {
	p := newPlane(t)
	arn, err := p.join(p.key(store.Key{Role: store.RoleHost}), "", "a")
	p.must(err)
	p.must(store.Retry(p.ctx, func() error {
		var next store.Instance
		p.must(p.store.Read(p.ctx, func(v *store.View) error { next = *v.Instance(testCluster, arn[len(arn)-32:]); return nil }))
		next.RegisteredBy = ""
		return p.store.Txn().Update(&next).Commit(p.ctx)
	}))
	_, err = p.join(p.key(store.Key{Role: store.RoleHost, Enrolment: true}), arn, "b")
	p.deny(err, arn) // its own key still counts
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		txn := p.store.Txn()
		for k := range v.Keys() {
			if k.Instance == arn {
				txn.Delete(k)
			}
		}
		return txn.Commit(p.ctx)
	}))
	joining := p.key(store.Key{Role: store.RoleHost, Enrolment: true})
	if same, err := p.join(joining, arn, "c"); err != nil || same != arn {
		t.Fatalf("registered again it is %s, %v", same, err)
	}
	if own, err := p.exchange(joining, arn, "c"); err != nil || own == nil || own.Instance != arn {
		t.Errorf("its new key is %v, %v", own, err)
	}
	_, err = p.join(p.key(store.Key{Role: store.RoleHost, Enrolment: true}), arn, "d")
	p.deny(err, arn)
}
