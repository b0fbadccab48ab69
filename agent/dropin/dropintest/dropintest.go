// Package dropintest writes state files as an amazon-ecs-agent has them: its buckets, keys, and values with every member that version 1.105.1
// writes for an ordinary task.
package dropintest

import (
	_ "embed"
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/longshore-project/longshore/agent/dropin"
)

//go:embed task.json
var taskJSON string

//go:embed container.json
var containerJSON string

// Container is a container of a task, the only one.
type Container struct {
	TaskArn, Name, Image string
	ID, EngineName       string // on the engine
	EndpointID           string
	Status               string // of the task and the container, as known and as sent: RUNNING or STOPPED
	StartedAt            time.Time
	NetworkMode          string // bridge if empty
	Kind                 string // NORMAL if empty
}

func (c Container) fill(template string) string {
	zero := func(s, or string) string {
		if s == "" {
			return or
		}
		return s
	}
	code := "null"
	if c.Status == "STOPPED" {
		code = "3"
	}
	return strings.NewReplacer("@ARN@", c.TaskArn, "@NAME@", c.Name, "@IMAGE@", c.Image, "@ID@", c.ID, "@ENGINENAME@", c.EngineName, "@ENDPOINT@", c.EndpointID, "@STATUS@", c.Status,
		"@STARTED@", c.StartedAt.UTC().Format(time.RFC3339Nano), "@MODE@", zero(c.NetworkMode, "bridge"), "@KIND@", zero(c.Kind, "NORMAL"), "@CODE@", code, "\n", "", "\t", "").Replace(template)
}

// Write writes a state file into a directory, as an agent leaves it that ends.
func Write(t testing.TB, dir, cluster, instance string, containers ...Container) string {
	t.Helper()
	path := filepath.Join(dir, dropin.FileName)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		put := func(bucket, key, value string) {
			b, err := tx.CreateBucketIfNotExists([]byte(bucket))
			if err == nil && key != "" {
				err = b.Put([]byte(key), []byte(value))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, b := range []string{"images", "containers", "tasks", "eniattachments", "resattachments", "metadata"} {
			put(b, "", "")
		}
		for k, v := range map[string]string{"agent-version": "1.105.1", "availability-zone": "", "cluster-name": cluster, "container-instance-arn": instance, "ec2-instance-id": "", "task-manifest-seq-num": strconv.Itoa(1795165287894)} {
			raw, err := json.Marshal(v)
			if err != nil {
				return err
			}
			put("metadata", k, string(raw))
		}
		for _, c := range containers {
			id := c.TaskArn[strings.LastIndexByte(c.TaskArn, '/')+1:]
			put("tasks", id, strings.ReplaceAll(c.fill(taskJSON), "@CONTAINER@", c.fill(containerJSON)))
			put("containers", id+"-"+c.Name, `{"DockerId":"`+c.ID+`","DockerName":"`+c.EngineName+`","Container":`+c.fill(containerJSON)+`}`)
		}
		return nil
	})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}
