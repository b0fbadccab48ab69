package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// monitor is a task of the shape that agents of monitoring services have: a bridge, the engine's socket, and the host's
// processes and control groups.
const monitor = `{"family":"monitor","networkMode":"bridge","containerDefinitions":[{"name":"agent","image":%q,"memory":64,"stopTimeout":2,
	"portMappings":[{"containerPort":8126}],"dockerLabels":{"team":"a"},"mountPoints":[
	{"sourceVolume":"socket","containerPath":"/run/engine.sock","readOnly":true},
	{"sourceVolume":"proc","containerPath":"/host/proc","readOnly":true},
	{"sourceVolume":"cgroup","containerPath":"/host/sys/fs/cgroup","readOnly":true},{"sourceVolume":"scratch","containerPath":"/scratch"}]}],
	"volumes":[{"name":"scratch"},{"name":"socket","host":{"sourcePath":%q}},{"name":"proc","host":{"sourcePath":"/proc"}},{"name":"cgroup","host":{"sourcePath":"/sys/fs/cgroup"}}]}`

// in runs a shell command in a container of host i.
func (l *Lab) in(i int, id, command string) (string, error) {
	return l.Seen(i).Exec(l.t.Context(), id, "sh", "-c", command)
}

// monitoring walks what such an agent does on host i: it asks introspection at its gateway, its metadata at the variables'
// addresses, and its file. Another machine, with a route to that gateway, reaches nothing.
func (w *askedWorld) monitoring(t *testing.T, i int, arn string) {
	l, id := w.Lab, w.runs(i, "monitor", arn)
	ask := func(path string) func() error {
		return func() error {
			out, err := l.in(i, id, "wget -q -O - "+path)
			if err == nil && !strings.Contains(out, arn) {
				err = fmt.Errorf("%s says %s", path, out)
			}
			return err
		}
	}
	gateway := `"http://$(ip route | sed -n 's/^default via \([^ ]*\).*/\1/p'):51678`
	for _, path := range []string{
		gateway + `/v1/tasks?dockerid=$(hostname)"`, gateway + `/v1/tasks"`,
		"$ECS_CONTAINER_METADATA_URI/task", "$ECS_CONTAINER_METADATA_URI", "$ECS_CONTAINER_METADATA_URI_V4/task", "http://169.254.170.2/v2/metadata",
	} {
		l.Until(30*time.Second, "the container finds its task at "+path, ask(path))
	}
	for what, command := range map[string]string{
		`"TaskTags":{"owner":"ops"}`:       "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/taskWithTags",
		`"NetworkMode":"bridge"`:           "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4",
		`/_data","Destination":"/scratch"`: "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4",
		`"total_usage":`:                   "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/stats",
		`"` + id + `":{"read":`:            "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task/stats",
		`"MetadataFileStatus":"READY"`:     "cat $ECS_CONTAINER_METADATA_FILE",
	} {
		l.Until(30*time.Second, command+" says "+what, func() error {
			out, err := l.in(i, id, command)
			if err == nil && (!strings.Contains(out, what) || !json.Valid([]byte(out))) {
				err = fmt.Errorf("%s", out)
			}
			return err
		})
	}
	if out, err := l.in(i, id, "echo x >>$ECS_CONTAINER_METADATA_FILE"); err == nil {
		t.Errorf("the metadata file can be written: %s", out)
	}
	l.Until(30*time.Second, "the host's own processes read the metrics", func() error {
		out, err := l.OnHost(i, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:51680/metrics").Output()
		if err == nil {
			for _, metric := range []string{`longshore_agent_tasks{status="RUNNING"} 2`, `longshore_agent_engine_call_seconds_count{call="start"} 2`, `longshore_agent_step_seconds_count{step="pull"}`} {
				if !strings.Contains(string(out), metric) {
					err = fmt.Errorf("there is no %s in %s", metric, out)
				}
			}
		}
		return err
	})
	l.noStrangers(i)
}

// asksFromHostMode asks everything from a container in the host network mode, which has the host's addresses: what tells it apart
// is its control group, or the id in the variables.
func (w *askedWorld) asksFromHostMode(t *testing.T, id, arn string) {
	for path, want := range map[string]string{
		"$ECS_CONTAINER_METADATA_URI_V4":                 `"Networks":[{"NetworkMode":"host"`,
		"$ECS_CONTAINER_METADATA_URI_V4/task":            `"TaskARN":"` + arn + `"`,
		"$ECS_CONTAINER_METADATA_URI_V4/stats":           `"total_usage":`,
		"$ECS_CONTAINER_METADATA_URI/task":               `"TaskARN":"` + arn + `"`,
		"$ECS_CONTAINER_METADATA_URI":                    `"DockerId":"` + id + `"`,
		"http://169.254.170.2/v2/metadata":               `"TaskARN":"` + arn + `"`,
		"http://127.0.0.1:51678/v1/tasks?dockerid=" + id: `"Arn":"` + arn + `"`,
	} {
		if got := w.in(1, id, "get", path); !strings.HasPrefix(got, "200 ") || !strings.Contains(got, want) {
			t.Errorf("%s says %s, want %s", path, got, want)
		}
	}
}

// noStrangers asks from beside host i, by every address of it.
func (l *Lab) noStrangers(i int) {
	l.t.Helper()
	lan := func(argv ...string) error {
		out, err := l.Farm.Command(l.t.Context(), append([]string{"lan"}, argv...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", argv, err, out)
		}
		return nil
	}
	device := map[string]string{Docker: "docker0", Containerd: "longshore0"}[l.engineOf(i)]
	out, err := l.OnHost(i, "sh", "-c", "ip -4 -o addr show "+device+" | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").Output()
	bridge := strings.TrimSpace(string(out))
	if err != nil || bridge == "" {
		l.t.Fatalf("the address of %s: %q %v", device, out, err)
	}
	if err := lan("ip", "route", "add", bridge+"/32", "via", l.Farm.Address(i)); err != nil {
		l.t.Fatal(err)
	}
	for _, address := range []string{l.Farm.Address(i), bridge} {
		if err := lan("busybox", "ping", "-c", "1", "-W", "10", address); err != nil {
			l.t.Errorf("the other machine has no way to %s, so that the rest proves nothing: %v", address, err)
		}
		for _, port := range []string{"51678", "51679", "51680"} {
			err := lan("bash", "-c", "exec 3<>/dev/tcp/"+address+"/"+port)
			if err == nil || !strings.Contains(err.Error(), "refused") {
				l.t.Errorf("another machine at %s:%s: %v", address, port, err)
			}
		}
	}
}
