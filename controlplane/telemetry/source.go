package telemetry

import (
	"cmp"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// FromStore is the Source that reads the store's view.
func FromStore(s *store.Store) Source { return stored{s} }

type stored struct{ *store.Store }

// Task is a task of the store that is placed on the instance.
func (s stored) Task(cluster, instance, id string) (f Facts, ok bool) {
	s.Peek(func(v *store.View) {
		t := v.Task(cluster, id)
		if t == nil || t.Instance != instance {
			return
		}
		a, err := arn.Parse(aws.ToString(t.Object.TaskDefinitionArn))
		if err != nil {
			return
		}
		family, revision, err := (arn.Owner{}).ParseTaskDefinition(a.ID())
		if err != nil {
			return
		}
		def := v.TaskDefinition(family, revision)
		if def == nil {
			return
		}
		f, ok = Facts{Service: t.Service, Family: family, CPU: t.Reserved.CPU, Memory: t.Reserved.Memory, Containers: map[string]Reservation{}}, true
		for i := range def.Object.ContainerDefinitions {
			c := &def.Object.ContainerDefinitions[i]
			r := Reservation{CPU: int64(c.Cpu), Memory: int64(aws.ToInt32(c.MemoryReservation)), Limit: int64(aws.ToInt32(c.Memory))}
			if o := t.Object.Overrides; o != nil {
				for j := range o.ContainerOverrides {
					if w := &o.ContainerOverrides[j]; aws.ToString(w.Name) == aws.ToString(c.Name) {
						r = Reservation{CPU: int64(aws.ToInt32(cmp.Or(w.Cpu, &c.Cpu))), Memory: int64(aws.ToInt32(cmp.Or(w.MemoryReservation, c.MemoryReservation))), Limit: int64(aws.ToInt32(cmp.Or(w.Memory, c.Memory)))}
					}
				}
			}
			r.Memory = cmp.Or(r.Memory, r.Limit)
			f.Containers[aws.ToString(c.Name)] = r
		}
	})
	return f, ok
}

// CPU is what an instance registered.
func (s stored) CPU(cluster, instance string) (units int64) {
	s.Peek(func(v *store.View) {
		if i := v.Instance(cluster, instance); i != nil {
			for _, r := range i.Object.RegisteredResources {
				if aws.ToString(r.Name) == "CPU" {
					units = int64(r.IntegerValue)
				}
			}
		}
	})
	return units
}
