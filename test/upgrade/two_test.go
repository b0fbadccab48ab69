//go:build upgrade

package upgrade

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

func TestProgramsOfTwoVersions(t *testing.T) {
	v, err := build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the previous version is %s", v.rev)
	t.Run("an older agent is served by today's control plane", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "oa", 131, v.current)
		p.startAgent(v.previous)
		p.live()
	})
	t.Run("today's agent runs under an older control plane", func(t *testing.T) {
		t.Parallel()
		p := newPair(t, "oc", 132, v.previous)
		p.startAgent(v.current)
		p.live()
	})
	t.Run("an upgrade, the control plane first", func(t *testing.T) {
		t.Parallel()
		replaced(t, v, "uc", 133, (*pair).upgradeControl, (*pair).upgradeAgent)
	})
	t.Run("an upgrade, the agent first", func(t *testing.T) {
		t.Parallel()
		replaced(t, v, "ua", 134, (*pair).upgradeAgent, (*pair).upgradeControl)
	})
}

// live is a DAEMON service that is rolled to a second revision, a REPLICA service and a task of its own, each from its creation to its end.
func (p *pair) live() {
	p.Helper()
	p.define("daemon")
	p.define("job")
	first := p.service("daemon", types.SchedulingStrategyDaemon)
	p.state(first, "RUNNING")
	p.define("daemon")
	p.must(p.api.UpdateService(p.Context(), &ecs.UpdateServiceInput{Cluster: aws.String(cluster), Service: aws.String("daemon"), TaskDefinition: aws.String("daemon:2")}))
	p.state(first, "STOPPED")
	second := p.taskOf("daemon", first)
	p.state(second, "RUNNING")
	replica := p.service("job", types.SchedulingStrategyReplica)
	p.state(replica, "RUNNING")
	own := p.run("own")
	p.state(own, "RUNNING")
	for _, arn := range []string{second, replica, own} {
		p.process(arn)
	}
	p.kill(replica)
	p.state(replica, "STOPPED")
	next := p.taskOf("job", replica)
	p.state(next, "RUNNING")
	p.stopTask(own)
	p.state(own, "STOPPED")
	for _, name := range []string{"daemon", "job"} {
		p.must(p.api.DeleteService(p.Context(), &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: &name, Force: aws.Bool(true)}))
	}
	all := []string{first, second, replica, next, own}
	for _, arn := range all {
		p.state(arn, "STOPPED")
		p.once(arn, "RUNNING", "STOPPED")
	}
}

// upgradeControl ends the old control plane and starts the new one where it was. What ends meanwhile is told afterwards.
func (p *pair) upgradeControl(to string, meanwhile func()) {
	p.stop(p.control)
	meanwhile()
	p.startControl(to)
	p.connected()
}

func (p *pair) upgradeAgent(to string, meanwhile func()) {
	p.stop(p.agent)
	meanwhile()
	p.startAgent(to)
}

// replaced goes from the previous version of both programs to the current one, and over to it once more, as a host does that is restarted
// after its upgrade, with clients that write all the time.
func replaced(t *testing.T, v *versions, name string, subnet int, upgrades ...func(p *pair, to string, meanwhile func())) {
	t.Helper()
	p := newPair(t, name, subnet, v.previous)
	p.startAgent(v.previous)
	p.define("daemon")
	p.define("job")
	daemon := p.service("daemon", types.SchedulingStrategyDaemon)
	p.state(daemon, "RUNNING")
	pid := p.process(daemon)

	load := p.write()
	var ended []string
	for round := range 2 {
		for i, upgrade := range upgrades {
			load.more(30)
			victim := p.run(fmt.Sprintf("victim-%d-%d", round, i))
			p.state(victim, "RUNNING")
			upgrade(p, v.current, func() { p.kill(victim) })
			p.state(victim, "STOPPED")
			ended = append(ended, victim)
			if now := p.process(daemon); now != pid {
				t.Errorf("the daemon's process was %d and is %d", pid, now)
			}
		}
	}
	load.more(30)
	tasks := load.end()
	for token, arn := range tasks {
		p.state(arn, "RUNNING")
		p.process(arn)
		p.once(arn, "RUNNING")
		listed, err := p.api.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String(cluster), StartedBy: &token})
		if err != nil || !slices.Equal(listed.TaskArns, []string{arn}) {
			t.Errorf("%s was run as %s, and is now %v %v", token, arn, listed, err)
		}
	}
	p.once(daemon, "RUNNING")
	for _, arn := range ended {
		p.once(arn, "RUNNING", "STOPPED")
		if all := p.containers(arn); len(all) != 1 || all[0].State.ExitCode != 137 {
			t.Errorf("the task that ended meanwhile has %d containers: %+v", len(all), all)
		}
	}
	if out, err := exec.Command(filepath.Join(v.current, "longshore-control"), "check", "--data-dir", filepath.Join(p.dir, "control")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	p.stopTask(daemon)
	p.state(daemon, "STOPPED")
	p.once(daemon, "STOPPED")
	p.state(p.taskOf("daemon", daemon), "RUNNING")
}

// load is what clients write, with the SDK's retries as they are out of the box, and what of it was acknowledged. What they gave up on was not.
type load struct {
	*pair
	cancel  context.CancelFunc
	writers sync.WaitGroup

	mu       sync.Mutex
	clusters map[string]string // the value of the tag that each has, by ARN
	unsure   map[string]bool   // of which a change was given up
	tasks    map[string]string // by client token
	refused  map[string]int
}

func (p *pair) write() *load {
	l := &load{pair: p, clusters: map[string]string{}, unsure: map[string]bool{}, tasks: map[string]string{}, refused: map[string]int{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.Context()))
	l.cancel = cancel
	p.Cleanup(func() { cancel(); l.writers.Wait() })
	for w := range 3 {
		l.writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.once(ctx, fmt.Sprintf("w%d-%d", w, i), i%50 == 5 && i < 250)
			}
		})
	}
	return l
}

// once makes a cluster, changes its tag, and if need be runs a task.
func (l *load) once(ctx context.Context, name string, run bool) {
	made, err := l.api.CreateCluster(ctx, &ecs.CreateClusterInput{ClusterName: &name})
	if err != nil {
		l.gaveUp(ctx, "", err)
		return
	}
	arn := *made.Cluster.ClusterArn
	l.acknowledged(l.clusters, arn, "")
	if _, err = l.api.TagResource(ctx, &ecs.TagResourceInput{ResourceArn: &arn, Tags: []types.Tag{{Key: aws.String("name"), Value: &name}}}); err != nil {
		l.gaveUp(ctx, arn, err)
		return
	}
	l.acknowledged(l.clusters, arn, name)
	if !run {
		return
	}
	ran, err := l.api.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("job"), ClientToken: &name, StartedBy: &name})
	switch {
	case err != nil:
		l.gaveUp(ctx, "", err)
	case len(ran.Tasks) == 1:
		l.acknowledged(l.tasks, name, *ran.Tasks[0].TaskArn)
	}
}

func (l *load) acknowledged(in map[string]string, key, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in[key] = value
}

func (l *load) gaveUp(ctx context.Context, arn string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsure[arn] = true
	if ctx.Err() == nil {
		l.refused[err.Error()[:min(len(err.Error()), 160)]]++
	}
}

// more waits for further writes.
func (l *load) more(n int) {
	l.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.clusters)
	}
	before := count()
	until(l.T, "clients write", func() error {
		if now := count(); now < before+n {
			return fmt.Errorf("%d writes", now-before)
		}
		return nil
	}, l.logs)
}

// end ends the clients, looks for all that was acknowledged, and returns the tasks.
func (l *load) end() map[string]string {
	l.Helper()
	l.cancel()
	l.writers.Wait()
	l.Logf("%d clusters and %d tasks were acknowledged; given up: %v", len(l.clusters), len(l.tasks), l.refused)
	arns := slices.Sorted(maps.Keys(l.clusters))
	for part := range slices.Chunk(arns, 100) {
		out, err := l.api.DescribeClusters(l.Context(), &ecs.DescribeClustersInput{Clusters: part, Include: []types.ClusterField{types.ClusterFieldTags}})
		if err != nil || len(out.Clusters) != len(part) {
			l.Fatalf("of %d clusters that were acknowledged %d are there: %v %v", len(part), len(out.Clusters), out.Failures, err)
		}
		for _, c := range out.Clusters {
			tag := ""
			for _, one := range c.Tags {
				tag = aws.ToString(one.Value)
			}
			if want := l.clusters[*c.ClusterArn]; tag != want && !l.unsure[*c.ClusterArn] {
				l.Errorf("%s has the tag %q, and %q was acknowledged", *c.ClusterName, tag, want)
			}
		}
	}
	return l.tasks
}

// define registers the next revision of a task definition.
func (p *pair) define(family string) {
	p.Helper()
	p.must(p.api.RegisterTaskDefinition(p.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeHost, ContainerDefinitions: []types.ContainerDefinition{{
		Name: aws.String("main"), Image: aws.String(image), Memory: aws.Int32(8), StopTimeout: aws.Int32(5)}}}))
}

// service creates a service of the task definition with its name, and waits for its first task.
func (p *pair) service(name string, strategy types.SchedulingStrategy) string {
	p.Helper()
	in := &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: &name, TaskDefinition: &name, SchedulingStrategy: strategy}
	if strategy == types.SchedulingStrategyReplica {
		in.DesiredCount = aws.Int32(1)
	}
	p.must(p.api.CreateService(p.Context(), in))
	return p.taskOf(name, "")
}

// taskOf waits until a service wants one task, which is not the one that it had.
func (p *pair) taskOf(service, not string) (arn string) {
	p.Helper()
	until(p.T, "the service "+service+" has a task", func() error {
		out, err := p.api.ListTasks(p.Context(), &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: &service})
		if err != nil || len(out.TaskArns) != 1 || out.TaskArns[0] == not {
			return fmt.Errorf("%+v %w", out, err)
		}
		arn = out.TaskArns[0]
		return nil
	}, p.logs)
	return arn
}

func (p *pair) run(by string) string {
	p.Helper()
	out, err := p.api.RunTask(p.Context(), &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("job"), StartedBy: &by})
	if err != nil || len(out.Tasks) != 1 {
		p.Fatalf("%+v %v", out, err)
	}
	return *out.Tasks[0].TaskArn
}

func (p *pair) stopTask(arn string) {
	p.Helper()
	p.must(p.api.StopTask(p.Context(), &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &arn}))
}

// state waits until the control plane shows a task in a state.
func (p *pair) state(arn, status string) {
	p.Helper()
	until(p.T, arn+" is "+status, func() error {
		out, err := p.api.DescribeTasks(p.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{arn}})
		switch {
		case err != nil:
			return err
		case len(out.Tasks) != 1:
			return fmt.Errorf("%+v", out.Failures)
		case aws.ToString(out.Tasks[0].LastStatus) != status:
			return fmt.Errorf("it is %s %s", aws.ToString(out.Tasks[0].LastStatus), aws.ToString(out.Tasks[0].StoppedReason))
		}
		return nil
	}, p.logs)
}

// process is the process of a task's only container, which runs.
func (p *pair) process(arn string) int {
	p.Helper()
	all := p.containers(arn)
	if len(all) != 1 || !all[0].State.Running {
		p.Fatalf("%s has %d containers: %+v", arn, len(all), all)
	}
	return all[0].State.Pid
}

// kill ends the process of a task's container behind everybody's back.
func (p *pair) kill(arn string) {
	p.Helper()
	all := p.containers(arn)
	if len(all) != 1 {
		p.Fatalf("%s has %d containers", arn, len(all))
	}
	if err := p.engine.ContainerKill(p.Context(), all[0].ID, "KILL"); err != nil && !strings.Contains(err.Error(), "not running") {
		p.Fatal(err)
	}
}

// once waits until the answers to state changes of a task are noted, and fails unless each arrived once.
func (p *pair) once(arn string, statuses ...string) {
	p.Helper()
	for _, status := range statuses {
		until(p.T, "the "+status+" of "+arn+" is noted", func() error {
			if p.noted.of(arn, status) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		if n := p.noted.of(arn, status); n != 1 {
			p.Errorf("%s of %s arrived %d times", status, arn, n)
		}
	}
}
