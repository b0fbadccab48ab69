package placement

import (
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// GPUs are the GPUs of the host that a task of the definition gets, out of those that are free and not in taken; fewer
// than it asks for when there are no more.
func (h *Host) GPUs(def *types.TaskDefinition, taken []string) (ids []string) {
	n := gpuCount(def)
	for _, id := range h.Free.GPUs {
		if len(ids) == n {
			break
		}
		if !slices.Contains(taken, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
