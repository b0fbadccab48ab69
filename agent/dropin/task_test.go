package dropin

import (
	"os"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
)

func FuzzTask(f *testing.F) {
	task, err := os.ReadFile("dropintest/task.json")
	if err != nil {
		f.Fatal(err)
	}
	container, err := os.ReadFile("dropintest/container.json")
	if err != nil {
		f.Fatal(err)
	}
	fill := strings.NewReplacer("@ARN@", "arn:aws:ecs:us-west-2:123456789012:task/c/t1", "@STATUS@", "RUNNING", "@STARTED@", "2026-11-20T09:01:33Z", "@MODE@", "bridge", "@KIND@", "NORMAL", "@CODE@", "null")
	f.Add([]byte(fill.Replace(strings.ReplaceAll(string(task), "@CONTAINER@", string(container)))))
	f.Add([]byte(`{"Arn":"arn:aws:ecs:us-west-2:123456789012:task/c/t1","Containers":[{"Name":"a"}]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		got := taskOf("id", value, nil)
		if got.Record == nil {
			if got.Obstacle == "" {
				t.Fatal("it can neither be read nor is that said")
			}
			return
		}
		if len(got.Record.Containers) != len(got.Record.Task.Containers) {
			t.Fatal("a container is lost")
		}
		_, _ = engine.ParseTask(got.Record.Task, engine.Host{})
	})
}
