package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
)

func aCluster(t *rapid.T) []*Host {
	var hosts []*Host
	for i := range rapid.IntRange(0, 6).Draw(t, "hosts") {
		inst := aHost(fmt.Sprint("h", i), func(inst *store.Instance) {
			inst.Object.Status = aws.String(rapid.SampledFrom([]string{"ACTIVE", "ACTIVE", "ACTIVE", "DRAINING"}).Draw(t, "status"))
			if z := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone"); z != "" {
				inst.Object.Attributes = append(inst.Object.Attributes, types.Attribute{Name: aws.String("zone"), Value: aws.String(z)})
			}
		})
		var tasks []*store.Task
		for j := range rapid.IntRange(0, 3).Draw(t, "tasks") {
			tasks = append(tasks, aTask(fmt.Sprint("t", i, j), rapid.SampledFrom([]string{"", "s"}).Draw(t, "service"), "g", aNeed(t)))
		}
		h := having(inst, tasks...)
		h.Connected = rapid.IntRange(0, 4).Draw(t, "connected") > 0
		hosts = append(hosts, h)
	}
	return hosts
}

func aNeed(t *rapid.T) store.Resources {
	ports := rapid.SliceOfNDistinct(rapid.SampledFrom([]int32{22, 80, 443}), 0, 1, rapid.ID[int32])
	return store.Resources{
		CPU: rapid.SampledFrom([]int64{0, 256, 512, 1024}).Draw(t, "cpu"), Memory: rapid.SampledFrom([]int64{0, 512, 1024}).Draw(t, "memory"),
		PortsTCP: ports.Draw(t, "tcp"), PortsUDP: ports.Draw(t, "udp"),
	}
}

func aRequest(t *rapid.T) *Request {
	r := Request{Definition: &types.TaskDefinition{}, Need: aNeed(t), Group: "g", Service: rapid.SampledFrom([]string{"", "s"}).Draw(t, "service")}
	if rapid.Bool().Draw(t, "distinct") {
		r.Constraints = append(r.Constraints, distinctConstraint...)
	}
	if rapid.Bool().Draw(t, "member") {
		r.Constraints = append(r.Constraints, memberOfConstraint("attribute:zone==a or runningTasksCount < 2")...)
	}
	req, err := NewRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func someStrategies(t *rapid.T) []types.PlacementStrategy {
	return rapid.SliceOfN(rapid.SampledFrom([]types.PlacementStrategy{
		{Type: "random"}, {Type: "spread", Field: aws.String("instanceId")}, {Type: "spread", Field: aws.String("attribute:zone")},
		{Type: "binpack", Field: aws.String("cpu")}, {Type: "binpack", Field: aws.String("memory")},
	}), 0, 3).Draw(t, "strategies")
}

func TestPlacementNeverGoesBeyondCapacityAndExplainsEveryExcludedHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts, req, n := aCluster(t), aRequest(t), rapid.IntRange(1, 12).Draw(t, "n")
		chosen, refusals := Choose(hosts, req, someStrategies(t), n)

		after := slices.Clone(hosts)
		for _, c := range chosen {
			i := slices.Index(hosts, c)
			if i < 0 {
				t.Fatal("a host was chosen that was not given")
			}
			if r := req.Check(after[i]); r != nil {
				t.Fatalf("%s was chosen, but it refuses: %s, %s", c.Instance.ID, r.Reason, r.Detail)
			}
			before := after[i].Free
			after[i] = after[i].With(req)
			free := after[i].Free
			if req.Need.CPU > 0 && free.CPU < 0 || req.Need.Memory > 0 && free.Memory < 0 {
				t.Fatalf("%s is over capacity: %+v", c.Instance.ID, free)
			}
			if len(free.PortsTCP) != len(before.PortsTCP)+len(req.Need.PortsTCP) || len(free.PortsUDP) != len(before.PortsUDP)+len(req.Need.PortsUDP) {
				t.Fatalf("%s has a port twice: %+v after %+v", c.Instance.ID, free, before)
			}
		}
		if len(chosen) == n {
			if refusals != nil {
				t.Fatal("all were placed, and still something was refused")
			}
			return
		}
		if len(refusals) != len(hosts) {
			t.Fatalf("%d of %d hosts say why they refuse", len(refusals), len(hosts))
		}
		text, event := Explain(refusals), Event("s", refusals)
		for i, r := range refusals {
			if r.Host.Instance != hosts[i].Instance || r.Reason == "" || r.Detail == "" {
				t.Fatalf("refusal %d says %+v", i, r)
			}
			if req.Check(after[i]) == nil {
				t.Fatalf("%s fits but was excluded because of %s", hosts[i].Instance.ID, r.Reason)
			}
			if !strings.Contains(text, " "+r.CountedAs()) || !strings.HasSuffix(event, text) && len(hosts) > 0 {
				t.Fatalf("%s does not count %s", event, r.Reason)
			}
		}
	})
}

func TestSpreadNeverWidensTheGap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := aCluster(t)
		req, err := NewRequest(Request{Group: "g", Service: "s"})
		if err != nil {
			t.Fatal(err)
		}
		chosen, _ := Choose(hosts, req, []types.PlacementStrategy{{Type: "spread", Field: aws.String("instanceId")}}, 1)
		for _, c := range chosen {
			for _, h := range hosts {
				if req.Check(h) == nil && fellows(h, req) < fellows(c, req) {
					t.Fatalf("%s has %d tasks of the service and was chosen before %s, which has %d", c.Instance.ID, fellows(c, req), h.Instance.ID, fellows(h, req))
				}
			}
		}
	})
}

func fellows(h *Host, req *Request) (n int) {
	for _, t := range h.Tasks {
		if req.fellow(t) {
			n++
		}
	}
	return n
}
