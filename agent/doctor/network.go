package doctor

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/config"
)

// taskNetworks looks at what the interfaces hang on that the agent makes for tasks in the network mode awsvpc.
func (e *examination) taskNetworks() {
	const name = "task networks"
	n := e.Config.TaskNetwork.On(config.DefaultRoute(e.read("proc/net/route")))
	if !e.Config.TaskENI {
		e.add(OK, name, "", "the awsvpc network mode is switched off: ECS_ENABLE_TASK_ENI is false")
		return
	}
	parent, what := n.Macvlan, "the macvlan parent"
	if parent == "" {
		parent, what = n.Uplink, "the uplink"
	}
	if parent == "" {
		e.add(OK, name, "", "on the bridge %s, whose way to other hosts is not the agent's affair: ECS_TASK_NETWORK names no uplink", n.Bridge)
		return
	}
	flags, err := strconv.ParseUint(strings.TrimSpace(e.read("sys/class/net/"+parent+"/flags")), 0, 32)
	switch {
	case err != nil:
		e.add(Fail, name, "Name an interface that the host has in ECS_TASK_NETWORK; ip link lists them.", "ParentMissing: %s %s is not on this host, and tasks in the awsvpc network mode wait for it", what, parent)
	case flags&unix.IFF_UP == 0:
		e.add(Fail, name, "ip link set "+parent+" up", "ParentDown: %s %s is down, and tasks in the awsvpc network mode wait for it", what, parent)
	case n.Bridge != "":
		e.add(OK, name, "", "on the bridge %s with the uplink %s, which is up", n.Bridge, parent)
	default:
		e.add(OK, name, "", "macvlan on %s, which is up", parent)
	}
}
