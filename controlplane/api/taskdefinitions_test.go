package api_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"
)

// loggingAgent is a definition as people write it for a logging agent on every host.
const loggingAgent = `{
  "family": "logging-agent", "networkMode": "host", "requiresCompatibilities": ["EC2"], "cpu": "256", "memory": "512",
  "taskRoleArn": "arn:aws:iam::123456789012:role/logging", "executionRoleArn": "arn:aws:iam::123456789012:role/ecsTaskExecutionRole",
  "containerDefinitions": [{
    "name": "fluentd", "image": "registry.example/fluentd:1", "portMappings": [], "user": "1000",
    "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/ecs/logging-agent", "awslogs-region": "us-west-2", "awslogs-stream-prefix": "ecs"}},
    "mountPoints": [{"sourceVolume": "logs", "containerPath": "/var/log/apps", "readOnly": true}]
  }],
  "volumes": [{"name": "logs", "host": {"sourcePath": "/var/log/apps"}}]
}`

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestALoggingAgentsDefinitionComesBackWithECSsDefaults(t *testing.T) {
	p := newPlane(t)
	answer, status := p.call("RegisterTaskDefinition", loggingAgent)
	if status != 200 {
		t.Fatal(answer)
	}
	got := answer["taskDefinition"].(map[string]any)
	if at, ok := got["registeredAt"].(float64); !ok || at < 1e9 {
		t.Errorf("registeredAt is %v", got["registeredAt"])
	}
	delete(got, "registeredAt")
	if by, _ := got["registeredBy"].(string); !strings.HasPrefix(by, "arn:aws:iam::123456789012:") {
		t.Errorf("registeredBy is %v", got["registeredBy"])
	}
	delete(got, "registeredBy")
	want := decoded(t, `{
  "taskDefinitionArn": "arn:aws:ecs:us-west-2:123456789012:task-definition/logging-agent:1", "family": "logging-agent", "revision": 1, "status": "ACTIVE",
  "networkMode": "host", "requiresCompatibilities": ["EC2"], "compatibilities": ["EC2", "EXTERNAL"], "cpu": "256", "memory": "512",
  "taskRoleArn": "arn:aws:iam::123456789012:role/logging", "executionRoleArn": "arn:aws:iam::123456789012:role/ecsTaskExecutionRole",
  "placementConstraints": [],
  "containerDefinitions": [{
    "name": "fluentd", "image": "registry.example/fluentd:1", "cpu": 0, "essential": true, "portMappings": [], "environment": [], "volumesFrom": [], "systemControls": [], "user": "1000",
    "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/ecs/logging-agent", "awslogs-region": "us-west-2", "awslogs-stream-prefix": "ecs"}},
    "mountPoints": [{"sourceVolume": "logs", "containerPath": "/var/log/apps", "readOnly": true}]
  }],
  "volumes": [{"name": "logs", "host": {"sourcePath": "/var/log/apps"}}],
  "requiresAttributes": [
    {"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"}, {"name": "com.amazonaws.ecs.capability.docker-remote-api.1.19"},
    {"name": "com.amazonaws.ecs.capability.logging-driver.awslogs"}, {"name": "com.amazonaws.ecs.capability.task-iam-role-network-host"},
    {"name": "ecs.capability.execution-role-awslogs"}, {"name": "ecs.capability.task-cpu-mem-limit"}]
}`)
	if diff := cmp.Diff(want, any(got)); diff != "" {
		t.Error(diff)
	}
	if tags, ok := answer["tags"].([]any); !ok || len(tags) != 0 {
		t.Errorf("tags stand beside the definition, empty: %v", answer["tags"])
	}
	described, status := p.call("DescribeTaskDefinition", `{"taskDefinition":"logging-agent"}`)
	if status != 200 {
		t.Fatal(described)
	}
	back := described["taskDefinition"].(map[string]any)
	delete(back, "registeredAt")
	delete(back, "registeredBy")
	if diff := cmp.Diff(want, any(back)); diff != "" {
		t.Errorf("described: %s", diff)
	}
}

// oneContainer is a definition of one container with these members beside name and image, and these of the definition.
func oneContainer(container, definition string) string {
	comma := func(s string) string {
		if s != "" {
			s = "," + s
		}
		return s
	}
	return `{"family":"f","containerDefinitions":[{"name":"c","image":"i","memory":64` + comma(container) + `}]` + comma(definition) + `}`
}

func TestWhatADefinitionSaysIsEchoedOrNormalised(t *testing.T) {
	p := newPlane(t)
	for _, c := range []struct{ container, definition, path, want string }{
		{"", "", "networkMode", `"bridge"`},
		{"", `"cpu":".25 vCPU","memory":"1GB"`, "cpu", `"256"`},
		{"", `"cpu":".25 vCPU","memory":"1GB"`, "memory", `"1024"`},
		{"", `"cpu":"1 vcpu","memory":"0.5 GB"`, "memory", `"512"`},
		{"", "", "cpu", `null`},
		{"", "", "requiresCompatibilities", `null`},
		{"", `"requiresCompatibilities":[]`, "requiresCompatibilities", `[]`},
		{"", `"volumes":[{"name":"v","configuredAtLaunch":false}]`, "volumes", `[{"configuredAtLaunch":false,"host":{},"name":"v"}]`},
		{"", `"pidMode":"host","ipcMode":"none"`, "pidMode", `"host"`},
		{`"portMappings":[{"containerPort":80}]`, "", "containerDefinitions.0.portMappings", `[{"containerPort":80,"hostPort":0,"protocol":"tcp"}]`},
		{`"portMappings":[{"containerPort":53,"hostPort":5353,"protocol":"udp"}]`, "", "containerDefinitions.0.portMappings", `[{"containerPort":53,"hostPort":5353,"protocol":"udp"}]`},
		{`"portMappings":[{"containerPort":80,"name":"web","appProtocol":"http"}]`, `"networkMode":"host"`, "containerDefinitions.0.portMappings", `[{"appProtocol":"http","containerPort":80,"hostPort":80,"name":"web","protocol":"tcp"}]`},
		{`"entryPoint":[],"command":["a"]`, "", "containerDefinitions.0.entryPoint", `[]`},
		{`"environment":[{"name":"A","value":""}]`, "", "containerDefinitions.0.environment", `[{"name":"A","value":""}]`},
		{`"dockerLabels":{}`, "", "containerDefinitions.0.dockerLabels", `{}`},
		{`"privileged":false,"stopTimeout":0`, "", "containerDefinitions.0.stopTimeout", `0`},
		{`"secrets":[],"resourceRequirements":null`, "", "containerDefinitions.0.secrets", `[]`},
		{`"linuxParameters":{"capabilities":{"add":["NET_ADMIN"],"drop":[]},"initProcessEnabled":false}`, "", "containerDefinitions.0.linuxParameters", `{"capabilities":{"add":["NET_ADMIN"],"drop":[]},"initProcessEnabled":false}`},
		{`"ulimits":[{"name":"nofile","softLimit":1024,"hardLimit":-1}]`, "", "containerDefinitions.0.ulimits", `[{"hardLimit":-1,"name":"nofile","softLimit":1024}]`},
		{"", `"enableFaultInjection":false,"runtimePlatform":{"operatingSystemFamily":"LINUX"}`, "runtimePlatform", `{"operatingSystemFamily":"LINUX"}`},
		{"", `"placementConstraints":[{"type":"memberOf","expression":"attribute:env==prod"}]`, "placementConstraints", `[{"expression":"attribute:env==prod","type":"memberOf"}]`},
	} {
		answer, status := p.call("RegisterTaskDefinition", oneContainer(c.container, c.definition))
		if status != 200 {
			t.Errorf("%s %s: %v", c.container, c.definition, answer)
			continue
		}
		v := answer["taskDefinition"]
		for _, step := range strings.Split(c.path, ".") {
			if list, ok := v.([]any); ok {
				v = list[0]
			} else {
				v = v.(map[string]any)[step]
			}
		}
		if got, _ := json.Marshal(v); string(got) != c.want {
			t.Errorf("%s %s: %s is %s, want %s", c.container, c.definition, c.path, got, c.want)
		}
	}
}

func TestADefinitionRequiresTheAttributesThatItsFeaturesNeed(t *testing.T) {
	p := newPlane(t)
	const aws, ecs, docker = "com.amazonaws.ecs.capability.", "ecs.capability.", "com.amazonaws.ecs.capability.docker-remote-api."
	role := `"taskRoleArn":"arn:aws:iam::123456789012:role/r"`
	for _, c := range []struct {
		container, definition string
		want                  []string
	}{
		{"", "", nil},
		{`"privileged":true`, "", []string{aws + "privileged-container"}},
		{`"privileged":false`, "", nil},
		{`"logConfiguration":{"logDriver":"json-file"}`, "", []string{docker + "1.18", aws + "logging-driver.json-file"}},
		{"", role, []string{docker + "1.19", aws + "task-iam-role"}},
		{"", role + `,"networkMode":"host"`, []string{docker + "1.19", aws + "task-iam-role-network-host"}},
		{"", `"executionRoleArn":"arn:aws:iam::123456789012:role/r"`, nil},
		{`"healthCheck":{"command":["CMD-SHELL","true"]}`, "", []string{ecs + "container-health-check"}},
		{`"healthCheck":{"command":["NONE"]}`, "", nil},
		{"", `"pidMode":"task"`, []string{ecs + "pid-ipc-namespace-sharing"}},
		{`"portMappings":[{"containerPortRange":"80-81"}]`, "", []string{ecs + "network.container-port-range"}},
		{"", `"volumes":[{"name":"v","dockerVolumeConfiguration":{}}]`, []string{ecs + "docker-plugin.local"}},
		{"", `"volumes":[{"name":"v","dockerVolumeConfiguration":{"driver":"rexray/ebs:latest"}}]`, []string{ecs + "docker-plugin.rexray/ebs.latest"}},
		{"", `"volumes":[{"name":"v","efsVolumeConfiguration":{"fileSystemId":"fs-12345678"}}]`, []string{ecs + "efs"}},
		{"", `"volumes":[{"name":"v","efsVolumeConfiguration":{"fileSystemId":"fs-12345678","transitEncryption":"ENABLED"}}]`, []string{ecs + "efs", ecs + "efsAuth"}},
		{"", `"pidMode":"host"`, []string{ecs + "pid-ipc-namespace-sharing"}},
		{"", `"ipcMode":"none"`, []string{ecs + "pid-ipc-namespace-sharing"}},
		{"", `"memory":"64"`, []string{ecs + "task-cpu-mem-limit"}},
		{"", `"cpu":"12 vCPU"`, []string{ecs + "increased-task-cpu-limit", ecs + "task-cpu-mem-limit"}},
		{`"linuxParameters":{"initProcessEnabled":true}`, "", []string{docker + "1.29"}},
		{`"restartPolicy":{"enabled":true}`, "", []string{ecs + "container-restart-policy"}},
		{`"restartPolicy":{"enabled":false}`, "", nil},
		{`"dockerSecurityOptions":["label:user:x","apparmor:y","no-new-privileges"]`, "", []string{aws + "apparmor", aws + "selinux"}},
		{"", `"runtimePlatform":{"cpuArchitecture":"ARM64"}`, []string{"ecs.cpu-architecture=arm64"}},
	} {
		answer, status := p.call("RegisterTaskDefinition", oneContainer(c.container, c.definition))
		if status != 200 {
			t.Errorf("%s %s: %v", c.container, c.definition, answer)
			continue
		}
		var got []string
		for _, a := range answer["taskDefinition"].(map[string]any)["requiresAttributes"].([]any) {
			text := a.(map[string]any)["name"].(string)
			if value, ok := a.(map[string]any)["value"]; ok {
				text += "=" + value.(string)
			}
			got = append(got, text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s %s requires\n%q, want\n%q", c.container, c.definition, got, c.want)
		}
	}
	two := `{"family":"f","containerDefinitions":[{"name":"c","image":"123456789012.dkr.ecr.us-west-2.amazonaws.com/x:1","memory":6,"dependsOn":[{"containerName":"d","condition":"START"}]},{"name":"d","image":"i","memory":6}]}`
	answer, _ := p.call("RegisterTaskDefinition", two)
	if got := fmt.Sprint(answer["taskDefinition"].(map[string]any)["requiresAttributes"]); !strings.Contains(got, ecs+"container-ordering") || !strings.Contains(got, aws+"ecr-auth") {
		t.Errorf("two containers require %s", got)
	}
}

func TestABadDefinitionIsRefusedInECSsWords(t *testing.T) {
	p := newPlane(t)
	container := func(c, want string) [2]string { return [2]string{oneContainer(c, ""), want} }
	definition := func(d, want string) [2]string { return [2]string{oneContainer("", d), want} }
	many := strings.TrimSuffix(strings.Repeat(`{"name":"c","image":"i","memory":6},`, 11), ",")
	pair := func(a, b string) string {
		return `{"family":"f","containerDefinitions":[{"name":"a","image":"i","memory":6` + a + `},{"name":"b","image":"i","memory":6` + b + `}]}`
	}
	for _, c := range [][2]string{
		{`{"containerDefinitions":[]}`, "ClientException: Family should not be null or empty."},
		{`{"family":"","containerDefinitions":[{"name":"c","image":"i","memory":6}]}`, "ClientException: Family should not be null or empty."},
		{`{"family":"a b","containerDefinitions":[{"name":"c","image":"i","memory":6}]}`, "ClientException: Family contains invalid characters"},
		{`{"family":"f"}`, "ClientException: Container list cannot be empty."},
		{`{"family":"f","containerDefinitions":[]}`, "ClientException: Container list cannot be empty."},
		{`{"family":"f","containerDefinitions":[` + many + `]}`, "ClientException: Too many containers."},
		{`{"family":"f","containerDefinitions":[{"image":"i","memory":6}]}`, "ClientException: Container.name should not be null or empty."},
		{`{"family":"f","containerDefinitions":[{"name":"a/b","image":"i","memory":6}]}`, "ClientException: Container name"},
		{`{"family":"f","containerDefinitions":[{"name":"c","memory":6}]}`, "ClientException: Container.image should not be null or empty."},
		{`{"family":"f","containerDefinitions":[{"name":"c","image":"a b","memory":6}]}`, "ClientException: Container.image contains invalid characters"},
		{`{"family":"f","containerDefinitions":[{"name":"c","image":"i"}]}`, "ClientException: Invalid setting for container 'c'. At least one of 'memory' or 'memoryReservation' must be specified."},
		{`{"family":"f","tags":[],"containerDefinitions":[{"name":"c","image":"i","memory":6}]}`, "InvalidParameterException: Tags can not be empty."},
		{pair(`,"essential":false`, `,"essential":false`), "ClientException: A task definition must contain at least one essential container"},
		{strings.Replace(pair("", ""), `"name":"b"`, `"name":"a"`, 1), "ClientException: Duplicate container name"},
		{pair(`,"portMappings":[{"containerPort":1,"hostPort":80}]`, `,"portMappings":[{"containerPort":2,"hostPort":80}]`), "ClientException: Containers 'a' and 'b' both use the host port 80/tcp"},
		{pair(`,"dependsOn":[{"containerName":"x","condition":"START"}]`, ""), "ClientException: The dependsOn of container 'a' names the container 'x'"},
		{pair(`,"dependsOn":[{"containerName":"b","condition":"HEALTHY"}]`, ""), "ClientException: Container 'a' depends on container 'b' with the condition HEALTHY, but that has no healthCheck"},
		{pair(`,"dependsOn":[{"containerName":"b","condition":"SUCCESS"}]`, ""), "ClientException: Container 'a' depends on container 'b' with the condition SUCCESS; that is not possible with an essential container"},
		{pair(`,"dependsOn":[{"containerName":"b","condition":"LATER"}]`, ""), "ClientException: dependsOn.condition should be one of"},
		{pair(`,"dependsOn":[{"containerName":"b","condition":"START"}]`, `,"links":["a"]`), "ClientException: The containers depend on each other in a circle"},
		{pair(`,"links":["z:alias"]`, ""), "ClientException: The link 'z:alias' of container 'a'"},
		{pair(`,"volumesFrom":[{"sourceContainer":"z"}]`, ""), "ClientException: The volumesFrom 'z' of container 'a'"},
		container(`"memory":5`, "SerializationException"), // a duplicate key
		{`{"family":"f","containerDefinitions":[{"name":"c","image":"i","memory":5}]}`, "ClientException: Invalid 'memory' setting for container 'c'."},
		container(`"memoryReservation":65`, "ClientException: Invalid setting for container 'c'. The 'memory' of 64 MiB must be greater than the 'memoryReservation' of 65 MiB."),
		container(`"cpu":-1`, "ClientException: Invalid 'cpu' setting for container 'c'."),
		container(`"portMappings":[{"containerPort":70000}]`, "ClientException: Invalid 'containerPort' setting for container 'c'."),
		container(`"portMappings":[{"hostPort":80}]`, "ClientException: Invalid 'containerPort' setting for container 'c'."),
		container(`"portMappings":[{"containerPort":80,"hostPort":-1}]`, "ClientException: Invalid 'hostPort' setting for container 'c'."),
		container(`"portMappings":[{"containerPort":80,"protocol":"sctp"}]`, "ClientException: portMappings.protocol should be one of [tcp, udp]"),
		container(`"mountPoints":[{"sourceVolume":"x","containerPath":"/x"}]`, "ClientException: Unknown volume 'x'."),
		{oneContainer(`"mountPoints":[{"sourceVolume":"v","containerPath":"x"}]`, `"volumes":[{"name":"v"}]`), "ClientException: Invalid 'mountPoints' setting for container 'c'."},
		{oneContainer(`"portMappings":[{"containerPort":80,"hostPort":81}]`, `"networkMode":"host"`), "ClientException: When networkMode=host, the host ports and container ports in port mappings must match."},
		{oneContainer(`"portMappings":[{"containerPort":80,"hostPort":81}]`, `"networkMode":"awsvpc"`), "ClientException: When networkMode=awsvpc, the host ports and container ports in port mappings must match."},
		{oneContainer(`"portMappings":[{"containerPort":80}]`, `"networkMode":"none"`), "ClientException: When networkMode=none"},
		{oneContainer(`"links":["d"]`, `"networkMode":"host"`), "ClientException: Links are not supported when networkMode=host."},
		{oneContainer(`"extraHosts":[{"hostname":"h","ipAddress":"1.2.3.4"}]`, `"networkMode":"awsvpc"`), "ClientException: Extra hosts are not supported"},
		{oneContainer(`"systemControls":[{"namespace":"net.core.somaxconn","value":"1"}]`, `"networkMode":"host"`), "ClientException: Invalid 'systemControls' setting"},
		container(`"extraHosts":[{"hostname":"h","ipAddress":"x"}]`, "ClientException: Invalid 'extraHosts' setting"),
		container(`"logConfiguration":{"logDriver":"awslogs","options":{"awslogs-region":"us-west-2"}}`, "ClientException: Log driver awslogs requires options: awslogs-group"),
		container(`"logConfiguration":{"logDriver":"paper"}`, "ClientException: logConfiguration.logDriver should be one of"),
		container(`"logConfiguration":{"logDriver":"awsfirelens"}`, "ClientException: Invalid 'logConfiguration' setting for container 'c'. The log driver awsfirelens needs"),
		container(`"healthCheck":{"command":["true"]}`, "ClientException: Invalid 'healthCheck' setting"),
		container(`"healthCheck":{"command":["CMD"]}`, "ClientException: Invalid 'healthCheck' setting"),
		container(`"healthCheck":{"command":["CMD","x"],"interval":1}`, "ClientException: Invalid 'healthCheck' setting for container 'c'. The interval must be between 5 and 300, but was 1."),
		container(`"restartPolicy":{"enabled":true,"restartAttemptPeriod":5}`, "ClientException: Invalid 'restartPolicy' setting"),
		container(`"environment":[{"value":"x"}]`, "ClientException: Invalid 'environment' setting"),
		container(`"user":"a:b:c"`, "ClientException: Invalid 'user' setting"),
		container(`"workingDirectory":"x"`, "ClientException: Invalid 'workingDirectory' setting"),
		container(`"ulimits":[{"name":"wings","softLimit":1,"hardLimit":1}]`, "ClientException: ulimits.name should be one of"),
		container(`"ulimits":[{"name":"core","softLimit":2,"hardLimit":1}]`, "ClientException: Invalid 'ulimits' setting"),
		container(`"linuxParameters":{"capabilities":{"add":["FLY"]}}`, "ClientException: Invalid 'linuxParameters' setting for container 'c'. There is no capability \"FLY\""),
		container(`"linuxParameters":{"swappiness":101}`, "ClientException: Invalid 'linuxParameters' setting"),
		container(`"linuxParameters":{"tmpfs":[{"containerPath":"/t","size":0}]}`, "ClientException: Invalid 'linuxParameters' setting"),
		container(`"stopTimeout":-1`, "ClientException: Invalid 'stopTimeout' setting"),
		container(`"versionConsistency":"perhaps"`, "ClientException: versionConsistency should be one of"),
		container(`"resourceRequirements":[{"type":"GPU","value":"none"}]`, "ClientException: Invalid 'resourceRequirements' setting for container 'c'. The value of type GPU must be a number of GPUs"),
		container(`"resourceRequirements":[{"type":"InferenceAccelerator","value":"a"}]`, "UnsupportedFeatureException: The resourceRequirements type InferenceAccelerator"),
		container(`"resourceRequirements":[{"type":"GPU","value":"1"},{"type":"GPU","value":"1"}]`, "ClientException: Invalid 'resourceRequirements' setting for container 'c'. The type GPU is there twice."),
		container(`"command":["`+strings.Repeat("x", 65536)+`"]`, "ClientException: Actual length: '"),
		definition(`"networkMode":"carrier-pigeon"`, "ClientException: networkMode should be one of"),
		definition(`"pidMode":"none"`, "ClientException: pidMode should be one of"),
		definition(`"requiresCompatibilities":["FARGATE"]`, "ClientException: Fargate only supports network mode 'awsvpc'."),
		definition(`"requiresCompatibilities":["FARGATE"],"networkMode":"awsvpc","pidMode":"host"`, "ClientException: Tasks using the Fargate launch type do not support pidMode 'host'. The supported value for pidMode is 'task'."),
		definition(`"requiresCompatibilities":["EXTERNAL"],"networkMode":"awsvpc"`, "ClientException: Tasks using the External launch type do not support network mode 'awsvpc'."),
		definition(`"requiresCompatibilities":["MOON"]`, "ClientException: requiresCompatibilities should be one of"),
		definition(`"cpu":"64"`, "ClientException: Invalid 'cpu' setting for task."),
		definition(`"cpu":"a lot"`, "ClientException: Invalid 'cpu' setting for task."),
		definition(`"memory":"a lot"`, "ClientException: Invalid 'memory' setting for task."),
		definition(`"memory":"32"`, "ClientException: Invalid setting for container 'c'. Its 'memory' of 64 MiB is more than the task's 32 MiB."),
		{oneContainer(`"cpu":256`, `"cpu":"128"`), "ClientException: Invalid 'cpu' setting for task. The containers reserve 256 CPU units"},
		definition(`"volumes":[{"host":{}}]`, "ClientException: Volume.name should not be null or empty."),
		definition(`"volumes":[{"name":"a"},{"name":"a"}]`, "ClientException: Duplicate volume name 'a'."),
		definition(`"volumes":[{"name":"a","host":{"sourcePath":"var"}}]`, "ClientException: Invalid sourcePath for volume 'a'"),
		definition(`"volumes":[{"name":"a","configuredAtLaunch":true}]`, "UnsupportedFeatureException: RegisterTaskDefinition: the member volumes[0].configuredAtLaunch"),
		definition(`"proxyConfiguration":{"containerName":"c"}`, "UnsupportedFeatureException: RegisterTaskDefinition: the member proxyConfiguration"),
		definition(`"runtimePlatform":{"operatingSystemFamily":"WINDOWS_SERVER_2022_CORE"}`, "UnsupportedFeatureException: RegisterTaskDefinition: the member runtimePlatform.operatingSystemFamily"),
		definition(`"placementConstraints":[{"type":"distinctInstance"}]`, "ClientException: constraint.type 'distinctInstance' is not supported."),
		definition(`"placementConstraints":[{"type":"memberOf","expression":"attribute:"}]`, "InvalidParameterException: Invalid expression"),
		definition(`"placementConstraints":[{"type":"memberOf","expression":"`+strings.Repeat("a", 2001)+`"}]`, "InvalidParameterException: Invalid expression"),
		definition(`"tags":[{"key":"a","value":"b"},{"key":"a","value":"c"}]`, "InvalidParameterException: Duplicate tag keys"),
	} {
		answer, status := p.call("RegisterTaskDefinition", c[0])
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, c[1]) {
			t.Errorf("%.200s: status %d: %.300s\nwant %s", c[0], status, got, c[1])
		}
	}
	if out, err := p.admin.ListTaskDefinitionFamilies(p.ctx, &ecs.ListTaskDefinitionFamiliesInput{}); err != nil || len(out.Families) != 0 {
		t.Errorf("what was refused left %v, %v", out, err)
	}
}

func TestARevisionIsNeverUsedAgain(t *testing.T) {
	p := newPlane(t)
	for want := range 3 {
		if got := p.define("f", 1, 6); got != fmt.Sprint("f:", want+1) {
			t.Fatalf("got %s", got)
		}
	}
	deregister := func(ref string) *types.TaskDefinition {
		t.Helper()
		out, err := p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: &ref})
		p.must(err)
		return out.TaskDefinition
	}
	if d := deregister("f:3"); d.Status != types.TaskDefinitionStatusInactive || d.DeregisteredAt == nil {
		t.Errorf("deregistered: %+v", d)
	}
	at := *deregister("f:3").DeregisteredAt
	if again := *deregister("f:3").DeregisteredAt; !again.Equal(at) {
		t.Errorf("deregistering again moved the time from %s to %s", at, again)
	}
	latest, err := p.admin.DescribeTaskDefinition(p.ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("f")})
	p.must(err)
	if latest.TaskDefinition.Revision != 2 {
		t.Errorf("the family means revision %d", latest.TaskDefinition.Revision)
	}
	exact, err := p.admin.DescribeTaskDefinition(p.ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("arn:aws:ecs:us-west-2:123456789012:task-definition/f:3")})
	p.must(err)
	if exact.TaskDefinition.Status != types.TaskDefinitionStatusInactive {
		t.Errorf("revision 3 is %s", exact.TaskDefinition.Status)
	}
	deleted, err := p.admin.DeleteTaskDefinitions(p.ctx, &ecs.DeleteTaskDefinitionsInput{TaskDefinitions: []string{"f:3", "f:2", "f:9", "f", "?:1"}})
	p.must(err)
	if len(deleted.TaskDefinitions) != 1 || deleted.TaskDefinitions[0].Status != types.TaskDefinitionStatusDeleteInProgress || deleted.TaskDefinitions[0].DeleteRequestedAt == nil {
		t.Errorf("deleted %+v", deleted.TaskDefinitions)
	}
	var reasons []string
	for _, f := range deleted.Failures {
		reasons = append(reasons, *f.Arn+" "+*f.Reason)
	}
	want := []string{
		"f:2 The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
		"f:9 The specified task definition does not exist. Specify a valid account, family, revision and try again.",
		"f The specified task definition identifier is invalid. Specify a valid name or ARN and try again.",
		"?:1 The specified task definition identifier is invalid. Specify a valid name or ARN and try again.",
	}
	if !slices.Equal(reasons, want) {
		t.Errorf("failures %q, want %q", reasons, want)
	}
	if got := p.define("f", 1, 6); got != "f:4" {
		t.Errorf("after a deletion comes %s", got)
	}
	for ref, want := range map[string][2]string{
		"f": {"ClientException", "Revision is missing."}, "f:x": {"InvalidParameterException", "Invalid revision number. Number: x"},
		"f:77": {"ClientException", "Unable to describe task definition."},
	} {
		_, err := p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: &ref})
		p.refused(err, want[0], want[1])
	}
	_, err = p.admin.DescribeTaskDefinition(p.ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("none")})
	p.refused(err, "ClientException", "Unable to describe task definition.")
	_, err = p.admin.DeleteTaskDefinitions(p.ctx, &ecs.DeleteTaskDefinitionsInput{TaskDefinitions: slices.Repeat([]string{"f:1"}, 11)})
	p.refused(err, "InvalidParameterException", "Size of TaskDefinition references list cannot exceed 10")
}

func TestRegistrationsSideBySideGetRevisionsOfTheirOwn(t *testing.T) {
	p := newPlane(t)
	const n = 12
	revisions := make([]int32, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			out, err := p.admin.RegisterTaskDefinition(p.ctx, &ecs.RegisterTaskDefinitionInput{Family: aws.String("f"),
				ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("c"), Image: aws.String("i"), Memory: aws.Int32(6)}}})
			if err != nil {
				t.Error(err)
				return
			}
			revisions[i] = out.TaskDefinition.Revision
		})
	}
	wg.Wait()
	slices.Sort(revisions)
	for i, r := range revisions {
		if r != int32(i+1) {
			t.Fatalf("revisions are %v", revisions)
		}
	}
}

func TestDefinitionsAndFamiliesAreListed(t *testing.T) {
	p := newPlane(t)
	for _, family := range []string{"web", "web", "web-admin", "db", "gone"} {
		p.define(family, 1, 6)
	}
	for _, ref := range []string{"web:1", "gone:1"} {
		_, err := p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: &ref})
		p.must(err)
	}
	definitions := func(in *ecs.ListTaskDefinitionsInput) string {
		t.Helper()
		var names []string
		in.MaxResults = aws.Int32(2)
		for pages := ecs.NewListTaskDefinitionsPaginator(p.admin, in); pages.HasMorePages(); {
			page, err := pages.NextPage(p.ctx)
			p.must(err)
			for _, arn := range page.TaskDefinitionArns {
				names = append(names, arn[strings.LastIndex(arn, "/")+1:])
			}
		}
		return strings.Join(names, " ")
	}
	for want, in := range map[string]*ecs.ListTaskDefinitionsInput{
		"db:1 web:2 web-admin:1": {},
		"web-admin:1 web:2 db:1": {Sort: types.SortOrderDesc},
		"web:2":                  {FamilyPrefix: aws.String("web")},
		"gone:1 web:1":           {Status: types.TaskDefinitionStatusInactive},
		"":                       {FamilyPrefix: aws.String("we")},
	} {
		if got := definitions(in); got != want {
			t.Errorf("%+v lists %q, want %q", in, got, want)
		}
	}
	families := func(in *ecs.ListTaskDefinitionFamiliesInput) string {
		t.Helper()
		out, err := p.admin.ListTaskDefinitionFamilies(p.ctx, in)
		p.must(err)
		return strings.Join(out.Families, " ")
	}
	for want, in := range map[string]*ecs.ListTaskDefinitionFamiliesInput{
		"db gone web web-admin": {},
		"db web web-admin":      {Status: types.TaskDefinitionFamilyStatusActive},
		"gone":                  {Status: types.TaskDefinitionFamilyStatusInactive},
		"web web-admin":         {Status: types.TaskDefinitionFamilyStatusAll, FamilyPrefix: aws.String("w")},
	} {
		if got := families(in); got != want {
			t.Errorf("%+v lists %q, want %q", in, got, want)
		}
	}
	_, err := p.admin.ListTaskDefinitions(p.ctx, &ecs.ListTaskDefinitionsInput{Status: "BROKEN"})
	p.refused(err, "InvalidParameterException", "status should be one of")
}
