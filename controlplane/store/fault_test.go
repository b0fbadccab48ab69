package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// faulty is a way to a real etcd that a test can cut.
type faulty struct {
	clientv3.Watcher
	clientv3.KV
	mu      sync.Mutex
	cut     chan struct{} // closed when the watch is to break
	whole   chan struct{} // closed when a new watch may begin
	watches atomic.Int32
	gets    atomic.Int32
	hang    atomic.Bool
	deaf    atomic.Int32 // watches up to this number hear nothing, and nobody is told
}

func newFaulty(client *clientv3.Client) (*faulty, *clientv3.Client) {
	f := &faulty{Watcher: client.Watcher, KV: client.KV, cut: make(chan struct{}), whole: make(chan struct{})}
	close(f.whole)
	c := clientv3.NewCtxClient(context.Background())
	c.KV, c.Watcher, c.Lease, c.Maintenance, c.Cluster = f, f, client.Lease, client.Maintenance, client.Cluster
	return f, c
}

func (f *faulty) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	number := f.watches.Add(1)
	f.mu.Lock()
	cut, whole := f.cut, f.whole
	f.mu.Unlock()
	broken := make(chan clientv3.WatchResponse)
	select {
	case <-whole:
	case <-ctx.Done():
		close(broken)
		return broken
	}
	ctx, cancel := context.WithCancel(ctx)
	real := f.Watcher.Watch(ctx, key, options...)
	go func() {
		defer close(broken)
		defer cancel()
		for {
			select {
			case r, ok := <-real:
				if !ok {
					return
				}
				if number <= f.deaf.Load() {
					continue
				}
				select {
				case broken <- r:
				case <-cut:
					return
				case <-ctx.Done():
					return
				}
			case <-cut:
				return
			}
		}
	}()
	return broken
}

// breakWatch ends the watch, and lets no other begin before the returned function is called.
func (f *faulty) breakWatch() (mend func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	whole := make(chan struct{})
	f.whole = whole
	close(f.cut)
	f.cut = make(chan struct{})
	return func() { close(whole) }
}

func (f *faulty) Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	f.gets.Add(1)
	if f.hang.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return f.KV.Get(ctx, key, options...)
}

func (f *faulty) Txn(ctx context.Context) clientv3.Txn {
	if f.hang.Load() {
		c, cancel := context.WithCancel(ctx)
		cancel()
		ctx = c
	}
	return f.KV.Txn(ctx)
}

func TestAWatchThatBreaksIsTakenUpWhereItEnded(t *testing.T) {
	client := storetest.Etcd(t)
	f, cut := newFaulty(client)
	s, other := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop()}), storetest.Open(t, client)
	var told atomic.Int32
	defer s.OnChange(func(_ int64, changes []store.Change) { told.Add(int32(len(changes))) })()
	for i := range 5 {
		mend := f.breakWatch()
		for j := range 10 {
			commit(t, other.Txn().Create(cluster(fmt.Sprintf("c%d-%d", i, j))))
		}
		mend()
		if n := read(t, s, func(v *store.View) int { return len(slices.Collect(v.Clusters())) }); n != 10*(i+1) {
			t.Fatalf("%d clusters after break %d", n, i)
		}
	}
	commit(t, s.Txn().Create(cluster("last"))) // whose callbacks come after all others
	for told.Load() < 51 {
		read(t, s, func(v *store.View) any { return nil })
	}
	if told.Load() != 51 {
		t.Errorf("OnChange told of %d changes, 51 were made", told.Load())
	}
}

func TestAWatchThatComesTooLateForTheHistoryReloadsAndTellsTheDifference(t *testing.T) {
	client := storetest.Etcd(t)
	f, cut := newFaulty(client)
	s, other := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop()}), storetest.Open(t, client)
	kept, changed, gone := cluster("kept"), cluster("changed"), cluster("gone")
	commit(t, other.Txn().Create(kept).Create(changed).Create(gone))
	session, err := s.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := s.Lead(t.Context(), session, "scheduler")
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, s, func(v *store.View) *store.Cluster { return v.Cluster("kept") })

	tell := make(chan []string, 1)
	mend := f.breakWatch()
	defer s.OnChange(func(_ int64, changes []store.Change) {
		var what []string
		for _, c := range changes {
			switch {
			case c.Old == nil:
				what = append(what, "new "+*c.New.(*store.Cluster).Object.ClusterName)
			case c.New == nil:
				what = append(what, "gone "+*c.Old.(*store.Cluster).Object.ClusterName)
			default:
				what = append(what, "changed "+*c.New.(*store.Cluster).Object.ClusterName)
			}
		}
		slices.Sort(what)
		tell <- what
	})()
	for range 10 {
		commit(t, other.Txn().Update(changed))
	}
	commit(t, other.Txn().Delete(gone).Create(cluster("new")))
	if _, err := client.Delete(t.Context(), "/longshore/leader/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), read(t, other, (*store.View).Revision)); err != nil {
		t.Fatal(err)
	}
	mend()
	if diff := cmp.Diff([]string{"changed changed", "gone gone", "new new"}, <-tell); diff != "" {
		t.Error(diff)
	}
	<-lost.Done()
	if after := read(t, s, func(v *store.View) *store.Cluster { return v.Cluster("kept") }); after != before {
		t.Error("a record that did not change was read again")
	}
	if got, want := read(t, s, (*store.View).Revision), read(t, other, (*store.View).Revision); got != want {
		t.Errorf("the view is at %d, etcd at %d", got, want)
	}
	commit(t, s.Txn().Create(cluster("after")))
}

func TestOneRequestForTheRevisionServesAllReadersThatWait(t *testing.T) {
	f, cut := newFaulty(storetest.Etcd(t))
	s := storetest.Open(t, cut)
	before := f.gets.Load()
	const readers = 500
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range readers {
		wg.Go(func() {
			<-start
			if err := s.Read(t.Context(), func(*store.View) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	if n := f.gets.Load() - before; n > readers/2 {
		t.Errorf("%d readers made %d requests", readers, n)
	}
}

func TestAnEtcdThatDoesNotAnswerMakesTheStoreUnavailableAndNotStuck(t *testing.T) {
	f, cut := newFaulty(storetest.Etcd(t))
	s := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop(), Timeout: 500 * time.Millisecond})
	f.hang.Store(true)
	if err := s.Read(t.Context(), func(*store.View) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Error("Read:", err)
	}
	if err := s.Txn().Create(cluster("c")).Commit(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Error("Commit:", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Read(canceled, func(*store.View) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error("Read whose caller left:", err)
	}
	f.hang.Store(false)
	commit(t, s.Txn().Create(cluster("another")))

	mend := f.breakWatch()
	c := cluster("unseen")
	if err := s.Txn().Create(c).Commit(t.Context()); !errors.Is(err, store.ErrUnavailable) || c.Revision() == 0 {
		t.Errorf("a commit that the view does not reach: %v, revision %d", err, c.Revision())
	}
	mend()
	read(t, s, func(*store.View) any { return nil })
}

func TestAFullStoreTakesDeletesAndStateChangesAndRecoversByItself(t *testing.T) {
	ctx := t.Context()
	const quota = 24 << 20
	server, err := etcd.Start(ctx, etcd.Config{Dir: t.TempDir(), Quota: quota, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // after the store
	// Looks at the size when told to only: until then nothing makes room. It is full long before etcd refuses: etcd's size grows by
	// leaps of several records.
	s := storetest.OpenWith(t, store.Config{Client: server.Client(), Log: zap.NewNop(), Maintain: true, SpaceInterval: time.Hour, FullAt: 0.7})
	state := task("default", "t", "i", "")
	commit(t, s.Txn().Create(state))
	fill := func(until func() bool) (records []*store.Cluster) {
		for i := 0; !until(); i++ {
			c := cluster(fmt.Sprint("large-", i))
			c.Object.Tags = []types.Tag{{Key: aws.String("k"), Value: aws.String(strings.Repeat("x", 1<<20))}}
			err := s.Txn().Create(c).Commit(ctx)
			if errors.Is(err, store.ErrFull) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, c)
			// etcd counts what it has brought to its database, which it does ten times a second.
			tick := time.NewTicker(5 * time.Millisecond)
			for s.CheckSpace(); s.Space().Size < int64(len(records))<<20; s.CheckSpace() {
				<-tick.C
			}
			tick.Stop()
		}
		return records
	}
	records := fill(func() bool { return s.Space().Full })
	if space := s.Space(); !space.Full || space.Alarm {
		t.Fatalf("not nearly full after %d MiB: %+v", len(records), space)
	}
	if err := s.Txn().Create(cluster("more")).Commit(ctx); !errors.Is(err, store.ErrFull) {
		t.Errorf("a new record: %v", err)
	}
	commit(t, s.Txn().Update(state).StateChange())

	// State changes alone bring it over the quota itself, where etcd takes nothing but deletes.
	for i := 0; ; i++ {
		state.Warnings = []string{strings.Repeat("x", 1<<20)}
		if err := s.Txn().Update(state).StateChange().Commit(ctx); err != nil {
			if !errors.Is(err, store.ErrFull) {
				t.Fatal(err)
			}
			break
		}
		if i > 100 {
			t.Fatal("the quota is never reached")
		}
	}
	if !s.Space().Alarm {
		t.Error("the store does not know of the alarm")
	}
	for _, c := range records {
		commit(t, s.Txn().Delete(c))
	}
	deadline := time.Now().Add(time.Minute)
	for s.Space().Full && time.Now().Before(deadline) {
		s.CheckSpace()
	}
	if space := s.Space(); space.Full || space.Alarm {
		t.Errorf("the store did not recover: %+v", space)
	}
	commit(t, s.Txn().Create(cluster("more")))
	// How many of the free pages it has given back depends on when etcd wrote; those that it has not are used again.
	for i, c := range records[:len(records)/2] {
		again := cluster(fmt.Sprint("again-", i))
		again.Object.Tags = c.Object.Tags
		s.CheckSpace() // as it is done from time to time
		commit(t, s.Txn().Create(again))
	}
}

func TestADiskWithoutReserveTakesNothingNew(t *testing.T) {
	s := storetest.OpenWith(t, store.Config{Client: storetest.Etcd(t), Log: zap.NewNop(), Disk: t.TempDir(), DiskReserve: 1 << 60})
	if err := s.Txn().Create(cluster("c")).Commit(t.Context()); !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "free on its disk") {
		t.Errorf("a new record: %v", err)
	}
	commit(t, s.Txn().Create(cluster("c")).StateChange())
}

func TestWhatWasAcknowledgedIsThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	for run := range 3 {
		server, err := etcd.Start(t.Context(), etcd.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.Open(t.Context(), store.Config{Client: server.Client()})
		if err != nil {
			t.Fatal(err)
		}
		if n := read(t, s, func(v *store.View) int { return len(slices.Collect(v.Clusters())) }); n != 10*run {
			t.Errorf("%d clusters at start %d", n, run)
		}
		for i := range 10 {
			commit(t, s.Txn().Create(cluster(fmt.Sprintf("c%d-%d", run, i))))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestPurgeKeepsWhatClientsExpectToFind(t *testing.T) {
	s := storetest.New(t)
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { return aws.Time(now.Add(-d)) }
	stopped := func(id string, at *time.Time) *store.Task {
		x := task("default", id, "i-old", "web")
		x.Object.LastStatus, x.Object.StoppedAt = aws.String("STOPPED"), at
		return x
	}
	svc := func(name string, inactive time.Duration) *store.Service {
		x := service("default", name)
		if inactive > 0 {
			x.Object.Status, x.InactiveSince = aws.String("INACTIVE"), *ago(inactive)
		}
		return x
	}
	host := func(id string, inactive time.Duration) *store.Instance {
		x := instance("default", id)
		if inactive > 0 {
			x.Object.Status, x.InactiveSince = aws.String("INACTIVE"), *ago(inactive)
		}
		return x
	}
	gone := func(name string) *store.Cluster {
		x := cluster(name)
		x.Object.Status, x.InactiveSince = aws.String("INACTIVE"), *ago(7 * time.Hour)
		return x
	}
	txn := s.Txn().Create(cluster("default")).Create(gone("gone")).Create(gone("gone-but-used")).
		Create(task("gone-but-used", "t", "i", "")).
		Create(stopped("t-61m", ago(61*time.Minute))).Create(stopped("t-59m", ago(59*time.Minute))).Create(task("default", "t-runs", "i", "web")).
		Create(svc("web", 0)).Create(svc("web-old", 7*time.Hour)).Create(svc("web-recent", 5*time.Hour)).
		Create(host("i-old", 7*time.Hour)).Create(&store.Allocation{Cluster: "default", Instance: "i-old"}).
		Create(host("i-recent", time.Hour)).Create(host("i-active", 0))
	commit(t, txn)
	for _, name := range []string{"web", "web-old"} {
		for page := range 2 {
			txn := s.Txn()
			for i := range 75 {
				txn.Create(&store.ServiceEvent{Cluster: "default", Service: name, Object: types.ServiceEvent{
					Id: aws.String(fmt.Sprint(page, "-", i)), CreatedAt: ago(time.Duration(200-75*page-i) * time.Second)}})
			}
			commit(t, txn)
		}
	}
	if _, err := s.PurgeOnce(t.Context(), store.PurgeConfig{Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	got := read(t, s, func(v *store.View) (all []string) {
		for c := range v.Clusters() {
			all = append(all, "cluster "+*c.Object.ClusterName)
		}
		for x := range v.Tasks("default") {
			all = append(all, "task "+x.ID)
		}
		for x := range v.Services("default") {
			all = append(all, "service "+*x.Object.ServiceName)
		}
		for x := range v.Instances("default") {
			all = append(all, "instance "+x.ID)
		}
		if v.Allocation("default", "i-old") != nil {
			all = append(all, "allocation of a purged instance")
		}
		for _, name := range []string{"web", "web-old"} {
			events := slices.Collect(v.Events("default", name))
			all = append(all, fmt.Sprint("events of ", name, " ", len(events)))
			if len(events) > 0 && *events[0].Object.Id != "1-74" {
				all = append(all, "the newest event is "+*events[0].Object.Id)
			}
		}
		return all
	})
	if diff := cmp.Diff([]string{"cluster default", "cluster gone-but-used", "task t-59m", "task t-runs", "service web", "service web-recent",
		"instance i-active", "instance i-recent", "events of web 100", "events of web-old 0"}, got); diff != "" {
		t.Error(diff)
	}
	commit(t, s.Txn().Create(stopped("t-1m", ago(time.Minute))).Create(stopped("t-2m", ago(2*time.Minute))))
	if n, err := s.PurgeOnce(t.Context(), store.PurgeConfig{StoppedTasksMost: 2, Now: func() time.Time { return now }}); err != nil || n != 1 {
		t.Errorf("%d records went over the count: %v", n, err)
	}
	if read(t, s, func(v *store.View) *store.Task { return v.Task("default", "t-59m") }) != nil {
		t.Error("not the oldest stopped task went over the count")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Purge(ctx, store.PurgeConfig{}) // ends with its context
}

func TestAStoreOfManyPagesIsLoadedWhole(t *testing.T) {
	client := storetest.Etcd(t)
	s := storetest.Open(t, client)
	const pages = 40 // of 128: more than are asked for at once
	for i := range pages {
		txn := s.Txn()
		for j := range 128 {
			txn.Create(&store.Family{Name: fmt.Sprintf("f%03d-%03d", i, j)})
		}
		commit(t, txn)
	}
	again := storetest.Open(t, client)
	if n := read(t, again, func(v *store.View) int { return len(slices.Collect(v.Families())) }); n != pages*128 {
		t.Errorf("%d of %d records were loaded", n, pages*128)
	}
}
