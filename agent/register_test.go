package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// registrar answers registrations by a script; the last answer is repeated.
type registrar struct {
	answers []any // an error, or a function that changes the answer
	calls   []string
	inputs  []*agentapi.RegisterContainerInstanceInput
}

func (r *registrar) Call(_ context.Context, operation string, in, out any) error {
	r.calls = append(r.calls, operation)
	if operation == "CreateCluster" {
		return nil
	}
	input := in.(*agentapi.RegisterContainerInstanceInput)
	answer := r.answers[min(len(r.inputs), len(r.answers)-1)]
	r.inputs = append(r.inputs, input)
	if err, ok := answer.(error); ok {
		return err
	}
	arn := "arn:instance/new"
	instance := &agentapi.ContainerInstance{ContainerInstanceArn: &arn, Attributes: slices.Clone(input.Attributes)}
	if input.ContainerInstanceArn != nil {
		instance.ContainerInstanceArn = input.ContainerInstanceArn
	}
	if change, ok := answer.(func(*agentapi.ContainerInstance)); ok {
		change(instance)
	}
	out.(*agentapi.RegisterContainerInstanceOutput).ContainerInstance = instance
	return nil
}

func refusal(code, message string) error {
	status := 400
	if code == "ServerException" {
		status = 500
	}
	return &agentapi.APIError{Operation: "RegisterContainerInstance", Code: code, Message: message, StatusCode: status}
}

func repeat(err error, times int) []any {
	var out []any
	for range times {
		out = append(out, err)
	}
	return append(out, nil)
}

// newRegistration is of a host of a given configuration.
func newRegistration(cfg config.Config) *registration {
	if cfg.DetailedOSFamily == "" {
		cfg.DetailedOSFamily = "LINUX"
	}
	cfg.DataDir = "/var/lib/ecs/data"
	return &registration{cfg: &cfg, host: Host{CPU: 2048, Memory: 1000, Architecture: "x86_64", MachineID: "lh-1", Name: "vm"}, engine: engine.Info{APIVersion: "1.41"}, token: "token"}
}

func TestRegistrationMeetsErrorsAsTheProtocolSays(t *testing.T) {
	cases := []struct {
		name     string
		cluster  string
		arn      string
		answers  []any
		want     string // ARN
		err      string // part of the error
		terminal bool
		calls    int
		takes    time.Duration // at most
	}{
		{name: "accepted at once", cluster: "c", answers: []any{nil}, want: "arn:instance/new", calls: 1},
		{name: "throttled", cluster: "c", answers: repeat(refusal("ThrottlingException", "slow down"), 3), want: "arn:instance/new", calls: 4, takes: 30 * time.Second},
		{name: "a server that is ill", cluster: "c", answers: repeat(refusal("ServerException", "oops"), 3), want: "arn:instance/new", calls: 4, takes: 30 * time.Second},
		{name: "limits", cluster: "c", answers: repeat(refusal("LimitExceededException", "too many"), 1), want: "arn:instance/new", calls: 2, takes: 5 * time.Second},
		{name: "ill for more than an hour", cluster: "c", answers: []any{refusal("ServerException", "oops")}, err: "not accepted for 1h0m0s", takes: 70 * time.Minute},
		{name: "a control plane that is not there for a day", cluster: "c", answers: repeat(errors.New("RegisterContainerInstance: connection refused"), 24*3600/16), want: "arn:instance/new", takes: 48 * time.Hour},
		{name: "a parameter is refused", cluster: "c", answers: []any{refusal("InvalidParameterException", "bad port")}, err: "bad port", terminal: true, calls: 1},
		{name: "the client is refused", cluster: "c", answers: []any{refusal("ClientException", "no")}, err: "change the configuration", terminal: true, calls: 1},
		{name: "another instance type", cluster: "c", arn: "arn:instance/old", answers: []any{refusal("ClientException", "Container instance type changes are not supported.")}, err: "remove /var/lib/ecs/data", terminal: true, calls: 1},
		{name: "access is denied", cluster: "c", answers: []any{refusal("AccessDeniedException", "another key")}, err: "another key", calls: 1},
		{name: "there are no credentials", cluster: "c", answers: []any{errors.New("RegisterContainerInstance: no credentials: set AWS_ACCESS_KEY_ID")}, err: "set AWS_ACCESS_KEY_ID", calls: 1},
		{name: "the implicit cluster does not exist", answers: []any{refusal("ClusterNotFoundException", "Cluster not found."), nil}, want: "arn:instance/new", calls: 3},
		{name: "the implicit cluster does not exist, in words", answers: []any{refusal("ClientException", "Cluster not found."), nil}, want: "arn:instance/new", calls: 3},
		{name: "the implicit cluster can't be made", answers: []any{refusal("ClusterNotFoundException", "Cluster not found.")}, err: "is not there", calls: 3},
		{name: "a named cluster is never made", cluster: "c", answers: []any{refusal("ClusterNotFoundException", "Cluster not found.")}, err: "Cluster not found.", calls: 1},
		{name: "registered again", cluster: "c", arn: "arn:instance/old", answers: []any{nil}, want: "arn:instance/old", calls: 1},
		{name: "an instance that is not known any more", cluster: "c", arn: "arn:instance/old", answers: []any{refusal("InactiveInstanceException", "gone"), nil}, want: "arn:instance/new", calls: 2},
		{name: "an attribute is swallowed", cluster: "c", answers: []any{func(i *agentapi.ContainerInstance) { i.Attributes = i.Attributes[1:] }}, err: "attribute validation failed", terminal: true, calls: 1},
		{name: "an attribute has another value", cluster: "c", answers: []any{func(i *agentapi.ContainerInstance) { other := "x"; i.Attributes[0].Value = &other }}, err: "attribute validation failed", terminal: true, calls: 1},
		{name: "more attributes than were sent", cluster: "c", answers: []any{func(i *agentapi.ContainerInstance) {
			n := "more"
			i.Attributes = append(i.Attributes, agentapi.Attribute{Name: &n})
		}}, want: "arn:instance/new", calls: 1},
		{name: "no ARN", cluster: "c", answers: []any{func(i *agentapi.ContainerInstance) { i.ContainerInstanceArn = nil }}, err: "no container instance", calls: 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistration(config.Config{Cluster: c.cluster})
				r.arn = c.arn
				api := &registrar{answers: c.answers}
				begun := time.Now()
				got, err := r.register(t.Context(), api, zap.NewNop())
				if got != c.want || (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
					t.Errorf("%q, %v", got, err)
				}
				var terminal *TerminalError
				if errors.As(err, &terminal) != c.terminal {
					t.Errorf("terminal: %v", err)
				}
				if c.calls != 0 && len(api.calls) != c.calls {
					t.Errorf("calls %v", api.calls)
				}
				if took := time.Since(begun); took > c.takes {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

func TestARegistrationThatWaitsEndsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := newRegistration(config.Config{}).register(ctx, &registrar{answers: []any{errors.New("connection refused")}}, zap.NewNop())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestCustomAttributesGoWithTheFirstRegistrationOnly(t *testing.T) {
	r := newRegistration(config.Config{InstanceAttributes: map[string]string{"env": "prod"}})
	r.tags = map[string]string{"b": "2", "a": "1"}
	if in := r.input(); valueOf(in, "env") != "prod" || in.ContainerInstanceArn != nil || *in.Tags[0].Key != "a" || *in.Tags[1].Value != "2" {
		t.Errorf("%+v", in)
	}
	r.arn = "arn:instance/old"
	if in := r.input(); valueOf(in, "env") != "absent" || *in.ContainerInstanceArn != "arn:instance/old" {
		t.Errorf("%+v", in)
	}
}

func TestAnInstanceThatBecameANewOneGetsItsCustomAttributesToo(t *testing.T) {
	r := newRegistration(config.Config{InstanceAttributes: map[string]string{"env": "prod"}})
	r.arn = "arn:instance/old"
	another := func(i *agentapi.ContainerInstance) { arn := "arn:instance/other"; i.ContainerInstanceArn = &arn }
	api := &registrar{answers: []any{another}}
	arn, err := r.register(t.Context(), api, zap.NewNop())
	if err != nil || arn != "arn:instance/other" || len(api.inputs) != 2 || valueOf(api.inputs[1], "env") != "prod" || *api.inputs[0].ClientToken != *api.inputs[1].ClientToken {
		t.Errorf("%s %v %d", arn, err, len(api.inputs))
	}
}

func valueOf(in *agentapi.RegisterContainerInstanceInput, name string) string {
	for _, a := range in.Attributes {
		if *a.Name == name {
			return text(a.Value)
		}
	}
	return "absent"
}

func TestResourcesAreWhatTheHostHas(t *testing.T) {
	r := newRegistration(config.Config{ReservedPorts: []uint16{22, 51678}})
	r.host.Memory = 1 << 40
	var got []string
	for _, x := range r.input().TotalResources {
		got = append(got, fmt.Sprintf("%s %s %d %v", *x.Name, *x.Type, x.IntegerValue, x.StringSetValue))
	}
	if d := cmp.Diff([]string{"CPU INTEGER 2048 []", "MEMORY INTEGER 2147483647 []", "PORTS STRINGSET 0 [22 51678]", "PORTS_UDP STRINGSET 0 []"}, got); d != "" {
		t.Error(d)
	}
}

func names(attributes []agentapi.Attribute) []string {
	var out []string
	for _, a := range attributes {
		if a.Value != nil {
			out = append(out, *a.Name+"="+*a.Value)
		} else {
			out = append(out, strings.TrimPrefix(strings.TrimPrefix(*a.Name, awsCapability), ecsCapability))
		}
	}
	return out
}

// beside is what there is beside the names that every agent advertises, all of which must be there.
func beside(t *testing.T, names []string, always ...string) []string {
	t.Helper()
	for _, name := range always {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not advertised", name)
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(always, name) })
}

func TestOnlyCapabilitiesThatThisHostHasAreAdvertised(t *testing.T) {
	always := []string{"ecs.os-family=LINUX", "ecs.os-type=linux", "ecs.os-type-detailed=LINUX"}
	old := engine.Info{APIVersion: "1.21", LogDrivers: []string{"json-file", "syslog", "awslogs"}}
	now := engine.Info{APIVersion: "1.41", LogDrivers: []string{"json-file", "fluentd"}, VolumeDrivers: []string{"local", "rexray/ebs:latest"}, SecurityOpts: []string{"name=apparmor", "name=seccomp,profile=default"}}
	modern := []string{"docker-remote-api.1.17", "docker-remote-api.1.18", "docker-remote-api.1.19", "docker-remote-api.1.20", "docker-remote-api.1.21", "docker-remote-api.1.22", "docker-remote-api.1.23", "docker-remote-api.1.24", "docker-remote-api.1.25", "docker-remote-api.1.28", "docker-remote-api.1.29", "docker-remote-api.1.30", "docker-remote-api.1.32"}
	for _, c := range []struct {
		name string
		cfg  config.Config
		info engine.Info
		can  abilities
		ec2  *ec2Instance
		want []string
	}{
		{name: "an old engine", info: old, cfg: config.Config{LoggingDrivers: []string{"json-file", "none", "awslogs", "fluentd", "splunk", "invented"}}, ec2: &ec2Instance{},
			want: slices.Concat([]string{"docker-remote-api.1.17", "docker-remote-api.1.18", "docker-remote-api.1.19", "docker-remote-api.1.20", "docker-remote-api.1.21", "logging-driver.awslogs", "logging-driver.json-file", "logging-driver.none", "privileged-container", "container-ordering", "full-sync", "network.container-port-range"}, always)},
		{name: "a new engine with everything on", info: now, can: abilities{restarts: true, volumes: true, namespaces: true}, cfg: config.Config{LoggingDrivers: []string{"json-file"}, SELinuxCapable: true, AppArmorCapable: true, TaskLimits: true, External: true, VolumePlugin: []string{"efsAuth"}}, ec2: &ec2Instance{},
			want: slices.Concat([]string{"apparmor"}, modern, []string{"logging-driver.awsfirelens", "logging-driver.json-file", "privileged-container", "container-health-check", "container-ordering", "container-restart-policy", "docker-plugin.local", "docker-plugin.rexray/ebs", "docker-plugin.rexray/ebs.latest", "efs", "efsAuth", "external", "firelens.fluentbit", "firelens.fluentd", "firelens.non-root-user", "firelens.options.config.file", "firelens.options.config.s3", "full-sync", "increased-task-cpu-limit", "logging-driver.awsfirelens.log-driver-buffer-limit", "network.container-port-range", "pid-ipc-namespace-sharing", "task-cpu-mem-limit"}, always)},
		{name: "what is switched off", info: now, cfg: config.Config{PrivilegedDisabled: true, HealthChecksDisabled: true}, ec2: &ec2Instance{}, want: slices.Concat(modern, []string{"logging-driver.awsfirelens", "container-ordering", "firelens.fluentbit", "firelens.fluentd", "firelens.non-root-user", "firelens.options.config.file", "firelens.options.config.s3", "full-sync", "logging-driver.awsfirelens.log-driver-buffer-limit", "network.container-port-range"}, always)},
		{name: "an own host says what it is", info: engine.Info{APIVersion: "1.16", Name: "containerd", Runtime: "crun"}, cfg: config.Config{PrivilegedDisabled: true, AvailabilityZone: "cellar", InstanceType: "box", ImageID: "debian-12"},
			want: []string{"ecs.ami-id=debian-12", "ecs.availability-zone=cellar", "container-ordering", "full-sync", "network.container-port-range", "ecs.cpu-architecture=x86_64", "ecs.instance-type=box", "ecs.os-family=LINUX", "ecs.os-type=linux", "ecs.os-type-detailed=LINUX", "longshore.address=10.0.0.7", "longshore.container-engine=containerd", "longshore.container-runtime=crun", "longshore.hostname=vm", "longshore.instance-id=lh-1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.DetailedOSFamily = "LINUX"
			host := Host{Architecture: "x86_64", MachineID: "lh-1", Name: "vm", Address: "10.0.0.7"}
			if d := cmp.Diff(c.want, beside(t, names(attributes(&c.cfg, host, c.info, c.can, c.ec2, true)), "ecr-auth", "ecr-endpoint", "env-files.s3", "execution-role-ecr-pull", "longshore.capability.prepare-images",
				"private-registry-authentication.secretsmanager", "secrets.asm.bootstrap.log-driver", "secrets.asm.environment-variables", "secrets.ssm.bootstrap.log-driver", "secrets.ssm.environment-variables")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
