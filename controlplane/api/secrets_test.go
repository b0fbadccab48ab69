package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

const (
	executionRole = `"executionRoleArn":"arn:aws:iam::123456789012:role/e"`
	someSecret    = `arn:aws:secretsmanager:us-west-2:123456789012:secret:db-AbCdEf`
)

func TestWhatTheAgentFetchesIsAcceptedAndRequiresWhoCan(t *testing.T) {
	p := newPlane(t)
	for member, want := range map[string][]string{
		`"secrets":[{"name":"A","valueFrom":"/a/b"}]`:                                                         {"secrets.ssm.environment-variables"},
		`"secrets":[{"name":"A","valueFrom":"a:3"}]`:                                                          {"secrets.ssm.environment-variables"},
		`"secrets":[{"name":"A","valueFrom":"arn:aws-cn:ssm:cn-north-1:123456789012:parameter/a/b"}]`:         {"secrets.ssm.environment-variables"},
		`"secrets":[{"name":"A","valueFrom":"` + someSecret + `"}]`:                                           {"secrets.asm.environment-variables"},
		`"secrets":[{"name":"A","valueFrom":"` + someSecret + `:key:AWSPREVIOUS:v-1"}]`:                       {"secrets.asm.environment-variables"},
		`"secrets":[{"name":"A","valueFrom":"a"},{"name":"B","valueFrom":"` + someSecret + `:key::"}]`:        {"secrets.asm.environment-variables", "secrets.ssm.environment-variables"},
		`"logConfiguration":{"logDriver":"splunk","secretOptions":[{"name":"splunk-token","valueFrom":"t"}]}`: {"secrets.ssm.bootstrap.log-driver"},
		`"environmentFiles":[{"type":"s3","value":"arn:aws:s3:::bucket/a/b.env"}]`:                            {"env-files.s3"},
		`"repositoryCredentials":{"credentialsParameter":"` + someSecret + `"}`:                               {"private-registry-authentication.secretsmanager"},
	} {
		answer, status := p.call("RegisterTaskDefinition", oneContainer(member, executionRole))
		if status != 200 {
			t.Errorf("%s: %v", member, answer)
			continue
		}
		var got []string
		text, _ := json.Marshal(answer)
		for _, name := range []string{"secrets.ssm.environment-variables", "secrets.asm.environment-variables", "secrets.ssm.bootstrap.log-driver", "secrets.asm.bootstrap.log-driver", "env-files.s3", "private-registry-authentication.secretsmanager"} {
			if strings.Contains(string(text), `"ecs.capability.`+name+`"`) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s requires %v, want %v", member, got, want)
		}
	}
}

func TestWhatCanNotBeFetchedIsRefusedAtRegistration(t *testing.T) {
	p := newPlane(t)
	for _, c := range []struct{ member, role, want string }{
		{`"secrets":[{"name":"A","valueFrom":"a"}]`, "", "When you are specifying container secrets, you must also specify a value for 'executionRoleArn'."},
		{`"logConfiguration":{"logDriver":"splunk","secretOptions":[{"name":"a","valueFrom":"t"}]}`, "", "When you are specifying container secrets, you must also"},
		{`"environmentFiles":[{"type":"s3","value":"arn:aws:s3:::bucket/a.env"}]`, "", "When you are specifying environment files, you must also"},
		{`"repositoryCredentials":{"credentialsParameter":"` + someSecret + `"}`, "", "When you are specifying repository credentials, you must also"},
		{`"secrets":[{"name":"A=","valueFrom":"a"}]`, executionRole, "Invalid 'secrets' setting for container 'c'. The name \"A=\" is invalid."},
		{`"secrets":[{"name":"A","valueFrom":""}]`, executionRole, "The valueFrom of 'A' must be"},
		{`"secrets":[{"name":"A","valueFrom":"arn:aws:s3:::bucket/a"}]`, executionRole, "The valueFrom of 'A' must be"},
		{`"secrets":[{"name":"A","valueFrom":"` + someSecret + `:a:b:c:d"}]`, executionRole, "The valueFrom of 'A' must be"},
		{`"environment":[{"name":"A","value":"x"}],"secrets":[{"name":"A","valueFrom":"a"}]`, executionRole, "The secret name must be unique and not shared with any new or existing environment variables set on the container, such as 'A'."},
		{`"secrets":[{"name":"A","valueFrom":"a"},{"name":"A","valueFrom":"b"}]`, executionRole, "The secret name must be unique"},
		{`"logConfiguration":{"logDriver":"splunk","options":{"a":"x"},"secretOptions":[{"name":"a","valueFrom":"t"}]}`, executionRole, "The option 'a' has two values."},
		{`"environmentFiles":[{"type":"s3","value":"s3://bucket/a.env"}]`, executionRole, "Invalid 'environmentFiles' setting for container 'c'. The value must be the ARN of an object in S3"},
		{`"environmentFiles":[{"type":"http","value":"arn:aws:s3:::bucket/a.env"}]`, executionRole, "Invalid 'environmentFiles' setting for container 'c'. The type must be s3"},
		{`"environmentFiles":[` + strings.Repeat(`{"type":"s3","value":"arn:aws:s3:::bucket/a.env"},`, 10) + `{"type":"s3","value":"arn:aws:s3:::bucket/a.env"}]`, executionRole, "It has 11 files; at most 10 are allowed."},
		{`"repositoryCredentials":{"credentialsParameter":"a b"}`, executionRole, "Invalid 'repositoryCredentials' setting"},
	} {
		answer, status := p.call("RegisterTaskDefinition", oneContainer(c.member, c.role))
		text, _ := json.Marshal(answer)
		var said struct{ Message string }
		if status == 200 || json.Unmarshal(text, &said) != nil || !strings.Contains(said.Message, c.want) || !strings.Contains(string(text), "ClientException") {
			t.Errorf("%s: %d %s\nwant %s", c.member, status, text, c.want)
		}
	}
}
