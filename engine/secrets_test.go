package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// vault is where secrets come from.
type vault struct {
	mu       sync.Mutex
	err      error
	hangs    bool
	resolved int
	released []string
}

func (v *vault) Resolve(ctx context.Context, _ *acs.Task, _ string) (engine.Resolved, error) {
	v.mu.Lock()
	v.resolved++
	err, hangs := v.err, v.hangs
	v.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return engine.Resolved{}, ctx.Err()
	}
	if err != nil {
		return engine.Resolved{}, err
	}
	return engine.Resolved{
		FileEnvironment: map[string]string{"FROM_FILE": "planted-file", "DEFINED": "lost", "PASSWORD": "lost", "AWS_REGION": "eu-west-1"},
		Environment:     map[string]string{"PASSWORD": "planted-secret", "OVERRIDDEN": "planted-over"},
		LogOptions:      map[string]string{"token": "planted-token"},
	}, nil
}

func (v *vault) Release(arn string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.released = append(v.released, arn)
}

func withVault(v *vault) func(*engine.Config) {
	return func(c *engine.Config) { c.Secrets, c.Host.Region = v, "us-west-2" }
}

func secretive(c *acs.Container) {
	c.Environment = map[string]string{"DEFINED": "kept", "OVERRIDDEN": "lost"}
	c.Secrets = []*acs.Secret{{Name: "PASSWORD", ValueFrom: "p", Provider: "ssm", Target: "CONTAINER"}, {Name: "token", ValueFrom: "t", Provider: "asm", Target: "LOG_DRIVER"}}
	c.EnvironmentFiles = []*acs.EnvironmentFile{{Value: "arn:aws:s3:::b/f.env", Type: "s3"}}
	c.DockerConfig = &acs.DockerConfig{HostConfig: `{"LogConfig":{"Type":"splunk","Config":{"url":"u"}}}`}
}

func TestSecretsGoIntoTheContainerAndNowhereElse(t *testing.T) {
	v := &vault{}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", secretive), container("side", notEssential))
		w.accept(a)
		w.settled()
		if s := w.status(a.Arn); s.Known != "RUNNING" {
			t.Fatalf("it is %s\n%s", s.Known, w.explain(a.Arn))
		}
		spec, _ := w.fake.Spec(w.id(a, "app"))
		want := []string{"AWS_REGION=eu-west-1", "DEFINED=kept", "FROM_FILE=planted-file", "OVERRIDDEN=planted-over", "PASSWORD=planted-secret"}
		if !slices.Equal(spec.Env, want) {
			t.Errorf("the environment is %q, want %q", spec.Env, want)
		}
		if got := spec.HostConfig.LogConfig.Config; !maps.Equal(got, map[string]string{"url": "u", "token": "planted-token"}) {
			t.Errorf("the log driver's options are %v", got)
		}
		if v.resolved != 1 {
			t.Errorf("values were asked for %d times", v.resolved)
		}
		status, err := json.Marshal(w.status(a.Arn))
		if err != nil {
			t.Fatal(err)
		}
		records, err := w.disk.Load()
		if err != nil {
			t.Fatal(err)
		}
		record, err := json.Marshal(records)
		if err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"labels": fmt.Sprint(spec.Labels), "status": string(status), "record": string(record)} {
			if strings.Contains(text, "planted") {
				t.Errorf("the %s show a value: %s", where, text)
			}
		}
		w.accept(stopOf(a))
		w.settled()
		if !slices.Equal(v.released, []string{a.Arn}) {
			t.Errorf("released %q", v.released)
		}
	}, withVault(v))
}

func TestATaskWhoseSecretsCanNotBeHadStopsAsAWhole(t *testing.T) {
	const reason = "ResourceInitializationError: unable to pull secrets or registry auth: parameter p"
	v := &vault{err: errors.New(reason)}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential, secretive))
		w.accept(a)
		w.settled()
		pass(time.Minute)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || last.Reason != reason || w.fake.Running() != 0 {
			t.Errorf("%s: %s\n%s", last.Status, last.Reason, w.explain(a.Arn))
		}
	}, withVault(v))
}

func TestATaskThatStopsDoesNotWaitForItsSecrets(t *testing.T) {
	v := &vault{hangs: true}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", secretive))
		w.accept(a)
		w.settled()
		if v.resolved != 1 {
			t.Fatalf("asked %d times\n%s", v.resolved, w.explain(a.Arn))
		}
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "STOPPED")
	}, withVault(v))
}

func TestValuesAreTakenOutOfWhatTheEngineSays(t *testing.T) {
	v := &vault{}
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Fail("Create", 1, fmt.Errorf("unknown log opt planted-token for splunk: %w", errdefs.ErrInvalidArgument))
		a := task("a", container("app", secretive))
		w.accept(a)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || !strings.Contains(last.Reason, "unknown log opt [secret] for splunk") || strings.Contains(w.explain(a.Arn), "planted") {
			t.Errorf("%s: %s\n%s", last.Status, last.Reason, w.explain(a.Arn))
		}
	}, withVault(v))
}

func TestSecretsThatAreNotUnderstoodAreRefusedByName(t *testing.T) {
	for name, c := range map[string]func(*acs.Container){
		"needs a name":     func(c *acs.Container) { c.Secrets = []*acs.Secret{{Provider: "ssm", ValueFrom: "p"}} },
		`provider "vault"`: func(c *acs.Container) { c.Secrets = []*acs.Secret{{Name: "A", ValueFrom: "p", Provider: "vault"}} },
		`target "MOON"`: func(c *acs.Container) {
			c.Secrets = []*acs.Secret{{Name: "A", ValueFrom: "p", Provider: "ssm", Target: "MOON"}}
		},
		"a secret as a file": func(c *acs.Container) {
			c.Secrets = []*acs.Secret{{Name: "A", ValueFrom: "p", Provider: "ssm", Type: "MOUNT_POINT"}}
		},
		`type "http"`: func(c *acs.Container) { c.EnvironmentFiles = []*acs.EnvironmentFile{{Value: "x", Type: "http"}} },
	} {
		if _, err := engine.ParseTask(task("a", container("app", c)), engine.Host{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
