package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/images"
)

const awsPort = "4566"

// rolesFile are the roles' credentials that the control plane hands out.
const rolesFile = `{"roles":{"arn:aws:iam::123456789012:role/execution":{"accessKeyId":"AKROLE","secretAccessKey":"planted-role-key","sessionToken":"planted-role-token"}}}`

// TestSecretsReachTheContainerAndNothingElse goes the real way: a definition names a parameter, a secret's key, a file of
// variables and a private registry; the control plane hands out the execution role; a container's first process has it all in its environment.
func TestSecretsReachTheContainerAndNothingElse(t *testing.T) {
	onEachEngine(t, secretsReachTheContainer)
}

func secretsReachTheContainer(t *testing.T, engine string) {
	store := &awsfake.Server{
		Keys:       []aws.Credentials{{AccessKeyID: "AKROLE", SecretAccessKey: "planted-role-key", SessionToken: "planted-role-token"}},
		Parameters: map[string]string{"/app/password": "planted-parameter"},
		Secrets: map[string]string{
			"arn:aws:secretsmanager:us-west-2:123456789012:secret:db-AbCdEf||":       `{"user":"planted-user"}`,
			"arn:aws:secretsmanager:us-west-2:123456789012:secret:registry-AbCdEf||": `{"username":"puller","password":"planted-registry"}`,
		},
		Objects: map[string]string{"config/app.env": "# of the application\nFROM_FILE=planted-file\nDEFINED=lost\n"},
	}
	server := httptest.NewServer(store)
	t.Cleanup(server.Close)
	roles := filepath.Join(t.TempDir(), "roles.json")
	if err := os.WriteFile(roles, []byte(rolesFile), 0o600); err != nil {
		t.Fatal(err)
	}
	l := NewLabOn(t, engine, "sec"+engine[:1], 93, 1, "--role-credentials", roles)
	l.forward(awsPort, strings.TrimPrefix(server.URL, "http://"))
	l.Registry.RequireAuth("puller", "planted-registry")
	image := l.Push("printer:1", images.Spec{Cmd: []string{"sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait $!"}})
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	l.StartAgent(1, "AWS_ENDPOINT_URL=http://"+l.Farm.LAN()+":"+awsPort)
	instance := l.InstanceOf(1)

	definition := func(role, parameter string) string {
		return fmt.Sprintf(`{"family":"printer","networkMode":"host","executionRoleArn":%q,"containerDefinitions":[{"name":"main","image":%q,"memory":32,
			"repositoryCredentials":{"credentialsParameter":"arn:aws:secretsmanager:us-west-2:123456789012:secret:registry-AbCdEf"},
			"environment":[{"name":"DEFINED","value":"kept"}],
			"environmentFiles":[{"type":"s3","value":"arn:aws:s3:::config/app.env"}],
			"secrets":[{"name":"PASSWORD","valueFrom":%q},{"name":"DB_USER","valueFrom":"arn:aws:secretsmanager:us-west-2:123456789012:secret:db-AbCdEf:user::"}]}]}`, role, image, parameter)
	}
	run := func(role, parameter string) string {
		t.Helper()
		l.Do("ecs", "register-task-definition", "--cli-input-json", definition(role, parameter))
		out := AWS[struct {
			Tasks    []Task
			Failures []any
		}](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", "printer", "--container-instances", instance)
		if len(out.Tasks) != 1 {
			t.Fatalf("%+v", out)
		}
		return out.Tasks[0].TaskArn
	}
	const execution = "arn:aws:iam::123456789012:role/execution"
	arn := run(execution, "/app/password")
	l.Until(60*time.Second, "the task runs", func() error {
		if task := l.DescribeTasks(arn)[0]; task.LastStatus != "RUNNING" {
			return fmt.Errorf("it is %s: %s", task.LastStatus, task.StoppedReason)
		}
		return nil
	})
	made := l.Running(1, "printer")
	if len(made) != 1 {
		t.Fatalf("%d containers", len(made))
	}
	printed, err := l.in(1, made[0].ID, "tr '\\0' '\\n' </proc/1/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PASSWORD=planted-parameter", "DB_USER=planted-user", "FROM_FILE=planted-file", "DEFINED=kept"} {
		if !slices.Contains(strings.Split(printed, "\n"), want) {
			t.Errorf("%s is missing in %q", want, printed)
		}
	}
	for k, v := range made[0].Labels {
		if strings.Contains(v, "planted") {
			t.Errorf("the label %s shows a value: %s", k, v)
		}
	}
	for _, c := range store.Calls() {
		if c.AccessKeyID != "AKROLE" {
			t.Errorf("not signed with the role's key: %+v", c)
		}
	}

	missing := run(execution, "/app/absent")
	l.Until(60*time.Second, "a task whose parameter does not exist is stopped with that", func() error {
		task := l.DescribeTasks(missing)[0]
		if task.LastStatus != "STOPPED" || !strings.HasPrefix(task.StoppedReason, "ResourceInitializationError: unable to pull secrets or registry auth: parameter /app/absent of SSM Parameter Store in us-west-2") {
			return fmt.Errorf("it is %s: %s", task.LastStatus, task.StoppedReason)
		}
		return nil
	})
	unknown := run("arn:aws:iam::123456789012:role/unknown", "/app/password")
	l.Until(60*time.Second, "a task whose role is not known is stopped with that", func() error {
		task := l.DescribeTasks(unknown)[0]
		if task.LastStatus != "STOPPED" || !strings.HasPrefix(task.StoppedReason, "ECS was unable to assume the role 'arn:aws:iam::123456789012:role/unknown'") {
			return fmt.Errorf("it is %s: %s", task.LastStatus, task.StoppedReason)
		}
		return nil
	})
	l.Do("ecs", "stop-task", "--cluster", cluster, "--task", arn)
	host := filepath.Join(l.Farm.Dir, "h1", "disk")
	l.nowhere("planted", filepath.Join(host, "var/lib/ecs"), filepath.Join(host, "var/log/ecs"), l.agents[1].log, l.control.log, filepath.Join(l.dir, "control"))
}

// output is what a container has written.
func (l *Lab) output(i int, id string) string {
	l.t.Helper()
	out, err := l.Seen(i).Output(l.t.Context(), id)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// nowhere looks for a text in files and directories, which must be there.
func (l *Lab) nowhere(text string, places ...string) {
	l.t.Helper()
	for _, place := range places {
		looked := 0
		err := filepath.WalkDir(place, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(text)) {
				l.t.Errorf("%s holds %q", path, text)
			}
			looked++
			return err
		})
		if err != nil || looked == 0 {
			l.t.Errorf("%s: looked into %d files: %v", place, looked, err)
		}
	}
}
