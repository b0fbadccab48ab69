package fields

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/images"
	"github.com/longshore-project/longshore/test/seen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "daemonset"

// world is one host with our agent, our control plane, and the SDK's client of it.
type world struct {
	lab    *e2e.Lab
	api    *ecs.Client
	engine seen.Engine
	image  string
	closed string // an image that needs credentials
}

func newWorld(t *testing.T, engine string) *world {
	w := &world{lab: e2e.NewLabOn(t, engine, "fld"+engine[:1], 91, 1, "--role-credentials", roleFile(t))}
	url, id, secret := w.lab.API()
	w.api = ecs.New(ecs.Options{BaseEndpoint: &url, Region: "us-west-2", Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""), RetryMaxAttempts: 1})
	w.image = w.lab.Push("probe:1", images.Spec{Files: []images.File{images.Passwd, images.Group, {Path: "/srv/file", Data: "x"}}})
	w.engine = w.lab.Seen(1)
	if _, err := w.api.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.OnHost(1, "sh", "-c", "mkdir -p /tmp/host/in && echo from-host >/tmp/host/in/file").Run(); err != nil {
		t.Fatal(err)
	}
	// A stand-in for a GPU: a device node of its own that is /dev/null, and a CDI specification that names it.
	cdi := `{"cdiVersion":"0.5.0","kind":"nvidia.com/gpu","devices":[{"name":"GPU-stand-in","containerEdits":{"env":["GPU_ENV=set"],
  "deviceNodes":[{"path":"/dev/gpu0","hostPath":"/tmp/host/gpu0","permissions":"rw"}],"mounts":[{"hostPath":"/tmp/host/in","containerPath":"/driver","options":["ro"]}]}}]}`
	if err := w.lab.OnHost(1, "sh", "-c", "mkdir -p /tmp/host/cdi && mknod /tmp/host/gpu0 c 1 3 && cat >/tmp/host/cdi/gpu.json <<'END'\n"+cdi+"\nEND").Run(); err != nil {
		t.Fatal(err)
	}
	w.serveAWS(t)
	w.lab.StartAgent(1, "AWS_ENDPOINT_URL=http://"+net.JoinHostPort(w.lab.Farm.LAN(), awsPort), "ECS_ENABLE_GPU_SUPPORT=true", `ECS_CDI_SPEC_DIRS=["/tmp/host/cdi"]`)
	w.lab.Until(30*time.Second, "the instance is connected", func() error {
		list, err := w.api.ListContainerInstances(t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster), Filter: aws.String("agentConnected == true")})
		if err == nil && len(list.ContainerInstanceArns) != 1 {
			err = fmt.Errorf("%d instances", len(list.ContainerInstanceArns))
		}
		return err
	})
	if _, err := w.api.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String("plain"),
		ContainerDefinitions: []types.ContainerDefinition{with(shell("c", idle), func(c *types.ContainerDefinition) { c.Image = &w.image })}}); err != nil {
		t.Fatal(err)
	}
	return w
}

// scene is a task that proves members.
type scene struct {
	definition ecs.RegisterTaskDefinitionInput
	overrides  *types.TaskOverride
	either     bool   // it is to run, or to come to its end
	stopped    bool   // it is to come to its end; else it is to run
	ready      string // what container main says when everything can be seen
	after      func(ctx context.Context, w *world, s *stage) error
}

// stage is a scene that was played.
type stage struct {
	definition types.TaskDefinition
	task       types.Task
	containers map[string]container.InspectResponse
	output     map[string]string
	volumes    map[string]volume.Volume // of the engine
	limit      string                   // of memory, of the task's control group in bytes
	err        error
}

// play runs every scene at the same time and returns them as they are seen.
func (w *world) play(ctx context.Context, scenes map[string]scene) map[string]*stage {
	var mu sync.Mutex
	var wg sync.WaitGroup
	stages := map[string]*stage{}
	for name, sc := range scenes {
		wg.Go(func() {
			st := &stage{containers: map[string]container.InspectResponse{}, output: map[string]string{}, volumes: map[string]volume.Volume{}}
			st.err = w.perform(ctx, name, sc, st)
			mu.Lock()
			defer mu.Unlock()
			stages[name] = st
		})
	}
	wg.Wait()
	return stages
}

func (w *world) perform(ctx context.Context, name string, sc scene, st *stage) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	in := sc.definition // which the other engine's world plays too
	in.Family, in.ContainerDefinitions = aws.String(name), slices.Clone(in.ContainerDefinitions)
	for i := range in.ContainerDefinitions {
		switch c := &in.ContainerDefinitions[i]; aws.ToString(c.Image) {
		case "":
			c.Image = &w.image
		case closedImage:
			c.Image = &w.closed
		}
	}
	registered, err := w.api.RegisterTaskDefinition(ctx, &in)
	if err != nil {
		return err
	}
	st.definition = *registered.TaskDefinition
	run, err := w.api.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: st.definition.TaskDefinitionArn, Overrides: sc.overrides, PropagateTags: types.PropagateTagsTaskDefinition})
	if err != nil {
		return err
	}
	if len(run.Failures) > 0 {
		return fmt.Errorf("not placed: %s: %s", aws.ToString(run.Failures[0].Reason), aws.ToString(run.Failures[0].Detail))
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := w.look(ctx, sc, st, *run.Tasks[0].TaskArn)
		if err == nil {
			break
		}
		if !sc.stopped && !sc.either && aws.ToString(st.task.LastStatus) == "STOPPED" {
			return fmt.Errorf("it stopped: %s: %s", aws.ToString(st.task.StoppedReason), reasons(st.task))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("in vain: %w; the task is %s: %s; output %q", err, aws.ToString(st.task.LastStatus), reasons(st.task), st.output)
		}
	}
	if sc.after != nil {
		return sc.after(ctx, w, st)
	}
	return nil
}

func reasons(t types.Task) string {
	var all []string
	for _, c := range t.Containers {
		code := ""
		if c.ExitCode != nil {
			code = fmt.Sprint(" exit code ", *c.ExitCode)
		}
		all = append(all, fmt.Sprintf("%s %s%s %s", aws.ToString(c.Name), aws.ToString(c.LastStatus), code, aws.ToString(c.Reason)))
	}
	return strings.Join(all, "; ")
}

// look sees a task from outside and inside. Its error says what is not there yet.
func (w *world) look(ctx context.Context, sc scene, st *stage, arn string) error {
	described, err := w.api.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{arn}, Include: []types.TaskField{types.TaskFieldTags}})
	if err != nil {
		return err
	}
	st.task = described.Tasks[0]
	list, err := w.engine.List(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Labels["com.amazonaws.ecs.task-arn"] != arn {
			continue
		}
		name := c.Labels["com.amazonaws.ecs.container-name"]
		if st.containers[name], err = w.engine.Inspect(ctx, c.ID); err != nil {
			return err
		}
		if st.output[name], err = w.engine.Output(ctx, c.ID); err != nil {
			return err
		}
		for _, m := range st.containers[name].Mounts {
			if m.Name == "" {
				continue
			}
			if st.volumes[m.Name], err = w.engine.Volume(ctx, m.Name); err != nil {
				return err
			}
		}
	}
	want := "RUNNING"
	if sc.stopped {
		want = "STOPPED"
	}
	if s := aws.ToString(st.task.LastStatus); s != want && (!sc.either || s != "STOPPED") {
		return fmt.Errorf("the task is %s, not %s", s, want)
	}
	if !strings.Contains(st.output["main"], sc.ready) {
		return fmt.Errorf("container main did not say %q", sc.ready)
	}
	return nil
}

// stop ends a task and waits until it is STOPPED.
func (w *world) stop(ctx context.Context, s *stage) error {
	if _, err := w.api.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: s.task.TaskArn}); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		described, err := w.api.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{*s.task.TaskArn}})
		if err != nil {
			return err
		}
		if s.task = described.Tasks[0]; aws.ToString(s.task.LastStatus) == "STOPPED" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
