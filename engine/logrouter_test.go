package engine_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

const taskID = "0123456789abcdef0123456789abcdef"

func withRouters(t *testing.T) func(*engine.Config) {
	dir := filepath.Join(t.TempDir(), "firelens")
	return func(c *engine.Config) { c.Host.FirelensDir, c.Host.FirelensAsync = dir, true }
}

func router(kind string, options map[string]string) *acs.Container {
	return container("router", func(c *acs.Container) {
		c.FirelensConfiguration = &acs.FirelensConfiguration{Type: kind, Options: options}
	})
}

func routed(name, config string) *acs.Container {
	return container(name, func(c *acs.Container) {
		c.DockerConfig = &acs.DockerConfig{HostConfig: `{"LogConfig":{"Type":"awsfirelens","Config":{` + config + `}}}`}
	})
}

// outputSecret answers every secret option with its name.
type outputSecret struct{ released []string }

func (*outputSecret) Resolve(_ context.Context, task *acs.Task, name string) (engine.Resolved, error) {
	r := engine.Resolved{LogOptions: map[string]string{}, RouterConfig: []byte("# from S3\n")}
	for _, c := range task.Containers {
		for _, s := range c.Secrets {
			if c.Name == name {
				r.LogOptions[s.Name] = "the-" + s.ValueFrom
			}
		}
	}
	return r, nil
}

func (s *outputSecret) Release(arn string) { s.released = append(s.released, arn) }

func TestContainersLogThroughTheTasksRouter(t *testing.T) {
	prepare := withRouters(t)
	inBubble(t, func(t *testing.T, w *world) {
		app := routed("app", `"Name":"stdout","log-driver-buffer-limit":"1000000"`)
		app.Secrets = []*acs.Secret{{Name: "api_key", ValueFrom: "key", Provider: "ssm", Target: "LOG_DRIVER"}}
		a := task(taskID, app, router("fluentbit", nil))
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "PENDING", "RUNNING") // the router's start is told before the app's
		dir := filepath.Join(w.cfg.Host.FirelensDir, taskID)
		r, _ := w.fake.Container(a.Arn, "router")
		c, _ := w.fake.Container(a.Arn, "app")
		spec, _ := w.fake.Spec(c.ID)
		want := &acs.LogConfig{Type: "fluentd", Config: map[string]string{"fluentd-address": "unix://" + dir + "/socket/fluent.sock", "fluentd-async": "true",
			"fluentd-sub-second-precision": "true", "fluentd-buffer-limit": "1000000", "tag": "app-firelens-" + taskID}}
		if diff := cmp.Diff(want, spec.HostConfig.LogConfig); diff != "" {
			t.Error(diff)
		}
		if !slices.Contains(spec.Env, "FLUENT_HOST="+r.Addresses[0]) || !slices.Contains(spec.Env, "FLUENT_PORT=24224") {
			t.Errorf("the environment is %v", spec.Env)
		}
		spec, _ = w.fake.Spec(r.ID)
		if diff := cmp.Diff([]engine.Mount{{Type: "bind", Source: dir + "/config/router.conf", Target: "/fluent-bit/etc/fluent-bit.conf", ReadOnly: true},
			{Type: "bind", Source: dir + "/socket", Target: "/var/run"}}, spec.Mounts); diff != "" {
			t.Error(diff)
		}
		if !slices.Contains(spec.Env, "api_key_0=the-key") {
			t.Errorf("the router's environment is %v", spec.Env)
		}
		config, err := os.ReadFile(dir + "/config/router.conf")
		if err != nil || !strings.Contains(string(config), "api_key ${api_key_0}") || strings.Contains(string(config), "the-key") || !strings.Contains(string(config), "Record ecs_cluster default") {
			t.Errorf("%v: %s", err, config)
		}
		w.accept(stopOf(a))
		w.settled()
		var ends []string
		for _, step := range w.status(a.Arn).Timeline {
			if step.Name == "exit" {
				ends = append(ends, step.Container)
			}
		}
		if !slices.Equal(ends, []string{"app", "router"}) {
			t.Errorf("the containers ended in the order %v", ends)
		}
		w.disk.accept()
		pass(5 * time.Hour)
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("the router's files are left: %v", err)
		}
	}, prepare, func(c *engine.Config) { c.Secrets = &outputSecret{} })
}

func TestARouterIncludesWhatTheAgentFetchedFromS3(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task(taskID, router("fluentbit", map[string]string{"config-file-type": "s3", "config-file-value": "arn:aws:s3:::b/k"}))
		w.accept(a)
		w.settled()
		spec, _ := w.fake.Spec(w.id(a, "router"))
		file := filepath.Join(w.cfg.Host.FirelensDir, taskID, "config", "external.conf")
		if want := (engine.Mount{Type: "bind", Source: file, Target: "/fluent-bit/etc/external.conf", ReadOnly: true}); !slices.Contains(spec.Mounts, want) {
			t.Errorf("the mounts are %+v\n%s", spec.Mounts, w.explain(a.Arn))
		}
		if data, err := os.ReadFile(file); err != nil || string(data) != "# from S3\n" {
			t.Errorf("%v: %q", err, data)
		}
	}, withRouters(t), func(c *engine.Config) { c.Secrets = &outputSecret{} })
}

func TestATaskWhoseLogsCantBeRoutedIsRefusedByName(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for want, a := range map[string]*acs.Task{
			"needs a container with firelensConfiguration": task(taskID, routed("app", "")),
			"container router of the task is a log router": task(taskID, router("fluentd", nil), container("two", func(c *acs.Container) { c.FirelensConfiguration = &acs.FirelensConfiguration{Type: "fluentd"} })),
			"it must be like arn:aws:s3:::bucket/path":     task(taskID, router("fluentd", map[string]string{"config-file-type": "s3", "config-file-value": "s3://b/k"})),
			"lack @type": task(taskID, router("fluentd", nil), routed("app", `"Name":"stdout"`)),
		} {
			if err := w.engine.Accept(t.Context(), a); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", want, err)
			}
		}
	}, withRouters(t))
}
