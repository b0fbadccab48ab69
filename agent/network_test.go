package agent

import (
	"strings"
	"testing"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestAHostThatGivesTasksNetworksSaysSo(t *testing.T) {
	value := func(list []agentapi.Attribute, name string) string {
		for _, a := range list {
			switch {
			case *a.Name != name:
			case a.Value == nil:
				return "set"
			default:
				return *a.Value
			}
		}
		return ""
	}
	cfg := &config.Config{AwsvpcBlockIMDS: true, TaskInterfaces: 250, TaskTrunks: true}
	for name, want := range map[string][3]string{ // on an own host, on an EC2 instance, and where there are none
		"ecs.capability.task-eni":                         {"set", "set", ""},
		"ecs.capability.task-eni.ipv6":                    {"set", "set", ""},
		"ecs.capability.task-eni-block-instance-metadata": {"set", "set", ""},
		"ecs.capability.task-eni-trunking":                {"", "set", ""},
		"longshore.capability.security-groups":            {"set", "set", ""},
		"longshore.interface-slots":                       {"250", "250", ""},
	} {
		can := abilities{taskNetworks: true}
		got := [3]string{value(attributes(cfg, Host{}, engine.Info{}, can, nil, true), name), value(attributes(cfg, Host{}, engine.Info{}, can, &ec2Instance{}, true), name),
			value(attributes(cfg, Host{}, engine.Info{}, abilities{}, nil, true), name)}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestWhyAHostHasNoTaskNetworksIsNamed(t *testing.T) {
	a := &Agent{cfg: &config.Config{DockerEndpoint: "tcp://other:2375"}}
	if why := a.noNetworking(); !strings.Contains(why, "ECS_ENABLE_TASK_ENI") {
		t.Error(why)
	}
	a.cfg.TaskENI = true
	if why := a.noNetworking(); !strings.Contains(why, "another host") {
		t.Error(why)
	}
	if o := origin(config.TaskNetwork{Macvlan: "eth0"}); o != (netns.Macvlan{Parent: "eth0"}) {
		t.Errorf("%+v", o)
	}
	if o := origin(config.TaskNetwork{Bridge: "br0", Uplink: "eth1"}); o != (netns.Bridged{Bridge: "br0", Uplink: "eth1"}) {
		t.Errorf("%+v", o)
	}
}
