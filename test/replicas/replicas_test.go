package replicas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/test/ecsagent"
)

// agent is a simulated one behind a balancer of its own.
type agent struct {
	*ecsagent.Machine
	process  *ecsagent.Agent
	cfg      ecsagent.Config
	balancer *balancer
}

func (a *agent) restart() {
	a.process.Stop()
	a.process = a.Machine.Start(a.cfg)
}

// quick are timers with which an agent is back soon.
var quick = ecsagent.Timers{
	Reconnect: 20 * time.Millisecond, ReconnectMax: 500 * time.Millisecond, Telemetry: 20 * time.Millisecond, TelemetryMax: 500 * time.Millisecond,
	Publish: 2 * time.Second, Drain: 200 * time.Millisecond, Register: 50 * time.Millisecond, RegisterMax: time.Second, Retry: 20 * time.Millisecond,
	SubmitAgain: 50 * time.Millisecond, SubmitAgainMost: time.Second,
}

// targets are all control planes.
func (w *world) targets() (out []string) {
	for _, n := range w.controls {
		out = append(out, n.ip+":8480")
	}
	return out
}

// join starts an agent.
func (w *world) join(i int, key aws.Credentials) *agent {
	w.Helper()
	a := &agent{Machine: ecsagent.NewMachine(), balancer: w.balance(i, w.targets()...)}
	a.cfg = ecsagent.Config{Endpoint: a.balancer.url(), Region: "us-west-2", Key: key, Cluster: "main", Timers: quick, CPU: 100 * 1024, Memory: 100 * 1024,
		Interfaces: &ecsagent.Interfaces{Slots: 100}}
	a.process = a.Machine.Start(a.cfg)
	w.Cleanup(func() {
		a.process.Stop()
		a.Machine.Close()
	})
	return a
}

// fleet sets the scene: a cluster with agents, and a daemon on each.
func (w *world) fleet(c *client, agents int) (out []*agent) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, call := range []struct {
		operation string
		in        object
	}{
		{"CreateCluster", object{"clusterName": "main", "tags": []object{{"key": "longshore:daemon-gate", "value": "off"}}}},
		{"RegisterTaskDefinition", object{"family": "plain", "containerDefinitions": []object{{"name": "main", "image": "i", "memory": 64}}}},
		{"RegisterTaskDefinition", object{"family": "own", "networkMode": "awsvpc", "containerDefinitions": []object{{"name": "main", "image": "i", "memory": 64}}}},
		{"CreateService", object{"cluster": "main", "serviceName": "daemon", "taskDefinition": "plain", "schedulingStrategy": "DAEMON", "clientToken": "daemon"}},
	} {
		if err := c.must(ctx, call.operation, call.in, nil); err != nil {
			w.Fatal(err)
		}
	}
	host := w.key(auth.HostFile)
	for i := range agents {
		out = append(out, w.join(i, host))
	}
	w.until(time.Minute, "each host runs its daemon", func(context.Context) error {
		for _, a := range out {
			if a.Running() != 1 {
				return errNotYet
			}
		}
		return nil
	})
	return out
}

// One world serves both claims, one after the other.
func TestThreeControlPlanesOnThreeMembersAreOne(t *testing.T) {
	w := newWorld(t, options{})
	c := w.client(w.balance(0, w.targets()...).url(), w.key(auth.AdminFile))
	agents := w.fleet(c, 4)
	for _, claim := range []struct {
		name string
		try  func(c *client, agents []*agent)
	}{
		{"whatever process is killed and link is cut nothing is lost, nothing is doubled and no container is touched", func(c *client, agents []*agent) { w.turmoil(c, agents, 4*time.Second) }},
		{"replaced one after the other under a load of writes they lose none of them", w.replaced},
		{"without a majority reads and tasks go on, and writes fail clearly until it is back", w.withoutMajority},
		{"restored into the emptied cluster nothing stops, and sequence numbers rise", w.emptied},
	} {
		t.Run(claim.name, func(t *testing.T) {
			w.T, w.lan.t = t, t
			begun := time.Now()
			claim.try(w.client(w.balance(0, w.targets()...).url(), c.key), agents)
			t.Logf("took %s", time.Since(begun))
		})
	}
	w.T, w.lan.t = t, t
}

// These two are make test-replicas, where REPLICAS_FOR says for how long; without it there is the short one above, and the
// store's own tests of a full embedded etcd.
func TestAQuotaThatWasReachedIsLeftAgainWithoutARestart(t *testing.T) {
	if os.Getenv("REPLICAS_FOR") == "" {
		return
	}
	w := newWorld(t, options{quota: 48 << 20})
	c := w.client(w.balance(0, w.targets()...).url(), w.key(auth.AdminFile))
	w.fullAndBack(c, w.fleet(c, 2))
}

func TestForLongWhateverProcessIsKilledAndLinkIsCutNothingIsLost(t *testing.T) {
	text := os.Getenv("REPLICAS_FOR")
	if text == "" {
		return
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("REPLICAS_FOR: %v", err)
	}
	w := newWorld(t, options{})
	c := w.client(w.balance(0, w.targets()...).url(), w.key(auth.AdminFile))
	w.turmoil(c, w.fleet(c, 4), duration)
}

// turmoil is a load while processes are killed and links are cut, and then the judgement.
func (w *world) turmoil(c *client, agents []*agent, duration time.Duration) {
	w.Helper()
	seed := uint64(time.Now().UnixNano())
	w.Logf("seed %d", seed)
	l := newLoad(w, c.key)
	ctx, cancel := context.WithTimeout(context.Background(), duration)
	defer cancel()
	var clients sync.WaitGroup
	for i := range 6 {
		url := w.balance(i, w.targets()...).url()
		clients.Go(func() { l.run(ctx, i, url) })
	}
	h := &hand{w: w, agents: agents, random: rand.New(rand.NewPCG(seed, 0)), did: map[string]int{}}
	h.run(ctx, 700*time.Millisecond)
	clients.Wait()
	w.Logf("what went wrong: %v", h.did)
	for _, n := range append(append([]*node{}, w.members...), w.controls...) {
		w.heal(n.ip)
		if !n.alive() {
			n.begin()
		}
	}
	for _, n := range w.controls {
		n.healthy()
	}
	w.judge(l, c, agents)
}

// judge waits until all is calm, and holds what clients and hosts saw against what was promised.
func (w *world) judge(l *load, c *client, agents []*agent) {
	w.Helper()
	w.calm(c, agents)
	l.judge()
	l.once(c)
	for i, a := range agents {
		l.untouched(i, a)
		for _, fault := range a.Faults() {
			w.Errorf("agent %d: %s", i, fault)
		}
	}
	w.inspect()
	w.judgeProcesses()
}

// calm waits until every agent is connected, and nothing is on its way.
func (w *world) calm(c *client, agents []*agent) {
	w.Helper()
	w.until(2*time.Minute, "all hosts are connected, and what is to stop has stopped", func(ctx context.Context) error {
		var instances struct {
			ContainerInstances []struct {
				AgentConnected    bool
				PendingTasksCount int
			}
		}
		var arns []string
		for _, a := range agents {
			arns = append(arns, a.InstanceARN())
		}
		if a := c.call(ctx, "DescribeContainerInstances", object{"cluster": "main", "containerInstances": arns}, &instances); !a.done() {
			return fmt.Errorf("%s", a)
		}
		for _, i := range instances.ContainerInstances {
			if !i.AgentConnected || i.PendingTasksCount > 0 {
				return errNotYet
			}
		}
		var list struct{ TaskArns []string }
		if a := c.call(ctx, "ListTasks", object{"cluster": "main", "desiredStatus": "STOPPED"}, &list); !a.done() {
			return fmt.Errorf("%s", a)
		}
		for part := range slices.Chunk(list.TaskArns, 100) {
			var tasks struct{ Tasks []wireTask }
			if a := c.call(ctx, "DescribeTasks", object{"cluster": "main", "tasks": part}, &tasks); !a.done() {
				return fmt.Errorf("%s", a)
			}
			for _, t := range tasks.Tasks {
				if t.LastStatus != "STOPPED" {
					return fmt.Errorf("%s is %s", t.TaskArn, t.LastStatus)
				}
			}
		}
		return nil
	})
}

// once holds each client token to one task.
func (l *load) once(c *client) {
	l.w.Helper()
	for _, token := range l.tokens {
		found := 0
		for _, desired := range []string{"RUNNING", "STOPPED"} {
			var list struct{ TaskArns []string }
			if err := c.must(context.Background(), "ListTasks", object{"cluster": "main", "startedBy": token, "desiredStatus": desired}, &list); err != nil {
				l.w.Fatal(err)
			}
			found += len(list.TaskArns)
		}
		if found > 1 {
			l.w.Errorf("the client token %s has %d tasks", token, found)
		}
	}
}

// untouched holds a machine's journal to the orders: what ended was to end, nothing ran twice, and the daemon is the one from the
// beginning.
func (l *load) untouched(i int, a *agent) {
	l.w.Helper()
	started, daemons := map[string]int{}, map[string]bool{}
	for _, e := range a.Journal() {
		switch e.Kind {
		case ecsagent.Started:
			if started[e.Task]++; started[e.Task] > 1 {
				l.w.Errorf("machine %d started %s %d times", i, e.Task, started[e.Task])
			}
			if len(started) == 1 {
				daemons[e.Task] = true // the first that a machine runs
			}
		case ecsagent.Exited:
			if !l.w.ordered(e.Task) {
				l.w.Errorf("machine %d: a container of %s ended, and nobody asked for that: %s", i, e.Task, e)
			}
		}
	}
	running := 0
	for _, c := range a.Containers("") {
		if daemons[c.Task] && c.Running {
			running++
		}
		if c.Running && l.w.ordered(c.Task) {
			l.w.Errorf("machine %d still runs %s, which is to stop", i, c.Task)
		}
	}
	if running != 1 {
		l.w.Errorf("machine %d runs %d of its daemon", i, running)
	}
}

// inspect holds the records against each other.
func (w *world) inspect() {
	w.Helper()
	client := w.etcd()
	s, err := store.Open(context.Background(), store.Config{Client: client})
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if err := s.Read(context.Background(), func(v *store.View) error {
		if broken := storetest.Inconsistencies(v); len(broken) > 0 {
			w.Errorf("in the store:\n%s", strings.Join(broken, "\n"))
		}
		return nil
	}); err != nil {
		w.Error(err)
	}
}
