package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/test/images"
)

// TestADaemonGoesOnUntilTheImageOfTheNextIsThere also shows that all tasks of a deployment run one image, and that a credential
// helper of Docker's config.json, which DOCKER_CONFIG names, lets the agent into a registry that wants a password.
func TestADaemonGoesOnUntilTheImageOfTheNextIsThere(t *testing.T) { onEachEngine(t, aDaemonGoesOn) }

func aDaemonGoesOn(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "prep"+engine[:1], 101, 1, "--rollout-wave-wait", "1s")
	version := func(n string) images.Spec {
		s := images.Serving()
		s.Files = append(s.Files, images.File{Path: "/version", Mode: 0o644, Data: n})
		return s
	}
	push := func(repo string, spec images.Spec) string {
		l.Registry.RequireAuth("", "")
		defer l.Registry.RequireAuth("me", "planted-password")
		return l.Push(repo, spec)
	}
	ref := push("app:live", version("one"))
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	l.StartAgent(1, l.helper("me", "planted-password", ref)...)
	l.Connected(1)
	define := func(image string) {
		l.Do("ecs", "register-task-definition", "--family", "app", "--network-mode", "host", "--container-definitions", fmt.Sprintf(`[{"name":"app","image":%q,"memory":32,"cpu":10}]`, image))
	}
	define(ref)
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "app", "--scheduling-strategy", "DAEMON", "--task-definition", "app:1")
	l.Steady("app", 1)
	first := l.runs(1)

	// The tag moves, and a task of the deployment is replaced: it runs the image that the first one did.
	push("app:live", version("two"))
	if err := l.Seen(1).Kill(t.Context(), first.id); err != nil {
		t.Fatal(err)
	}
	var second running
	l.Until(60*time.Second, "the killed task is replaced", func() error {
		if second = l.runs(1); second.id == first.id || second.id == "" {
			return fmt.Errorf("%+v runs", second)
		}
		return nil
	})
	if second.image != first.image {
		t.Errorf("the second task of the deployment runs %s, the first ran %s", second.image, first.image)
	}
	revision := l.revision("app")
	if !strings.HasPrefix(aws.ToString(revision.ImageDigest), "sha256:") || aws.ToString(revision.Image) != ref {
		t.Errorf("the service revision has %+v", revision)
	}
	l.Steady("app", 1)

	// A new deployment runs what the tag names now. Its image stalls: the old task goes on until it is there.
	release := make(chan struct{})
	l.Registry.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if images.Kind(r) == "blobs" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	before := l.Registry.Requests("blobs")
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "app", "--force-new-deployment")
	l.Until(60*time.Second, "the new image is being pulled", func() error {
		if l.Registry.Requests("blobs") == before {
			return fmt.Errorf("nobody asks for its layers")
		}
		return nil
	})
	if now := l.runs(1); now.id != second.id {
		t.Errorf("while the new image stalls %+v runs, not %+v", now, second)
	}
	close(release)
	l.Until(60*time.Second, "the new image runs", func() error {
		if now := l.runs(1); now.image == second.image || now.image == "" {
			return fmt.Errorf("%+v runs", now)
		}
		return nil
	})
	l.Registry.Fault(nil)
	third := l.runs(1)
	stopped, started := l.containerTime(1, second.id, "FinishedAt"), l.containerTime(1, third.id, "StartedAt")
	t.Logf("no daemon ran for %s (the binaries under test have the race detector)", started.Sub(stopped).Round(time.Millisecond))
	l.Steady("app", 1)

	// An image that can't be had leaves the daemon alone, and is told.
	define(strings.Replace(ref, "app:live", "app:absent", 1))
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "app", "--task-definition", "app:2")
	l.Until(60*time.Second, "the failure is told", func() error {
		s := l.Service("app")
		if s.Deployments[0].FailedTasks < 1 || !strings.Contains(s.Deployments[0].RolloutStateReason, "CannotPullContainerError") {
			return fmt.Errorf("%+v", s.Deployments)
		}
		for _, e := range s.Events {
			if strings.Contains(e.Message, "was unable to have the images of its task") {
				return nil
			}
		}
		return fmt.Errorf("events %+v", s.Events)
	})
	if now := l.runs(1); now.id != third.id {
		t.Errorf("%+v runs, not %+v", now, third)
	}
	l.replicasGoOn(version, push)
	l.losesItsPassword(ref)
}

// helper makes a credential helper and the config.json that names it for a registry; the settings have an agent use them.
func (l *Lab) helper(user, password, ref string) (settings []string) {
	l.t.Helper()
	registry, _, _ := strings.Cut(ref, "/")
	dir := filepath.Join(l.dir, "docker")
	script := fmt.Sprintf("#!/bin/sh\nread -r reg\necho '{\"Username\":%q,\"Secret\":%q}'\n", user, password)
	for name, text := range map[string]string{"docker-credential-lab": script, "config.json": fmt.Sprintf(`{"credHelpers": {%q: "lab"}}`, registry)} {
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700)); err != nil { //nolint:gosec // one is a program
			l.t.Fatal(err)
		}
	}
	return []string{"DOCKER_CONFIG=" + dir, "PATH=" + dir + ":" + os.Getenv("PATH")}
}

// losesItsPassword shows what a task is told whose credentials are dead, and that the password is nowhere.
func (l *Lab) losesItsPassword(ref string) {
	l.t.Helper()
	l.Registry.RequireAuth("me", "another")
	l.Do("ecs", "register-task-definition", "--family", "late", "--container-definitions", fmt.Sprintf(`[{"name":"late","image":%q,"memory":32,"cpu":10}]`, strings.Replace(ref, "app:live", "app:late", 1)))
	l.Do("ecs", "run-task", "--cluster", cluster, "--task-definition", "late")
	l.Until(60*time.Second, "the task is told where its credentials came from", func() error {
		tasks := l.Tasks("--desired-status", "STOPPED", "--family", "late")
		if text := fmt.Sprintf("%+v", tasks); len(tasks) != 1 || !strings.Contains(text, "CannotPullContainerAuthError") || !strings.Contains(text, "check the credentials that docker-credential-lab has for") {
			return errors.New(text)
		}
		return nil
	})
	if out, err := l.OnHost(1, "grep", "-rl", "planted-password", "/var/lib/ecs", "/var/log/ecs").Output(); err == nil || len(out) > 0 {
		l.t.Errorf("the password is in %s (%v)", out, err)
	}
}

// replicasGoOn shows the same of a REPLICA service that is tagged so, though its percentages would have the old task stopped first.
func (l *Lab) replicasGoOn(version func(string) images.Spec, push func(string, images.Spec) string) {
	l.t.Helper()
	define := func(ref string) {
		l.Do("ecs", "register-task-definition", "--family", "web", "--container-definitions", fmt.Sprintf(`[{"name":"web","image":%q,"memory":32,"cpu":10}]`, ref))
	}
	define(push("web:1", version("three")))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "web", "--desired-count", "1", "--task-definition", "web:1",
		"--deployment-configuration", "minimumHealthyPercent=0,maximumPercent=100", "--tags", "key=longshore:prepare-images,value=true")
	l.Steady("web", 1)
	first := l.runsOf(1, "web")
	define(push("web:2", version("four")))
	release, asked := make(chan struct{}), make(chan struct{}, 100)
	l.Registry.Fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if images.Kind(r) == "blobs" {
			select {
			case asked <- struct{}{}:
			default:
			}
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		return false
	})
	defer l.Registry.Fault(nil)
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--task-definition", "web:2")
	select {
	case <-asked:
	case <-time.After(60 * time.Second):
		l.t.Fatal("nobody pulls the image of the REPLICA service's new revision")
	}
	if now := l.runsOf(1, "web"); now != first {
		l.t.Errorf("while the new image stalls %+v runs, not %+v", now, first)
	}
	close(release)
	l.Until(60*time.Second, "the REPLICA service's new image runs", func() error {
		if now := l.runsOf(1, "web"); now.image == first.image || now.image == "" {
			return fmt.Errorf("%+v runs", now)
		}
		return nil
	})
}

// running is a container of the app, and what it was made from.
type running struct{ id, image string }

// runs is the one that runs on host i; zero if none does.
func (l *Lab) runs(i int) running { l.t.Helper(); return l.runsOf(i, "app") }

// runsOf is the same of another family.
func (l *Lab) runsOf(i int, family string) (r running) {
	l.t.Helper()
	cs := l.Running(i, family)
	if len(cs) > 1 {
		l.t.Fatalf("host %d runs %d containers", i, len(cs))
	}
	if len(cs) == 1 {
		r = running{cs[0].ID, cs[0].ImageID}
	}
	return r
}

func (l *Lab) containerTime(i int, id, member string) time.Time {
	l.t.Helper()
	c, err := l.Seen(i).Inspect(l.t.Context(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	text := c.State.StartedAt
	if member == "FinishedAt" {
		text = c.State.FinishedAt
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		l.t.Fatal(err)
	}
	return at
}

// revision is the image of the only container of a service's newest deployment, as its service revision has it.
func (l *Lab) revision(service string) types.ContainerImage {
	l.t.Helper()
	url, id, secret := l.API()
	c := ecs.New(ecs.Options{BaseEndpoint: &url, Region: region, Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	list, err := c.ListServiceDeployments(l.t.Context(), &ecs.ListServiceDeploymentsInput{Cluster: aws.String(cluster), Service: &service})
	if err != nil || len(list.ServiceDeployments) == 0 {
		l.t.Fatalf("%+v %v", list, err)
	}
	got, err := c.DescribeServiceRevisions(l.t.Context(), &ecs.DescribeServiceRevisionsInput{ServiceRevisionArns: []string{*list.ServiceDeployments[0].TargetServiceRevisionArn}})
	if err != nil || len(got.ServiceRevisions) != 1 || len(got.ServiceRevisions[0].ContainerImages) != 1 {
		l.t.Fatalf("%+v %v", got, err)
	}
	return got.ServiceRevisions[0].ContainerImages[0]
}
