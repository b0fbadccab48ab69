package controlplane_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
)

func TestAKeyCountsFromWhenItIsMadeUntilItIsRevoked(t *testing.T) {
	p := start(t, controlplane.Config{})
	made, err := controlplane.CreateKey(t.Context(), p.dir, controlplane.Key{Role: store.RoleReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	reader := p.client(aws.Credentials{AccessKeyID: made.AccessKeyID, SecretAccessKey: made.SecretAccessKey}, "us-west-2")
	if _, err := reader.ListClusters(t.Context(), &ecs.ListClustersInput{}); err != nil {
		t.Error(err)
	}
	_, err = reader.CreateCluster(t.Context(), &ecs.CreateClusterInput{})
	refused(t, err, "AccessDeniedException", "ecs:CreateCluster")
	if _, err := controlplane.RevokeKey(t.Context(), p.dir, made.AccessKeyID); err != nil {
		t.Error(err)
	}
	_, err = reader.ListClusters(t.Context(), &ecs.ListClustersInput{})
	refused(t, err, "UnrecognizedClientException", "invalid")
}

func TestTheLastAdministratorsKeyStays(t *testing.T) {
	dir := t.TempDir()
	p := start(t, controlplane.Config{DataDir: dir})
	first := p.key(t, auth.AdminFile).AccessKeyID
	if _, err := controlplane.RevokeKey(t.Context(), p.dir, first); err == nil || !strings.Contains(err.Error(), "last administrator") {
		t.Errorf("the last one: %v", err)
	}
	second, err := controlplane.CreateKey(t.Context(), p.dir, controlplane.Key{Role: store.RoleAdmin})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := controlplane.RevokeKey(t.Context(), p.dir, first); err != nil {
		t.Error(err)
	}
	if _, err := controlplane.RevokeKey(t.Context(), p.dir, second.AccessKeyID); err == nil {
		t.Error("none is left")
	}
	if now := p.key(t, auth.AdminFile); now.AccessKeyID != second.AccessKeyID {
		t.Errorf("the file has %s, not %s", now.AccessKeyID, second.AccessKeyID)
	}
	keys, err := controlplane.Keys(t.Context(), p.dir)
	if err != nil || len(keys) != 3 || keys[0].SecretAccessKey != "" {
		t.Errorf("the keys are %v, %v", keys, err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if now := start(t, controlplane.Config{DataDir: dir}).key(t, auth.AdminFile); now.AccessKeyID != second.AccessKeyID {
		t.Errorf("after a restart the file has %s, not %s", now.AccessKeyID, second.AccessKeyID)
	}
}
