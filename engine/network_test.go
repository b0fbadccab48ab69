package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

const networkPause = "~internal~ecs~pause"

// inVPC gives a task a network of its own.
func inVPC(t *acs.Task) *acs.Task {
	t.NetworkMode = "awsvpc"
	t.ElasticNetworkInterfaces = []*acs.ElasticNetworkInterface{{
		AttachmentArn: "arn:aws:ecs:us-west-2:123456789012:attachment/a1", Ec2ID: "eni-1", MacAddress: "02:00:00:00:00:01", InterfaceAssociationProtocol: acs.AssociationVeth,
		IPv4Addresses: []*acs.IPv4Address{{PrivateAddress: "10.0.0.5", Primary: true}}, IPv6Addresses: []*acs.IPv6Address{{Address: "2001:db8::5"}},
		SubnetGatewayIpv4Address: "10.0.0.1/24", DomainNameServers: []string{"10.0.0.2"}, DomainName: []string{"example.internal"},
		PrivateDNSName: "ip-10-0-0-5.example.internal", SecurityGroups: []string{"sg-1"},
	}}
	return t
}

// withNetworks is inBubble with task networks.
func withNetworks(t *testing.T, f func(t *testing.T, w *world, n *enginetest.Networks)) {
	n := enginetest.NewNetworks()
	inBubble(t, func(t *testing.T, w *world) { f(t, w, n) }, func(c *engine.Config) { c.Networks = n })
}

func TestATaskWithANetworkOfItsOwnStartsOnlyWhenThatIsRight(t *testing.T) {
	withNetworks(t, func(t *testing.T, w *world, n *enginetest.Networks) {
		n.Be(fmt.Errorf("CardMissing: no card has the MAC 02:00:00:00:00:01"))
		a := inVPC(task("a", container("app"), container("side", dependsOn("app", "START"))))
		a.IpcMode = "task"
		w.accept(a)
		w.settled()
		pause, ok := w.fake.Container(a.Arn, networkPause)
		if !ok || pause.Status != engine.StatusRunning || w.running(a, "app") {
			t.Fatalf("%+v\n%s", pause, w.explain(a.Arn))
		}
		if s := w.status(a.Arn); !slices.ContainsFunc(s.Waits, func(x string) bool { return strings.Contains(x, "CardMissing: no card has the MAC") }) {
			t.Errorf("it does not say what it waits for: %q", s.Waits)
		}
		if ns, ok := n.Wanted(a.Arn); !ok || ns.Pid == 0 || ns.Task.ElasticNetworkInterfaces[0].MacAddress != "02:00:00:00:00:01" {
			t.Fatalf("%+v", ns)
		}
		pass(4 * time.Minute)
		n.Be(nil)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "RUNNING" || len(last.Containers) != 2 {
			t.Fatalf("%+v\n%s", last, w.explain(a.Arn))
		}
		spec, _ := w.fake.Spec(w.id(a, "app"))
		if spec.HostConfig.NetworkMode != "container:"+pause.Name || len(spec.Ports) != 0 {
			t.Errorf("%+v", spec)
		}
		w.accept(stopOf(a))
		w.settled()
		if last := w.disk.last(a.Arn).Status; last != "STOPPED" || w.fake.Running() != 0 || n.Released(a.Arn) == 0 {
			t.Errorf("%d processes are left, released %d times", w.fake.Running(), n.Released(a.Arn))
		}
	})
}

func TestThePauseContainerHasTheNameAndTheDNSOfTheTasksInterfaces(t *testing.T) {
	withNetworks(t, func(t *testing.T, w *world, _ *enginetest.Networks) {
		a := inVPC(task("a"))
		w.accept(a)
		w.settled()
		spec, ok := w.fake.Spec(w.id(a, networkPause))
		if want := []string{"ip-10-0-0-5.example.internal:10.0.0.5", "ip-10-0-0-5.example.internal:2001:db8::5"}; !ok || spec.NetworkMode != "none" ||
			spec.Config.Hostname != "ip-10-0-0-5.example.internal" || !slices.Equal(spec.HostConfig.ExtraHosts, want) ||
			!slices.Equal(spec.HostConfig.DNS, []string{"10.0.0.2"}) || !slices.Equal(spec.HostConfig.DNSSearch, []string{"example.internal"}) {
			t.Errorf("%+v", spec)
		}
		for _, c := range w.status(a.Arn).Containers {
			if c.Name == networkPause {
				t.Error("the pause container is shown as one of the task's")
			}
		}
	})
}

func TestATaskDoesNotWaitForItsNetworkForEver(t *testing.T) {
	for name, c := range map[string]struct {
		problem error
		after   time.Duration
		want    string
	}{
		"a state that may pass": {errors.New("ParentDown: eth1 is down"), 5 * time.Minute, "ResourceInitializationError: the task's network could not be made within 5m0s: ParentDown: eth1 is down"},
		"what can never be":     {fmt.Errorf("Unsupported: no macvlan: %w", errdefs.ErrNotImplemented), 0, "ResourceInitializationError: the task's network can't be made: Unsupported: no macvlan"},
	} {
		t.Run(name, func(t *testing.T) {
			withNetworks(t, func(t *testing.T, w *world, n *enginetest.Networks) {
				n.Be(c.problem)
				a := inVPC(task("a"))
				w.accept(a)
				if c.after > 0 {
					pass(c.after - time.Second)
					w.want(a.Arn)
					pass(time.Second)
				}
				w.settled()
				if last := w.disk.last(a.Arn); last.Status != "STOPPED" || !strings.HasPrefix(last.Reason, c.want) || w.fake.Running() != 0 || n.Released(a.Arn) == 0 {
					t.Errorf("%+v\n%s", last, w.explain(a.Arn))
				}
			})
		})
	}
}

func TestATaskThatRunsGoesOnWhenItsNetworkBreaksAndSaysSo(t *testing.T) {
	withNetworks(t, func(t *testing.T, w *world, n *enginetest.Networks) {
		a := inVPC(task("a"))
		w.accept(a)
		w.settled()
		n.Be(errors.New("CardMissing: somebody took the card"))
		pass(time.Hour)
		if s := w.status(a.Arn); s.Known != "RUNNING" || !w.running(a, "app") || !slices.Contains(s.Waits, "the task's network: CardMissing: somebody took the card") {
			t.Fatalf("%+v\n%s", s, w.explain(a.Arn))
		}
		n.Be(nil)
		w.settled()
		if s := w.status(a.Arn); len(s.Waits) != 0 {
			t.Errorf("%q", s.Waits)
		}
		w.want(a.Arn, "PENDING", "RUNNING")
	})
}

func TestAgentRestartsTouchNoNetworkNorContainer(t *testing.T) {
	withNetworks(t, func(t *testing.T, w *world, n *enginetest.Networks) {
		a := inVPC(task("a"))
		w.accept(a)
		w.settled()
		before, _ := n.Wanted(a.Arn)
		w.restart()
		w.settled()
		if after, ok := n.Wanted(a.Arn); !ok || after.Owner != before.Owner || after.Pid != before.Pid || w.fake.Calls("Start") != 2 || n.Released(a.Arn) != 0 {
			t.Fatalf("%+v, then %+v; %d starts", before, after, w.fake.Calls("Start"))
		}
		w.stop()
		w.disk = newDisk() // the state file is lost: what the namespace is to be is in the labels
		w.cfg.State = w.disk
		w.start()
		w.settled()
		ns, ok := n.Wanted(a.Arn)
		if !ok || ns.Owner != before.Owner || len(ns.Task.ElasticNetworkInterfaces) != 1 || ns.Task.ElasticNetworkInterfaces[0].SecurityGroups[0] != "sg-1" {
			t.Fatalf("%+v\n%s", ns, w.explain(a.Arn))
		}
		w.accept(a)
		w.settled()
		if !w.running(a, "app") || w.fake.Calls("Start") != 2 {
			t.Errorf("%d starts\n%s", w.fake.Calls("Start"), w.explain(a.Arn))
		}
		w.accept(stopOf(a))
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || w.fake.Running() != 0 {
			t.Errorf("%+v\n%s", last, w.explain(a.Arn))
		}
	})
}

func TestATaskEndsWithThePauseContainerOfItsNetwork(t *testing.T) {
	withNetworks(t, func(t *testing.T, w *world, n *enginetest.Networks) {
		a := inVPC(task("a"))
		w.accept(a)
		w.settled()
		w.fake.Exit(w.id(a, networkPause), 137)
		w.settled()
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || w.fake.Running() != 0 || n.Released(a.Arn) == 0 {
			t.Errorf("%+v\n%s", last, w.explain(a.Arn))
		}
	})
}

func TestWhatATaskWithANetworkOfItsOwnCantHaveIsRefusedByName(t *testing.T) {
	n := enginetest.NewNetworks()
	inBubble(t, func(t *testing.T, w *world) {
		for want, change := range map[string]func(x *acs.Task){
			"elasticNetworkInterfaces is empty":         func(x *acs.Task) { x.ElasticNetworkInterfaces = nil },
			"elasticNetworkInterfaces[0] is null":       func(x *acs.Task) { x.ElasticNetworkInterfaces[0] = nil },
			"macAddress is empty":                       func(x *acs.Task) { x.ElasticNetworkInterfaces[0].MacAddress = "" },
			`interfaceAssociationProtocol "tunnel"`:     func(x *acs.Task) { x.ElasticNetworkInterfaces[0].InterfaceAssociationProtocol = "tunnel" },
			"needs vlanId and trunkInterfaceMacAddress": func(x *acs.Task) { x.ElasticNetworkInterfaces[0].InterfaceAssociationProtocol = "vlan" },
			"hostPort 81 must be containerPort 80": func(x *acs.Task) {
				x.Containers[0].PortMappings = []*acs.PortMapping{{ContainerPort: 80, HostPort: 81}}
			},
			"links need networkMode bridge":            func(x *acs.Task) { x.Containers[0].Links = []string{"app"} },
			"hostname is not supported in networkMode": func(x *acs.Task) { x.Containers[0].DockerConfig = &acs.DockerConfig{Config: `{"Hostname":"me"}`} },
			"extraHosts is not supported in networkMode": func(x *acs.Task) {
				x.Containers[0].DockerConfig = &acs.DockerConfig{HostConfig: `{"ExtraHosts":["a:1.2.3.4"]}`}
			},
			"names that begin with ~internal~ecs~ are": func(x *acs.Task) { x.Containers[0].Name = networkPause },
		} {
			a := inVPC(task("a"))
			change(a)
			if err := w.engine.Accept(context.Background(), a); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q, got %v", want, err)
			}
		}
	}, func(c *engine.Config) { c.Networks = n })
	inBubble(t, func(t *testing.T, w *world) {
		if err := w.engine.Accept(context.Background(), inVPC(task("a"))); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "networkMode awsvpc is not supported") {
			t.Errorf("an agent without networks took it: %v", err)
		}
	})
}
