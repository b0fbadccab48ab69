package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// once registers a task definition of one container and runs it; extra are further members of the definition, of the container.
func (l *Lab) once(family, image, command, definition, container string) Task {
	l.t.Helper()
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.write(family+".json", `{"family":"`+family+`","requiresCompatibilities":["EC2"]`+definition+`,
 "containerDefinitions":[{"name":"app","image":`+strconv.Quote(image)+`,"command":["sh","-c",`+strconv.Quote(command)+`]`+container+`}]}`))
	got := AWS[struct {
		Tasks    []Task
		Failures []Failure
	}](l, "ecs", "run-task", "--cluster", cluster, "--task-definition", family)
	if len(got.Tasks) != 1 {
		l.t.Fatalf("run-task %s: %+v", family, got)
	}
	return got.Tasks[0]
}

// reached waits until a task has a lastStatus.
func (l *Lab) reached(t Task, status string) Task {
	l.t.Helper()
	l.Until(60*time.Second, "task of "+ID(t.TaskDefinitionArn)+" is "+status, func() error {
		t = l.DescribeTasks(t.TaskArn)[0]
		if t.LastStatus != status {
			return fmt.Errorf("%+v", t)
		}
		return nil
	})
	return t
}

// groupFile reads a file of a task's control group; of cgroups v1, which the test machine has.
func groupFile(t *testing.T, task Task, controller, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, "ecs", ID(task.TaskArn), name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestATaskIsHeldToItsLimitsAndToTheHostsPolicy(t *testing.T) { onEachEngine(t, heldToItsLimits) }

func heldToItsLimits(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "lim"+engine[:1], 97, 1)
	image := l.Push("serving:1", images.Serving())
	policy := l.Farm.Disk(1, "/etc/ecs/policy")
	if err := os.WriteFile(policy, []byte("# of this host\ndeny privileged\nallow host-path /etc/hosts ro\ndeny host-path /etc\nwarn host-network\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	settings := []string{"ECS_TASK_PIDS_LIMIT=64", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=20s", "ECS_ENABLE_TASK_CPU_MEM_LIMIT=true"}
	l.StartAgent(1, settings...)
	l.InstanceOf(1)
	attributes := func() map[string]string {
		all := map[string]string{}
		l.Until(30*time.Second, "the instance is connected", func() error {
			got := l.Instances("--filter", "agentConnected == true")
			if len(got) != 1 {
				return fmt.Errorf("%d are", len(got))
			}
			for _, a := range got[0].Attributes {
				all[a.Name] = a.Value
			}
			return nil
		})
		return all
	}
	attribute := attributes()
	if _, ok := attribute["ecs.capability.task-cpu-mem-limit"]; !ok || attribute["longshore.policy"] == "" || attribute["longshore.policy.privileged"] != "deny" || attribute["longshore.policy.host-path"] != "restricted" || attribute["longshore.policy.host-network"] != "warn" {
		t.Errorf("attributes %v", attribute)
	}

	const sized = `,"cpu":"128","memory":"64"`
	steady := l.reached(l.once("steady", image, "trap exit TERM; sleep 3600 & wait", sized+`,"networkMode":"host"`, ""), "RUNNING")
	for file, want := range map[string]string{"cpu/cpu.cfs_quota_us": "12500", "cpu/cpu.shares": "128", "memory/memory.limit_in_bytes": "67108864", "pids/pids.max": "64"} {
		controller, name, _ := strings.Cut(file, "/")
		if got := groupFile(t, steady, controller, name); got != want {
			t.Errorf("%s of the task is %s, not %s", file, got, want)
		}
	}
	containers := l.Running(1, "steady")
	if len(containers) != 1 || groupFile(t, steady, "pids", filepath.Join(containers[0].ID, "cgroup.procs")) == "" {
		t.Errorf("the container is not in its task's group: %+v", containers)
	}

	// The kernel tells both containers of the task, and one of them has lost a process.
	hog := l.reached(l.once("hog", image, "exec dd if=/dev/zero of=/dev/null bs=300M count=1", sized, `,"dependsOn":[{"containerName":"neighbour","condition":"START"}]},
 {"name":"neighbour","image":`+strconv.Quote(image)+`,"essential":false,"command":["sh","-c","trap 'exit 4' TERM; sleep 3600 & wait"]`), "STOPPED")
	if len(hog.Containers) != 2 {
		t.Errorf("the hog and its neighbour: %+v", hog)
	}
	for _, c := range hog.Containers {
		switch {
		case c.Name == "app" && (!strings.HasPrefix(c.Reason, "OutOfMemoryError") || c.ExitCode == nil || *c.ExitCode != 137):
			t.Errorf("the hog: %+v", hog)
		case c.Name == "neighbour" && c.Reason != "":
			t.Errorf("its neighbour: %+v", hog)
		}
	}
	bomb := l.reached(l.once("bomb", image, "while :; do sleep 1000 & done", sized, ""), "STOPPED")
	if said, err := l.Seen(1).Output(t.Context(), bomb.Containers[0].RuntimeID); err != nil || !strings.Contains(said, "can't fork") {
		t.Errorf("the fork bomb: %v %.300s %+v", err, said, bomb)
	}
	if _, stderr, err := l.TryAWS("ecs", "register-task-definition", "--cli-input-json", l.write("over.json",
		`{"family":"over","memory":"64","containerDefinitions":[{"name":"app","image":"x","memory":65}]}`)); err == nil || !strings.Contains(stderr, "65 MiB is more than the task's 64 MiB") {
		t.Errorf("a container larger than its task: %v %s", err, stderr)
	}

	const volume = `,"volumes":[{"name":"v","host":{"sourcePath":"/etc/ssl"}}]`
	for _, c := range []struct{ family, definition, container, want string }{
		{"boss", sized, `,"privileged":true`, "HostPolicyError: container app asks for privileged, which the host's policy denies: /etc/ecs/policy:2: deny privileged"},
		{"reader", sized + volume, `,"mountPoints":[{"sourceVolume":"v","containerPath":"/v","readOnly":true}]`,
			"HostPolicyError: container app asks for host path /etc/ssl read-only, which the host's policy denies: /etc/ecs/policy:4: deny host-path /etc"},
	} {
		denied := l.reached(l.once(c.family, image, "trap exit TERM; sleep 3600 & wait", c.definition, c.container), "STOPPED")
		if denied.StoppedReason != c.want || len(l.Containers(1, c.family)) != 0 {
			t.Errorf("%s: %q", c.family, denied.StoppedReason)
		}
	}

	// A dry run of another policy says what it would deny of what runs.
	if err := os.WriteFile(policy+".new", []byte("deny host-network\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := l.OnHost(1, "env", "ECS_ENGINE="+engine, l.Agent(), "policy", "check", "--file", "/etc/ecs/policy.new").CombinedOutput()
	want := []string{"container app asks for the host's network (networkMode host), which the host's policy denies: /etc/ecs/policy.new:1: deny host-network", "1 containers run; 1 would be denied, 0 warned about."}
	if err == nil || has(string(out), want...) != nil {
		t.Errorf("the dry run: %v %s", err, out)
	}

	// A policy with a mistake lets nothing new run, and what runs stays.
	if err := os.WriteFile(policy, []byte("deny priviledged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := l.reached(l.once("late", image, "trap exit TERM; sleep 3600 & wait", sized, ""), "STOPPED")
	if !strings.Contains(refused.StoppedReason, `/etc/ecs/policy:1: a rule is about one of`) || !strings.Contains(refused.StoppedReason, `did you mean "privileged"?`) {
		t.Errorf("with a mistake in the policy: %q", refused.StoppedReason)
	}
	if len(l.Running(1, "steady")) != 1 {
		t.Error("what ran was stopped")
	}

	// Groups go with their tasks, and an agent that was told not to set limits does not advertise them.
	l.Do("ecs", "stop-task", "--cluster", cluster, "--task", steady.TaskArn)
	l.Until(90*time.Second, "no control group of the tasks is left", func() error {
		for _, task := range []Task{steady, hog, bomb} {
			if left, _ := filepath.Glob("/sys/fs/cgroup/*/ecs/" + ID(task.TaskArn)); len(left) > 0 {
				return fmt.Errorf("%v", left)
			}
		}
		return nil
	})
	l.StopAgent(1)
	l.StartAgent(1, "ECS_ENABLE_TASK_CPU_MEM_LIMIT=false")
	l.Until(30*time.Second, "the attributes are dropped", func() error {
		attribute := attributes()
		if _, ok := attribute["ecs.capability.task-cpu-mem-limit"]; ok || attribute["longshore.policy"] != "invalid" || attribute["longshore.policy.privileged"] != "" {
			return fmt.Errorf("%v", attribute)
		}
		return nil
	})
}
