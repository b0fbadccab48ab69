//go:build packages

// Package packages_test installs the built packages in a real Debian system whose first process is systemd, in a container, and holds
// them to what is said of them. It takes some minutes: make test-packages runs it.
package packages_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience bounds a wait; it is reached only when the test fails.
const patience = 3 * time.Minute

// image is the Debian system: systemd, Docker and what is needed to ask the control plane.
const image = "longshore-test/systemd:1"

// run runs a command of this machine.
func run(t *testing.T, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := run(t, "", name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// build builds the packages of a version, and returns the folder that they are in.
func build(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, "env", "OUT="+dir, "FORMATS=deb", "ARCHES="+must(t, "go", "env", "GOARCH"), "../../packaging/build.sh", version)
	return dir
}

// machine is a system of its own, with systemd.
type machine struct {
	t    *testing.T
	name string
	api  string // the control plane's address for curl
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if _, err := run(t, "", "docker", "image", "inspect", image); err != nil {
		if out, err := run(t, "", "./image.sh", image); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	m := &machine{t, fmt.Sprintf("longshore-packages-%d", os.Getpid()), "http://127.0.0.1:8480/"}
	args := []string{
		"run", "--pull", "never", "-d", "--name", m.name, "--stop-signal", "SIGRTMIN+3", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE",
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", "--device-cgroup-rule", "a *:* rwm", "--tmpfs", "/run", "--tmpfs", "/run/lock",
		"-v", "/var/lib/docker", "-v", "/var/lib/containerd", "--tmpfs", "/sys/fs/cgroup:rw,mode=755",
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		g = strings.TrimSuffix(g, "/")
		args = append(args, "-v", g+":"+g)
	}
	must(t, "docker", append(args, image)...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "docker", "rm", "-fv", m.name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		// systemd has taken the control groups that nobody had. While its hierarchies have groups they stay, and dockerd of this machine
		// looks for its containers' groups in them.
		// The kernel lets go of one a little after its last group, so they are looked at again.
		const giveBack = `for look in 1 2 3; do for c in perf_event net_cls,net_prio hugetlb; do
			grep -q "^${c%%,*}[[:space:]]0[[:space:]]" /proc/cgroups || grep -q " cgroup .*[ ,]${c%%,*}" /proc/mounts && continue
			d=$(mktemp -d); mount -t cgroup -o $c none $d && { find $d -mindepth 1 -depth -type d -exec rmdir {} +; umount $d; }; rmdir $d; done; sleep 1; done`
		if out, err := exec.CommandContext(ctx, "sh", "-c", giveBack).CombinedOutput(); err != nil {
			t.Errorf("give back the control groups: %v: %s", err, out)
		}
	})
	m.booted()
	return m
}

// booted waits until the system is up, with nothing that failed.
func (m *machine) booted() {
	m.t.Helper()
	m.until("the system to be up", func() error { _, err := m.try("systemctl is-system-running --wait"); return err })
}

// try runs a script there.
func (m *machine) try(script string) (string, error) {
	m.t.Helper()
	out, err := run(m.t, script, "docker", "exec", "-i", m.name, "sh", "-e")
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return strings.TrimSpace(out), err
}

// sh runs a script there, which must succeed.
func (m *machine) sh(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%s\n%v", script, err)
	}
	return out
}

// put copies a file there.
func (m *machine) put(file, to string) {
	m.t.Helper()
	must(m.t, "docker", "cp", file, m.name+":"+to)
}

// until waits until something is so.
func (m *machine) until(what string, is func() error) {
	m.t.Helper()
	end := time.Now().Add(patience)
	for {
		err := is()
		if err == nil {
			return
		}
		if time.Now().After(end) || m.t.Context().Err() != nil {
			journal, _ := m.try("journalctl --no-pager -n 60 -u longshore-agent -u longshore-control; tail -n 20 /var/log/ecs/ecs-agent.log || true")
			m.t.Fatalf("waited in vain for %s: %v\n%s", what, err, journal)
		}
		<-time.After(200 * time.Millisecond)
	}
}

// same waits until a script prints something.
func (m *machine) same(script, want string) {
	m.t.Helper()
	m.until(fmt.Sprintf("%q of: %s", want, script), func() error {
		if got, err := m.try(script); err != nil || got != want {
			return errors.Join(err, fmt.Errorf("it prints %q", got))
		}
		return nil
	})
}

// property is one of a unit's.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return m.sh("systemctl show -P " + name + " " + unit)
}

// ecs makes a call of the ECS API with the administrator's key.
func (m *machine) ecs(operation, body string) string {
	m.t.Helper()
	return m.sh(". /var/lib/longshore/admin.env\n" +
		`curl -sS --fail-with-body --aws-sigv4 aws:amz:us-west-2:ecs --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -H 'Content-Type: application/x-amz-json-1.1' ` +
		`-H 'X-Amz-Target: AmazonEC2ContainerServiceV20141113.` + operation + `' -d '` + body + `' ` + m.api)
}

// container is the process of the daemon's container, and when it began.
const container = `docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' $(docker ps -q --filter label=longshore.task | head -n 1)`

func TestThePackagesLiveAWholeLifeOnARealSystem(t *testing.T) {
	first, second := build(t, "0.1.0"), build(t, "0.2.0")
	m := newMachine(t)
	for _, dir := range []string{first, second} {
		debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(debs) != 2 {
			t.Fatal(debs, err)
		}
		for _, d := range debs {
			m.put(d, "/root/")
		}
	}

	t.Log("installing starts nothing, registers nothing and writes no identity")
	m.sh("dpkg -i /root/longshore-*_0.1.0-1_*.deb")
	for _, u := range []string{"longshore-agent", "longshore-control"} {
		m.same("systemctl is-active "+u+" || true", "inactive")
		m.same("systemctl is-enabled "+u, "enabled")
	}
	m.same("systemctl is-enabled ecs.service", "alias")
	m.sh("test ! -e /var/lib/ecs && test ! -e /etc/ecs/ecs.config && test ! -e /var/lib/longshore/admin.env")
	m.sh("longshore-agent version | grep 0.1.0; man -w longshore-agent-run >/dev/null 2>&1 || test -e /usr/share/man/man8/longshore-agent-run.8.gz")

	t.Log("configured and started, both say when they are ready")
	m.sh("systemctl start longshore-control")
	m.sh(`. /var/lib/longshore/host.env
mkdir -p /etc/ecs /srv/log
cat >/etc/ecs/ecs.config <<EOF
ECS_CLUSTER=daemonset
ECS_BACKEND_HOST=http://127.0.0.1:8480
AWS_DEFAULT_REGION=us-west-2
AWS_ACCESS_KEY_ID=$AWS_ACCESS_KEY_ID
AWS_SECRET_ACCESS_KEY=$AWS_SECRET_ACCESS_KEY
ECS_IMAGE_PULL_BEHAVIOR=prefer-cached
EOF
chmod 600 /etc/ecs/ecs.config`)
	m.ecs("CreateCluster", `{"clusterName":"daemonset"}`)
	m.sh("systemctl start ecs.service")
	m.same("systemctl is-active longshore-agent", "active")
	m.until("the agent to be connected", func() error {
		if s := m.property("longshore-agent", "StatusText"); !strings.HasPrefix(s, "Connected as arn:aws:ecs:") {
			return errors.New(s)
		}
		return nil
	})
	for _, want := range [][3]string{
		{"longshore-agent", "User", ""}, {"longshore-agent", "KillMode", "process"}, {"longshore-agent", "Delegate", "yes"}, {"longshore-agent", "Slice", "longshore.slice"},
		{"longshore-agent", "NoNewPrivileges", "yes"}, {"longshore-control", "User", "longshore"},
	} {
		if got := m.property(want[0], want[1]); got != want[2] {
			t.Errorf("%s of %s is %q", want[1], want[0], got)
		}
	}

	t.Log("a daemon runs")
	m.sh("mkdir -p /root/i/bin && cp /bin/busybox /root/i/bin/ && ln -sf busybox /root/i/bin/sh && tar -C /root/i -c . | docker import - daemon:1")
	m.ecs("RegisterTaskDefinition", `{"family":"d","networkMode":"host","containerDefinitions":[{"name":"d","image":"daemon:1","memory":16,"essential":true,"stopTimeout":2,"command":["/bin/busybox","sleep","100000"]}]}`)
	m.ecs("CreateService", `{"cluster":"daemonset","serviceName":"d","taskDefinition":"d","schedulingStrategy":"DAEMON","launchType":"EC2"}`)
	m.until("the daemon to run", func() error { _, err := m.try(container + " | grep -v '^0 '"); return err })
	daemon := m.sh(container)
	undisturbed := func(by string) {
		t.Helper()
		if got := m.sh(container); got != daemon {
			t.Errorf("%s touched the container: %q, and it was %q", by, got, daemon)
		}
	}

	t.Log("a changed configuration is taken without a restart, and a broken one is not")
	pid := m.property("longshore-agent", "MainPID")
	m.sh("echo ECS_INSTANCE_NAME=rack-7 >>/etc/ecs/ecs.config; systemctl reload longshore-agent")
	m.same("grep -c 'Longshore agent starts' /var/log/ecs/ecs-agent.log", "2")
	m.until("the agent to be connected again", func() error {
		if s := m.property("longshore-agent", "StatusText"); !strings.HasPrefix(s, "Connected as") {
			return errors.New(s)
		}
		return nil
	})
	m.sh("echo 'ECS_INSTANCE_ATTRIBUTES={broken' >>/etc/ecs/ecs.config; systemctl reload longshore-agent")
	m.until("the broken one to be told", func() error {
		_, err := m.try("systemctl status --no-pager longshore-agent | grep 'not used.*ECS_INSTANCE_ATTRIBUTES'")
		return err
	})
	m.sh("sed -i /broken/d /etc/ecs/ecs.config")
	if got := m.property("longshore-agent", "MainPID"); got != pid || m.property("longshore-agent", "NRestarts") != "0" {
		t.Errorf("the agent of pid %s has the pid %s", pid, got)
	}
	undisturbed("the reload")

	t.Log("an agent that hangs is ended by the watchdog and started again; so is one that is killed")
	m.sh("mkdir -p /run/systemd/system/longshore-agent.service.d; printf '[Service]\\nWatchdogSec=3s\\n' >/run/systemd/system/longshore-agent.service.d/test.conf; systemctl daemon-reload; systemctl restart longshore-agent")
	m.sh("kill -STOP $(systemctl show -P MainPID longshore-agent)")
	m.same("systemctl show -P NRestarts longshore-agent; systemctl is-active longshore-agent", "1\nactive")
	m.sh("rm -r /run/systemd/system/longshore-agent.service.d; systemctl daemon-reload; systemctl restart longshore-agent; kill -KILL $(systemctl show -P MainPID longshore-agent)")
	m.same("systemctl show -P NRestarts longshore-agent; systemctl is-active longshore-agent", "1\nactive")
	undisturbed("the agent's death")

	t.Log("an engine that is restarted does not take the agent with it")
	pid = m.property("longshore-agent", "MainPID")
	m.sh("mkdir -p /etc/docker; echo '{\"live-restore\":true}' >/etc/docker/daemon.json; systemctl reload docker; systemctl restart docker")
	if got := m.property("longshore-agent", "MainPID"); got != pid {
		t.Errorf("the agent of pid %s has the pid %s", pid, got)
	}
	undisturbed("the engine's restart")

	t.Log("an upgrade touches no container, and keeps what was configured")
	m.sh("echo '# mine' >>/etc/longshore/control.env; dpkg --force-confdef --force-confold -i /root/longshore-*_0.2.0-1_*.deb")
	m.same("curl -s http://127.0.0.1:51678/v1/metadata | grep -o 'v0.2.0'", "v0.2.0")
	m.sh("grep mine /etc/longshore/control.env; grep rack-7 /etc/ecs/ecs.config")
	undisturbed("the upgrade")

	t.Log("a reboot stops the tasks in order, the daemon last; after it both are there, and the daemon is the same task")
	m.ecs("RegisterTaskDefinition", `{"family":"j","networkMode":"host","containerDefinitions":[{"name":"j","image":"daemon:1","memory":16,"essential":true,"stopTimeout":2,"command":["/bin/busybox","sleep","100000"]}]}`)
	m.ecs("RunTask", `{"cluster":"daemonset","taskDefinition":"j","launchType":"EC2"}`)
	m.same("docker ps -q --filter label=longshore.task | wc -l", "2")
	m.same("systemctl is-active longshore-drain", "active")
	m.same("busctl get-property org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager InhibitDelayMaxUSec", "t 600000000")
	m.same("systemd-inhibit --list --no-legend --no-pager | grep -c '^Longshore .*delay'", "1")
	m.sh("test \"$(readlink /proc/1/ns/mnt)\" = \"$(readlink /proc/$(systemctl show -P MainPID longshore-agent)/ns/mnt)\"") // credentials cost no mount namespace
	m.sh("systemctl stop longshore-drain; systemctl start longshore-drain")                                                 // by hand it does nothing
	m.same("docker ps -q --filter label=longshore.task | wc -l", "2")
	instance := m.sh("longshore-agent status --json | grep -o 'container-instance/[^\"]*' | head -n 1")
	const tasks = `docker ps --filter label=longshore.task --format '{{.Label "longshore.task"}}' | sort`
	before := m.sh(tasks)
	must(t, "docker", "restart", "-t", "120", m.name) // which systemd-logind is not asked about
	m.booted()
	m.same("longshore-agent status --json | grep -o 'container-instance/[^\"]*' | head -n 1", instance)
	m.until("the daemon to run again", func() error { _, err := m.try(container + " | grep -v '^0 '"); return err })
	m.same("grep 'Stopping a task, as this host leaves' /var/log/ecs/ecs-agent.log | grep -o 'parked=[a-z]*' | tr '\n' ' '", "parked=false parked=true")
	if after := m.sh(tasks); after == "" || !strings.Contains(before, after) {
		t.Errorf("these tasks run: %q, and before the reboot: %q", after, before)
	}
	m.until("the host to be ACTIVE again", func() error {
		out := m.ecs("DescribeContainerInstances", `{"cluster":"daemonset","containerInstances":["`+instance[strings.LastIndex(instance, "/")+1:]+`"]}`)
		if !strings.Contains(out, `"status":"ACTIVE"`) {
			return errors.New(out)
		}
		return nil
	})
	daemon = m.sh(container)

	t.Log("removed, they leave the containers; purged, they leave nothing of their own")
	m.sh("dpkg -r longshore-agent")
	undisturbed("the removal")
	m.sh("test ! -e /usr/bin/longshore-agent; test -e /etc/ecs/ecs.config; test -e /var/lib/ecs/data; ! nft list table inet longshore 2>/dev/null; ! ip addr show dev lo | grep 169.254.170.2")
	m.sh("dpkg -P longshore-agent longshore-control")
	undisturbed("the purge")
	if left := m.sh("find / -xdev \\( -name '*longshore*' -o -path /var/lib/ecs -o -path /etc/ecs -o -path /var/log/ecs \\) -not -path '/proc/*' -not -path '/sys/*' -not -path '/root/*' -not -path '/var/lib/docker/*' -not -path '/run/docker/*' -not -path '/run/containerd/*' -not -path '/run/log/*' -not -path '/var/log/journal/*'"); left != "" {
		t.Errorf("this is left:\n%s", left)
	}
	if failed := m.sh("systemctl --failed --no-legend"); failed != "" {
		t.Errorf("these units failed: %s", failed)
	}
}

func TestAnAdministratorsPolicyAgainstStartsIsRespected(t *testing.T) {
	dir := build(t, "0.1.0")
	m := newMachine(t)
	deb, err := filepath.Glob(filepath.Join(dir, "longshore-agent_*.deb"))
	if err != nil || len(deb) != 1 {
		t.Fatal(deb, err)
	}
	m.put(deb[0], "/root/agent.deb")
	m.sh("printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; mkdir -p /etc/ecs; echo ECS_CLUSTER=x >/etc/ecs/ecs.config; dpkg -i /root/agent.deb")
	m.same("systemctl is-active longshore-agent || true", "inactive")

	t.Log("in a folder that is to become a system nothing is started either, and it starts at that system's first boot")
	m.sh("mkdir /root/c; for d in bin sbin lib lib64 usr etc var; do cp -a /$d /root/c/ 2>/dev/null || true; done; mkdir -p /root/c/proc /root/c/run /root/c/tmp /root/c/dev /root/c/root; rm /root/c/usr/sbin/policy-rc.d; cp /root/agent.deb /root/c/root/; chroot /root/c dpkg -P longshore-agent; chroot /root/c dpkg -i /root/agent.deb; test -L /root/c/etc/systemd/system/multi-user.target.wants/longshore-agent.service; test ! -e /root/c/var/lib/ecs")
}
