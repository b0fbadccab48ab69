package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/api"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// A RunTask that finds only an instance whose daemon does not run yet is answered when that runs, and StartTask at once.
func TestRunTaskWaitsForTheDaemonsOfAnInstanceThatJoined(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	p.define("agent", 10, 10)
	p.daemon("logging-agent", "agent")
	id := p.register(p.host, 1024, 1000)
	daemon := p.schedule("logging-agent", id)
	started, err := p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job"), ContainerInstances: []string{id}})
	if p.must(err); len(started.Tasks) != 1 {
		t.Fatalf("StartTask does not wait, but answered %+v", started.Failures)
	}
	answered := make(chan *ecs.RunTaskOutput)
	go func() {
		out, _ := p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: aws.String(testCluster), TaskDefinition: aws.String("job"), Count: aws.Int32(2)})
		answered <- out
	}()
	select {
	case out := <-answered:
		t.Fatalf("RunTask was answered before the daemon ran: %+v", out)
	case <-time.After(200 * time.Millisecond):
	}
	p.submit(daemon, "RUNNING")
	if out := <-answered; out == nil || len(out.Tasks) != 2 {
		t.Fatalf("RunTask answered %+v when the daemon ran", out)
	}
}

func TestRunTaskPlacesElsewhereOrNamesTheGate(t *testing.T) {
	st := storetest.New(t)
	p := newPlaneOn(t, st)
	p.serveWith(api.Config{Store: st, Verifier: auth.NewVerifier(auth.StoredKeys(st, p.seal), auth.Options{}), GateWait: 50 * time.Millisecond})
	p.define("job", 10, 600)
	p.define("agent", 10, 10)
	open := p.register(p.host, 1024, 1000)
	p.daemon("logging-agent", "agent")
	p.submit(p.schedule("logging-agent", open), "RUNNING")
	p.must(store.Retry(p.ctx, func() error { // it joined long ago
		txn := p.store.Txn()
		st.Peek(func(v *store.View) {
			inst := *v.Instance(testCluster, open)
			inst.JoinedAt = inst.JoinedAt.Add(-time.Hour)
			txn.Update(&inst)
		})
		return txn.Commit(p.ctx)
	}))
	closed := p.register(p.host, 1024, 1000)
	if out := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}); len(out.Tasks) != 1 || !strings.HasSuffix(*out.Tasks[0].ContainerInstanceArn, open) {
		t.Fatalf("a task goes where the daemons run: %+v", out)
	}
	out := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")})
	if len(out.Tasks) != 0 || len(out.Failures) != 2 {
		t.Fatalf("%+v", out)
	}
	for _, f := range out.Failures {
		want := "RESOURCE:MEMORY"
		if strings.HasSuffix(*f.Arn, closed) {
			want = "DAEMON"
			if !strings.Contains(*f.Detail, "the daemon of service logging-agent comes first: it is not placed yet") {
				t.Errorf("the failure names the gate: %s", *f.Detail)
			}
		}
		if *f.Reason != want {
			t.Errorf("%s: %s, want %s", *f.Arn, *f.Reason, want)
		}
	}
	_, err := p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: aws.String("arn:aws:ecs:us-west-2:123456789012:cluster/" + testCluster),
		Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}})
	p.must(err)
	if out := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}); len(out.Tasks) != 1 {
		t.Errorf("a cluster that has switched gates off takes tasks at once: %+v", out.Failures)
	}
	_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: aws.String("arn:aws:ecs:us-west-2:123456789012:cluster/" + testCluster),
		Tags: []types.Tag{{Key: aws.String("longshore:daemon-gates"), Value: aws.String("off")}}})
	p.refused(err, "InvalidParameterException", "longshore:daemon-gate")
}
