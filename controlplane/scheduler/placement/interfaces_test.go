package placement

import (
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// subnets is a network with subnet-a in zone a, of two addresses, and subnet-b of hosts in rack b, of five.
func subnets(t testing.TB) *network.Network {
	t.Helper()
	c, err := network.Parse([]byte(`{"subnets":{
		"subnet-a":{"cidrBlock":"10.0.0.0/29","availabilityZone":"a","reserved":["10.0.0.4-10.0.0.6"]},
		"subnet-b":{"cidrBlock":"10.0.1.0/29","memberOf":"attribute:rack == b"}},"securityGroups":{"sg-web":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	n, err := network.Open("", nil)
	if err != nil {
		t.Fatal(err)
	}
	n.Set(c)
	return n
}

// inZone is a host whose agent makes interfaces.
func inZone(id, zone, rack string, tasks ...*store.Task) *Host {
	return having(aHost(id, func(i *store.Instance) {
		for name, value := range map[string]string{"ecs.availability-zone": zone, "rack": rack, acs.CapabilitySecurityGroups: "", acs.AttributeInterfaceSlots: "4"} {
			i.Object.Attributes = append(i.Object.Attributes, types.Attribute{Name: aws.String(name), Value: aws.String(value)})
		}
	}), tasks...)
}

// forInterfaces is a request of tasks in network mode awsvpc.
func forInterfaces(t testing.TB, n *network.Network, groups []string, subnets ...string) *Request {
	t.Helper()
	return need(t, Request{Definition: &types.TaskDefinition{NetworkMode: types.NetworkModeAwsvpc}, Need: store.Resources{Interfaces: 1}, Group: "g", Network: n,
		NetworkConfiguration: &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: subnets, SecurityGroups: groups}}})
}

func TestAHostMustBeInASubnetOfTheTask(t *testing.T) {
	n := subnets(t)
	for name, c := range map[string]struct {
		host    *Host
		groups  []string
		subnets []string
		reason  string
		detail  string
	}{
		"its zone":               {inZone("h", "a", ""), nil, []string{"subnet-a"}, "", ""},
		"another zone":           {inZone("h", "b", ""), nil, []string{"subnet-a"}, "LOCATION", `subnet subnet-a is in availability zone a, and the instance in "b"`},
		"its rack":               {inZone("h", "b", "b"), nil, []string{"subnet-a", "subnet-b"}, "", ""},
		"another rack":           {inZone("h", "b", "c"), nil, []string{"subnet-a", "subnet-b"}, "LOCATION", "subnet subnet-b is for instances with attribute:rack == b"},
		"a subnet that is gone":  {inZone("h", "a", ""), nil, []string{"subnet-x"}, "LOCATION", "subnet subnet-x is not configured"},
		"a group that is gone":   {inZone("h", "a", ""), []string{"sg-web", "sg-x"}, []string{"subnet-a"}, "LOCATION", "security group sg-x is not configured"},
		"an agent that does not": {having(aHost("h")), nil, []string{"subnet-a"}, "ATTRIBUTE", "its agent can't make network interfaces"},
	} {
		req := forInterfaces(t, n, c.groups, c.subnets...)
		got := req.Check(c.host)
		if c.reason == "" && got != nil || c.reason != "" && (got == nil || got.Reason != c.reason || !strings.Contains(got.Detail, c.detail)) {
			t.Errorf("%s: %+v, want %s %s", name, got, c.reason, c.detail)
		}
		if belongs := req.HasAttributes(c.host); (belongs == nil) != (c.reason == "") {
			t.Errorf("%s: as a daemon: %+v", name, belongs)
		}
	}
}

func TestTheLastAddressOfASubnetIsPickedOnce(t *testing.T) {
	n := subnets(t)
	var hosts []*Host
	for i := range 4 {
		hosts = append(hosts, inZone("h"+strconv.Itoa(i), "a", ""))
	}
	req := forInterfaces(t, n, nil, "subnet-a")
	chosen, refusals := Choose(hosts, req, nil, 5)
	if len(chosen) != 2 || len(refusals) != len(hosts) {
		t.Fatalf("%d chosen, %d refusals", len(chosen), len(refusals))
	}
	for _, r := range refusals {
		if want := "subnet subnet-a (10.0.0.0/29) is exhausted: 2 of its 2 addresses are taken"; r.Reason != ReasonENI || r.Detail != want {
			t.Errorf("%s: %s", r.Reason, r.Detail)
		}
	}
	seen := map[string]bool{}
	for _, h := range chosen {
		i := req.Claim.Give(h.Instance.ID)
		if len(i) != 1 || seen[i[0].IPv4] {
			t.Errorf("%+v", i)
		}
		seen[i[0].IPv4] = true
	}
	if more := req.Claim.Give(chosen[0].Instance.ID); more != nil {
		t.Errorf("%+v", more)
	}
	// A host in both subnets gets the address of the one that has more left.
	both := forInterfaces(t, n, nil, "subnet-a", "subnet-b")
	if got, refusal := both.Take(inZone("h", "a", "b")); refusal != nil || got[0].Subnet != "subnet-b" {
		t.Errorf("%+v %+v", got, refusal)
	}
}

func TestWhoMakesRoomGivesItsAddressToo(t *testing.T) {
	n := subnets(t)
	req := forInterfaces(t, n, nil, "subnet-a")
	old := aTask("old", "", "g", store.Resources{Interfaces: 1})
	old.Interfaces = []store.Interface{{Subnet: "subnet-a", IPv4: "10.0.0.2"}}
	h := inZone("h", "a", "", old)
	for range 2 {
		if _, refusal := req.Take(h); refusal != nil {
			t.Fatal(refusal)
		}
	}
	if _, refusal := req.Take(h); refusal == nil || refusal.Reason != ReasonENI || !refusal.OfNetwork() {
		t.Errorf("%+v", refusal)
	}
	if refusal := req.Check(h.Without(old)); refusal != nil {
		t.Errorf("%+v", refusal)
	}
	for reason, want := range map[string]string{ReasonENI: "free a network interface", ReasonLocation: "name a subnet"} {
		if got := (&Refusal{Host: h, Reason: reason}).Change(); !strings.Contains(got, want) {
			t.Errorf("%s: %s", reason, got)
		}
	}
}
