package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// TestTheWholeWayOnContainerd walks over two hosts whose agents use containerd alone.
func TestTheWholeWayOnContainerd(t *testing.T) {
	l := NewLab(t, "ctd", 97, 2)
	image := l.Push("web:1", images.Serving())
	if err := withContainerd(); err != nil {
		t.Fatal(err)
	}
	certs := l.certificates()
	settings := []string{"ECS_ENGINE=containerd", "ECS_CONTAINERD_CERTS_DIR=" + certs, "AWS_EC2_METADATA_DISABLED=true"}
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	for i := 1; i <= 2; i++ {
		l.startContainerd(i)
		l.StartAgent(i, settings...)
	}
	l.Until(60*time.Second, "both hosts are connected", func() error {
		if got := l.Instances("--filter", "agentConnected == true"); len(got) != 2 {
			return fmt.Errorf("%d are", len(got))
		}
		return nil
	})
	definition := map[string]any{"family": "web", "networkMode": "bridge", "memory": "64", "containerDefinitions": []any{map[string]any{
		"name": "main", "image": image, "entryPoint": []string{"sh", "-c"}, "command": []string{"trap 'exit 0' TERM; echo started; while :; do echo hello | nc -l -p 8080; done"},
		"portMappings": []any{map[string]any{"containerPort": 8080}}, "stopTimeout": 2,
		"healthCheck": map[string]any{"command": []string{"CMD-SHELL", "true"}, "interval": 5}, "environment": []any{map[string]any{"name": "A", "value": "b"}},
	}}}
	doc, err := json.Marshal(definition)
	if err != nil {
		t.Fatal(err)
	}
	l.Do("ecs", "register-task-definition", "--cli-input-json", string(doc))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "web", "--scheduling-strategy", "DAEMON", "--task-definition", "web")
	l.Steady("web", 2)
	for _, task := range l.Tasks("--service-name", "web") {
		if len(task.Containers) != 1 || len(task.Containers[0].NetworkBindings) == 0 || task.Containers[0].NetworkBindings[0].HostPort == 0 {
			t.Fatalf("%+v", task.Containers)
		}
	}
	before := l.runFiles(1)
	port := l.Tasks("--service-name", "web")[0].Containers[0].NetworkBindings[0].HostPort // each host gives the same, its first
	l.Until(30*time.Second, "the published port answers on the other host", func() error {
		out, err := l.OnHost(2, "busybox", "timeout", "5", "busybox", "nc", l.Farm.Net+".1", strconv.Itoa(port)).Output()
		if err == nil && strings.TrimSpace(string(out)) != "hello" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})

	// Agent and containerd are killed, and come back to the same process.
	if err := syscall.Kill(l.ProcessOn(1, "longshore-agent-containerd"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.agents[1].done
	if err := l.OnHost(1, "sh", "-c", "kill -9 $(cat /run/containerd.pid)").Run(); err != nil {
		t.Fatal(err)
	}
	l.startContainerd(1)
	l.StartAgent(1, settings...)
	l.Until(60*time.Second, "the host is connected again", func() error {
		if got := l.Instances("--filter", "agentConnected == true"); len(got) != 2 {
			return fmt.Errorf("%d are", len(got))
		}
		return nil
	})
	l.Steady("web", 2)
	if after := l.runFiles(1); after != before || !strings.Contains(before, "pid") {
		t.Errorf("the container's process was %s and is %s", before, after)
	}
	l.Do("ecs", "delete-service", "--cluster", cluster, "--service", "web", "--force")
	l.Until(60*time.Second, "everything has stopped", func() error {
		if left := l.Tasks(); len(left) != 0 {
			return fmt.Errorf("%d tasks are left", len(left))
		}
		return nil
	})
	l.Until(30*time.Second, "nothing of the network is left", func() error {
		for i := 1; i <= 2; i++ {
			out, err := l.OnHost(i, "sh", "-c", "ls /run/longshore/leases /run/longshore/netns; ip -o link show type veth | grep -v eth0").CombinedOutput()
			if text := strings.Join(strings.Fields(string(out)), " "); text != "/run/longshore/leases: /run/longshore/netns:" {
				return fmt.Errorf("host %d has %q; %w", i, text, cmp.Or(err, errors.New("nothing was expected")))
			}
		}
		return nil
	})
}

// runFiles is which processes the engine of host i has started, and when.
func (l *Lab) runFiles(i int) string {
	l.t.Helper()
	files, _ := filepath.Glob(filepath.Join(l.Farm.Dir, "h"+strconv.Itoa(i), "disk/var/lib/ecs/data/containerd/containers/*/run.json"))
	var all []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			l.t.Fatal(err)
		}
		var run struct {
			Pid       int
			StartedAt time.Time
		}
		if err := json.Unmarshal(b, &run); err != nil {
			l.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("pid %d since %s", run.Pid, run.StartedAt))
	}
	return strings.Join(all, ", ")
}

// certificates says that the lab's registry is reached by plain http.
func (l *Lab) certificates() string {
	l.t.Helper()
	registry := net.JoinHostPort(l.Farm.LAN(), imgPort)
	at := filepath.Join(l.dir, "certs.d", registry)
	if err := os.MkdirAll(at, 0o755); err != nil {
		l.t.Fatal(err)
	}
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", registry, registry)
	if err := os.WriteFile(filepath.Join(at, "hosts.toml"), []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return filepath.Dir(at)
}

// startContainerd starts a containerd on host i, beside its Docker engine's own, and waits until it answers.
func (l *Lab) startContainerd(i int) {
	l.t.Helper()
	config := filepath.Join(l.Farm.Dir, "h"+strconv.Itoa(i), "containerd.toml")
	text := "version = 2\nroot = \"/var/lib/containerd/own\"\nstate = \"/run/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\n address = \"/run/containerd/containerd.sock\"\n[ttrpc]\n address = \"/run/containerd/containerd.sock.ttrpc\"\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	if err := l.OnHost(i, "setsid", "-f", "sh", "-c", "echo $$ >/run/containerd.pid; exec containerd -c "+config+" >>/run/containerd.log 2>&1 </dev/null").Run(); err != nil {
		l.t.Fatal(err)
	}
	l.Until(30*time.Second, "containerd answers", func() error { return l.OnHost(i, "ctr", "version").Run() })
}
