package poll

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestOnlyAnAgentThatResumesDaemonsIsToldWhichTasksAre(t *testing.T) {
	for name, c := range map[string]struct {
		attribute bool
		want      string
	}{"ours": {true, "DAEMON"}, "another": {false, ""}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.place(instance)
			w.edit(d.ID, func(_ *store.View, t *store.Task) *store.Task { n := *t; n.Service = "logs"; return &n })
			w.create(&store.DaemonSlot{Cluster: cluster, Service: "logs", Instance: instance, Task: d.ID})
			i := *w.instance(instance)
			if c.attribute {
				i.Object.Attributes = append(i.Object.Attributes, types.Attribute{Name: aws.String("longshore.resume-on-boot"), Value: aws.String("daemons")})
			}
			w.commit(w.store.Txn().Update(&i))
			a := w.connect(instance)
			if got := next[*acs.PayloadMessage](a).Tasks[0].SchedulingStrategy; got != c.want {
				t.Errorf("schedulingStrategy %q, want %q", got, c.want)
			}
		})
	}
}
