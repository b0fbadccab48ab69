package agentapi

// DepartureHeader is a header of UpdateContainerInstancesState, with any value: the host that makes itself DRAINING goes down. Its agent
// stops the daemons itself, the last of all tasks, and starts them again when the host is back. Without it the control plane stops them, as
// on a host that an operator drains or that leaves for good. Amazon ECS ignores it.
const DepartureHeader = "X-Longshore-Departure"
