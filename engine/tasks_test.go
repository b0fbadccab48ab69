package engine_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestAnUnknownTaskThatIsToStopIsAnsweredSTOPPED(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		b.DesiredStatus = "STOPPED"
		w.accept(stopOf(a))
		w.accept(b)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "STOPPED")
		if r := w.disk.last(a.Arn).Reason; r != "TaskStateError: Agent could not progress task's state to stopped" {
			t.Error(r)
		}
		w.want(b.Arn, "STOPPED")
		if last := w.disk.last(b.Arn); len(last.Containers) != 1 || last.Containers[0].Status != "STOPPED" || w.fake.Calls("Create") != 0 {
			t.Errorf("%+v", last)
		}
	})
}

func TestAStoppedTaskIsCleanedUpOnlyAfterItsEndWasAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		pass(5 * time.Hour)
		if _, ok := w.fake.Container(a.Arn, "app"); !ok {
			t.Fatal("the container was removed before the control plane knew of its end")
		}
		w.disk.accept()
		pass(time.Minute)
		if _, ok := w.fake.Container(a.Arn, "app"); ok || len(w.engine.Tasks()) != 0 {
			t.Fatal("the container or the task is still there")
		}
		if records, _ := w.disk.Load(); len(records) != 0 {
			t.Error("the record is still there")
		}
	})
}

func TestATaskIsRUNNINGWithoutAContainerThatItCanDoWithout(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential, func(c *acs.Container) { c.Image = "gone:1" }))
		w.accept(a)
		pass(time.Minute)
		last := w.disk.last(a.Arn)
		if last.Status != "RUNNING" || !strings.HasPrefix(reasonOf(last, "side"), "CannotPullContainerError: ") || !w.running(a, "app") {
			t.Fatalf("%+v\n%s", last, w.explain(a.Arn))
		}
	})
}

func TestAPullInProgressIsGivenUpWhenTheTaskIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Publish(enginetest.FakeImage{Ref: "slow:1", PullTime: time.Hour})
		a := task("a", container("app", func(c *acs.Container) { c.Image = "slow:1" }))
		w.accept(a)
		pass(time.Minute)
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "STOPPED")
	})
}

func TestTheTimesOfAPullAreReportedAndThoseOfALocalImageAreNot(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Publish(enginetest.FakeImage{Ref: "slow:1", PullTime: time.Minute})
		a, b := task("a", container("app", func(c *acs.Container) { c.Image = "slow:1" })), task("b")
		began := time.Now()
		w.accept(a)
		w.accept(b)
		pass(2 * time.Minute)
		if last := w.disk.last(a.Arn); last.Status != "RUNNING" || !last.PullStartedAt.Equal(began) || last.PullStoppedAt.Sub(began) != time.Minute || last.Containers[0].ImageDigest == "" {
			t.Errorf("%+v", last)
		}
		if !strings.Contains(w.explain(a.Arn), "app pull warning pulled, because it is not local") {
			t.Errorf("what the image cache noted is not in the timeline\n%s", w.explain(a.Arn))
		}
		if last := w.disk.last(b.Arn); !last.PullStartedAt.IsZero() {
			t.Errorf("%+v", last)
		}
	})
}

func TestBindingsAreReportedInBridgeAndHostMode(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a", container("app", hostPort(0))), task("b", container("app", hostPort(0)))
		b.NetworkMode = "host"
		w.accept(a)
		w.accept(b)
		w.settled()
		if nb := w.disk.last(a.Arn).Containers[0].NetworkBindings; len(nb) == 0 || nb[0].HostPort != 50000 || nb[0].ContainerPort != 80 {
			t.Errorf("%+v", nb)
		}
		if nb := w.disk.last(b.Arn).Containers[0].NetworkBindings; !slices.Equal(nb, []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 80, Protocol: "tcp"}}) {
			t.Errorf("%+v", nb)
		}
	}, func(cfg *engine.Config) { cfg.Host.DynamicPorts = [2]int32{50000, 50009} })
}

func TestARestartPolicyRestartsInPlaceAndTellsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, After: 2 * time.Minute, ExitCode: 1}})
		a := task("a", container("app", func(c *acs.Container) {
			c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 60}
		}))
		w.accept(a)
		pass(7 * time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		if s := w.status(a.Arn); s.Containers[0].Restarts != 3 || w.fake.Creates(s.Containers[0].RuntimeName) != 1 {
			t.Errorf("%+v", s.Containers[0])
		}
		w.stop()
		pass(5 * time.Minute) // it ends while no agent is there, and is restarted by the next
		w.start()
		w.settled()
		if s := w.status(a.Arn); s.Containers[0].Restarts != 4 || !w.running(a, "app") {
			t.Errorf("%+v", s.Containers[0])
		}
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, After: time.Second, ExitCode: 6}})
		pass(5 * time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if exitOf(w.disk.last(a.Arn), "app") != 6 {
			t.Error(w.disk.last(a.Arn))
		}
	}, func(cfg *engine.Config) { cfg.Runtime = enginetest.Restarter{Fake: cfg.Runtime.(*enginetest.Fake)} })
}

func TestAVolumeOfATaskIsRemovedWithItsContainers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := withVolume(task("a"), t.TempDir())
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		w.disk.accept()
		pass(4 * time.Hour)
		if w.fake.Calls("RemoveVolume") == 0 || len(w.engine.Tasks()) != 0 {
			t.Error(w.explain(a.Arn))
		}
	})
}

func TestAContainerThatSomethingElseStartsAgainAfterItsEndIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		if err := (enginetest.Restarter{Fake: w.fake}).Restart(t.Context(), w.id(a, "app")); err != nil || w.fake.Running() != 1 {
			t.Fatal(err)
		}
		pass(15 * time.Second)
		if w.fake.Running() != 0 {
			t.Error(w.explain(a.Arn))
		}
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		w.disk.accept()
		pass(4 * time.Hour)
		if len(w.engine.Tasks()) != 0 {
			t.Error(w.explain(a.Arn))
		}
	})
}

func TestWhatCannotBeDoneIsRefusedByName(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for want, change := range map[string]func(*acs.Task){
			"awsvpc":                          func(x *acs.Task) { x.NetworkMode = "awsvpc" },
			`unrecognized volume type: "ebs"`: func(x *acs.Task) { x.Volumes = []*acs.Volume{{Name: "v", Type: "ebs"}} },
			`volume v of type efs has no fileSystemId`: func(x *acs.Task) { x.Volumes = []*acs.Volume{{Name: "v", Type: "efs"}} },
			`transitEncryption needs the volume plugin`: func(x *acs.Task) {
				x.Volumes = []*acs.Volume{{Name: "v", Type: "efs", EFSVolumeConfiguration: &acs.EFSVolumeConfiguration{FileSystemID: "fs-1", TransitEncryption: "ENABLED"}}}
			},
			`pidMode "own" is not supported`: func(x *acs.Task) { x.PidMode = "own" },
			`"environment"`:                  func(x *acs.Task) { x.Containers[0].Overrides = `{"environment":{}}` },
			"overrides is not":               func(x *acs.Task) { x.Containers[0].Overrides = `nonsense` },
			"dockerConfig.hostConfig.PidsLimit": func(x *acs.Task) {
				x.Containers[0].DockerConfig = &acs.DockerConfig{HostConfig: `{"PidsLimit":5,"OomKillDisable":false}`}
			},
			"dockerConfig.config":      func(x *acs.Task) { x.Containers[0].DockerConfig = &acs.DockerConfig{Config: `[]`} },
			`desiredStatus "SLEEPING"`: func(x *acs.Task) { x.DesiredStatus = "SLEEPING" },
			"secrets":                  func(x *acs.Task) { x.Containers[0].Secrets = []*acs.Secret{{}} },
			"no containers":            func(x *acs.Task) { x.Containers = nil },
			"has no name":              func(x *acs.Task) { x.Containers[0] = nil },
			`no volume "v"`: func(x *acs.Task) {
				x.Containers[0].MountPoints = []*acs.MountPoint{{SourceVolume: "v", ContainerPath: "/"}}
			},
			"containerPort 0 is not": func(x *acs.Task) { x.Containers[0].PortMappings = []*acs.PortMapping{{}} },
			"must be containerPort":  func(x *acs.Task) { x.NetworkMode = "host"; hostPort(81)(x.Containers[0]) },
			"restartPolicy":          func(x *acs.Task) { x.Containers[0].RestartPolicy = &acs.RestartPolicy{Enabled: true} },
		} {
			a := task("a")
			change(a)
			err := w.engine.Accept(context.Background(), a)
			var unrecognized *engine.UnrecognizedTaskError
			if !errors.As(err, &unrecognized) || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", want, err)
			}
		}
		if len(w.engine.Tasks()) != 0 {
			t.Error("something of it was kept")
		}
	})
}

func TestThePayloadOfTheRealServiceRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.AddImage(enginetest.FakeImage{Ref: "example/web:1"})
		a := &acs.Task{Arn: arnPrefix + "a", TaskClusterArn: "arn:aws:ecs:us-east-1:123456789012:cluster/default", DesiredStatus: "RUNNING", Family: "demo", Version: "1",
			NetworkMode: "bridge", LaunchType: "EXTERNAL", ServiceName: "svc", Group: "service:svc", RoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "c-1", SecretAccessKey: "hidden"},
			Containers: []*acs.Container{{Name: "web", Image: "example/web:1", CPU: 10, Memory: 64, Essential: true, Command: []string{"sleep", "600"}, Environment: map[string]string{"A": "b"},
				Overrides: "{}", PortMappings: []*acs.PortMapping{{ContainerPort: 8080, Protocol: "tcp"}}, DockerConfig: &acs.DockerConfig{
					Config: `{"Labels":{"a":"b"}}`, HostConfig: `{"NetworkMode":"bridge","CapAdd":[],"LogConfig":{"Type":"json-file","Config":{}}}`, Version: "1.24"}}}}
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		spec, _ := w.fake.Spec(w.id(a, "web"))
		if spec.Labels["a"] != "b" || !slices.Equal(spec.Env, []string{"A=b", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1"}) || spec.Memory != 64<<20 || spec.CPUShares != 10 {
			t.Errorf("%+v", spec)
		}
		for _, raw := range w.disk.records {
			if strings.Contains(string(raw), "hidden") {
				t.Error("credentials were written to the disk")
			}
		}
	}, func(cfg *engine.Config) { cfg.Host.Region = "us-east-1" })
}
