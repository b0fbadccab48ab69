package store

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// View is the store at one revision. It never changes.
//
// It is one ordered map from places to records: a record is held at its key and at its [indexes]. The map is copied on
// write, so a new view costs what changed, and whoever has an old one keeps it whole.
type View struct {
	revision int64
	records  *btree.Map[string, Record]
	bad      map[string]Quarantined // by key; copied when it changes
}

// Quarantined is a key whose value could not be read. It is left alone: no record of it is in the view, and a Create of
// it conflicts.
type Quarantined struct {
	Key      string
	Revision int64
	Err      error
}

func newView() *View { return &View{records: btree.NewMap[string, Record](16)} }

// snapshot is a copy that later changes of v don't touch.
func (v *View) snapshot() *View {
	return &View{revision: v.revision, records: v.records.Copy(), bad: v.bad}
}

// put holds r, which has been stored at key, and returns the record it replaces.
func (v *View) put(key string, r Record) (old Record) {
	old, _ = v.records.Set(place(key), r)
	var before []string
	if old != nil {
		before = indexes(old)
	}
	now := indexes(r)
	for _, i := range before {
		if !slices.Contains(now, i) {
			v.records.Delete(i)
		}
	}
	for _, i := range now {
		v.records.Set(i, r)
	}
	v.heal(key)
	return old
}

func (v *View) remove(key string) (old Record) {
	old, _ = v.records.Delete(place(key))
	if old != nil {
		for _, i := range indexes(old) {
			v.records.Delete(i)
		}
	}
	v.heal(key)
	return old
}

// heal forgets that a key could not be read.
func (v *View) heal(key string) {
	if _, bad := v.bad[key]; bad {
		v.bad = maps.Clone(v.bad)
		delete(v.bad, key)
	}
}

func (v *View) quarantine(q Quarantined) {
	v.bad = maps.Clone(v.bad)
	if v.bad == nil {
		v.bad = map[string]Quarantined{}
	}
	v.bad[q.Key] = q
}

// get returns the record at a place, nil if there is none.
func get[R Record](v *View, place string) (none R) {
	if r, ok := v.records.Get(place); ok {
		if r, ok := r.(R); ok {
			return r
		}
	}
	return none
}

// scan yields the records below a place, in order.
func scan[R Record](v *View, prefix string) iter.Seq[R] {
	return func(yield func(R) bool) {
		v.records.Ascend(prefix, func(place string, r Record) bool {
			if !strings.HasPrefix(place, prefix) {
				return false
			}
			if r, ok := r.(R); ok {
				return yield(r)
			}
			return true
		})
	}
}

// scanBack yields the records below a place, the last one first.
func scanBack[R Record](v *View, prefix string) iter.Seq[R] {
	return func(yield func(R) bool) {
		v.records.Descend(prefix+"\xff", func(place string, r Record) bool {
			if !strings.HasPrefix(place, prefix) {
				return false
			}
			if r, ok := r.(R); ok {
				return yield(r)
			}
			return true
		})
	}
}

// Revision is the etcd revision the view has reached.
func (v *View) Revision() int64 { return v.revision }

// Quarantined are the keys that could not be read, in order.
func (v *View) Quarantined() []Quarantined {
	return slices.SortedFunc(maps.Values(v.bad), func(a, b Quarantined) int { return strings.Compare(a.Key, b.Key) })
}

// Cluster returns a cluster, ACTIVE or INACTIVE.
func (v *View) Cluster(name string) *Cluster { return get[*Cluster](v, placeOf(kindCluster, name)) }

// Clusters are in order of name.
func (v *View) Clusters() iter.Seq[*Cluster] { return scan[*Cluster](v, under(kindCluster)) }

// Family returns a revision counter.
func (v *View) Family(name string) *Family { return get[*Family](v, placeOf(kindFamily, name)) }

// Families are in order of name.
func (v *View) Families() iter.Seq[*Family] { return scan[*Family](v, under(kindFamily)) }

// TaskDefinition returns one revision in any status.
func (v *View) TaskDefinition(family string, revision int32) *TaskDefinition {
	return get[*TaskDefinition](v, place(taskDefinitionKey(family, revision)))
}

// TaskDefinitions are in order of family (all when family is empty), then revision.
func (v *View) TaskDefinitions(family string) iter.Seq[*TaskDefinition] {
	if family == "" {
		return scan[*TaskDefinition](v, under(kindTaskDefinition))
	}
	return scan[*TaskDefinition](v, under(kindTaskDefinition, family))
}

// Service returns the ACTIVE or DRAINING service of that name, else the INACTIVE one that went last.
func (v *View) Service(cluster, name string) *Service {
	for s := range scan[*Service](v, under(indexServices, cluster, name)) {
		return s
	}
	return nil
}

// Services of a cluster in order of name, INACTIVE ones included. Of several with one name the one that [View.Service]
// returns is first.
func (v *View) Services(cluster string) iter.Seq[*Service] {
	return scan[*Service](v, under(indexServices, cluster))
}

// Instance returns a container instance.
func (v *View) Instance(cluster, id string) *Instance {
	return get[*Instance](v, placeOf(kindInstance, cluster, id))
}

// Instances of a cluster in order of id, INACTIVE ones included.
func (v *View) Instances(cluster string) iter.Seq[*Instance] {
	return scan[*Instance](v, under(kindInstance, cluster))
}

// Departed is what is left of an instance that was deregistered and purged, nil for any other.
func (v *View) Departed(cluster, id string) *Departed {
	return get[*Departed](v, placeOf(kindDeparted, cluster, id))
}

// Departures are all of them.
func (v *View) Departures() iter.Seq[*Departed] { return scan[*Departed](v, under(kindDeparted)) }

// Allocation of an instance; never nil for a registered instance. One that was never written has revision 0, so that
// Update creates it.
func (v *View) Allocation(cluster, instance string) *Allocation {
	if a := get[*Allocation](v, placeOf(kindAllocation, cluster, instance)); a != nil {
		return a
	}
	if v.Instance(cluster, instance) == nil {
		return nil
	}
	return &Allocation{Cluster: cluster, Instance: instance}
}

// Task returns a task.
func (v *View) Task(cluster, id string) *Task { return get[*Task](v, placeOf(kindTask, cluster, id)) }

// Tasks of a cluster in order of id.
func (v *View) Tasks(cluster string) iter.Seq[*Task] { return scan[*Task](v, under(kindTask, cluster)) }

// TasksFrom are the tasks of a cluster from an id on, in order of id.
func (v *View) TasksFrom(cluster, id string) iter.Seq[*Task] {
	prefix := under(kindTask, cluster)
	return func(yield func(*Task) bool) {
		v.records.Ascend(prefix+id, func(place string, r Record) bool {
			t, ok := r.(*Task)
			return strings.HasPrefix(place, prefix) && ok && yield(t)
		})
	}
}

// TasksOn are the tasks placed on an instance, in order of id.
func (v *View) TasksOn(cluster, instance string) iter.Seq[*Task] {
	return byID(scan[*Task](v, under(indexLiveOn, cluster, instance)), scan[*Task](v, under(indexEndedOn, cluster, instance)))
}

// TasksOf are the tasks of a service, in order of id.
func (v *View) TasksOf(cluster, service string) iter.Seq[*Task] {
	return byID(scan[*Task](v, under(indexLiveOf, cluster, service)), scan[*Task](v, under(indexEndedOf, cluster, service)))
}

func byID(live, ended iter.Seq[*Task]) iter.Seq[*Task] {
	return slices.Values(slices.SortedFunc(func(yield func(*Task) bool) {
		for _, part := range []iter.Seq[*Task]{live, ended} {
			for t := range part {
				if !yield(t) {
					return
				}
			}
		}
	}, func(a, b *Task) int { return strings.Compare(a.ID, b.ID) }))
}

// LiveOn are the tasks placed on an instance that are not STOPPED, in order of id.
func (v *View) LiveOn(cluster, instance string) iter.Seq[*Task] {
	return scan[*Task](v, under(indexLiveOn, cluster, instance))
}

// LiveOf are the tasks of a service that are not STOPPED, in order of id.
func (v *View) LiveOf(cluster, service string) iter.Seq[*Task] {
	return scan[*Task](v, under(indexLiveOf, cluster, service))
}

// Attached is the task that is not STOPPED with an attachment, nil when there is none.
func (v *View) Attached(cluster, attachment string) *Task {
	return get[*Task](v, placeOf(indexAttached, cluster, attachment))
}

// EndedOf are the STOPPED tasks of a service whose records were last written after the revision, in order of that.
func (v *View) EndedOf(cluster, service string, after int64) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		prefix := under(indexEndedOf, cluster, service)
		v.records.Ascend(prefix+fmt.Sprintf("%020d", after+1), func(place string, r Record) bool {
			t, ok := r.(*Task)
			return strings.HasPrefix(place, prefix) && ok && yield(t)
		})
	}
}

// ServiceDeployment returns the history of one deployment, by the digits of its id.
func (v *View) ServiceDeployment(cluster, service, id string) *ServiceDeployment {
	return get[*ServiceDeployment](v, placeOf(kindServiceDeployment, cluster, service, id))
}

// ServiceDeployments are the deployments of a service that are remembered, in order of their digits.
func (v *View) ServiceDeployments(cluster, service string) iter.Seq[*ServiceDeployment] {
	return scan[*ServiceDeployment](v, under(kindServiceDeployment, cluster, service))
}

// ServiceRevision returns what a deployment runs, by the digits of its id.
func (v *View) ServiceRevision(cluster, service, id string) *ServiceRevision {
	return get[*ServiceRevision](v, placeOf(kindServiceRevision, cluster, service, id))
}

// ServiceRevisions are the revisions of a service that are remembered, in order of their digits.
func (v *View) ServiceRevisions(cluster, service string) iter.Seq[*ServiceRevision] {
	return scan[*ServiceRevision](v, under(kindServiceRevision, cluster, service))
}

// Preparations of a service, in order of instance.
func (v *View) Preparations(cluster, service string) iter.Seq[*Preparation] {
	return scan[*Preparation](v, under(kindPreparation, cluster, service))
}

// PreparationsOn are those on an instance, in order of service.
func (v *View) PreparationsOn(cluster, instance string) iter.Seq[*Preparation] {
	return scan[*Preparation](v, under(indexPrepare, cluster, instance))
}

// DaemonSlot returns the claim of a service on an instance.
func (v *View) DaemonSlot(cluster, service, instance string) *DaemonSlot {
	return get[*DaemonSlot](v, placeOf(kindDaemonSlot, cluster, service, instance))
}

// DaemonSlots are the claims of a service, in order of instance.
func (v *View) DaemonSlots(cluster, service string) iter.Seq[*DaemonSlot] {
	return scan[*DaemonSlot](v, under(kindDaemonSlot, cluster, service))
}

// Connection returns the live ACS connection of an instance.
func (v *View) Connection(cluster, instance string) *Connection {
	return get[*Connection](v, placeOf(kindConnection, cluster, instance))
}

// Connections are the live ACS connections of a cluster, in order of instance.
func (v *View) Connections(cluster string) iter.Seq[*Connection] {
	return scan[*Connection](v, under(kindConnection, cluster))
}

// Events of a service, newest first.
func (v *View) Events(cluster, service string) iter.Seq[*ServiceEvent] {
	return scanBack[*ServiceEvent](v, under(kindEvent, cluster, service))
}

// Key returns an access key.
func (v *View) Key(accessKeyID string) *Key { return get[*Key](v, placeOf(kindKey, accessKeyID)) }

// Keys are in order of access key id.
func (v *View) Keys() iter.Seq[*Key] { return scan[*Key](v, under(kindKey)) }

// Secret returns what replicas share under a name.
func (v *View) Secret(name string) *Secret { return get[*Secret](v, placeOf(kindSecret, name)) }

// Secrets are in order of their names.
func (v *View) Secrets() iter.Seq[*Secret] { return scan[*Secret](v, under(kindSecret)) }

// Replicas are the processes of the control plane that live, in order of their names.
func (v *View) Replicas() iter.Seq[*Replica] { return scan[*Replica](v, under(kindReplica)) }

// TaskKey returns what is kept of a key that was issued for a task.
func (v *View) TaskKey(accessKeyID string) *TaskKey {
	return get[*TaskKey](v, placeOf(kindTaskKey, accessKeyID))
}

// TaskKeys are in order of access key id.
func (v *View) TaskKeys() iter.Seq[*TaskKey] { return scan[*TaskKey](v, under(kindTaskKey)) }

// AccountSetting returns the setting of a principal ("default": of the account), nil when it has none of its own.
func (v *View) AccountSetting(name, principal string) *AccountSetting {
	return get[*AccountSetting](v, place(accountSettingKey(name, principal)))
}

// AccountSettings are in order of name, then principal.
func (v *View) AccountSettings() iter.Seq[*AccountSetting] {
	return scan[*AccountSetting](v, under(kindSetting))
}
