package api

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
)

// named are the members whose values name what a call is about. No other member's value is written into the audit log.
var named = []string{
	"cluster", "clusters", "clusterName", "service", "services", "serviceName", "serviceDeploymentArn", "task", "tasks", "taskArn", "taskDefinition", "taskDefinitions",
	"family", "containerInstance", "containerInstances", "resourceArn", "name", "principalArn", "capacityProvider", "containerName", "status",
}

// record writes the call into the audit log: what changed something or tried to, and whoever was not let in. Reads that
// were answered are not in it.
func (s *Server) record(c *call, outcome string) {
	reads := changesNothing(c.op)
	if s.cfg.Audit == nil || reads && c.identity != nil && outcome != auth.CodeAccessDenied {
		return
	}
	e := audit.Entry{Address: c.request.RemoteAddr, Operation: c.op, Resource: slices.Concat(c.names(), c.made), Outcome: outcome, RequestID: c.requestID}
	book := audit.Hosts
	switch {
	case c.identity == nil:
		e.Claimed = auth.ClaimedKey(c.request)
	default:
		e.Key = c.identity.AccessKeyID
		if c.identity.Role != store.RoleHost && c.identity.Role != store.RoleTask {
			book = audit.Operators
		}
	}
	s.cfg.Audit.Record(book, e)
}

// changesNothing tells whether an operation only reads.
func changesNothing(op string) bool {
	for _, begin := range []string{"Describe", "List", "Get", "Discover"} {
		if strings.HasPrefix(op, begin) {
			return true
		}
	}
	return op == explainOperation || op == sizingOperation || op == hostOperation
}

// names are what the request names, as member=value.
func (c *call) names() (out []string) {
	for _, member := range named {
		switch v := c.members[member].(type) {
		case string:
			out = append(out, member+"="+v)
		case []any:
			for _, e := range v {
				if text, ok := e.(string); ok {
					out = append(out, member+"="+text)
				}
			}
		}
	}
	return out
}

// madeBy are the ARNs of what an answer tells was made.
func madeBy(out any) (made []string) {
	say := func(member string, arn *string) { made = append(made, member+"="+aws.ToString(arn)) }
	switch o := out.(type) {
	case *ecs.RunTaskOutput:
		for _, t := range o.Tasks {
			say("made", t.TaskArn)
		}
	case *ecs.StartTaskOutput:
		for _, t := range o.Tasks {
			say("made", t.TaskArn)
		}
	case *ecs.RegisterTaskDefinitionOutput:
		if o.TaskDefinition != nil {
			say("made", o.TaskDefinition.TaskDefinitionArn)
		}
	case *ecs.RegisterContainerInstanceOutput:
		if o.ContainerInstance != nil {
			say("made", o.ContainerInstance.ContainerInstanceArn)
		}
	}
	return made
}
