package api

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/task"
)

var startedByPattern = regexp.MustCompile(`^[a-zA-Z0-9\-_/]{0,128}$`)

// maxOverrides is the longest overrides member, in characters of JSON.
const maxOverrides = 8192

// checkRunTask judges a call of RunTask by itself.
func checkRunTask(c *call, in *ecs.RunTaskInput, st *start) error {
	if in.Count != nil && (*in.Count < 1 || *in.Count > maxCount) {
		return invalid("count should be between 1 and %d, but was %d.", maxCount, *in.Count)
	}
	if err := errors.Join(
		oneOf("launchType", in.LaunchType, in.LaunchType.Values()),
		checkClientToken(in.ClientToken, 64), checkText("referenceId", in.ReferenceId, 1024),
	); err != nil {
		return err
	}
	if in.LaunchType == types.LaunchTypeFargate || in.LaunchType == types.LaunchTypeManagedInstances {
		return unsupported("The launch type %s is not supported by this control plane; EC2 and EXTERNAL are.", in.LaunchType)
	}
	if err := checkConstraints(in.PlacementConstraints); err != nil {
		return err
	}
	if err := checkStrategies(in.PlacementStrategy); err != nil {
		return err
	}
	return checkStart(c, st)
}

// checkStart judges what RunTask and StartTask have in common.
func checkStart(c *call, st *start) error {
	if st.definition == "" {
		return errNoDefinition
	}
	if st.group != nil {
		switch g := *st.group; {
		case !groupPattern.MatchString(g):
			return invalid("group must match %s, but was %.300q.", groupPattern, g)
		case strings.HasPrefix(g, "family:"), strings.HasPrefix(g, "service:"):
			return invalid("group cannot start with family: or service:, but was %.300q.", g)
		}
	}
	if by := aws.ToString(st.startedBy); !startedByPattern.MatchString(by) {
		return invalid("startedBy must have at most 128 letters, digits, hyphens, forward slashes and underscores, but was %.300q.", by)
	}
	switch st.propagate {
	case "", types.PropagateTagsNone, types.PropagateTagsTaskDefinition:
	default:
		return invalid("propagateTags should be one of [TASK_DEFINITION, NONE] for a task without a service, but was %.200s.", string(st.propagate))
	}
	if overrides, ok := c.members["overrides"]; ok {
		if b, _ := json.Marshal(overrides); utf8.RuneCount(b) > maxOverrides {
			return invalid("overrides has %d characters as JSON; at most %d are allowed.", utf8.RuneCount(b), maxOverrides)
		}
	}
	return checkTags(st.tags)
}

// checkStrategies judges placement strategies.
func checkStrategies(strategies []types.PlacementStrategy) error {
	if err := atMost("placementStrategy", strategies, 5); err != nil {
		return err
	}
	for i, x := range strategies {
		field := aws.ToString(x.Field)
		attribute := strings.HasPrefix(field, "attribute:") && attributePattern.MatchString(strings.TrimPrefix(field, "attribute:"))
		var ok bool
		switch x.Type {
		case types.PlacementStrategyTypeRandom:
			ok = field == ""
		case types.PlacementStrategyTypeSpread:
			ok = attribute || field == "instanceId" || field == "host"
		case types.PlacementStrategyTypeBinpack:
			ok = strings.EqualFold(field, "cpu") || strings.EqualFold(field, "memory")
		default:
			return invalid("placementStrategy[%d]: the type should be one of [random, spread, binpack], but was %.200q.", i, string(x.Type))
		}
		if !ok {
			return invalid("placementStrategy[%d]: %.200q is not a field for the type %s: spread takes instanceId, host or attribute:<name>, binpack takes cpu or memory, random takes none.", i, field, x.Type)
		}
	}
	return nil
}

// checkOverrides holds overrides against the definition they change.
func checkOverrides(def *types.TaskDefinition, o *types.TaskOverride) error {
	if o == nil {
		return nil
	}
	if o.Cpu != nil {
		if _, err := task.ParseCPU(*o.Cpu); err != nil {
			return invalid("Invalid setting for overrides.cpu: %v", err)
		}
	}
	if o.Memory != nil {
		if _, err := task.ParseMemory(*o.Memory); err != nil {
			return invalid("Invalid setting for overrides.memory: %v", err)
		}
	}
	seen := map[string]bool{}
	for i := range o.ContainerOverrides {
		name := aws.ToString(o.ContainerOverrides[i].Name)
		if name == "" {
			return invalid("Container override name cannot be empty.")
		}
		var container *types.ContainerDefinition
		for j := range def.ContainerDefinitions {
			if aws.ToString(def.ContainerDefinitions[j].Name) == name {
				container = &def.ContainerDefinitions[j]
			}
		}
		if container == nil {
			return invalid("Override for container named %s is not a container in the TaskDefinition.", name)
		}
		if seen[name] {
			return invalid("The container named %s is overridden twice.", name)
		}
		seen[name] = true
		if err := checkContainerOverride(container, &o.ContainerOverrides[i]); err != nil {
			return err
		}
	}
	return nil
}

// minMemory is the least memory of a container in MiB.
const minMemory = 6

func checkContainerOverride(c *types.ContainerDefinition, o *types.ContainerOverride) error {
	name := aws.ToString(o.Name)
	if o.Cpu != nil && *o.Cpu < 0 {
		return invalid("Invalid 'cpu' setting in the override of container '%s': %d is less than 0.", name, *o.Cpu)
	}
	memory, reservation := o.Memory, o.MemoryReservation
	for member, v := range map[string]*int32{"memory": memory, "memoryReservation": reservation} {
		if v != nil && *v < minMemory {
			return invalid("Invalid '%s' setting in the override of container '%s': %d MiB is less than %d MiB.", member, name, *v, minMemory)
		}
	}
	if memory == nil {
		memory = c.Memory
	}
	if reservation == nil {
		reservation = c.MemoryReservation
	}
	if memory != nil && reservation != nil && *memory < *reservation {
		return invalid("Invalid 'memory' setting in the override of container '%s': %d MiB is less than its memoryReservation of %d MiB.", name, *memory, *reservation)
	}
	for _, e := range o.Environment {
		if aws.ToString(e.Name) == "" {
			return invalid("The override of container '%s' has an environment variable without a name.", name)
		}
	}
	return nil
}
