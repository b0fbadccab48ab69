package controlplane_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// process is a control plane in a process of its own, which a failpoint may kill.
type process struct {
	*plane
	t      *testing.T
	binary string
	addr   string
	cmd    *exec.Cmd
	log    *bytes.Buffer
	ended  chan struct{} // closed when the running process has ended
	killed bool          // a failpoint has killed it
}

// buildWithFailpoints builds the binary that the crash tests kill.
func buildWithFailpoints(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "longshore-control")
	build := exec.Command("go", "build", "-tags", "failpoint,grpcnotrace", "-o", binary, "../cmd/longshore-control")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with failpoints: %v\n%s", err, out)
	}
	return binary
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// launch starts the process with further environment variables.
func (p *process) launch(environment ...string) {
	p.t.Helper()
	network := filepath.Join(p.dir, "network.json")
	if err := os.WriteFile(network, []byte(`{"subnets":{"subnet-a":{"cidrBlock":"10.0.0.0/29","ipv6CidrBlock":"fd00::/64"}}}`), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(p.binary, "run", "--data-dir", p.dir, "--listen", p.addr, "--network", network, "--rollout-wave-wait", "20ms", "--log-level", "warn")
	p.cmd.Env = append(os.Environ(), environment...)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // that it was killed is the point
		close(ended)
	}(p.cmd, p.ended)
}

// awaitReady waits until the process answers, and starts it again without failpoints when it was killed before.
func (p *process) awaitReady(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("it does not answer: %w\n%s", err, p.log)
		}
		select {
		case <-p.ended:
			if err := p.revive(); err != nil {
				return err
			}
		default:
		}
		answer, err := http.Get(p.url + "/healthz")
		if err != nil {
			pause(ctx, 5*time.Millisecond)
			continue
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// revive starts the process again after its failpoint, once; a second end is a failure.
func (p *process) revive() error {
	status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if p.killed || status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("it ended by itself: %s\n%s", p.cmd.ProcessState, p.log)
	}
	p.killed = true
	p.inspect("after the kill")
	p.launch()
	return nil
}

// end stops it in order, and its data are looked at.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
	if status, _ := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() == syscall.SIGKILL && !p.killed {
		p.killed = true // on the way out
	} else if !p.cmd.ProcessState.Success() {
		p.t.Errorf("it ended with %s\n%s", p.cmd.ProcessState, p.log)
	}
}

// inspect opens what a process left behind and holds the records against each other.
func (p *process) inspect(when string) {
	p.t.Helper()
	dir := filepath.Join(p.dir, "etcd")
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return
	}
	server, err := etcd.Start(context.Background(), etcd.Config{Dir: dir})
	if err != nil {
		p.t.Fatalf("%s: %v", when, err)
	}
	defer func() { _ = server.Close() }()
	s, err := store.Open(context.Background(), store.Config{Client: server.Client()})
	if err != nil {
		p.t.Fatalf("%s: %v", when, err)
	}
	defer func() { _ = s.Close() }()
	s.Peek(func(v *store.View) {
		for _, broken := range storetest.Inconsistencies(v) {
			p.t.Errorf("%s: %s", when, broken)
		}
	})
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// walk does what an operator does, each call repeated until it is acknowledged, with two agents at work.
func walk(ctx context.Context, p *process) error {
	if err := p.awaitReady(ctx); err != nil {
		return err
	}
	admin := caller{p: p, key: p.key(p.t, auth.AdminFile)}
	host := caller{p: p, key: p.key(p.t, auth.HostFile)}
	var registered [2]ecs.RegisterTaskDefinitionOutput
	// RunTask would wait for daemons: they have no health check, so that they have to stay RUNNING for a moment.
	gateOff := []types.Tag{{Key: aws.String(policy.DaemonGate), Value: aws.String("off")}}
	if err := admin.call(ctx, "CreateCluster", &ecs.CreateClusterInput{ClusterName: aws.String("daemonset"), Tags: gateOff}, nil); err != nil {
		return err
	}
	modes := []types.NetworkMode{types.NetworkModeBridge, types.NetworkModeAwsvpc}
	network := []*types.NetworkConfiguration{nil, {AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{"subnet-a"}}}}
	for i := range registered {
		if err := admin.call(ctx, "RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: aws.String("logging-agent"), NetworkMode: modes[i],
			ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("agent"), Image: aws.String("i"), Memory: aws.Int32(64)}}}, &registered[i]); err != nil {
			return err
		}
	}
	agents, err := joinAgents(ctx, host, registered[1].TaskDefinition)
	if err != nil {
		return err
	}
	defer agents.leave()
	create := &ecs.CreateServiceInput{Cluster: aws.String("daemonset"), ServiceName: aws.String("logging-agent"), ClientToken: aws.String("once"),
		TaskDefinition: registered[0].TaskDefinition.TaskDefinitionArn, SchedulingStrategy: types.SchedulingStrategyDaemon,
		Tags: []types.Tag{{Key: aws.String(policy.DaemonSurge), Value: aws.String("true")}}}
	var created ecs.CreateServiceOutput
	if err := admin.call(ctx, "CreateService", create, &created); err != nil {
		return err
	}
	if err := admin.stable(ctx, *registered[0].TaskDefinition.TaskDefinitionArn); err != nil {
		return err
	}
	update := func(to int) error {
		in := &ecs.UpdateServiceInput{Cluster: aws.String("daemonset"), Service: aws.String("logging-agent"), TaskDefinition: registered[to].TaskDefinition.TaskDefinitionArn, NetworkConfiguration: network[to]}
		return cmp.Or(admin.call(ctx, "UpdateService", in, nil), admin.stable(ctx, *in.TaskDefinition))
	}
	agents.keeps(true)
	if err := update(1); err != nil { // start-first
		return err
	}
	agents.keeps(false)
	if err := admin.call(ctx, "UntagResource", &ecs.UntagResourceInput{ResourceArn: created.Service.ServiceArn, TagKeys: []string{policy.DaemonSurge}}, nil); err != nil {
		return err
	}
	var ran ecs.RunTaskOutput
	run := &ecs.RunTaskInput{Cluster: aws.String("daemonset"), ClientToken: aws.String("once"), TaskDefinition: registered[1].TaskDefinition.TaskDefinitionArn,
		NetworkConfiguration: network[1]}
	// An agent that has not come back yet after a kill gets no task: that is told, and not waited for.
	for len(ran.Tasks) == 0 {
		if err := admin.call(ctx, "RunTask", run, &ran); err != nil {
			return err
		}
		if len(ran.Tasks) == 0 && (ctx.Err() != nil || aws.ToString(ran.Failures[0].Reason) != "AGENT") {
			return fmt.Errorf("RunTask starts no task: %s", aws.ToString(ran.Failures[0].Reason))
		}
	}
	if err := update(0); err != nil { // the old one stops first
		return err
	}
	if err := admin.call(ctx, "StopTask", &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: ran.Tasks[0].TaskArn}, nil); err != nil {
		return err
	}
	if err := agents.settle(ctx, p, 2); err != nil {
		return err
	}
	return agents.judge(7, 5) // two daemons, each replaced twice, and one task
}

// stable waits until the service runs this definition on both hosts.
func (c caller) stable(ctx context.Context, definition string) error {
	for {
		var out ecs.DescribeServicesOutput
		if err := c.call(ctx, "DescribeServices", &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"logging-agent"}}, &out); err != nil {
			return err
		}
		if len(out.Services) == 1 {
			s := out.Services[0]
			if len(s.Deployments) == 1 && s.RunningCount == 2 && aws.ToString(s.TaskDefinition) == definition {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the service does not become stable: %+v\n%s", out.Services, c.p.log)
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// The kills are at every failpoint that an undisturbed walk passes, and at many of its passes.
func TestAControlPlaneThatIsKilledAnywhereLosesNothingAndTouchesNoContainer(t *testing.T) {
	binary := buildWithFailpoints(t)
	begin := func(t *testing.T, environment ...string) (*process, error) {
		addr := freeAddress(t)
		p := &process{plane: &plane{dir: t.TempDir(), url: "http://" + addr}, t: t, binary: binary, addr: addr, log: new(bytes.Buffer)}
		p.launch(environment...)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		err := walk(ctx, p)
		p.end()
		p.inspect("at the end")
		return p, err
	}
	trace := filepath.Join(t.TempDir(), "trace")
	if _, err := begin(t, "LONGSHORE_FAILPOINT_LOG="+trace); err != nil {
		t.Fatalf("undisturbed: %v", err)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	passes := map[string]int{}
	for name := range strings.Lines(string(data)) {
		passes[strings.TrimSpace(name)]++
	}
	t.Logf("an undisturbed walk passes %v", passes)
	var mu sync.Mutex
	kills := 0
	t.Run("kills", func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(passes)) {
			for _, nth := range someOf(passes[name], strings.HasPrefix(name, "store/")) {
				t.Run(fmt.Sprintf("%s:%d", name, nth), func(t *testing.T) {
					t.Parallel()
					p, err := begin(t, fmt.Sprintf("LONGSHORE_FAILPOINT=%s:%d", name, nth))
					if err != nil {
						t.Error(err)
					}
					if p.killed {
						mu.Lock()
						kills++
						mu.Unlock()
					}
				})
			}
		}
	})
	http.DefaultClient.CloseIdleConnections()
	if kills < len(passes) {
		t.Errorf("only %d kills at %d failpoints", kills, len(passes))
	}
	t.Logf("%d kills", kills)
}

// someOf are the passes of a failpoint to be killed at: all, or the first ones, the last one and one between.
func someOf(n int, all bool) (nths []int) {
	for i := 1; i <= n; i++ {
		if all || i <= 2 || i == n || i == n/2 {
			nths = append(nths, i)
		}
	}
	return nths
}
