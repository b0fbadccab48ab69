package api_test

import (
	"fmt"
	"strings"
	"testing"
)

// firelens is a definition of a router with these members, and of an app with these of its log configuration.
func firelens(router, log string) string {
	return `{"family":"f","containerDefinitions":[{"name":"router","image":"i","memory":64,` + router + `},
		{"name":"app","image":"i","memory":64,"logConfiguration":{"logDriver":"awsfirelens"` + log + `}}]}`
}

func TestALogRouterIsRegisteredWithTheAttributesItNeeds(t *testing.T) {
	p := newPlane(t)
	answer, status := p.call("RegisterTaskDefinition", firelens(
		`"user":"1000","firelensConfiguration":{"type":"fluentbit","options":{"enable-ecs-log-metadata":"true","config-file-type":"file","config-file-value":"/extra.conf"}}`,
		`,"options":{"Name":"stdout","log-driver-buffer-limit":"2097152"}`))
	if status != 200 {
		t.Fatal(answer)
	}
	var names []string
	for _, a := range answer["taskDefinition"].(map[string]any)["requiresAttributes"].([]any) {
		names = append(names, a.(map[string]any)["name"].(string))
	}
	if got, want := strings.Join(names, "\n"), `com.amazonaws.ecs.capability.docker-remote-api.1.18
com.amazonaws.ecs.capability.logging-driver.awsfirelens
ecs.capability.firelens.fluentbit
ecs.capability.firelens.non-root-user
ecs.capability.firelens.options.config.file
ecs.capability.logging-driver.awsfirelens.log-driver-buffer-limit`; got != want {
		t.Error(got)
	}
}

func TestABadLogRouterIsRefused(t *testing.T) {
	p := newPlane(t)
	bit := func(options string) string {
		return `"firelensConfiguration":{"type":"fluentbit","options":{` + options + `}}`
	}
	for _, c := range []struct{ definition, want string }{
		{firelens(`"firelensConfiguration":{"type":"logstash"}`, ""), "ClientException: firelensConfiguration.type should be one of"},
		{firelens(bit(`"colour":"red"`), ""), "ClientException: Invalid 'firelensConfiguration' setting for container 'router'. There is no option \"colour\""},
		{firelens(bit(`"enable-ecs-log-metadata":"perhaps"`), ""), "ClientException: Invalid 'firelensConfiguration' setting"},
		{firelens(bit(`"config-file-type":"s3","config-file-value":"arn:aws:s3:::b/k"`), ""), "ClientException: When you are specifying a log router's configuration in S3, you must also specify a value for 'executionRoleArn'."},
		{strings.Replace(firelens(bit(`"config-file-type":"s3","config-file-value":"/x"`), ""), "{", `{"executionRoleArn":"arn:aws:iam::123456789012:role/e",`, 1), "ClientException: Invalid 'firelensConfiguration' setting for container 'router'. The option config-file-value must be the ARN of an object in S3"},
		{firelens(bit(`"config-file-type":"file"`), ""), "ClientException: Invalid 'firelensConfiguration' setting"},
		{firelens(bit(`"config-file-value":"/x"`), ""), "ClientException: Invalid 'firelensConfiguration' setting"},
		{firelens(bit(`"config-file-type":"file","config-file-value":"x"`), ""), "ClientException: Invalid 'firelensConfiguration' setting"},
		{firelens(bit(``)+`,"logConfiguration":{"logDriver":"awsfirelens"}`, ""), "ClientException: Invalid 'logConfiguration' setting for container 'router'. A log router can't"},
		{firelens(bit(``)+`,"dependsOn":[{"containerName":"app","condition":"START"}]`, ""), "ClientException: The containers depend on each other in a circle"},
		{firelens(bit(``), `,"options":{"Match":"*"}`), "ClientException: Invalid 'logConfiguration' setting for container 'app'. The options of awsfirelens configure an output and lack Name"},
		{firelens(bit(``), `,"options":{"Name":"stdout\n[OUTPUT]"}`), "ClientException: Invalid 'logConfiguration' setting for container 'app'. The option \"Name\" can't be written"},
		{firelens(bit(``), `,"options":{"log-driver-buffer-limit":"-1"}`), "ClientException: Invalid 'logConfiguration' setting"},
		{strings.Replace(firelens(bit(``), ""), `"logConfiguration":{"logDriver":"awsfirelens"}`, bit(``), 1), "ClientException: Invalid 'firelensConfiguration' setting for container 'app'. A task has one log router"},
	} {
		answer, status := p.call("RegisterTaskDefinition", c.definition)
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: status %d: %s\nwant %s", c.definition, status, got, c.want)
		}
	}
}
