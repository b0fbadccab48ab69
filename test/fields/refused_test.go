package fields

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/protocol/awsjson"
	_ "github.com/longshore-project/longshore/protocol/ecsapi" // the unions of the ECS API
)

// refuses sends a definition, or an override of one that is fine, and wants an error that names the member.
func (w *world) refuses(t *testing.T, path string, c claim) {
	t.Helper()
	var err error
	if strings.HasPrefix(path, "Overrides") {
		in := ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("plain"), Overrides: new(types.TaskOverride)}
		if _, err := awsjson.Unmarshal([]byte(c.request), in.Overrides); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var out *ecs.RunTaskOutput
		if out, err = w.api.RunTask(t.Context(), &in); err == nil {
			err = unplacedBecause(out)
		}
	} else {
		var in ecs.RegisterTaskDefinitionInput
		if _, err := awsjson.Unmarshal([]byte(c.request), &in); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_, err = w.api.RegisterTaskDefinition(t.Context(), &in)
		if err == nil && c.unplaced {
			err = w.placement(t, *in.Family)
		}
	}
	if err == nil || !strings.Contains(err.Error(), c.says) {
		t.Errorf("%s: %v\nwant a refusal with %q", path, err, c.says)
	}
}

// placement is why a task of the family is not placed, nil when it is.
func (w *world) placement(t *testing.T, family string) error {
	out, err := w.api.RunTask(t.Context(), &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: &family})
	if err != nil {
		return err
	}
	return unplacedBecause(out)
}

func unplacedBecause(out *ecs.RunTaskOutput) error {
	if len(out.Failures) == 0 {
		return nil
	}
	return errors.New(aws.ToString(out.Failures[0].Reason) + ": " + aws.ToString(out.Failures[0].Detail))
}

// definition is a definition with more members of its own, and of its container.
func definition(more, container string) string {
	return `{"family":"refused","containerDefinitions":[{"name":"c","image":"i","memory":16` + container + `}]` + more + `}`
}

// exists reports whether "folder TestName" is a test of the module.
func exists(test string) bool {
	folder, name, _ := strings.Cut(test, " ")
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return false
	}
	files, _ := filepath.Glob(filepath.Join(strings.TrimSpace(string(root)), folder, "*_test.go"))
	for _, file := range files {
		if src, err := os.ReadFile(file); err == nil && strings.Contains(string(src), "\nfunc "+name+"(t *testing.T)") {
			return true
		}
	}
	return false
}
