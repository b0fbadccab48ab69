package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// Transactions that are made at the same time share requests to etcd; each must come out as if it had been alone.
func TestOfTransactionsAtTheSameTimeEachIsJudgedByItself(t *testing.T) {
	s := storetest.New(t)
	alloc := &store.Allocation{Cluster: "c", Instance: "i", Tasks: map[string]store.Resources{}}
	commit(t, s.Txn().Create(instance("c", "i")).Create(alloc))
	const rounds, each = 20, 40
	for round := range rounds {
		var now *store.Allocation
		read(t, s, func(v *store.View) any { now = v.Allocation("c", "i"); return nil })
		var won, others atomic.Int32
		var wg sync.WaitGroup
		for i := range each {
			wg.Go(func() {
				id := fmt.Sprintf("t-%d-%d", round, i)
				if i%2 == 0 { // all of these want the same room: one gets it
					mine := *now
					mine.Tasks = map[string]store.Resources{id: {CPU: 1}}
					switch err := s.Txn().Create(task("c", id, "i", "")).Update(&mine).Commit(t.Context()); {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, store.ErrConflict):
						t.Error(err)
					}
					return
				}
				if err := s.Txn().Create(task("c", id, "i", "")).Commit(t.Context()); err != nil { // these are in nobody's way
					t.Error(err)
				}
				others.Add(1)
				if read(t, s, func(v *store.View) bool { return v.Task("c", id) == nil }) {
					t.Errorf("the writer of %s does not see it", id)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || others.Load() != each/2 {
			t.Fatalf("round %d: %d of those that exclude each other were applied, and %d of the %d others", round, won.Load(), others.Load(), each/2)
		}
	}
	tasks := read(t, s, func(v *store.View) (n int) {
		for range v.Tasks("c") {
			n++
		}
		return n
	})
	if want := rounds * (each/2 + 1); tasks != want {
		t.Errorf("%d tasks are there, %d were acknowledged", tasks, want)
	}
}

// One that etcd refuses for its content must not take others with it.
func TestATransactionThatCanNeverBeAppliedTakesNoOtherWithIt(t *testing.T) {
	s := storetest.New(t)
	session, err := s.Session(t.Context(), 60e9)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%10 == 0 { // its lease is gone
				err := s.Txn().Put(&store.Connection{Cluster: "c", Instance: fmt.Sprint("i", i)}, session.Lease()).Commit(t.Context())
				if !errors.Is(err, store.ErrConflict) {
					t.Errorf("a record under a lease that is gone: %v", err)
				}
				return
			}
			if err := s.Txn().Create(task("c", fmt.Sprint("t", i), "i", "")).Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestATaskDefinitionThatIsToBeDeletedGoesWhenNothingNeedsItAnyMore(t *testing.T) {
	s := storetest.New(t)
	arn := func(revision int) *string {
		return aws.String(fmt.Sprint("arn:aws:ecs:us-west-2:123456789012:task-definition/web:", revision))
	}
	txn := s.Txn().Create(cluster("c"))
	for i, status := range []types.TaskDefinitionStatus{types.TaskDefinitionStatusActive, types.TaskDefinitionStatusInactive,
		types.TaskDefinitionStatusDeleteInProgress, types.TaskDefinitionStatusDeleteInProgress, types.TaskDefinitionStatusDeleteInProgress} {
		txn.Create(&store.TaskDefinition{Object: types.TaskDefinition{Family: aws.String("web"), Revision: int32(i), Status: status, TaskDefinitionArn: arn(i)}})
	}
	runs := task("c", "t", "i", "")
	runs.Object.TaskDefinitionArn = arn(3)
	of := service("c", "web")
	of.Object.TaskDefinition = arn(4)
	commit(t, txn.Create(runs).Create(of))
	left := func() (revisions []int32) {
		if _, err := s.PurgeOnce(t.Context(), store.PurgeConfig{}); err != nil {
			t.Fatal(err)
		}
		read(t, s, func(v *store.View) any {
			for d := range v.TaskDefinitions("web") {
				revisions = append(revisions, d.Object.Revision)
			}
			return nil
		})
		return revisions
	}
	if got := left(); !slices.Equal(got, []int32{0, 1, 3, 4}) {
		t.Errorf("left are %v", got)
	}
	ended, gone := *runs, *of
	ended.Object.LastStatus = aws.String("STOPPED")
	gone.Object.Status = aws.String("INACTIVE")
	gone.InactiveSince = time.Now().UTC()
	commit(t, s.Txn().Update(&ended).Update(&gone))
	if got := left(); !slices.Equal(got, []int32{0, 1}) {
		t.Errorf("when neither task nor service is left, there are %v", got)
	}
}
