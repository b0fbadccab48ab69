package api

import (
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// maxGPUs is how many GPUs a container may ask for; no host has that many.
const maxGPUs = 1024

// checkResources looks at what of the host's devices a container asks for.
func checkResources(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	seen := false
	for _, r := range c.ResourceRequirements {
		if err := enumeration("resourceRequirements.type", r.Type, r.Type.Values()); err != nil {
			return err
		}
		value := aws.ToString(r.Value)
		n, err := strconv.Atoi(value)
		switch {
		case r.Type != types.ResourceTypeGpu:
			return unsupported("The resourceRequirements type %s of container '%s' is not supported by this control plane; GPU is.", r.Type, *c.Name)
		case seen:
			return setting("resourceRequirements", c, "The type GPU is there twice.")
		case err != nil || n < 1 || n > maxGPUs:
			return setting("resourceRequirements", c, "The value of type GPU must be a number of GPUs, 1 to %d, but was %.100q.", maxGPUs, value)
		}
		seen = true
	}
	return nil
}
