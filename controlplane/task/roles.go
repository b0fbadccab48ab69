package task

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Roles are the task role and the execution role that a task asks for, by its overrides or else its definition; empty for none.
func Roles(def *types.TaskDefinition, t *store.Task) (role, execution string) {
	role, execution = aws.ToString(def.TaskRoleArn), aws.ToString(def.ExecutionRoleArn)
	if o := t.Object.Overrides; o != nil {
		if o.TaskRoleArn != nil {
			role = *o.TaskRoleArn
		}
		if o.ExecutionRoleArn != nil {
			execution = *o.ExecutionRoleArn
		}
	}
	return role, execution
}

// RoleArn is the ARN of a role, which may be named without one when it is of the own account.
func RoleArn(role, account string) string {
	if strings.HasPrefix(role, "arn:") {
		return role
	}
	return "arn:aws:iam::" + account + ":role/" + role
}
