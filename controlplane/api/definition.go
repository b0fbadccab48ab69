package api

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

const (
	maxContainers           = 10
	maxPlacementConstraints = 10
	maxExpression           = 2000
	minTaskCPU, maxTaskCPU  = 128, 196608 // CPU units
)

// newDefinition holds what a client registers to ECS's rules and completes it with ECS's defaults. It does not modify in.
func newDefinition(in *ecs.RegisterTaskDefinitionInput) (*types.TaskDefinition, error) {
	d := &types.TaskDefinition{
		Family: in.Family, TaskRoleArn: in.TaskRoleArn, ExecutionRoleArn: in.ExecutionRoleArn, NetworkMode: in.NetworkMode,
		Volumes: completeVolumes(in.Volumes), PlacementConstraints: orEmpty(in.PlacementConstraints),
		RequiresCompatibilities: in.RequiresCompatibilities, PidMode: in.PidMode, IpcMode: in.IpcMode, RuntimePlatform: in.RuntimePlatform,
		EnableFaultInjection: in.EnableFaultInjection, InferenceAccelerators: in.InferenceAccelerators,
		ContainerDefinitions: slices.Clone(in.ContainerDefinitions),
	}
	if d.NetworkMode == "" {
		d.NetworkMode = types.NetworkModeBridge
	}
	for _, check := range []func(*types.TaskDefinition) error{
		checkFamily, checkModes, checkCompatibilities, checkVolumes, checkDefinitionConstraints,
		func(d *types.TaskDefinition) error { return normalizeSize(d, in.Cpu, in.Memory) },
		checkContainers, checkHostPorts, checkFirelens, checkDependencies, checkMemory, checkSupportedModes,
	} {
		if err := check(d); err != nil {
			return nil, err
		}
	}
	for i := range d.ContainerDefinitions {
		completeContainer(d, &d.ContainerDefinitions[i])
	}
	d.RequiresAttributes = requiredAttributes(d)
	d.Compatibilities = compatibilities(d)
	return d, checkDefinitionSize(d)
}

func checkDefinitionSize(d *types.TaskDefinition) error {
	text, err := awsjson.MarshalRequest(d)
	if err == nil && len(text) > maxDefinitionSize {
		return clientError("Actual length: '%d'. Max allowed length is '%d' bytes.", len(text), maxDefinitionSize)
	}
	return err
}

func checkFamily(d *types.TaskDefinition) error {
	switch family := aws.ToString(d.Family); {
	case family == "":
		return errFamilyMissing
	case !namePattern.MatchString(family):
		return clientError("Family contains invalid characters: it must be 1 to 255 letters, digits, - and _, but was %.300q.", family)
	}
	return nil
}

// enumeration is oneOf with the exception of RegisterTaskDefinition.
func enumeration[E ~string](member string, value E, known []E) error {
	var e *Error
	if errors.As(oneOf(member, value, known), &e) {
		return clientError("%s", e.Message)
	}
	return nil
}

func checkModes(d *types.TaskDefinition) error {
	return errors.Join(
		enumeration("networkMode", d.NetworkMode, d.NetworkMode.Values()),
		enumeration("pidMode", d.PidMode, d.PidMode.Values()),
		enumeration("ipcMode", d.IpcMode, d.IpcMode.Values()),
		checkPlatform(d.RuntimePlatform),
	)
}

func checkPlatform(p *types.RuntimePlatform) error {
	if p == nil {
		return nil
	}
	return enumeration("runtimePlatform.cpuArchitecture", p.CpuArchitecture, p.CpuArchitecture.Values())
}

// checkSupportedModes refuses what runs on other hosts than container instances. It comes after the rules that hold there too.
func checkSupportedModes(d *types.TaskDefinition) error {
	switch {
	case slices.Contains(d.RequiresCompatibilities, types.CompatibilityManagedInstances):
		return unsupported("requiresCompatibilities MANAGED_INSTANCES is not supported by this control plane; use EC2 or EXTERNAL.")
	case slices.Contains(d.RequiresCompatibilities, types.CompatibilityFargate):
		return unsupported("requiresCompatibilities FARGATE is not supported by this control plane; use EC2 or EXTERNAL.")
	}
	return nil
}

func checkCompatibilities(d *types.TaskDefinition) error {
	for _, c := range d.RequiresCompatibilities {
		if err := enumeration("requiresCompatibilities", c, c.Values()); err != nil {
			return err
		}
	}
	if slices.Contains(d.RequiresCompatibilities, types.CompatibilityFargate) {
		switch {
		case d.NetworkMode != types.NetworkModeAwsvpc:
			return clientError("Fargate only supports network mode 'awsvpc'.")
		case d.PidMode == types.PidModeHost:
			return clientError("Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'.")
		}
	}
	if slices.Contains(d.RequiresCompatibilities, types.CompatibilityExternal) && d.NetworkMode == types.NetworkModeAwsvpc {
		return clientError("Tasks using the External launch type do not support network mode 'awsvpc'.")
	}
	return nil
}

// compatibilities are the launch types that a definition works with.
func compatibilities(*types.TaskDefinition) []types.Compatibility {
	return []types.Compatibility{types.CompatibilityEc2, types.CompatibilityExternal} // nothing that EXTERNAL forbids is accepted
}

func checkDefinitionConstraints(d *types.TaskDefinition) error {
	if len(d.PlacementConstraints) > maxPlacementConstraints {
		return clientError("Too many placement constraints: %d; at most %d are allowed.", len(d.PlacementConstraints), maxPlacementConstraints)
	}
	for _, c := range d.PlacementConstraints {
		if c.Type != types.TaskDefinitionPlacementConstraintTypeMemberOf {
			return clientError("constraint.type '%.100s' is not supported.", string(c.Type))
		}
		expression := aws.ToString(c.Expression)
		if len(expression) > maxExpression {
			return invalid("Invalid expression: it has %d characters; at most %d are allowed.", len(expression), maxExpression)
		}
		if _, err := query.Parse(expression); err != nil {
			return invalid("Invalid expression: %v", err)
		}
	}
	return nil
}

// normalizeSize stores the task's size in CPU units and MiB, whatever the unit it was given in.
func normalizeSize(d *types.TaskDefinition, cpu, memory *string) error {
	if cpu != nil {
		n, err := task.ParseCPU(*cpu)
		if err != nil || n < minTaskCPU || n > maxTaskCPU {
			return clientError("Invalid 'cpu' setting for task. It must be %d to %d CPU units, or that in vCPUs (.125 vCPU), but was %.100q.", minTaskCPU, maxTaskCPU, *cpu)
		}
		d.Cpu = aws.String(strconv.FormatInt(n, 10))
	}
	if memory != nil {
		n, err := task.ParseMemory(*memory)
		if err != nil {
			return clientError("Invalid 'memory' setting for task. It must be MiB (512) or GiB (1GB), but was %.100q.", *memory)
		}
		d.Memory = aws.String(strconv.FormatInt(n, 10))
	}
	return nil
}

func checkContainers(d *types.TaskDefinition) error {
	switch n := len(d.ContainerDefinitions); {
	case n == 0:
		return errNoContainers
	case n > maxContainers:
		return clientError("Too many containers. A task definition has at most %d, this one %d.", maxContainers, n)
	}
	seen, essential := map[string]bool{}, false
	for i := range d.ContainerDefinitions {
		c := &d.ContainerDefinitions[i]
		if err := checkContainer(d, c); err != nil {
			return err
		}
		if seen[*c.Name] {
			return clientError("Duplicate container name '%s'.", *c.Name)
		}
		seen[*c.Name] = true
		essential = essential || isEssential(c)
	}
	if !essential {
		return clientError("A task definition must contain at least one essential container.")
	}
	return nil
}

func isEssential(c *types.ContainerDefinition) bool { return c.Essential == nil || *c.Essential }

// checkHostPorts refuses two mappings of the task that want the same port of the host.
func checkHostPorts(d *types.TaskDefinition) error {
	type port struct {
		number   int32
		protocol types.TransportProtocol
	}
	taken := map[port]string{}
	for i := range d.ContainerDefinitions {
		c := &d.ContainerDefinitions[i]
		for _, m := range c.PortMappings {
			p := port{aws.ToInt32(m.HostPort), m.Protocol}
			if d.NetworkMode != types.NetworkModeBridge {
				p.number = aws.ToInt32(m.ContainerPort)
			}
			if p.protocol == "" {
				p.protocol = types.TransportProtocolTcp
			}
			if p.number == 0 {
				continue
			}
			if other, ok := taken[p]; ok {
				return clientError("Containers '%s' and '%s' both use the host port %d/%s.", other, *c.Name, p.number, p.protocol)
			}
			taken[p] = *c.Name
		}
	}
	return nil
}

// checkMemory holds the containers to the task's size, and asks for a limit where the task has none.
func checkMemory(d *types.TaskDefinition) error {
	taskMemory, _ := strconv.ParseInt(aws.ToString(d.Memory), 10, 64)
	taskCPU, _ := strconv.ParseInt(aws.ToString(d.Cpu), 10, 64)
	var reserved, cpu int64
	for i := range d.ContainerDefinitions {
		c := &d.ContainerDefinitions[i]
		limit, soft := int64(aws.ToInt32(c.Memory)), int64(aws.ToInt32(c.MemoryReservation))
		switch {
		case c.Memory == nil && c.MemoryReservation == nil && d.Memory == nil:
			return clientError("Invalid setting for container '%s'. At least one of 'memory' or 'memoryReservation' must be specified.", *c.Name)
		case taskMemory > 0 && limit > taskMemory:
			return clientError("Invalid setting for container '%s'. Its 'memory' of %d MiB is more than the task's %d MiB.", *c.Name, limit, taskMemory)
		}
		if c.MemoryReservation == nil {
			soft = limit
		}
		reserved += soft
		cpu += int64(c.Cpu)
	}
	switch {
	case taskMemory > 0 && reserved > taskMemory:
		return clientError("Invalid 'memory' setting for task. The containers reserve %d MiB, more than the task's %d MiB.", reserved, taskMemory)
	case taskCPU > 0 && cpu > taskCPU:
		return clientError("Invalid 'cpu' setting for task. The containers reserve %d CPU units, more than the task's %d.", cpu, taskCPU)
	}
	return nil
}

// checkDependencies holds dependsOn, links and volumesFrom to containers of the task, without a cycle.
func checkDependencies(d *types.TaskDefinition) error {
	byName, edges := map[string]*types.ContainerDefinition{}, map[string][]string{}
	for i := range d.ContainerDefinitions {
		byName[*d.ContainerDefinitions[i].Name] = &d.ContainerDefinitions[i]
	}
	for name, c := range byName {
		for _, dep := range c.DependsOn {
			if err := checkDependency(c, byName[aws.ToString(dep.ContainerName)], dep); err != nil {
				return err
			}
			edges[name] = append(edges[name], *dep.ContainerName)
		}
		for _, link := range c.Links {
			to, _, _ := strings.Cut(link, ":")
			if byName[to] == nil {
				return clientError("The link '%.300s' of container '%s' names no container of the task.", link, name)
			}
			edges[name] = append(edges[name], to)
		}
		for _, from := range c.VolumesFrom {
			to := aws.ToString(from.SourceContainer)
			if byName[to] == nil {
				return clientError("The volumesFrom '%.300s' of container '%s' names no container of the task.", to, name)
			}
			edges[name] = append(edges[name], to)
		}
	}
	if router := logRouter(d); router != nil { // it starts before those that log through it
		for name, c := range byName {
			if routed(c) {
				edges[name] = append(edges[name], *router.Name)
			}
		}
	}
	if cycle := findCycle(edges); cycle != nil {
		return clientError("The containers depend on each other in a circle: %s.", strings.Join(cycle, " -> "))
	}
	return nil
}

func checkDependency(c, on *types.ContainerDefinition, dep types.ContainerDependency) error {
	if on == nil {
		return clientError("The dependsOn of container '%s' names the container '%.300s', which the task does not have.", *c.Name, aws.ToString(dep.ContainerName))
	}
	if dep.Condition == "" {
		return clientError("The dependsOn of container '%s' has no condition.", *c.Name)
	}
	if err := enumeration("dependsOn.condition", dep.Condition, dep.Condition.Values()); err != nil {
		return err
	}
	switch dep.Condition {
	case types.ContainerConditionComplete, types.ContainerConditionSuccess:
		if isEssential(on) {
			return clientError("Container '%s' depends on container '%s' with the condition %s; that is not possible with an essential container.", *c.Name, *on.Name, dep.Condition)
		}
	case types.ContainerConditionHealthy:
		if on.HealthCheck == nil {
			return clientError("Container '%s' depends on container '%s' with the condition HEALTHY, but that has no healthCheck.", *c.Name, *on.Name)
		}
	}
	return nil
}

// findCycle is a path that comes back to where it began, nil when there is none.
func findCycle(edges map[string][]string) []string {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string, trail []string) []string
	visit = func(name string, trail []string) []string {
		trail = append(trail, name)
		switch state[name] {
		case done:
			return nil
		case visiting:
			return trail[slices.Index(trail, name):]
		}
		state[name] = visiting
		for _, to := range edges[name] {
			if cycle := visit(to, trail); cycle != nil {
				return cycle
			}
		}
		state[name] = done
		return nil
	}
	for name := range edges {
		if cycle := visit(name, nil); cycle != nil {
			return cycle
		}
	}
	return nil
}
