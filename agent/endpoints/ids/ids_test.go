package ids

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/engine"
)

func TestIDsAreTheSameAfterARestartAndOtherOnAnotherHost(t *testing.T) {
	dir := t.TempDir()
	open := func(dir string) *IDs {
		t.Helper()
		i, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := open(dir).Of("arn:a", "web")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(first) {
		t.Errorf("%s is no UUID", first)
	}
	if info, err := os.Stat(filepath.Join(dir, KeyName)); err != nil || info.Mode().Perm() != 0o600 || info.Size() != keySize {
		t.Errorf("%v %v", info, err)
	}
	again := open(dir)
	if again.Of("arn:a", "web") != first {
		t.Error("another id after a restart")
	}
	for _, other := range []string{again.Of("arn:a", "we"), again.Of("arn:b", "web"), again.Of("arn:a\x00web", ""), open(t.TempDir()).Of("arn:a", "web")} {
		if other == first {
			t.Error("two containers have one id")
		}
	}
	tasks := []engine.TaskStatus{{Arn: "arn:b"}, {Arn: "arn:a", Containers: []engine.ContainerStatus{{Name: "db"}, {Name: "web"}}}}
	if task, c := again.Find(first, tasks); task != &tasks[1] || c != &tasks[1].Containers[1] {
		t.Errorf("%v %v", task, c)
	}
	if task, c, ok := again.Known(first); !ok || task != "arn:a" || c != "web" {
		t.Errorf("what was found is not known: %s %s", task, c)
	}
	if _, _, ok := again.Known(again.Of("arn:a", "db")); ok {
		t.Error("what nobody asked for is known")
	}
	if task, c := again.Find(strings.ToUpper(first), tasks); task != nil || c != nil {
		t.Error("an id that was never given is somebody's")
	}
}

func TestAFileThatIsNoKeyIsAnErrorThatSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, KeyName), []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(dir, "absent")); err == nil {
		t.Error("a directory that does not exist is no error")
	}
}
