package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
)

// commandLines are the aws programs on PATH, each once.
func commandLines(t *testing.T) (found []string) {
	t.Helper()
	seen := map[string]bool{}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, "aws"))
		if info, e := os.Stat(real); err == nil && e == nil && info.Mode()&0o111 != 0 && !seen[real] {
			seen[real] = true
			found = append(found, filepath.Join(dir, "aws"))
		}
	}
	if len(found) == 0 {
		t.Fatal("there is no aws program on PATH; install one with: apt-get install -y awscli")
	}
	return found
}

// The unmodified command line goes from a cluster to a service and its tasks, and back.
func TestTheCommandLineWalksThroughServicesAndTasks(t *testing.T) {
	for _, program := range commandLines(t) {
		t.Run(program, func(t *testing.T) { walk(t, program) })
	}
}

func walk(t *testing.T, program string) {
	p := newPlane(t)
	instance := p.register(p.host, 1024, 1000)
	p.define("datadog-agent-task", 10, 10)
	key := p.keys[store.RoleAdmin]
	home := t.TempDir()
	exec1 := func(args ...string) (string, error) {
		t.Helper()
		cmd := exec.CommandContext(p.ctx, program, append([]string{"--endpoint-url", p.url, "--region", "eu-central-1", "--output", "text", "ecs"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "AWS_ACCESS_KEY_ID="+key.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+key.Secret,
			"AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return strings.TrimSpace(stdout.String() + stderr.String()), err
	}
	run := func(want string, args ...string) string {
		t.Helper()
		out, err := exec1(args...)
		if err != nil || want != "*" && out != want {
			t.Fatalf("aws ecs %s: %v\n%s\nwant %s", strings.Join(args, " "), err, out, want)
		}
		return out
	}
	in := []string{"--cluster", testCluster}
	command := func(args ...string) []string { return append(slices.Clone(args), in...) }

	version, _ := exec.CommandContext(p.ctx, program, "--version").CombinedOutput()
	t.Logf("%s is %s", program, bytes.TrimSpace(version))
	run("ACTIVE\t1", command("create-service", "--service-name", "datadog-agent", "--launch-type", "EC2", "--scheduling-strategy", "DAEMON",
		"--task-definition", "datadog-agent-task:1", "--query", "service.[status,desiredCount]")...)
	daemon := p.schedule("datadog-agent", instance)
	run(*daemon, command("list-tasks", "--service-name", "datadog-agent", "--query", "taskArns")...)
	p.submit(daemon, "RUNNING")
	run("", command("wait", "services-stable", "--services", "datadog-agent")...)
	run("", command("wait", "tasks-running", "--tasks", *daemon)...)
	run("2\tattribute:env==prod", command("update-service", "--service", "datadog-agent", "--force-new-deployment",
		"--placement-constraints", "type=memberOf,expression=attribute:env==prod", "--query", "service.[length(deployments),placementConstraints[0].expression]")...)

	arn := run("*", command("run-task", "--task-definition", "datadog-agent-task", "--started-by", "walk", "--query", "tasks[0].taskArn")...)
	run("PENDING\tfamily:datadog-agent-task", command("describe-tasks", "--tasks", arn, "--query", "tasks[0].[lastStatus,group]")...)
	run("STOPPED\tUserInitiated", command("stop-task", "--task", arn, "--query", "task.[desiredStatus,stopCode]")...)
	p.submit(aws.String(arn), "STOPPED")
	run("", command("wait", "tasks-stopped", "--tasks", arn)...)

	run("DRAINING", command("delete-service", "--service", "datadog-agent", "--query", "service.status")...)
	p.submit(daemon, "STOPPED")
	p.settle("datadog-agent")
	run("", command("wait", "services-inactive", "--services", "datadog-agent")...)
	run("ACTIVE\tREPLICA\t2\t200\t100", command("create-service", "--service-name", "web", "--desired-count", "2", "--task-definition", "datadog-agent-task",
		"--placement-strategy", "type=binpack,field=memory", "--query", "service.[status,schedulingStrategy,desiredCount,deploymentConfiguration.maximumPercent,deploymentConfiguration.minimumHealthyPercent]")...)
	run("3", command("update-service", "--service", "web", "--desired-count", "3", "--query", "service.desiredCount")...)
	if out, err := exec1(command("delete-service", "--service", "web")...); err == nil || !strings.Contains(out, "The service cannot be stopped while it is scaled above 0.") {
		t.Errorf("deleting a service that is scaled above 0: %v\n%s", err, out)
	}
	run("INACTIVE", command("delete-service", "--service", "web", "--force", "--query", "service.status")...)
}
