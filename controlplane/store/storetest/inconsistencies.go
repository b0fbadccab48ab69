package storetest

import (
	"fmt"
	"maps"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Inconsistencies are what no state of the store may show, after whichever transaction.
func Inconsistencies(v *store.View) (broken []string) {
	say := func(format string, arguments ...any) { broken = append(broken, fmt.Sprintf(format, arguments...)) }
	for _, q := range v.Quarantined() {
		say("%s can't be read: %v", q.Key, q.Err)
	}
	for c := range v.Clusters() {
		cluster := *c.Object.ClusterName
		for i := range v.Instances(cluster) {
			placed, daemons := map[string]bool{}, map[string]string{}
			for t := range v.TasksOn(cluster, i.ID) {
				if aws.ToString(t.Object.LastStatus) == "STOPPED" {
					continue
				}
				placed[t.ID] = true
				if t.Service == "" {
					continue
				}
				slot := v.DaemonSlot(cluster, t.Service, i.ID)
				if other := daemons[t.Service]; other != "" && (slot == nil || slot.Beside == "" || !slot.Holds(other)) {
					say("instance %s has two daemons of %s that are not an old and a new one: %s and %s", i.ID, t.Service, other, t.ID)
				}
				daemons[t.Service] = t.ID
				if slot == nil || !slot.Holds(t.ID) {
					say("the slot of %s on %s is %v, its task is %s", t.Service, i.ID, slot, t.ID)
				}
			}
			allocated := map[string]bool{}
			for id := range v.Allocation(cluster, i.ID).Tasks {
				allocated[id] = true
			}
			if !maps.Equal(placed, allocated) {
				say("instance %s has the tasks %v and an allocation for %v", i.ID, placed, allocated)
			}
		}
		for s := range v.Services(cluster) {
			for slot := range v.DaemonSlots(cluster, *s.Object.ServiceName) {
				if t := v.Task(cluster, slot.Task); t == nil || aws.ToString(t.Object.LastStatus) == "STOPPED" {
					say("a slot of %s on %s is held for a task that is over: %s", slot.Service, slot.Instance, slot.Task)
				}
			}
		}
	}
	broken = append(broken, lostAddresses(v)...)
	for f := range v.Families() {
		for revision := int32(1); revision <= f.Latest; revision++ {
			if v.TaskDefinition(f.Name, revision) == nil {
				say("%s:%d is missing, the family is at %d", f.Name, revision, f.Latest)
			}
		}
	}
	return broken
}

// lostAddresses are addresses that are not exactly one task's which is not STOPPED.
func lostAddresses(v *store.View) (broken []string) {
	has := map[string]string{}
	for c := range v.Clusters() {
		for t := range v.Tasks(*c.Object.ClusterName) {
			if aws.ToString(t.Object.LastStatus) == "STOPPED" {
				continue
			}
			for _, a := range store.AddressesOf(t) {
				if claim := v.Address(a.Address); has[a.Address] != "" || claim == nil || claim.Task != t.ID {
					broken = append(broken, fmt.Sprintf("%s is task %s's and %q's, and kept: %v", a.Address, t.ID, has[a.Address], claim))
				}
				has[a.Address] = t.ID
			}
		}
	}
	for a := range v.Addresses() {
		if has[a.Address] == "" {
			broken = append(broken, a.Address+" is kept for a task that is over: "+a.Task)
		}
	}
	return broken
}
