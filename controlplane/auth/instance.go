package auth

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// SpeaksFor tells whether the identity may say what a container instance is and does: administrators for all, a host's own
// key for its instance, and a join key for those that it registered and that have no key of their own yet.
func (i *Identity) SpeaksFor(instance *store.Instance) bool {
	switch i.Role {
	case store.RoleAdmin:
		return true
	case store.RoleHost:
		return instance.RegisteredBy == i.AccessKeyID || i.Instance != "" && i.Instance == aws.ToString(instance.Object.ContainerInstanceArn)
	}
	return false
}

// MayClaim tells whether the identity may say that it is the container instance of an ARN that the store does not know, so
// that a record of it is made: its own key may, and any host key while there is none of it.
func (i *Identity) MayClaim(v *store.View, instance string) bool {
	switch {
	case i.Role == store.RoleAdmin || i.Role == store.RoleHost && i.Instance == instance:
		return true
	case i.Role != store.RoleHost || i.Instance != "":
		return false
	}
	for k := range v.Keys() {
		if k.Instance == instance {
			return false
		}
	}
	return true
}

// Take records, in the transaction that makes the record of an instance, whose key it is: a join key has one use less, and a
// host's own key is the instance's from then on. A host's own key has one instance at a time; the error is an [*Error].
func (i *Identity) Take(v *store.View, txn *store.Txn, instance string, now time.Time) error {
	if i.Role != store.RoleHost {
		return nil
	}
	k := v.Key(i.AccessKeyID)
	if k == nil || !k.Usable(now) {
		return refuse(CodeUnknownKey, messageUnknownKey)
	}
	next := *k
	switch {
	case k.Enrolment && k.MaxUses == 0 || k.Instance == instance:
		txn.Unchanged(k) // a key that is revoked meanwhile registers nothing
		return nil
	case k.Enrolment && k.Uses >= k.MaxUses:
		return refuse(CodeAccessDenied, "The join key %s was for %d container instances, and has registered them: 'longshore-control token create' makes another one.", k.AccessKeyID, k.MaxUses)
	case k.Enrolment:
		next.Uses++
	case stillThere(v, k.Instance):
		return refuse(CodeAccessDenied, "The host key %s has registered the container instance %s already; only an enrolment key may register several.", k.AccessKeyID, k.Instance)
	default:
		next.Instance = instance
	}
	txn.Update(&next)
	return nil
}

// stillThere tells whether an instance is registered.
func stillThere(v *store.View, ref string) bool {
	a, err := arn.Parse(ref)
	if err != nil || len(a.Path) != 2 {
		return false
	}
	i := v.Instance(a.Path[0], a.ID())
	return i != nil && aws.ToString(i.Object.Status) != string(types.ContainerInstanceStatusDeregistering) && aws.ToString(i.Object.Status) != "INACTIVE"
}
