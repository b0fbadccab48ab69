package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestVolumesAndPortRangesAreCompletedAsECSDoes(t *testing.T) {
	p := newPlane(t)
	for _, c := range []struct{ container, definition, member, want string }{
		{"", `"volumes":[{"name":"v","dockerVolumeConfiguration":{"labels":{"a":"b"}}}]`, "volumes",
			`[{"dockerVolumeConfiguration":{"driver":"local","labels":{"a":"b"},"scope":"task"},"name":"v"}]`},
		{"", `"volumes":[{"name":"v","dockerVolumeConfiguration":{"scope":"shared","autoprovision":true,"driver":"d","driverOpts":{"o":"p"}}}]`, "volumes",
			`[{"dockerVolumeConfiguration":{"autoprovision":true,"driver":"d","driverOpts":{"o":"p"},"scope":"shared"},"name":"v"}]`},
		{"", `"volumes":[{"name":"v","host":{},"efsVolumeConfiguration":{"fileSystemId":"fs-0123abcd"}}]`, "volumes",
			`[{"efsVolumeConfiguration":{"fileSystemId":"fs-0123abcd","rootDirectory":"/"},"host":{},"name":"v"}]`},
		{`"portMappings":[{"containerPortRange":"8000-8010"},{"containerPort":80}]`, "", "portMappings",
			`[{"containerPortRange":"8000-8010","protocol":"tcp"},{"containerPort":80,"hostPort":0,"protocol":"tcp"}]`},
	} {
		answer, status := p.call("RegisterTaskDefinition", oneContainer(c.container, c.definition))
		if status != 200 {
			t.Errorf("%s %s: %v", c.container, c.definition, answer)
			continue
		}
		object := answer["taskDefinition"].(map[string]any)
		if c.member == "portMappings" {
			object = object["containerDefinitions"].([]any)[0].(map[string]any)
		}
		if got, _ := json.Marshal(object[c.member]); string(got) != c.want {
			t.Errorf("%s %s: %s is %s, want %s", c.container, c.definition, c.member, got, c.want)
		}
	}
}

func TestVolumesAndPortRangesThatCannotBeAreRefusedByName(t *testing.T) {
	p := newPlane(t)
	volume := func(v, want string) [2]string {
		return [2]string{oneContainer("", `"volumes":[{"name":"v",`+v+`}]`), want}
	}
	efs := func(v, want string) [2]string {
		return volume(`"efsVolumeConfiguration":{"fileSystemId":"fs-0123abcd",`+v+`}`, want)
	}
	ports := func(mode, v, want string) [2]string {
		return [2]string{oneContainer(`"portMappings":[`+v+`]`, `"networkMode":"`+mode+`"`), want}
	}
	for _, c := range [][2]string{
		volume(`"dockerVolumeConfiguration":{"scope":"world"}`, "ClientException: volumes.dockerVolumeConfiguration.scope should be one of"),
		volume(`"dockerVolumeConfiguration":{"autoprovision":true}`, "ClientException: Invalid setting for volume 'v'. Autoprovision is only for the scope shared"),
		volume(`"dockerVolumeConfiguration":{},"host":{"sourcePath":"/a"}`, "ClientException: Only one volume type may be specified for volume 'v', but it has host and dockerVolumeConfiguration."),
		volume(`"efsVolumeConfiguration":{"fileSystemId":"nfs"}`, `ClientException: Invalid fileSystemId for volume 'v': "nfs"`),
		efs(`"rootDirectory":"x"`, "ClientException: Invalid rootDirectory for volume 'v'"),
		efs(`"transitEncryption":"PERHAPS"`, "ClientException: volumes.efsVolumeConfiguration.transitEncryption should be one of"),
		efs(`"transitEncryptionPort":2049`, "ClientException: Invalid transitEncryptionPort 2049 for volume 'v'"),
		efs(`"authorizationConfig":{"accessPointId":"x"}`, "ClientException: Invalid accessPointId for volume 'v'"),
		efs(`"authorizationConfig":{"accessPointId":"fsap-01234567"}`, "ClientException: EFS transit encryption must be enabled for volume 'v'"),
		efs(`"authorizationConfig":{"accessPointId":"fsap-01234567"},"transitEncryption":"ENABLED","rootDirectory":"/x"`, "ClientException: Volume 'v' has an access point"),
		efs(`"authorizationConfig":{"iam":"ENABLED"}`, "UnsupportedFeatureException: RegisterTaskDefinition: the member volumes[0].efsVolumeConfiguration.authorizationConfig.iam"),
		ports("bridge", `{"containerPortRange":"80"}`, "ClientException: Invalid 'containerPortRange' setting for container 'c'"),
		ports("bridge", `{"containerPortRange":"81-80"}`, "ClientException: Invalid 'containerPortRange' setting for container 'c'"),
		ports("bridge", `{"containerPortRange":"1-65536"}`, "ClientException: Invalid 'containerPortRange' setting for container 'c'"),
		ports("host", `{"containerPortRange":"80-81"}`, "ClientException: The containerPortRange of container 'c' is not supported when networkMode=host"),
		ports("bridge", `{"containerPortRange":"80-81","containerPort":80}`, "ClientException: A port mapping of container 'c' has the containerPortRange 80-81 and a containerPort"),
		ports("bridge", `{"containerPortRange":"80-85"},{"containerPortRange":"85-90"}`, "ClientException: The port ranges 80-85 and 85-90 of container 'c' overlap."),
		ports("bridge", `{"containerPortRange":"80-85"},{"containerPort":83}`, "ClientException: The container port 83 of container 'c' is in its port range 80-85 too."),
	} {
		answer, status := p.call("RegisterTaskDefinition", c[0])
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, c[1]) {
			t.Errorf("%s: status %d: %.300s\nwant %s", c[0], status, got, c[1])
		}
	}
}
