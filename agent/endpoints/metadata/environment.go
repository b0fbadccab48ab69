package metadata

import (
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Base is where containers ask.
const Base = "http://169.254.170.2"

// Environment tells containers where their metadata and the agent's API are: ECS_CONTAINER_METADATA_URI (version 3),
// ECS_CONTAINER_METADATA_URI_V4 and ECS_AGENT_URI. What a definition says under these names does not count. id is that of a
// task's container.
func Environment(id func(taskArn, container string) string) engine.Prepare {
	return func(t *acs.Task, container string, s *engine.Spec) error {
		own := id(t.Arn, container)
		s.AddEnv("ECS_CONTAINER_METADATA_URI="+Base+"/v3/"+own, "ECS_CONTAINER_METADATA_URI_V4="+Base+"/v4/"+own, "ECS_AGENT_URI="+Base+"/api/"+own)
		return nil
	}
}
