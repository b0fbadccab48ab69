package api

import (
	"cmp"
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

func (s *Server) tagOperations() operations {
	return operations{
		"TagResource":         handle(s.tagResource),
		"UntagResource":       handle(s.untagResource),
		"ListTagsForResource": handle(s.listTagsForResource),
	}
}

// tagged is a resource that has tags.
type tagged struct {
	tags     []types.Tag
	on       policy.On       // what scheduling tags it may have; 0: none is looked at there
	instance *store.Instance // the host that may read the tags; nil for none
	set      func(txn *store.Txn, tags []types.Tag)
	check    func(tags []types.Tag) error // what else is to be said against tags; nil: nothing
}

// taggedResource finds the resource of an ARN.
func (s *Server) taggedResource(v *store.View, ref string) (*tagged, error) {
	a, err := arn.Parse(ref)
	if err != nil {
		return nil, err
	}
	switch a.Type {
	case arn.TypeCluster:
		return s.taggedCluster(v, ref)
	case arn.TypeTaskDefinition:
		return s.taggedTaskDefinition(v, ref)
	case kindService, kindTask, kindInstance:
	case arn.TypeContainer:
		return nil, invalid("Unsupported resource type: %s", a.Type)
	default:
		return nil, errResourceNotFound // what this control plane has none of
	}
	if len(a.Path) > 1 {
		return s.taggedMember(v, a.Type, a.Path[0], ref)
	}
	for cluster := range v.Clusters() { // an ARN without the cluster's name
		if t, err := s.taggedMember(v, a.Type, aws.ToString(cluster.Object.ClusterName), ref); err == nil {
			return t, nil
		}
	}
	return nil, errResourceNotFound
}

var errResourceNotFound = exception("ResourceNotFoundException", "The specified resource wasn't found.")

func (s *Server) taggedCluster(v *store.View, ref string) (*tagged, error) {
	name, err := s.clusterRef(&ref)
	if err != nil {
		return nil, err
	}
	r := v.Cluster(name)
	if r == nil || !clusterIsActive(r) {
		return nil, errClusterNotFound
	}
	return &tagged{tags: r.Object.Tags, on: policy.OnCluster, set: func(txn *store.Txn, tags []types.Tag) {
		changed := *r
		changed.Object.Tags = tags
		txn.Update(&changed)
	}}, nil
}

func (s *Server) taggedTaskDefinition(v *store.View, ref string) (*tagged, error) {
	family, revision, err := s.taskDefinitionRef(ref)
	if err != nil {
		return nil, err
	}
	if revision == 0 {
		return nil, clientError("Revision is missing.")
	}
	r := v.TaskDefinition(family, revision)
	if r == nil {
		return nil, errResourceNotFound
	}
	return &tagged{tags: r.Tags, set: func(txn *store.Txn, tags []types.Tag) {
		changed := *r
		changed.Tags = tags
		txn.Update(&changed)
	}}, nil
}

// taggedMember finds a service, task or container instance.
func (s *Server) taggedMember(v *store.View, kind, cluster, ref string) (*tagged, error) {
	name, err := s.memberRef(kind, cluster, ref)
	if err != nil {
		return nil, err
	}
	if c := v.Cluster(cluster); c == nil {
		return nil, errClusterNotFound
	}
	switch kind {
	case kindService:
		if r := v.Service(cluster, name); r != nil {
			changed, on := *r, policy.OnReplica
			if isDaemon(r) {
				on = policy.OnDaemon
			}
			return &tagged{tags: r.Object.Tags, on: on, check: func(tags []types.Tag) error {
				changed.Object.Tags = tags
				def, err := s.lookupTaskDefinition(v, aws.ToString(r.Object.TaskDefinition))
				return cmp.Or(err, checkSurge(&changed, def))
			}, set: func(txn *store.Txn, tags []types.Tag) {
				changed.Object.Tags = tags
				txn.Update(&changed)
			}}, nil
		}
	case kindTask:
		if r := v.Task(cluster, name); r != nil {
			return &tagged{tags: r.Object.Tags, instance: v.Instance(cluster, r.Instance), set: func(txn *store.Txn, tags []types.Tag) {
				changed := *r
				changed.Object.Tags = tags
				changed.Object.Version++
				txn.Update(&changed)
			}}, nil
		}
	case kindInstance:
		if r := v.Instance(cluster, name); r != nil {
			return &tagged{tags: r.Object.Tags, on: policy.OnInstance, instance: r, set: func(txn *store.Txn, tags []types.Tag) {
				changed := *r
				changed.Object.Tags = tags
				changed.Object.Version++
				txn.Update(&changed)
			}}, nil
		}
	}
	return nil, errResourceNotFound
}

func (s *Server) tagResource(ctx context.Context, _ *call, in *ecs.TagResourceInput) (*ecs.TagResourceOutput, error) {
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r, err := s.taggedResource(v, aws.ToString(in.ResourceArn))
		if err != nil {
			return err
		}
		tags, err := mergeTags(r.tags, in.Tags)
		if err != nil {
			return err
		}
		if r.on != 0 {
			if err := checkPlace(in.Tags, r.on); err != nil {
				return err
			}
		}
		if r.check != nil {
			if err := r.check(tags); err != nil {
				return err
			}
		}
		r.set(txn, tags)
		return nil
	})
	return &ecs.TagResourceOutput{}, err
}

func (s *Server) untagResource(ctx context.Context, _ *call, in *ecs.UntagResourceInput) (*ecs.UntagResourceOutput, error) {
	for _, key := range in.TagKeys {
		if err := checkTagKey(key); err != nil {
			return nil, err
		}
	}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r, err := s.taggedResource(v, aws.ToString(in.ResourceArn))
		if err != nil {
			return err
		}
		left := withoutTags(r.tags, in.TagKeys)
		if len(left) == len(r.tags) {
			return errNothingToDo
		}
		r.set(txn, left)
		txn.StateChange()
		return nil
	})
	return &ecs.UntagResourceOutput{}, err
}

// listTagsForResource answers with a list always. A host may read the tags of its instance and of the tasks there.
func (s *Server) listTagsForResource(ctx context.Context, c *call, in *ecs.ListTagsForResourceInput) (*ecs.ListTagsForResourceOutput, error) {
	out := &ecs.ListTagsForResourceOutput{}
	err := s.read(ctx, func(v *store.View) error {
		r, err := s.taggedResource(v, aws.ToString(in.ResourceArn))
		if c.identity.Role == store.RoleHost && (err != nil || r.instance == nil || c.speaksFor(r.instance) != nil) {
			return c.denied(aws.ToString(in.ResourceArn))
		}
		if err != nil {
			return err
		}
		out.Tags = orEmpty(r.tags)
		return nil
	})
	return out, err
}
