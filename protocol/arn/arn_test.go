package arn_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/protocol/arn"
)

var owner = arn.Owner{Region: "us-west-2", Account: "123456789012"}

const (
	prefix = "arn:aws:ecs:us-west-2:123456789012:"
	id     = "e2814b69ab604db2a89dcd0ea8dd1a7b"
	dashed = "e2814b69-ab60-4db2-a89d-cd0ea8dd1a7b"
)

func TestEveryARNIsWrittenAsECSWritesIt(t *testing.T) {
	for got, want := range map[string]string{
		owner.Cluster("c"):                     "cluster/c",
		owner.Service("c", "s"):                "service/c/s",
		owner.Task("c", id):                    "task/c/" + id,
		owner.ContainerInstance("c", id):       "container-instance/c/" + id,
		owner.Container("c", id, dashed):       "container/c/" + id + "/" + dashed,
		owner.TaskDefinition("f", 7):           "task-definition/f:7",
		owner.Format(arn.TypeDaemon, "c", "d"): "daemon/c/d",
	} {
		if got != prefix+want {
			t.Errorf("%s, want %s", got, prefix+want)
		}
		if a, err := arn.Parse(got); err != nil || a.String() != got {
			t.Errorf("%s: %v, %v", got, a, err)
		}
	}
	if got := (arn.Owner{Region: "cn-north-1", Account: "123456789012"}).Cluster("c"); got != "arn:aws-cn:ecs:cn-north-1:123456789012:cluster/c" {
		t.Error(got)
	}
}

func TestIdentifiersAreAcceptedInEveryForm(t *testing.T) {
	task := func(ref string) (string, error) { return owner.ParseTask("c", ref) }
	instance := func(ref string) (string, error) { return owner.ParseContainerInstance("c", ref) }
	service := func(ref string) (string, error) { return owner.ParseService("c", ref) }
	for _, c := range []struct {
		parse     func(string) (string, error)
		ref, want string
	}{
		{owner.ParseCluster, "", "default"}, {owner.ParseCluster, "c", "c"}, {owner.ParseCluster, prefix + "cluster/c", "c"},
		{task, id, id}, {task, dashed, id}, {task, strings.ToUpper(id), id}, {task, prefix + "task/c/" + id, id}, {task, prefix + "task/" + dashed, id},
		{instance, dashed, id}, {instance, prefix + "container-instance/" + id, id}, {instance, prefix + "container-instance/c/" + id, id},
		{service, "s", "s"}, {service, prefix + "service/s", "s"}, {service, prefix + "service/c/s", "s"},
	} {
		if got, err := c.parse(c.ref); err != nil || got != c.want {
			t.Errorf("%q: %q, %v", c.ref, got, err)
		}
	}
	for ref, want := range map[string]int32{"f": 0, "f:3": 3, prefix + "task-definition/f": 0, prefix + "task-definition/f:12": 12} {
		if family, rev, err := owner.ParseTaskDefinition(ref); err != nil || family != "f" || rev != want {
			t.Errorf("%q: %q %d %v", ref, family, rev, err)
		}
	}
}

func TestWrongIdentifiersAreRefusedInECSsWords(t *testing.T) {
	task := func(ref string) error { _, err := owner.ParseTask("c", ref); return err }
	instance := func(ref string) error { _, err := owner.ParseContainerInstance("c", ref); return err }
	cluster := func(ref string) error { _, err := owner.ParseCluster(ref); return err }
	definition := func(ref string) error { _, _, err := owner.ParseTaskDefinition(ref); return err }
	const invalid, separators = "The ARN provided is invalid.", "Invalid identifier: Unexpected number of separators"
	for _, c := range []struct {
		parse     func(string) error
		ref, want string
	}{
		{task, prefix + "task/other/" + id, "Invalid identifier: Identifier is for cluster other. Your cluster is c"},
		{task, "arn:aws:ecs:eu-west-1:123456789012:task/c/" + id, "Invalid identifier: Identifier is for region eu-west-1. Your region is us-west-2"},
		{task, "arn:aws:ecs:us-west-2:999999999999:task/c/" + id, "Invalid identifier: Identifier is for account 999999999999. Your accountId is 123456789012"},
		{task, "arn:aws-cn:ecs:us-west-2:123456789012:task/c/" + id, invalid},
		{task, prefix + "service/c/s", "Unsupported resource type: service"},
		{task, prefix + "rocket/c/s", "Unsupported resource type: rocket"},
		{task, prefix + "task/a/c/" + id, separators}, {task, prefix + "task/c/", separators}, {task, prefix + "task", separators}, {task, "c/" + id, separators}, {task, "", separators},
		{task, "nonsense", "Invalid identifier: Task Identifier is invalid"},
		{instance, "e2814b69-ab604-db2-a89d-cd0ea8dd1a7b", "Invalid identifier: Container Instance Identifier is invalid"},
		{cluster, "arn:aws:s3:::bucket", invalid}, {cluster, "arn:", invalid}, {cluster, "arn:aws:ecs:us-west-2:12:cluster/c", invalid},
		{cluster, "arn:" + strings.Repeat("x", 5000), invalid}, {cluster, prefix + "cluster/a/b", separators}, {cluster, "a/b", separators},
		{definition, "f:0", "Invalid revision number. Number: 0"}, {definition, "f:x", "Invalid revision number. Number: x"}, {definition, "f:1:2", separators},
		{definition, ":1", separators}, {definition, "f:99999999999", "Invalid revision number. Number: 99999999999"}, {definition, prefix + "cluster/f", "Unsupported resource type: cluster"},
	} {
		err := c.parse(c.ref)
		var e *arn.Error
		if !errors.As(err, &e) || e.Message != c.want || e.Code() != "InvalidParameterException" {
			t.Errorf("%.100q: %v, want %q", c.ref, err, c.want)
		}
	}
}

func TestNewIdsHaveECSsForm(t *testing.T) {
	hex, deployment := regexp.MustCompile(`^[0-9a-f]{32}$`), regexp.MustCompile(`^ecs-svc/[1-9][0-9]{18}$`)
	seen := map[string]bool{}
	for range 1000 {
		a, b := arn.NewID(), arn.NewDeploymentID()
		if !hex.MatchString(a) || !deployment.MatchString(b) || seen[a] || seen[b] {
			t.Fatal(a, b)
		}
		seen[a], seen[b] = true, true
		if n, ok := arn.NormalID(a); !ok || n != a {
			t.Fatal(a)
		}
	}
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-zA-Z0-9_-]{1,255}`)
		cluster, service, family := name.Draw(t, "cluster"), name.Draw(t, "service"), name.Draw(t, "family")
		rev := rapid.Int32Range(1, 1<<31-1).Draw(t, "revision")
		if got, err := owner.ParseService(cluster, owner.Service(cluster, service)); err != nil || got != service {
			t.Fatal(got, err)
		}
		if f, r, err := owner.ParseTaskDefinition(owner.TaskDefinition(family, rev)); err != nil || f != family || r != rev {
			t.Fatal(f, r, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{prefix + "task/c/" + id, "arn:aws:ecs:::", "f:1", dashed, ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := arn.Parse(s); err == nil && a.String() != s {
			t.Fatalf("%q became %q", s, a)
		}
		_, _ = owner.ParseCluster(s)
		_, _ = owner.ParseService("c", s)
		_, _, _ = owner.ParseTaskDefinition(s)
		if got, err := owner.ParseTask("c", s); err == nil && len(got) != 32 {
			t.Fatalf("%q became %q", s, got)
		}
	})
}
