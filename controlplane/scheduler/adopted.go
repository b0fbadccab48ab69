package scheduler

import "github.com/longshore-project/longshore/controlplane/task"

// takeAdopted makes tasks that were adopted (package task) those of the service's current deployment, whichever revision of
// the task definition they run, and tells whether there were any: then nothing else is decided in this look. The service takes
// them as they are, and replaces them with its next deployment.
func (p *pass) takeAdopted() bool {
	for _, t := range p.tasks {
		if !t.AdoptedAt.IsZero() && t.Deployment == "" && !task.IsStopped(t) {
			p.plan.moves = append(p.plan.moves, task.OfDeployment(t, p.primary.id))
		}
	}
	return len(p.plan.moves) > 0
}
