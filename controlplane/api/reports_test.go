package api_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestWhatAHostReportsAtOnceIsWrittenTogether(t *testing.T) {
	p := newPlane(t)
	p.define("job", 1, 6)
	instance := p.register(p.host, 1024, 1000)
	var arns []*string
	for range 3 {
		for _, made := range p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job"), Count: aws.Int32(10)}).Tasks {
			arns = append(arns, made.TaskArn)
		}
	}
	var released atomic.Int64
	cancel := p.store.OnChange(func(_ int64, changes []store.Change) {
		for _, c := range changes {
			if _, ok := c.New.(*store.Allocation); ok {
				released.Add(1)
			}
		}
	})
	defer cancel()
	waiting, release := p.api.HoldReports(testCluster, instance)
	unknown := aws.String(*arns[0] + "0")
	var wg sync.WaitGroup
	for _, arn := range append(arns, unknown) {
		wg.Go(func() {
			_, err := p.host.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: arn, Status: aws.String("STOPPED")})
			if (err != nil) != (arn == unknown) {
				t.Errorf("%s: %v", *arn, err)
			}
		})
	}
	deadline := time.After(time.Minute)
	for waiting() < len(arns) {
		select {
		case <-deadline:
			t.Fatalf("%d of %d reports wait", waiting(), len(arns))
		case <-time.After(time.Millisecond):
		}
	}
	release()
	wg.Wait()
	p.store.Peek(func(v *store.View) {
		if left := v.Allocation(testCluster, instance).Tasks; len(left) != 0 {
			t.Errorf("%d of the tasks still take room", len(left))
		}
		for own := range v.TasksOn(testCluster, instance) {
			if *own.Object.LastStatus != "STOPPED" {
				t.Errorf("%s is %s", own.ID, *own.Object.LastStatus)
			}
		}
	})
	if n := released.Load(); n != 2 { // of 24 and of 6
		t.Errorf("the ends of %d tasks were written in %d transactions", len(arns), n)
	}
}

func TestAReportThatCannotBeTakenHoldsUpNoOther(t *testing.T) {
	p := newPlane(t)
	p.define("job", 1, 6)
	instance := p.register(p.host, 1024, 1000)
	made := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job"), Count: aws.Int32(2)}).Tasks
	waiting, release := p.api.HoldReports(testCluster, instance)
	other := p.hostKey(false)
	var wg sync.WaitGroup
	wg.Go(func() { // another host's key
		if _, err := other.SubmitTaskStateChange(p.ctx, &ecs.SubmitTaskStateChangeInput{Cluster: aws.String(testCluster), Task: made[0].TaskArn, Status: aws.String("STOPPED")}); err == nil {
			t.Error("another host reported")
		}
	})
	for _, own := range made {
		for _, status := range []string{"RUNNING", "STOPPED"} { // in any order
			wg.Go(func() { p.submit(own.TaskArn, status) })
		}
	}
	deadline := time.After(time.Minute)
	for waiting() < 5 {
		select {
		case <-deadline:
			t.Fatalf("%d of 5 reports wait", waiting())
		case <-time.After(time.Millisecond):
		}
	}
	release()
	wg.Wait()
	p.store.Peek(func(v *store.View) {
		for own := range v.TasksOn(testCluster, instance) {
			if *own.Object.LastStatus != "STOPPED" {
				t.Errorf("%s is %s", own.ID, *own.Object.LastStatus)
			}
		}
	})
}
