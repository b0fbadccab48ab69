package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func (s *Server) taskDefinitionOperations() operations {
	return operations{
		"RegisterTaskDefinition": handle(s.registerTaskDefinition).refusing(unsupportedInDefinition...).
			orElse("family", errFamilyMissing).orElse("containerDefinitions", errNoContainers),
		"DescribeTaskDefinition":     handle(s.describeTaskDefinition),
		"ListTaskDefinitions":        handle(s.listTaskDefinitions),
		"ListTaskDefinitionFamilies": handle(s.listTaskDefinitionFamilies),
		"DeregisterTaskDefinition":   handle(s.deregisterTaskDefinition),
		"DeleteTaskDefinitions":      handle(s.deleteTaskDefinitions),
	}
}

// unsupportedInDefinition are the members of RegisterTaskDefinition that no part of Longshore acts on yet. What only some
// hosts can do is not among them: it becomes a required attribute.
var unsupportedInDefinition = []string{
	"enableFaultInjection",
	"ephemeralStorage",
	"inferenceAccelerators",
	"proxyConfiguration",
	"runtimePlatform.operatingSystemFamily=LINUX",
	"volumes[].configuredAtLaunch",
	"volumes[].efsVolumeConfiguration.authorizationConfig.iam",
	"volumes[].fsxWindowsFileServerVolumeConfiguration",
	"volumes[].s3filesVolumeConfiguration",
	"containerDefinitions[].credentialSpecs",
	"containerDefinitions[].resourceRequirements[].sharingStrategy",
}

var (
	errFamilyMissing         = clientError("Family should not be null or empty.")
	errNoContainers          = clientError("Container list cannot be empty.")
	errCannotDescribe        = clientError("Unable to describe task definition.")
	errRevisionMissing       = clientError("Revision is missing.")
	maxDefinitionSize        = 64 << 10
	maxDefinitionsPerRequest = 10
)

// registerTaskDefinition makes the next revision of a family. A revision's number is never used again.
func (s *Server) registerTaskDefinition(ctx context.Context, c *call, in *ecs.RegisterTaskDefinitionInput) (*ecs.RegisterTaskDefinitionOutput, error) {
	if c.members["tags"] != nil && len(in.Tags) == 0 {
		return nil, invalid("Tags can not be empty.")
	}
	if err := checkTags(in.Tags); err != nil {
		return nil, err
	}
	definition, err := newDefinition(in)
	if err != nil {
		return nil, err
	}
	registeredAt := s.cfg.Now().UTC()
	definition.RegisteredAt, definition.RegisteredBy = &registeredAt, aws.String(c.principal())
	definition.Status = types.TaskDefinitionStatusActive
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		family := store.Family{Name: *in.Family}
		if old := v.Family(family.Name); old != nil {
			family = *old
		}
		family.Latest++
		definition.Revision = family.Latest
		definition.TaskDefinitionArn = aws.String(s.taskDefinitionARN(family.Name, family.Latest))
		if family.Latest == 1 {
			txn.Create(&family)
		} else {
			txn.Update(&family)
		}
		txn.Create(&store.TaskDefinition{Object: *definition, Tags: orEmpty(in.Tags)})
		return nil
	})
	return &ecs.RegisterTaskDefinitionOutput{TaskDefinition: definition, Tags: orEmpty(in.Tags)}, err
}

func (s *Server) describeTaskDefinition(ctx context.Context, _ *call, in *ecs.DescribeTaskDefinitionInput) (*ecs.DescribeTaskDefinitionOutput, error) {
	for _, field := range in.Include {
		if err := oneOf("include", field, field.Values()); err != nil {
			return nil, err
		}
	}
	out := &ecs.DescribeTaskDefinitionOutput{Tags: []types.Tag{}}
	err := s.read(ctx, func(v *store.View) error {
		r, err := s.lookupTaskDefinition(v, aws.ToString(in.TaskDefinition))
		if err != nil {
			return err
		}
		if r == nil {
			return errCannotDescribe
		}
		object := r.Object
		out.TaskDefinition = &object
		if slices.Contains(in.Include, types.TaskDefinitionFieldTags) {
			out.Tags = orEmpty(r.Tags)
		}
		return nil
	})
	return out, err
}

// latestActive is the ACTIVE revision of a family with the highest number, nil when it has none.
func latestActive(v *store.View, family string) (latest *store.TaskDefinition) {
	if family == "" {
		return nil
	}
	for r := range v.TaskDefinitions(family) {
		if r.Object.Status == types.TaskDefinitionStatusActive && (latest == nil || r.Object.Revision > latest.Object.Revision) {
			latest = r
		}
	}
	return latest
}

// definitionKey is the place of a revision in lists: by family, then by number.
func definitionKey(d types.TaskDefinition) string {
	return fmt.Sprintf("%s\x00%010d", aws.ToString(d.Family), d.Revision)
}

func (s *Server) listTaskDefinitions(ctx context.Context, c *call, in *ecs.ListTaskDefinitionsInput) (*ecs.ListTaskDefinitionsOutput, error) {
	status := cmp.Or(in.Status, types.TaskDefinitionStatusActive)
	if err := oneOf("status", status, status.Values()); err != nil {
		return nil, err
	}
	if err := oneOf("sort", in.Sort, in.Sort.Values()); err != nil {
		return nil, err
	}
	var definitions []types.TaskDefinition
	err := s.read(ctx, func(v *store.View) error {
		for r := range v.TaskDefinitions(aws.ToString(in.FamilyPrefix)) {
			if r.Object.Status == status {
				definitions = append(definitions, r.Object)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p := paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 100, desc: in.Sort == types.SortOrderDesc}
	slices.SortFunc(definitions, func(a, b types.TaskDefinition) int {
		if p.desc {
			a, b = b, a
		}
		return strings.Compare(definitionKey(a), definitionKey(b))
	})
	page, next, err := paginate(c, p, definitions, definitionKey)
	arns := make([]string, len(page))
	for i, d := range page {
		arns[i] = *d.TaskDefinitionArn
	}
	return &ecs.ListTaskDefinitionsOutput{TaskDefinitionArns: arns, NextToken: next}, err
}

// listTaskDefinitionFamilies lists families that have an ACTIVE revision (ACTIVE), that have only INACTIVE ones (INACTIVE),
// or both.
func (s *Server) listTaskDefinitionFamilies(ctx context.Context, c *call, in *ecs.ListTaskDefinitionFamiliesInput) (*ecs.ListTaskDefinitionFamiliesOutput, error) {
	if err := oneOf("status", in.Status, in.Status.Values()); err != nil {
		return nil, err
	}
	active := map[string]bool{}
	err := s.read(ctx, func(v *store.View) error {
		for r := range v.TaskDefinitions("") {
			family, is := aws.ToString(r.Object.Family), r.Object.Status == types.TaskDefinitionStatusActive
			if strings.HasPrefix(family, aws.ToString(in.FamilyPrefix)) && (is || r.Object.Status == types.TaskDefinitionStatusInactive) {
				active[family] = active[family] || is
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var families []string
	for family, is := range active {
		switch in.Status {
		case types.TaskDefinitionFamilyStatusActive:
			if !is {
				continue
			}
		case types.TaskDefinitionFamilyStatusInactive:
			if is {
				continue
			}
		}
		families = append(families, family)
	}
	slices.Sort(families)
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 100}, families, itself)
	return &ecs.ListTaskDefinitionFamiliesOutput{Families: orEmpty(page), NextToken: next}, err
}

// deregisterTaskDefinition makes a revision INACTIVE. What runs of it goes on, and services still replace its tasks.
func (s *Server) deregisterTaskDefinition(ctx context.Context, _ *call, in *ecs.DeregisterTaskDefinitionInput) (*ecs.DeregisterTaskDefinitionOutput, error) {
	family, revision, err := s.taskDefinitionRef(aws.ToString(in.TaskDefinition))
	if err != nil {
		return nil, err
	}
	if revision == 0 {
		return nil, errRevisionMissing
	}
	var object types.TaskDefinition
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r := v.TaskDefinition(family, revision)
		if r == nil {
			return errCannotDescribe
		}
		object = r.Object
		if object.Status != types.TaskDefinitionStatusActive {
			return errNothingToDo
		}
		changed := *r
		now := s.cfg.Now().UTC()
		changed.Object.Status, changed.Object.DeregisteredAt = types.TaskDefinitionStatusInactive, &now
		object = changed.Object
		txn.Update(&changed).StateChange()
		return nil
	})
	return &ecs.DeregisterTaskDefinitionOutput{TaskDefinition: &object}, err
}

// deleteTaskDefinitions asks for the deletion of INACTIVE revisions: they are DELETE_IN_PROGRESS until nothing uses them.
func (s *Server) deleteTaskDefinitions(ctx context.Context, _ *call, in *ecs.DeleteTaskDefinitionsInput) (*ecs.DeleteTaskDefinitionsOutput, error) {
	if len(in.TaskDefinitions) == 0 {
		return nil, invalid("TaskDefinition references list cannot be empty")
	}
	if len(in.TaskDefinitions) > maxDefinitionsPerRequest {
		return nil, invalid("Size of TaskDefinition references list cannot exceed %d", maxDefinitionsPerRequest)
	}
	var out *ecs.DeleteTaskDefinitionsOutput
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		out = &ecs.DeleteTaskDefinitionsOutput{TaskDefinitions: []types.TaskDefinition{}, Failures: []types.Failure{}}
		seen, writes := map[string]bool{}, 0
		for _, ref := range in.TaskDefinitions {
			r, reason := s.deletable(v, ref)
			if reason != "" {
				out.Failures = append(out.Failures, types.Failure{Arn: aws.String(ref), Reason: aws.String(reason)})
				continue
			}
			if key := definitionKey(r.Object); seen[key] {
				continue
			} else {
				seen[key] = true
			}
			changed := *r
			if r.Object.Status == types.TaskDefinitionStatusInactive {
				now := s.cfg.Now().UTC()
				changed.Object.Status, changed.Object.DeleteRequestedAt = types.TaskDefinitionStatusDeleteInProgress, &now
				txn.Update(&changed).StateChange()
				writes++
			}
			out.TaskDefinitions = append(out.TaskDefinitions, changed.Object)
		}
		if writes == 0 {
			return errNothingToDo
		}
		return nil
	})
	return out, err
}

// deletable is the revision to delete, or why it can't be.
func (s *Server) deletable(v *store.View, ref string) (*store.TaskDefinition, string) {
	family, revision, err := s.taskDefinitionRef(ref)
	if err != nil || revision == 0 || !namePattern.MatchString(family) {
		return nil, "The specified task definition identifier is invalid. Specify a valid name or ARN and try again."
	}
	r := v.TaskDefinition(family, revision)
	switch {
	case r == nil:
		return nil, "The specified task definition does not exist. Specify a valid account, family, revision and try again."
	case r.Object.Status == types.TaskDefinitionStatusActive:
		return nil, "The specified task definition is still in ACTIVE status. Please deregister the target and try again."
	}
	return r, ""
}
