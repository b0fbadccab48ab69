package upgrade

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
)

// backups are those that each version has made of the records of [furnish]. The keys in them are of no machine.
const backups = "testdata/backups"

// known are the questions that a restored control plane must answer as it says in the file beside the backup, a line each; new ones
// come last. It may say more.
var known = []struct {
	operation string
	in        object
}{
	{"DescribeClusters", object{"clusters": []string{cluster}, "include": []string{"TAGS", "SETTINGS"}}},
	{"DescribeServices", object{"cluster": cluster, "services": []string{"daemon", "replica"}, "include": []string{"TAGS"}}},
	{"DescribeTaskDefinition", object{"taskDefinition": "job:1", "include": []string{"TAGS"}}},
	{"DescribeTaskDefinition", object{"taskDefinition": "job:2"}},
	{"ListTaskDefinitions", object{"status": "INACTIVE"}},
	{"ListTasks", object{"cluster": cluster}},
	{"ListContainerInstances", object{"cluster": cluster}},
	{"ListAttributes", object{"cluster": cluster, "targetType": "container-instance", "attributeName": "rack"}},
	{"ListAccountSettings", object{}},
}

// furnish makes records of all kinds, with a host that runs tasks.
func furnish(p *plane) {
	p.Helper()
	do := func(operation string, in object) json.RawMessage {
		p.Helper()
		status, answer := p.call("http://"+p.address, operation, in)
		if status != http.StatusOK {
			p.Fatalf("%s: %s", operation, answer)
		}
		return answer
	}
	do("CreateCluster", object{"clusterName": cluster, "tags": []object{{"key": "longshore:daemon-gate", "value": "off"}, {"key": "team", "value": "harbour"}}})
	do("PutAccountSetting", object{"name": "containerInsights", "value": "enabled"})
	for _, image := range []string{"web:1", "web:2"} {
		do("RegisterTaskDefinition", object{"family": "job", "networkMode": "host", "tags": []object{{"key": "team", "value": "harbour"}}, "placementConstraints": []object{},
			"containerDefinitions": []object{{"name": "web", "image": image, "memory": 6, "environment": []object{{"name": "A", "value": "b"}}}}})
	}
	do("RegisterTaskDefinition", object{"family": "gone", "containerDefinitions": []object{{"name": "web", "image": "web:1", "memory": 6}}})
	do("DeregisterTaskDefinition", object{"taskDefinition": "gone:1"})
	h := newHost(p.T, "http://"+p.address, p.key("host.env"))
	h.start()
	var listed struct{ ContainerInstanceArns, TaskArns []string }
	until(p.T, "the host is registered", func() error {
		if err := json.Unmarshal(do("ListContainerInstances", object{"cluster": cluster}), &listed); err != nil || len(listed.ContainerInstanceArns) != 1 {
			return fmt.Errorf("%+v %w", listed, err)
		}
		return nil
	}, h.log)
	do("PutAttributes", object{"cluster": cluster, "attributes": []object{{"name": "rack", "value": "7", "targetType": "container-instance", "targetId": listed.ContainerInstanceArns[0]}}})
	do("CreateService", object{"cluster": cluster, "serviceName": "daemon", "taskDefinition": "job:1", "schedulingStrategy": "DAEMON", "tags": []object{{"key": "team", "value": "harbour"}}})
	do("CreateService", object{"cluster": cluster, "serviceName": "replica", "taskDefinition": "job:2", "desiredCount": 1})
	until(p.T, "a task is placed", func() error {
		var ran struct{ Tasks, Failures []object }
		if err := json.Unmarshal(do("RunTask", object{"cluster": cluster, "taskDefinition": "job:1", "startedBy": "somebody"}), &ran); err != nil || len(ran.Tasks) != 1 {
			return fmt.Errorf("%v %w", ran.Failures, err)
		}
		return nil
	}, h.log)
	until(p.T, "three tasks run", func() error {
		if err := json.Unmarshal(do("ListTasks", object{"cluster": cluster}), &listed); err != nil || len(listed.TaskArns) != 3 {
			return fmt.Errorf("%+v %w", listed, err)
		}
		if n := strings.Count(string(do("DescribeTasks", object{"cluster": cluster, "tasks": listed.TaskArns})), `"lastStatus":"RUNNING","launchType"`); n != 3 {
			return fmt.Errorf("%d of them", n)
		}
		return nil
	}, h.log)
	h.stop()
}

// answers are those to what is known, in its order.
func answers(p *plane) (all []any) {
	p.Helper()
	for _, k := range known {
		status, answer := p.call("http://"+p.address, k.operation, k.in)
		var value any
		if err := json.Unmarshal(answer, &value); err != nil || status != http.StatusOK {
			p.Fatalf("%s: %s %v", k.operation, answer, err)
		}
		all = append(all, settled(value))
	}
	return all
}

// says tells what of an answer is not there any more. Members that are new are no fault.
func says(got, was any, path string) error {
	switch was := was.(type) {
	case object:
		is, ok := got.(object)
		if !ok {
			return fmt.Errorf("%s is %v and was %v", path, got, was)
		}
		for name, value := range was {
			if err := says(is[name], value, path+"."+name); err != nil {
				return err
			}
		}
	case []any:
		is, ok := got.([]any)
		if !ok || len(is) != len(was) {
			return fmt.Errorf("%s is %v and was %v", path, got, was)
		}
		for i, value := range was {
			if err := says(is[i], value, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	default:
		if got != was {
			return fmt.Errorf("%s is %v and was %v", path, got, was)
		}
	}
	return nil
}

// settled takes out what goes on after a restore: counts, deployments and events follow the hosts that connect.
func settled(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = settled(v[i])
		}
	case object:
		for name := range v {
			if strings.HasSuffix(name, "Count") || strings.HasSuffix(name, "At") || name == "events" || name == "deployments" {
				delete(v, name)
				continue
			}
			v[name] = settled(v[name])
		}
	}
	return value
}

func TestBackupsOfEachVersionThatIsKeptAreRestored(t *testing.T) {
	t.Parallel()
	if os.Getenv("UPDATE") != "" {
		record(t, filepath.Join(backups, version))
	}
	files, err := filepath.Glob(backups + "/*.backup")
	if err != nil || len(files) == 0 {
		t.Fatalf("no backups are kept: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			b, err := controlplane.ReadBackup(file)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := b.Check(); len(wrong) > 0 || b.Records() < 12 {
				t.Errorf("its %d records: %v", b.Records(), wrong)
			}
			dir := t.TempDir()
			if _, err := controlplane.Restore(t.Context(), controlplane.Config{DataDir: dir}, file); err != nil {
				t.Fatal(err)
			}
			p := newPlaneIn(t, dir)
			if wrong, err := controlplane.CheckRunning(t.Context(), dir); err != nil || len(wrong) > 0 {
				t.Errorf("restored: %v %v", wrong, err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, "backup") + "answers")
			if err != nil {
				t.Fatal(err)
			}
			was := bytes.Split(want, []byte("\n"))
			for i, got := range answers(p) {
				var old any
				if err := json.Unmarshal(was[i], &old); err != nil {
					t.Fatalf("the answer to %s: %v", known[i].operation, err)
				}
				if err := says(got, old, known[i].operation); err != nil {
					t.Error(err)
				}
			}
			if keys, err := controlplane.Keys(t.Context(), dir); err != nil || len(keys) < 3 {
				t.Errorf("its keys: %+v %v", keys, err)
			}
		})
	}
}

func record(t *testing.T, path string) {
	t.Helper()
	p := newPlane(t)
	furnish(p)
	_ = os.Remove(path + ".backup") // there may be none
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), controlplane.Backup(t.Context(), p.dir, path+".backup"))
	if err == nil {
		var text bytes.Buffer
		for _, answer := range answers(p) {
			err = errors.Join(err, json.NewEncoder(&text).Encode(answer))
		}
		err = errors.Join(err, os.WriteFile(path+".answers", text.Bytes(), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
	p.stop()
}

func TestRecordsOfANewerVersionAreRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	if status, answer := p.call("http://"+p.address, "CreateCluster", object{"clusterName": cluster}); status != http.StatusOK {
		t.Fatalf("%s", answer)
	}
	p.stop()
	rewrite(t, p.dir, `{"v":1,`, `{"v":2,`)
	for range 2 { // it is not taken at the second attempt either
		_, err := controlplane.Start(t.Context(), controlplane.Config{DataDir: p.dir, Listen: p.address})
		if !errors.Is(err, controlplane.ErrConfig) || !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "cluster/"+cluster) || !strings.Contains(err.Error(), "schema version 2") {
			t.Fatalf("the error is %v", err)
		}
	}
	rewrite(t, p.dir, `{"v":2,`, `{"v":1,`)
	p.start()
	if status, answer := p.call("http://"+p.address, "DescribeClusters", object{"clusters": []string{cluster}}); status != http.StatusOK || !strings.Contains(string(answer), `"status":"ACTIVE"`) {
		t.Errorf("the refusals have changed the records: %s", answer)
	}
}

// rewrite changes the cluster's record, as another version would have written it.
func rewrite(t *testing.T, dir, from, to string) {
	t.Helper()
	server, err := etcd.Start(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	found, err := server.Client().Get(t.Context(), store.DefaultPrefix+"/cluster/", clientv3.WithPrefix())
	n := 0
	if err == nil {
		for _, kv := range found.Kvs {
			if value := strings.Replace(string(kv.Value), from, to, 1); value != string(kv.Value) {
				n++
				_, err = server.Client().Put(t.Context(), string(kv.Key), value)
			}
		}
	}
	if err := errors.Join(err, server.Close()); err != nil || n != 1 {
		t.Fatalf("%d records are of that version: %v", n, err)
	}
}
