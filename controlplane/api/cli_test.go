package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/controlplane/store"
)

// The unmodified command line walks through clusters, definitions, instances, attributes, tags and settings, signing for
// a region of its own.
func TestTheCommandLineWalksThroughEveryOtherResource(t *testing.T) {
	for _, program := range commandLines(t) {
		t.Run(program, func(t *testing.T) { walkResources(t, program) })
	}
}

func walkResources(t *testing.T, program string) {
	p := newPlane(t)
	id := p.register(p.host, 1024, 1000)
	key, home := p.keys[store.RoleAdmin], t.TempDir()
	file := filepath.Join(home, "logging-agent.json")
	p.must(os.WriteFile(file, []byte(loggingAgent), 0o600))
	run := func(want, line string, more ...string) {
		t.Helper()
		args := append(strings.Fields(line), more...)
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--endpoint-url", p.url, "--region", "ap-south-1", "--output", "text", "ecs"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "AWS_ACCESS_KEY_ID="+key.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+key.Secret,
			"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		out := strings.Join(strings.Fields(stdout.String()+stderr.String()), " ")
		if refused := strings.HasPrefix(want, "!"); refused == (err == nil) || refused && !strings.Contains(out, want[1:]) || !refused && out != want {
			t.Errorf("aws ecs %s: %v\ngot  %s\nwant %s", strings.Join(args, " "), err, out, want)
		}
	}
	const prefix = "arn:aws:ecs:us-west-2:123456789012:"
	run("ACTIVE", "create-cluster --query cluster.status")
	run(prefix+"cluster/daemonset "+prefix+"cluster/default", "list-clusters --query clusterArns --page-size 1")
	run("1 0", "describe-clusters --clusters daemonset --include TAGS SETTINGS STATISTICS --query clusters[0].[registeredContainerInstancesCount,runningTasksCount]")
	run("enabled", "update-cluster-settings --cluster daemonset --settings name=containerInsights,value=enabled --query cluster.settings[0].value")
	run("logging-agent 1 ACTIVE", "register-task-definition --query taskDefinition.[family,revision,status] --cli-input-json", "file://"+file)
	run("host", "describe-task-definition --task-definition logging-agent --query taskDefinition.networkMode")
	run(prefix+"task-definition/logging-agent:1", "list-task-definitions --query taskDefinitionArns")
	run("logging-agent", "list-task-definition-families --query families")
	run("INACTIVE", "deregister-task-definition --task-definition logging-agent:1 --query taskDefinition.status")
	run(prefix+"container-instance/daemonset/"+id, "list-container-instances --cluster daemonset --query containerInstanceArns")
	run("prod", "put-attributes --cluster daemonset --query attributes[0].value --attributes", "name=env,value=prod,targetType=container-instance,targetId="+id)
	run(prefix+"container-instance/daemonset/"+id, "list-container-instances --cluster daemonset --query containerInstanceArns --filter attribute:env==prod")
	run("prod", "list-attributes --cluster daemonset --target-type container-instance --attribute-name env --query attributes[0].value")
	run("ACTIVE True 1024", "describe-container-instances --cluster daemonset --query containerInstances[0].[status,agentConnected,remainingResources[0].integerValue] --container-instances "+id)
	run("env", "delete-attributes --cluster daemonset --query attributes[0].name --attributes name=env,targetId="+id)
	run("DRAINING", "update-container-instances-state --cluster daemonset --status DRAINING --query containerInstances[0].status --container-instances "+id)
	run("", "tag-resource --tags key=a,value=b --resource-arn "+prefix+"cluster/daemonset")
	run("a b", "list-tags-for-resource --query tags[0].[key,value] --resource-arn "+prefix+"cluster/daemonset")
	run("", "untag-resource --tag-keys a --resource-arn "+prefix+"cluster/daemonset")
	run("enabled", "put-account-setting --name containerInsights --value enabled --query setting.value")
	run("enabled", "list-account-settings --name containerInsights --effective-settings --query settings[0].value")
	run("disabled", "delete-account-setting --name containerInsights --query setting.value")
	run("!NoUpdateAvailableException", "update-container-agent --cluster daemonset --container-instance "+id)
	run("!ClusterContainsContainerInstancesException", "delete-cluster --cluster daemonset")
	run("INACTIVE", "deregister-container-instance --cluster daemonset --query containerInstance.status --container-instance "+id)
	run("INACTIVE", "delete-cluster --cluster daemonset --query cluster.status")
	run("!UnsupportedFeatureException) when calling the CreateCapacityProvider operation", "create-capacity-provider --name x --auto-scaling-group-provider autoScalingGroupArn=arn")
	run("!Cluster not found.", "list-container-instances --cluster none")
}
