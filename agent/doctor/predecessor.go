package doctor

import (
	"errors"
	"path/filepath"

	"github.com/longshore-project/longshore/agent/dropin"
)

// predecessor looks whether an amazon-ecs-agent is here, or was.
func (e *examination) predecessor() {
	const name = "amazon-ecs-agent"
	other, err := dropin.Open(e.Config.DataDir, filepath.Join(e.Root, "proc"))
	if errors.Is(err, dropin.ErrRunning) {
		e.add(Fail, name, "Only one of the two can run: systemctl disable --now ecs, or docker stop ecs-agent. Its containers run on.", "%v", err)
		return
	}
	if err != nil {
		e.add(Warn, name, "See whether the file can be read; with ECS_PREDECESSOR=leave it is left alone.", "%v", err)
		return
	}
	if other == nil {
		return
	}
	defer func() { _ = other.Close() }()
	left, err := other.Read()
	switch {
	case err != nil:
		e.add(Warn, name, "With ECS_PREDECESSOR=leave it is left alone; without, an agent that is not registered yet does not start.", "%v", err)
	case left == nil:
	case e.Config.Predecessor == "leave":
		e.add(OK, name, "", "version %s ran here as %s; its %d tasks are left alone", left.AgentVersion, left.InstanceArn, len(left.Tasks))
	default:
		e.add(OK, name, "", "version %s ran here as %s; its %d tasks are taken over, and it can come back (ECS_PREDECESSOR)", left.AgentVersion, left.InstanceArn, len(left.Tasks))
	}
}
