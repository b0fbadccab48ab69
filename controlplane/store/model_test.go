package store_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// exact compares records, their revisions and keys included, and skips the SDK's own private field.
var exact = []cmp.Option{
	cmp.AllowUnexported(store.Meta{}),
	cmp.FilterPath(func(p cmp.Path) bool {
		f, ok := p.Last().(cmp.StructField)
		return ok && f.Name() == "noSmithyDocumentSerde"
	}, cmp.Ignore()),
	cmp.Exporter(func(t reflect.Type) bool { return true }),
	cmpopts.EquateEmpty(),
}

// contents is everything a view shows, by way of each of its accessors.
func contents(v *store.View, clusters []string) map[string]any {
	all := map[string]any{}
	add := func(index, name string, r any) { all[index+" "+name] = append(toSlice(all[index+" "+name]), r) }
	for c := range v.Clusters() {
		add("clusters", "", c)
	}
	for _, c := range clusters {
		for s := range v.Services(c) {
			add("services", c, s)
		}
		for i := range v.Instances(c) {
			add("instances", c, i)
			for t := range v.TasksOn(c, i.ID) {
				add("tasks on "+i.ID, c, t)
			}
		}
		for t := range v.Tasks(c) {
			add("tasks", c, t)
		}
		for _, s := range serviceNames {
			for t := range v.TasksOf(c, s) {
				add("tasks of "+s, c, t)
			}
		}
	}
	return all
}

func toSlice(v any) []any {
	s, _ := v.([]any)
	return s
}

var (
	clusterNames  = []string{"a", "a-b", "b"}
	serviceNames  = []string{"web", "web-2"}
	instanceNames = []string{"i1", "i2", "i3"}
)

func TestTheViewIsWhatEtcdHoldsAfterAnyHistory(t *testing.T) {
	client := storetest.Etcd(t)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		cfg := store.Config{Client: client, Prefix: fmt.Sprint("/round-", round)}
		ctx := context.Background()
		open := func() *store.Store {
			s, err := store.Open(ctx, cfg)
			if err != nil {
				rt.Fatal(err)
			}
			return s
		}
		s := open()
		defer func() { _ = s.Close() }()
		model := map[string]store.Record{} // what must be there, by kind and names
		clock := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

		for range rapid.IntRange(1, 25).Draw(rt, "transactions") {
			txn, touched, after := s.Txn(), map[string]bool{}, map[string]store.Record{}
			for range rapid.IntRange(1, 4).Draw(rt, "writes") {
				name, fresh := drawRecord(rt)
				if touched[name] {
					continue
				}
				touched[name] = true
				now := model[name]
				switch {
				case now == nil:
					txn.Create(fresh)
					after[name] = fresh
				case rapid.Bool().Draw(rt, "delete"):
					txn.Delete(now)
					after[name] = nil
				default:
					clock = clock.Add(time.Second)
					changed, moved := change(now, fresh, clock)
					txn.Update(changed)
					after[name] = changed
					if moved {
						after[name], after[fmt.Sprint(name, " gone ", clock.Unix())] = nil, changed
					}
				}
			}
			if err := txn.Commit(ctx); err != nil {
				rt.Fatal(err)
			}
			for name, r := range after {
				if r == nil {
					delete(model, name)
				} else {
					model[name] = r
				}
			}
		}

		again := open()
		defer func() { _ = again.Close() }()
		var watched, loaded map[string]any
		count := 0
		if err := s.Read(ctx, func(v *store.View) error { watched = contents(v, clusterNames); return nil }); err != nil {
			rt.Fatal(err)
		}
		if err := again.Read(ctx, func(v *store.View) error { loaded = contents(v, clusterNames); return nil }); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(loaded, watched, exact...); diff != "" {
			rt.Fatalf("the watched view differs from one that was loaded: %s", diff)
		}
		for _, c := range append(slices.Clone(clusterNames), "") {
			for _, index := range []string{"clusters", "services", "instances", "tasks"} {
				count += len(toSlice(watched[index+" "+c]))
			}
		}
		if count != len(model) {
			rt.Fatalf("the view has %d records, %d were written", count, len(model))
		}
		for name, r := range model {
			if !slices.ContainsFunc(everything(watched), func(x any) bool { return cmp.Equal(x, any(r), exact...) }) {
				rt.Fatalf("%s is not in the view as it was written", name)
			}
		}
	})
}

func everything(all map[string]any) (list []any) {
	for _, v := range all {
		list = append(list, toSlice(v)...)
	}
	return list
}

// drawRecord draws a record and its name in the model.
func drawRecord(rt *rapid.T) (string, store.Record) {
	c := rapid.SampledFrom(clusterNames).Draw(rt, "cluster")
	i := rapid.SampledFrom(instanceNames).Draw(rt, "instance")
	s := rapid.SampledFrom(serviceNames).Draw(rt, "service")
	switch rapid.IntRange(0, 3).Draw(rt, "kind") {
	case 0:
		return "cluster " + c, cluster(c)
	case 1:
		return "service " + c + " " + s, service(c, s)
	case 2:
		return "instance " + c + " " + i, instance(c, i)
	}
	id := rapid.SampledFrom([]string{"t1", "t2", "t3", "t4"}).Draw(rt, "task")
	return "task " + c + " " + id, task(c, id, i, rapid.SampledFrom([]string{"", s}).Draw(rt, "of"))
}

// change is a copy of a record with something else in it: a task moves to another instance and service, which only a test
// does, and a service goes, and so to another key.
func change(now, fresh store.Record, at time.Time) (changed store.Record, moved bool) {
	switch now := now.(type) {
	case *store.Cluster:
		c := *now
		c.InactiveSince = at
		return &c, false
	case *store.Service:
		c := *now
		c.Object.Status, c.InactiveSince = aws.String("INACTIVE"), at
		return &c, true
	case *store.Instance:
		c := *now
		c.SequenceNumber++
		return &c, false
	case *store.Task:
		c := *now
		c.Instance, c.Service = fresh.(*store.Task).Instance, fresh.(*store.Task).Service
		return &c, false
	}
	panic("no such record")
}
