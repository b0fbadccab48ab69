package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func cluster(name string) *store.Cluster {
	return &store.Cluster{Object: types.Cluster{ClusterName: aws.String(name), Status: aws.String("ACTIVE")}}
}

func service(cluster, name string) *store.Service {
	return &store.Service{Cluster: cluster, Object: types.Service{ServiceName: aws.String(name), Status: aws.String("ACTIVE")}}
}

func instance(cluster, id string) *store.Instance {
	return &store.Instance{Cluster: cluster, ID: id, Object: types.ContainerInstance{Status: aws.String("ACTIVE")}}
}

func task(cluster, id, instance, service string) *store.Task {
	return &store.Task{Cluster: cluster, ID: id, Instance: instance, Service: service,
		Object: types.Task{LastStatus: aws.String("PENDING"), DesiredStatus: aws.String("RUNNING")}}
}

func commit(t testing.TB, txn *store.Txn) {
	t.Helper()
	if err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// read calls f with the view and returns what it returns.
func read[T any](t testing.TB, s *store.Store, f func(v *store.View) T) (result T) {
	t.Helper()
	if err := s.Read(t.Context(), func(v *store.View) error { result = f(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return result
}

func isConflict(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("%s: %v, want a conflict", what, err)
	}
}

func TestAWriterReadsWhatItWrote(t *testing.T) {
	s := storetest.New(t)
	c := cluster("default")
	commit(t, s.Txn().Create(c))
	if c.Revision() == 0 {
		t.Error("the written record has no revision")
	}
	s.Peek(func(v *store.View) {
		if got := v.Cluster("default"); got == nil || got.Revision() != c.Revision() {
			t.Errorf("the view has %v after the commit", got)
		}
	})
	commit(t, s.Txn().Delete(c))
	if got := read(t, s, func(v *store.View) *store.Cluster { return v.Cluster("default") }); got != nil {
		t.Errorf("the view has %v after the delete", got)
	}
	commit(t, s.Txn().Create(c))
}

func TestAWriteOfARecordThatChangedMeanwhileConflictsAndChangesNothing(t *testing.T) {
	s := storetest.New(t)
	c := cluster("default")
	commit(t, s.Txn().Create(c))
	stale := *c
	commit(t, s.Txn().Update(c))
	other := cluster("other")

	err := s.Txn().Create(other).Update(&stale).Commit(t.Context())
	isConflict(t, "Update", err)
	if want := fmt.Sprintf("cluster/default is at revision %d, not %d", c.Revision(), stale.Revision()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %q and should say %q", err, want)
	}
	isConflict(t, "Create", s.Txn().Create(cluster("default")).Commit(t.Context()))
	isConflict(t, "Delete", s.Txn().Create(other).Delete(&stale).Commit(t.Context()))
	isConflict(t, "Unchanged", s.Txn().Create(other).Unchanged(&stale).Commit(t.Context()))
	isConflict(t, "Unchanged, absent", s.Txn().Create(other).Unchanged(cluster("default")).Commit(t.Context()))
	if other.Revision() != 0 || read(t, s, func(v *store.View) *store.Cluster { return v.Cluster("other") }) != nil {
		t.Error("a part of a transaction that conflicts was applied")
	}
	commit(t, s.Txn().Create(other).Unchanged(c).Unchanged(cluster("absent")))
}

func TestATransactionThatCanNeverBeAppliedIsRefused(t *testing.T) {
	s := storetest.New(t)
	commit(t, s.Txn().Create(cluster("shared")))
	many := s.Txn()
	for i := range 129 {
		many.Create(cluster(fmt.Sprint("c", i)))
	}
	large := cluster("large")
	large.Object.Tags = []types.Tag{{Key: aws.String("k"), Value: aws.String(strings.Repeat("x", 2<<20))}}
	for name, txn := range map[string]*store.Txn{
		"129 operations":   many,
		"a view's record":  s.Txn().Update(read(t, s, func(v *store.View) *store.Cluster { return v.Cluster("shared") })),
		"an empty name":    s.Txn().Create(cluster("")),
		"a slash":          s.Txn().Create(cluster("a/b")),
		"twice the same":   s.Txn().Create(cluster("a")).Create(cluster("a")),
		"2 MiB in a value": s.Txn().Create(large),
	} {
		if err := txn.Commit(t.Context()); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := read(t, s, func(v *store.View) int { return len(slices.Collect(v.Clusters())) }); n != 1 {
		t.Errorf("%d clusters were made", n-1)
	}
	just := s.Txn()
	for i := range 128 {
		just.Create(cluster(fmt.Sprint("c", i)))
	}
	commit(t, just)
}

func TestConcurrentWritersLoseNoUpdate(t *testing.T) {
	s := storetest.New(t)
	commit(t, s.Txn().Create(&store.Family{Name: "f"}))
	const writers, each = 50, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := store.Retry(t.Context(), func() error {
					var f store.Family
					if err := s.Read(t.Context(), func(v *store.View) error { f = *v.Family("f"); return nil }); err != nil {
						return err
					}
					f.Latest++
					return s.Txn().Update(&f).Commit(t.Context())
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := read(t, s, func(v *store.View) int32 { return v.Family("f").Latest }); got != writers*each {
		t.Errorf("%d of %d updates arrived", got, writers*each)
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := store.Retry(ctx, func() error {
		if calls++; calls == 3 {
			cancel()
		}
		return store.ErrConflict
	})
	if !errors.Is(err, store.ErrConflict) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAReadOnOneStoreSeesWhatAnotherHasCommitted(t *testing.T) {
	client := storetest.Etcd(t)
	a, b := storetest.Open(t, client), storetest.Open(t, client)
	for i := range 100 {
		c := cluster(fmt.Sprint("c", i))
		commit(t, a.Txn().Create(c))
		if got := read(t, b, func(v *store.View) *store.Cluster { return v.Cluster(fmt.Sprint("c", i)) }); got == nil {
			t.Fatalf("cluster %d is missing", i)
		}
	}
}

func TestAReadDoesNotWaitForWhatOthersWriteToTheSameEtcd(t *testing.T) {
	client := storetest.Etcd(t)
	s := storetest.Open(t, client)
	for i := range 20 {
		if _, err := client.Put(t.Context(), "/other/key", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		read(t, s, func(v *store.View) any { return nil })
	}
	commit(t, s.Txn().Create(cluster("c")))
}

func TestAnInactiveServiceStaysWhileANewOneOfItsNameExists(t *testing.T) {
	s := storetest.New(t)
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for generation := range 3 {
		svc := service("default", "web")
		svc.CreateToken = fmt.Sprint("active ", generation)
		commit(t, s.Txn().Create(svc))
		isConflict(t, "a second one", s.Txn().Create(service("default", "web")).Commit(t.Context()))
		stored := read(t, s, func(v *store.View) *store.Service { return v.Service("default", "web") })
		if stored.CreateToken != svc.CreateToken {
			t.Fatalf("the view has %q for the service %q", stored.CreateToken, svc.CreateToken)
		}
		gone := *stored
		gone.Object.Status, gone.InactiveSince = aws.String("INACTIVE"), at.Add(time.Duration(generation)*time.Hour)
		commit(t, s.Txn().Update(&gone))
		last := read(t, s, func(v *store.View) *store.Service { return v.Service("default", "web") })
		if last == nil || last.CreateToken != svc.CreateToken || aws.ToString(last.Object.Status) != "INACTIVE" {
			t.Fatalf("the view has %v for the service that went last", last)
		}
		tagged := *last // an inactive one can still be changed, in its place
		tagged.CreateHash = "h"
		commit(t, s.Txn().Update(&tagged))
	}
	commit(t, s.Txn().Create(service("default", "web")).Create(service("default", "web-2")).Create(service("default", "a")))
	got := read(t, s, func(v *store.View) (names []string) {
		for svc := range v.Services("default") {
			names = append(names, aws.ToString(svc.Object.ServiceName)+" "+svc.CreateToken)
		}
		return names
	})
	if diff := cmp.Diff([]string{"a ", "web ", "web active 2", "web active 1", "web active 0", "web-2 "}, got); diff != "" {
		t.Error(diff)
	}
}

func TestListsAreInOrderOfTheirNames(t *testing.T) {
	s := storetest.New(t)
	txn := s.Txn()
	for _, family := range []string{"web", "web-2", "web_3", "api"} {
		for _, revision := range []int32{10, 9, 2} {
			txn.Create(&store.TaskDefinition{Object: types.TaskDefinition{Family: aws.String(family), Revision: revision}})
		}
	}
	commit(t, txn)
	list := func(family string) []string {
		return read(t, s, func(v *store.View) (names []string) {
			for d := range v.TaskDefinitions(family) {
				names = append(names, fmt.Sprint(*d.Object.Family, ":", d.Object.Revision))
			}
			return names
		})
	}
	if diff := cmp.Diff([]string{"api:2", "api:9", "api:10", "web:2", "web:9", "web:10", "web-2:2", "web-2:9", "web-2:10", "web_3:2", "web_3:9", "web_3:10"}, list("")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"web:2", "web:9", "web:10"}, list("web")); diff != "" {
		t.Error(diff)
	}
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for i := range 5 {
		commit(t, s.Txn().Create(&store.ServiceEvent{Cluster: "default", Service: "web",
			Object: types.ServiceEvent{Id: aws.String(fmt.Sprint("e", i)), CreatedAt: aws.Time(at.Add(time.Duration(i) * time.Millisecond))}}))
	}
	events := read(t, s, func(v *store.View) (ids []string) {
		for e := range v.Events("default", "web") {
			ids = append(ids, *e.Object.Id)
		}
		return ids
	})
	if diff := cmp.Diff([]string{"e4", "e3", "e2", "e1", "e0"}, events); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKindOfRecordComesBackAsItWasWritten(t *testing.T) {
	client := storetest.Etcd(t)
	s := storetest.Open(t, client)
	at := time.Date(2026, 11, 20, 12, 0, 0, 123e6, time.UTC)
	full := task("default", "t1", "i1", "web")
	full.Reserved = store.Resources{CPU: 256, Memory: 512, PortsTCP: []int32{80, 0}, PortsUDP: []int32{53}, GPUs: []string{"GPU-1"}}
	full.AcceptedAt, full.Warnings = at, []string{"a warning"}
	full.Object.CreatedAt, full.Object.Attachments = aws.Time(at), []types.Attachment{}
	full.Object.Containers = []types.Container{{Name: aws.String("c"), ExitCode: aws.Int32(0), NetworkBindings: []types.NetworkBinding{{HostPort: aws.Int32(0)}}}}
	svc := service("default", "web")
	svc.Rollouts = map[string]store.Rollout{"d1": {Wave: 2, Instances: []string{"i1"}, HealthyAt: at, Held: "no"}}
	svc.Failures = map[string]store.Failure{"i1": {Count: 3, At: at, NotBefore: at, Reason: "exit 1"}}
	svc.SteadySince = at
	records := []store.Record{
		cluster("default"), &store.Family{Name: "web", Latest: 7},
		&store.TaskDefinition{Object: types.TaskDefinition{Family: aws.String("web"), Revision: 7, ContainerDefinitions: []types.ContainerDefinition{
			{Name: aws.String("c"), Command: []string{}, Environment: []types.KeyValuePair{{Name: aws.String("A"), Value: aws.String("")}}, Cpu: 10, Essential: aws.Bool(false)}}},
			Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}},
		svc, instance("default", "i1"),
		&store.Allocation{Cluster: "default", Instance: "i1", Tasks: map[string]store.Resources{"t1": full.Reserved}},
		full, &store.DaemonSlot{Cluster: "default", Service: "web", Instance: "i1", Task: "t1"},
		&store.Connection{Cluster: "default", Instance: "i1", Replica: "r", Since: at},
		&store.ServiceEvent{Cluster: "default", Service: "web", Object: types.ServiceEvent{Id: aws.String("e"), CreatedAt: aws.Time(at), Message: aws.String("<&>\u2028")}},
		&store.Key{AccessKeyID: "AKIA0", Sealed: []byte("s"), Role: store.RoleHost, Name: "n", Enrolment: true, Instance: "arn", From: "AKIA1", Exchange: "t",
			Successor: "AKIA2", MaxUses: 3, Uses: 1, Created: at, Expires: at, Revoked: at},
		&store.Secret{Name: "ca", Public: []byte("pem"), Sealed: []byte("s")},
		&store.AccountSetting{Name: "containerInsights", Principal: "arn:aws:iam::1:user/a", Value: "on"},
	}
	txn := s.Txn()
	for _, r := range records {
		txn.Create(r)
	}
	commit(t, txn)
	again := storetest.Open(t, client)
	for name, s := range map[string]*store.Store{"watched": s, "loaded": again} {
		got := read(t, s, func(v *store.View) []store.Record {
			for e := range v.Events("default", "web") {
				return []store.Record{v.Cluster("default"), v.Family("web"), v.TaskDefinition("web", 7), v.Service("default", "web"),
					v.Instance("default", "i1"), v.Allocation("default", "i1"), v.Task("default", "t1"), v.DaemonSlot("default", "web", "i1"),
					v.Connection("default", "i1"), e, v.Key("AKIA0"), v.Secret("ca"), v.AccountSetting("containerInsights", "arn:aws:iam::1:user/a")}
			}
			return nil
		})
		if diff := cmp.Diff(records, got, exact...); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAnAllocationThatWasNeverWrittenCanBeUpdated(t *testing.T) {
	s := storetest.New(t)
	commit(t, s.Txn().Create(instance("default", "i1")))
	a := read(t, s, func(v *store.View) *store.Allocation {
		if v.Allocation("default", "i2") != nil {
			t.Error("an instance that does not exist has an allocation")
		}
		return v.Allocation("default", "i1")
	})
	again := *a
	a.Tasks = map[string]store.Resources{"t": {CPU: 1}}
	commit(t, s.Txn().Update(a))
	isConflict(t, "a second placement that saw the empty allocation", s.Txn().Update(&again).Commit(t.Context()))
}

func TestOnChangeTellsOfEachRevisionInOrder(t *testing.T) {
	s := storetest.New(t)
	type told struct {
		revision int64
		what     []string
	}
	var mu sync.Mutex
	var got []told
	cancel := s.OnChange(func(revision int64, changes []store.Change) {
		mu.Lock()
		defer mu.Unlock()
		var what []string
		for _, c := range changes {
			switch {
			case c.Old == nil:
				what = append(what, fmt.Sprintf("new %T", c.New))
			case c.New == nil:
				what = append(what, fmt.Sprintf("gone %T", c.Old))
			default:
				what = append(what, fmt.Sprintf("changed %T", c.New))
			}
		}
		slices.Sort(what)
		got = append(got, told{revision, what})
	})
	c, f := cluster("a"), &store.Family{Name: "f"}
	var want []told
	step := func(txn *store.Txn, what ...string) {
		t.Helper()
		commit(t, txn)
		want = append(want, told{read(t, s, (*store.View).Revision), what})
	}
	step(s.Txn().Create(c).Create(f), "new *store.Cluster", "new *store.Family")
	step(s.Txn().Update(c), "changed *store.Cluster")
	step(s.Txn().Update(c).Delete(f), "changed *store.Cluster", "gone *store.Family")
	// Callbacks come after the view; the next commit's waits until those before it are through.
	commit(t, s.Txn().Create(f))
	deadline := time.Now().Add(5 * time.Second)
	for {
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n >= len(want)+1 || time.Now().After(deadline) {
			break
		}
		read(t, s, func(*store.View) any { return nil })
	}
	cancel()
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, got[:min(len(got), len(want))], cmp.AllowUnexported(told{})); diff != "" {
		t.Error(diff)
	}
	for i := 1; i < len(got); i++ {
		if got[i].revision <= got[i-1].revision {
			t.Errorf("revision %d was told after %d", got[i].revision, got[i-1].revision)
		}
	}
}

func TestAViewInUseDoesNotChange(t *testing.T) {
	s := storetest.New(t)
	commit(t, s.Txn().Create(cluster("a")))
	if err := s.Read(t.Context(), func(v *store.View) error {
		before := v.Revision()
		done := make(chan error)
		go func() { done <- s.Txn().Create(cluster("b")).Commit(context.Background()) }()
		if err := <-done; err != nil { // a reader delays no writer
			return err
		}
		if v.Revision() != before || v.Cluster("b") != nil {
			t.Error("the view changed while it was read")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAValueThatCannotBeReadIsLeftOutAndLeftAlone(t *testing.T) {
	client := storetest.Etcd(t)
	before := storetest.OpenWith(t, store.Config{Client: client, Log: zap.NewNop()})
	commit(t, before.Txn().Create(cluster("good")).Create(cluster("spoiled")))
	values := map[string]string{
		"/longshore/cluster/newer":   `{"v":2,"record":{}}`,
		"/longshore/cluster/junk":    "\x00\xffjunk",
		"/longshore/cluster/spoiled": `{"v":1,"record":{"object":{"clusterName":7}}}`,
		"/longshore/cluster/other":   `{"v":1,"record":{"object":{"clusterName":"good"}}}`,
		"/longshore/cluster/empty":   ``,
		"/longshore/what/is/this":    `{"v":1,"record":{}}`,
	}
	for key, value := range values {
		if _, err := client.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]*store.Store{"watched": before, "loaded": storetest.OpenWith(t, store.Config{Client: client, Log: zap.NewNop()})} {
		bad := read(t, s, (*store.View).Quarantined)
		if len(bad) != len(values) {
			t.Errorf("%s: %d of %d keys are quarantined: %v", name, len(bad), len(values), bad)
		}
		for _, q := range bad {
			if q.Key == "cluster/newer" && !strings.Contains(q.Err.Error(), "schema version 2") {
				t.Errorf("%s: the newer schema's error is %q", name, q.Err)
			}
		}
		clusters := read(t, s, func(v *store.View) []*store.Cluster { return slices.Collect(v.Clusters()) })
		if len(clusters) != 1 || *clusters[0].Object.ClusterName != "good" {
			t.Errorf("%s: the clusters are %v", name, clusters)
		}
		isConflict(t, "Create over a quarantined key", s.Txn().Create(cluster("newer")).Commit(t.Context()))
	}
	for key, value := range values {
		if got, err := client.Get(t.Context(), key); err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
			t.Errorf("%s was changed: %v %v", key, got, err)
		}
	}
	if _, err := client.Delete(t.Context(), "/longshore/cluster/newer"); err != nil {
		t.Fatal(err)
	}
	commit(t, before.Txn().Create(cluster("newer")))
}

func TestAStoreThatIsClosedAnswersUnavailable(t *testing.T) {
	s := storetest.New(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Read(t.Context(), func(*store.View) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Error("Read:", err)
	}
	if err := s.Txn().Create(cluster("c")).Commit(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Error("Commit:", err)
	}
}

func TestRecordsUnderALeaseVanishWithTheSession(t *testing.T) {
	s := storetest.New(t)
	session, err := s.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c := &store.Connection{Cluster: "default", Instance: "i1", Replica: "a"}
	commit(t, s.Txn().Put(c, session.Lease()))
	commit(t, s.Txn().Put(c, session.Lease())) // the same writer again
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	<-session.Done()
	if got := read(t, s, func(v *store.View) *store.Connection { return v.Connection("default", "i1") }); got != nil {
		t.Errorf("the connection is still there: %v", got)
	}
	isConflict(t, "a write under a lease that is gone", s.Txn().Put(c, session.Lease()).Commit(t.Context()))
}

func TestOneLeadsAtATimeAndALostLeadershipWritesNothing(t *testing.T) {
	client := storetest.Etcd(t)
	a, b := storetest.Open(t, client), storetest.Open(t, client)
	sessionA, err := a.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	sessionB, err := b.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.Lead(t.Context(), sessionA, "scheduler")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := b.Lead(t.Context(), sessionB, "scheduler-2") // another name is another leadership
	if err != nil {
		t.Fatal(err)
	}
	commit(t, a.Txn().Guard(first).Create(cluster("by-a")))
	taken := make(chan *store.Leadership)
	go func() {
		l, err := b.Lead(context.Background(), sessionB, "scheduler")
		if err != nil {
			t.Error(err)
		}
		taken <- l
	}()
	select {
	case <-taken:
		t.Fatal("two lead at once")
	case <-first.Done():
		t.Fatal("the first one lost its leadership")
	default:
	}
	if err := sessionA.Close(); err != nil {
		t.Fatal(err)
	}
	second := <-taken
	<-first.Done()
	isConflict(t, "a write of the one that lost it", a.Txn().Guard(first).Create(cluster("late")).Commit(t.Context()))
	commit(t, b.Txn().Guard(second).Create(cluster("by-b")))
	if err := second.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-second.Done()
	isConflict(t, "a write of the one that resigned", b.Txn().Guard(second).Create(cluster("late")).Commit(t.Context()))
	select {
	case <-elsewhere.Done():
		t.Error("the leadership of another name was lost with it")
	default:
	}
}

func TestALeadershipEndsWhenItsKeyIsDeletedFromOutside(t *testing.T) {
	client := storetest.Etcd(t)
	s := storetest.Open(t, client)
	session, err := s.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lead(t.Context(), session, "scheduler")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Delete(t.Context(), "/longshore/leader/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	ctx, cancel := context.WithCancel(t.Context())
	other, err := s.Session(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lead(ctx, other, "scheduler"); err != nil {
		t.Fatal(err)
	}
	cancel()
	waiting, err := s.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lead(ctx, waiting, "scheduler"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a leadership until the context ends: %v", err)
	}
}
