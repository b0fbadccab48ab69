package api

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func (s *Server) attributeOperations() operations {
	return operations{
		"PutAttributes":    handle(s.putAttributes),
		"DeleteAttributes": handle(s.deleteAttributes),
		"ListAttributes":   handle(s.listAttributes),
	}
}

const maxCustomAttributes = 10

var errTargetNotFound = exception("TargetNotFoundException", "The specified target wasn't found. Use ListContainerInstances to see the container instances of the cluster.")

// systemFamilies are the beginnings of the names that agents and the control plane fill in.
var systemFamilies = []string{"ecs.", "com.amazonaws.ecs.", "longshore."}

func systemAttribute(name string) bool {
	return slices.ContainsFunc(systemFamilies, func(family string) bool { return strings.HasPrefix(name, family) })
}

// checkAttribute holds a custom attribute to the rules of names and values. The value may be absent.
func checkAttribute(a types.Attribute) error {
	name := aws.ToString(a.Name)
	if !attributePattern.MatchString(name) {
		return invalid(`The attribute name %.200q is invalid: 1 to 128 letters, digits and - _ . / \.`, name)
	}
	if value := aws.ToString(a.Value); value != "" && (!attributeTextPattern.MatchString(value) || strings.TrimSpace(value) != value) {
		return invalid(`The value %.200q of the attribute %s is invalid: 1 to 128 letters, digits, spaces and - _ . / \ @ :, no space at either end.`, value, name)
	}
	return nil
}

// checkTargets holds the attributes of a request to the rules, before their targets are looked up.
func checkTargets(attributes []types.Attribute) error {
	if len(attributes) == 0 {
		return invalid("Attributes cannot be empty.")
	}
	if err := atMost("attributes", attributes, 10); err != nil {
		return err
	}
	for _, a := range attributes {
		if err := checkAttribute(a); err != nil {
			return err
		}
		if systemAttribute(*a.Name) {
			return invalid("The attribute %s can't be changed: names that start with %s are the system's.", *a.Name, strings.Join(systemFamilies, ", "))
		}
		if err := oneOf("targetType", a.TargetType, a.TargetType.Values()); err != nil {
			return err
		}
		if aws.ToString(a.TargetId) == "" {
			return invalid("The attribute %s has no targetId.", *a.Name)
		}
	}
	return nil
}

// attributeTargets copies the container instances that attributes are about, by id, for change.
func (s *Server) attributeTargets(v *store.View, cluster string, attributes []types.Attribute) (map[string]*store.Instance, []string, error) {
	targets, ids := map[string]*store.Instance{}, make([]string, len(attributes))
	for i, a := range attributes {
		id, err := s.memberRef(kindInstance, cluster, *a.TargetId)
		if err != nil {
			return nil, nil, err
		}
		ids[i] = id
		if targets[id] != nil {
			continue
		}
		instance := v.Instance(cluster, id)
		if instance == nil || !instanceIsRegistered(instance) {
			return nil, nil, errTargetNotFound
		}
		changed := *instance
		changed.Object.Attributes = slices.Clone(instance.Object.Attributes)
		changed.Object.Version++
		targets[id] = &changed
	}
	return targets, ids, nil
}

func indexAttribute(attributes []types.Attribute, name string) int {
	return slices.IndexFunc(attributes, func(a types.Attribute) bool { return aws.ToString(a.Name) == name })
}

func customAttributes(attributes []types.Attribute) (n int) {
	for _, a := range attributes {
		if !systemAttribute(aws.ToString(a.Name)) {
			n++
		}
	}
	return n
}

func (s *Server) putAttributes(ctx context.Context, _ *call, in *ecs.PutAttributesInput) (*ecs.PutAttributesOutput, error) {
	if err := checkTargets(in.Attributes); err != nil {
		return nil, err
	}
	var stored []types.Attribute
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		cluster, err := s.activeCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		name := *cluster.Object.ClusterName
		targets, ids, err := s.attributeTargets(v, name, in.Attributes)
		if err != nil {
			return err
		}
		stored = stored[:0]
		for i, a := range in.Attributes {
			object := &targets[ids[i]].Object
			kept := types.Attribute{Name: a.Name, Value: a.Value}
			if at := indexAttribute(object.Attributes, *a.Name); at >= 0 {
				object.Attributes[at] = kept
			} else if object.Attributes = append(object.Attributes, kept); customAttributes(object.Attributes) > maxCustomAttributes {
				return exception("AttributeLimitExceededException", "The container instance %s would have more than %d custom attributes.", ids[i], maxCustomAttributes)
			}
			stored = append(stored, types.Attribute{Name: a.Name, Value: a.Value, TargetType: a.TargetType, TargetId: aws.String(s.instanceARN(name, ids[i]))})
		}
		for _, changed := range targets {
			txn.Update(changed)
		}
		return nil
	})
	return &ecs.PutAttributesOutput{Attributes: stored}, err
}

// deleteAttributes removes the attributes that are there, and whose value is the one given when one is.
func (s *Server) deleteAttributes(ctx context.Context, _ *call, in *ecs.DeleteAttributesInput) (*ecs.DeleteAttributesOutput, error) {
	if err := checkTargets(in.Attributes); err != nil {
		return nil, err
	}
	removed := []types.Attribute{}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		cluster, err := s.activeCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		name := *cluster.Object.ClusterName
		targets, ids, err := s.attributeTargets(v, name, in.Attributes)
		if err != nil {
			return err
		}
		removed = removed[:0]
		touched := map[string]bool{}
		for i, a := range in.Attributes {
			object := &targets[ids[i]].Object
			at := indexAttribute(object.Attributes, *a.Name)
			if at < 0 || a.Value != nil && *a.Value != aws.ToString(object.Attributes[at].Value) {
				continue
			}
			removed = append(removed, types.Attribute{Name: a.Name, Value: object.Attributes[at].Value, TargetType: a.TargetType, TargetId: aws.String(s.instanceARN(name, ids[i]))})
			object.Attributes = slices.Delete(object.Attributes, at, at+1)
			touched[ids[i]] = true
		}
		if len(touched) == 0 {
			return errNothingToDo
		}
		for id := range touched {
			txn.Update(targets[id]).StateChange()
		}
		return nil
	})
	return &ecs.DeleteAttributesOutput{Attributes: removed}, err
}

func (s *Server) listAttributes(ctx context.Context, c *call, in *ecs.ListAttributesInput) (*ecs.ListAttributesOutput, error) {
	if err := oneOf("targetType", in.TargetType, in.TargetType.Values()); err != nil {
		return nil, err
	}
	if in.AttributeValue != nil && in.AttributeName == nil {
		return nil, invalid("The filter attributeValue needs the filter attributeName.")
	}
	attributes := []types.Attribute{}
	err := s.read(ctx, func(v *store.View) error {
		name, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		for i := range v.Instances(name) {
			if !instanceIsRegistered(i) {
				continue
			}
			target := aws.String(s.instanceARN(name, i.ID))
			for _, a := range i.Object.Attributes {
				if in.AttributeName != nil && *in.AttributeName != aws.ToString(a.Name) ||
					in.AttributeValue != nil && *in.AttributeValue != aws.ToString(a.Value) {
					continue
				}
				attributes = append(attributes, types.Attribute{Name: a.Name, Value: a.Value, TargetId: target})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key := func(a types.Attribute) string { return *a.TargetId + "\x00" + aws.ToString(a.Name) }
	slices.SortFunc(attributes, func(a, b types.Attribute) int { return strings.Compare(key(a), key(b)) })
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 100}, attributes, key)
	return &ecs.ListAttributesOutput{Attributes: orEmpty(page), NextToken: next}, err
}
