//go:build packages

package packages_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// TestAHostJoinsAndLeavesBySystemd has a host join by its command, which starts the unit and enables it, and leave, which ends and disables it:
// neither is undone by a reboot.
func TestAHostJoinsAndLeavesBySystemd(t *testing.T) {
	dir := build(t, "0.1.0")
	m := newMachine(t)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 2 {
		t.Fatal(debs, err)
	}
	for _, d := range debs {
		m.put(d, "/root/")
	}
	m.sh("dpkg -i /root/longshore-*.deb; systemctl disable longshore-agent; systemctl start longshore-control")
	m.ecs("CreateCluster", `{"clusterName":"daemonset"}`)
	m.sh("mkdir -p /root/i/bin && cp /bin/busybox /root/i/bin/ && tar -C /root/i -c . | docker import - daemon:1")
	m.ecs("RegisterTaskDefinition", `{"family":"d","networkMode":"host","containerDefinitions":[{"name":"d","image":"daemon:1","memory":16,"essential":true,"command":["/bin/busybox","sleep","100000"]}]}`)
	m.ecs("CreateService", `{"cluster":"daemonset","serviceName":"d","taskDefinition":"d","schedulingStrategy":"DAEMON","launchType":"EC2"}`)
	m.sh("mkdir -p /etc/ecs; echo ECS_IMAGE_PULL_BEHAVIOR=prefer-cached >/etc/ecs/ecs.config")

	t.Log("join starts the unit and enables it, and returns when the daemon runs")
	token := m.sh("longshore-control token create --data-dir /var/lib/longshore --cluster daemonset 2>/dev/null")
	at := strings.Index(token, "longshore-agent join")
	if at < 0 {
		t.Fatalf("there is no line to join with in %q", token)
	}
	line, _, _ := strings.Cut(token[at:], "\n")
	said := m.sh(line)
	if !strings.Contains(said, "systemd has started longshore-agent.service, now and at each boot") {
		t.Errorf("join says\n%s", said)
	}
	m.same("systemctl is-active longshore-agent; systemctl is-enabled longshore-agent", "active\nenabled")
	daemon := m.sh(container)
	if again := m.sh(line); !strings.Contains(again, "joined") || m.sh(container) != daemon {
		t.Errorf("joined again it says\n%s", again)
	}
	instance := m.sh("longshore-agent status --json | grep -o 'container-instance/[^\"]*' | head -n 1")

	t.Log("after a reboot it is there")
	must(t, "docker", "restart", "-t", "60", m.name)
	m.booted()
	m.same("longshore-agent status --json | grep -o 'container-instance/[^\"]*' | head -n 1", instance)
	m.until("the daemon to run again", func() error { _, err := m.try(container + " | grep -v '^0 '"); return err })

	t.Log("leave ends the unit and disables it, and takes the containers with it")
	m.sh("longshore-agent leave")
	m.same("systemctl is-active longshore-agent || true; systemctl is-enabled longshore-agent || true", "inactive\ndisabled")
	if left := m.sh("docker ps -aq --filter label=longshore.task; ls /var/lib/ecs/data 2>/dev/null || true; grep -s BACKEND /etc/ecs/ecs.config || true"); left != "" {
		t.Errorf("this is left:\n%s", left)
	}
	m.until("the control plane to have no container instance", func() error {
		if is := m.ecs("ListContainerInstances", `{"cluster":"daemonset"}`); !strings.Contains(is, `"containerInstanceArns":[]`) {
			return errors.New(is)
		}
		return nil
	})

	t.Log("after another reboot it does not start")
	must(t, "docker", "restart", "-t", "60", m.name)
	m.booted()
	m.same("systemctl is-active longshore-agent || true", "inactive")
	if failed := m.sh("systemctl --failed --no-legend"); failed != "" {
		t.Errorf("these units failed: %s", failed)
	}
}
