package api

import (
	"github.com/longshore-project/longshore/controlplane/store"
)

func (s *Server) taskDefinitionOperations() operations                { return nil }
func latestActive(v *store.View, family string) *store.TaskDefinition { return nil }
