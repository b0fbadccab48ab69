package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// migrations bring a record's JSON from a version of the schema to the next one, by the version that they begin with.
var migrations = map[int]func(kind string, record json.RawMessage) (json.RawMessage, error){}

// migrate brings a record of an older version to the current one. It is written so when it is next changed.
func migrate(kind string, e envelope) (envelope, error) {
	for ; e.Version < schemaVersion; e.Version++ {
		step := migrations[e.Version]
		if step == nil {
			continue // records of this kind look the same
		}
		record, err := step(kind, e.Record)
		if err != nil {
			return e, fmt.Errorf("it can't be brought from schema version %d to %d: %w", e.Version, e.Version+1, err)
		}
		e.Record = record
	}
	return e, nil
}

// RefersToRevisions tells whether the record at a key refers to revisions of others, which are new after a restore: it is
// written after them.
func RefersToRevisions(key string) bool { return strings.HasPrefix(key, kindService+"/") }

// Restored is the value of a record of a backup as it is written into a new store: an instance's agent has yet to say what it
// runs, and the ends of tasks up to revision, the new store's, were counted. A value that can't be read stays as it is.
func Restored(key string, value []byte, revision int64) ([]byte, error) {
	r, err := decode(key, value, 1)
	if err != nil {
		return value, nil
	}
	switch r := r.(type) {
	case *Instance:
		r.Unlisted = true
	case *Service:
		for id, f := range r.Failures {
			if f.Seen > 0 {
				f.Seen = revision
				r.Failures[id] = f
			}
		}
	default:
		return value, nil
	}
	text, _, err := encode(r)
	return []byte(text), err
}

// CheckValues reads the values of a store, by key, and tells what of them can't be used, or is at odds with the rest.
func CheckValues(values map[string]string) (wrong []string) {
	v := newView()
	for key, value := range values {
		r, err := decode(key, []byte(value), 1)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%.200q: %v", key, err))
			continue
		}
		v.put(key, r)
	}
	wrong = append(wrong, v.Check()...)
	slices.Sort(wrong)
	return wrong
}

// Check tells what of the view is at odds with the rest: what is reserved for tasks that don't run, what runs without a
// reservation, and claims of tasks that are not there.
func (v *View) Check() (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for key, q := range v.bad {
		say("%.200q can't be read: %v", key, q.Err)
	}
	for a := range scan[*Allocation](v, under(kindAllocation)) {
		for id := range a.Tasks {
			if !live(v.Task(a.Cluster, id)) {
				say("the allocation of %s/%s has resources for the task %s, which does not run", a.Cluster, a.Instance, id)
			}
		}
	}
	for t := range scan[*Task](v, under(kindTask)) {
		if !live(t) {
			continue
		}
		if v.Instance(t.Cluster, t.Instance) == nil {
			say("the task %s/%s is on the container instance %s, which has no record", t.Cluster, t.ID, t.Instance)
		} else if _, reserved := v.Allocation(t.Cluster, t.Instance).Tasks[t.ID]; !reserved {
			say("the task %s/%s has no resources reserved on %s", t.Cluster, t.ID, t.Instance)
		}
	}
	for d := range scan[*DaemonSlot](v, under(kindDaemonSlot)) {
		if !live(v.Task(d.Cluster, d.Task)) {
			say("the place of the daemon %s/%s on %s is held by the task %s, which does not run", d.Cluster, d.Service, d.Instance, d.Task)
		}
	}
	for a := range v.Addresses() {
		if !live(v.Task(a.Cluster, a.Task)) {
			say("the address %s is claimed by the task %s/%s, which does not run", a.Address, a.Cluster, a.Task)
		}
	}
	return wrong
}

func live(t *Task) bool { return t != nil && aws.ToString(t.Object.LastStatus) != "STOPPED" }
