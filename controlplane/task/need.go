package task

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Need is what a task of the definition reserves on its instance, from placement until it is STOPPED:
//
//	cpu, memory   the task's own size when it is given (the override's, else the definition's), else the sum over its
//	              containers; a container counts with its memoryReservation, else with its memory
//	interfaces    network mode awsvpc: one; else none
//	ports         network mode host: every containerPort; bridge: every hostPort that is not dynamic; else none
//
// o may be nil. A size that cannot be parsed, which registration refuses, counts as not given.
func Need(def *types.TaskDefinition, o *types.TaskOverride) store.Resources {
	var n store.Resources
	for i := range def.ContainerDefinitions {
		c := &def.ContainerDefinitions[i]
		size := sizeOf(c, overrideOf(o, aws.ToString(c.Name)))
		n.CPU += size.cpu
		if size.reservation != nil {
			n.Memory += *size.reservation
		} else if size.memory != nil {
			n.Memory += *size.memory
		}
		addPorts(&n, def.NetworkMode, c.PortMappings)
	}
	n.PortsTCP, n.PortsUDP = sorted(n.PortsTCP), sorted(n.PortsUDP)
	if def.NetworkMode == types.NetworkModeAwsvpc {
		n.Interfaces = 1
	}
	cpu, memory := def.Cpu, def.Memory
	if o != nil {
		cpu, memory = first(o.Cpu, cpu), first(o.Memory, memory)
	}
	if v, err := ParseCPU(aws.ToString(cpu)); err == nil {
		n.CPU = v
	}
	if v, err := ParseMemory(aws.ToString(memory)); err == nil {
		n.Memory = v
	}
	return n
}

// ParseCPU reads a task size in CPU units ("256") or vCPUs (".25 vCPU") and returns CPU units.
func ParseCPU(s string) (int64, error) {
	return parseSize(s, "vcpu", 1024, "CPU units such as 256, or vCPUs such as .25 vCPU")
}

// ParseMemory reads a task size in MiB ("512") or GiB ("1GB", ".5 GB") and returns MiB.
func ParseMemory(s string) (int64, error) {
	return parseSize(s, "gb", 1024, "MiB such as 512, or GiB such as 1GB")
}

// parseSize reads a whole number, or a decimal one followed by unit, which multiplies it.
func parseSize(s, unit string, factor float64, want string) (int64, error) {
	text := strings.ToLower(strings.TrimSpace(s))
	if number, ok := strings.CutSuffix(text, unit); ok {
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if v *= factor; err != nil || !(v > 0 && v <= math.MaxInt32) {
			return 0, fmt.Errorf("%q is not a size: want %s", s, want)
		}
		return int64(math.Round(v)), nil
	}
	v, err := strconv.ParseInt(text, 10, 32)
	if err != nil || v <= 0 {
		return 0, fmt.Errorf("%q is not a size: want %s", s, want)
	}
	return v, nil
}

// size is what one container of a task is given, in CPU units and MiB.
type size struct {
	cpu                 int64
	memory, reservation *int64
}

func sizeOf(c *types.ContainerDefinition, o *types.ContainerOverride) size {
	s := size{cpu: int64(c.Cpu), memory: wide(c.Memory), reservation: wide(c.MemoryReservation)}
	if o != nil {
		if o.Cpu != nil {
			s.cpu = int64(*o.Cpu)
		}
		s.memory = first(wide(o.Memory), s.memory)
		s.reservation = first(wide(o.MemoryReservation), s.reservation)
	}
	return s
}

// overrideOf is the override of one container, nil when there is none.
func overrideOf(o *types.TaskOverride, container string) *types.ContainerOverride {
	if o == nil {
		return nil
	}
	for i := range o.ContainerOverrides {
		if aws.ToString(o.ContainerOverrides[i].Name) == container {
			return &o.ContainerOverrides[i]
		}
	}
	return nil
}

func addPorts(n *store.Resources, mode types.NetworkMode, mappings []types.PortMapping) {
	for _, m := range mappings {
		var port int32
		switch mode {
		case types.NetworkModeHost:
			if port = aws.ToInt32(m.ContainerPort); port == 0 {
				port = aws.ToInt32(m.HostPort)
			}
		case types.NetworkModeBridge, "":
			port = aws.ToInt32(m.HostPort)
		}
		switch {
		case port == 0:
		case m.Protocol == types.TransportProtocolUdp:
			n.PortsUDP = append(n.PortsUDP, port)
		default:
			n.PortsTCP = append(n.PortsTCP, port)
		}
	}
}

func sorted(ports []int32) []int32 {
	slices.Sort(ports)
	return slices.Compact(ports)
}

// first is the first pointer that is set.
func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func wide(v *int32) *int64 {
	if v == nil {
		return nil
	}
	w := int64(*v)
	return &w
}
