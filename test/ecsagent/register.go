package ecsagent

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

type attribute struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

type resource struct {
	IntegerValue   *int64   `json:"integerValue,omitempty"`
	Name           string   `json:"name"`
	StringSetValue []string `json:"stringSetValue,omitzero"`
	Type           string   `json:"type"`
}

// registration is RegisterContainerInstance, in the order of the wire. versionInfo is not sent.
type registration struct {
	Attributes                        []attribute `json:"attributes"`
	ClientToken                       string      `json:"clientToken"`
	Cluster                           string      `json:"cluster"`
	ContainerInstanceArn              string      `json:"containerInstanceArn,omitempty"`
	InstanceIdentityDocument          string      `json:"instanceIdentityDocument"`
	InstanceIdentityDocumentSignature string      `json:"instanceIdentityDocumentSignature"`
	TotalResources                    []resource  `json:"totalResources"`
}

// registered is the answer, with the members and types that the agent's decoder insists on.
type registered struct {
	ContainerInstance *struct {
		ContainerInstanceArn string      `json:"containerInstanceArn"`
		Ec2InstanceID        string      `json:"ec2InstanceId"`
		Version              int64       `json:"version"`
		Status               string      `json:"status"`
		AgentConnected       bool        `json:"agentConnected"`
		RunningTasksCount    int32       `json:"runningTasksCount"`
		PendingTasksCount    int32       `json:"pendingTasksCount"`
		RegisteredAt         json.Number `json:"registeredAt"`
		Attributes           []attribute `json:"attributes"`
		RegisteredResources  []struct {
			Name           string   `json:"name"`
			Type           string   `json:"type"`
			DoubleValue    float64  `json:"doubleValue"`
			LongValue      int64    `json:"longValue"`
			IntegerValue   int32    `json:"integerValue"`
			StringSetValue []string `json:"stringSetValue"`
		} `json:"registeredResources"`
	} `json:"containerInstance"`
}

// reserved are the TCP ports that are never offered.
var reserved = []string{"22", "2375", "2376", "51678", "51679"}

// capabilities are what an external instance with the engine's usual set-up advertises.
func (a *Agent) capabilities() []attribute {
	var out []attribute
	for _, name := range strings.Fields(`
		ecs.capability.private-registry-authentication.secretsmanager ecs.capability.secrets.ssm.environment-variables
		ecs.capability.secrets.ssm.bootstrap.log-driver ecs.capability.ecr-endpoint ecs.capability.secrets.asm.environment-variables
		ecs.capability.secrets.asm.bootstrap.log-driver ecs.capability.container-ordering ecs.capability.full-sync
		ecs.capability.env-files.s3 ecs.capability.network.container-port-range ecs.capability.container-restart-policy
		ecs.capability.docker-plugin.local ecs.capability.firelens.fluentd ecs.capability.firelens.fluentbit
		ecs.capability.firelens.non-root-user com.amazonaws.ecs.capability.logging-driver.awsfirelens
		ecs.capability.logging-driver.awsfirelens.log-driver-buffer-limit ecs.capability.firelens.options.config.file
		ecs.capability.firelens.options.config.s3 ecs.capability.efs ecs.capability.storage.s3-files ecs.capability.ipv6-only
		com.amazonaws.ecs.capability.privileged-container com.amazonaws.ecs.capability.docker-remote-api.1.17
		com.amazonaws.ecs.capability.docker-remote-api.1.18 com.amazonaws.ecs.capability.docker-remote-api.1.19
		com.amazonaws.ecs.capability.docker-remote-api.1.20 com.amazonaws.ecs.capability.docker-remote-api.1.21
		com.amazonaws.ecs.capability.docker-remote-api.1.22 com.amazonaws.ecs.capability.docker-remote-api.1.23
		com.amazonaws.ecs.capability.docker-remote-api.1.24 com.amazonaws.ecs.capability.docker-remote-api.1.25
		com.amazonaws.ecs.capability.docker-remote-api.1.28 com.amazonaws.ecs.capability.docker-remote-api.1.29
		com.amazonaws.ecs.capability.docker-remote-api.1.30 com.amazonaws.ecs.capability.docker-remote-api.1.32
		com.amazonaws.ecs.capability.logging-driver.json-file com.amazonaws.ecs.capability.logging-driver.none
		com.amazonaws.ecs.capability.task-iam-role com.amazonaws.ecs.capability.ecr-auth ecs.capability.execution-role-ecr-pull
		ecs.capability.container-health-check ecs.capability.task-cpu-mem-limit ecs.capability.increased-task-cpu-limit
		ecs.capability.external`) {
		out = append(out, attribute{Name: name})
	}
	for _, kv := range [][2]string{{"ecs.os-type", "linux"}, {"ecs.os-family", "LINUX"}, {"ecs.os-type-detailed", "LINUX"}, {"ecs.cpu-architecture", "x86_64"}} {
		out = append(out, attribute{kv[0], kv[1]})
	}
	return out
}

// register registers the machine and returns the exit code of the process, ExitNormal to go on.
func (a *Agent) register() int {
	in := &registration{ClientToken: uuid.NewString(), Cluster: a.cluster(), ContainerInstanceArn: a.m.InstanceARN(),
		InstanceIdentityDocument: a.cfg.Identity, Attributes: a.capabilities()}
	if a.cfg.Interfaces != nil {
		in.Attributes = append(in.Attributes, a.cfg.Interfaces.attributes()...)
	}
	if in.ContainerInstanceArn == "" {
		for _, name := range slices.Sorted(maps.Keys(a.cfg.Attributes)) {
			in.Attributes = append(in.Attributes, attribute{name, a.cfg.Attributes[name]})
		}
	}
	in.TotalResources = []resource{
		{Name: "CPU", Type: "INTEGER", IntegerValue: &a.cfg.CPU}, {Name: "MEMORY", Type: "INTEGER", IntegerValue: &a.cfg.Memory},
		{Name: "PORTS", Type: "STRINGSET", StringSetValue: reserved}, {Name: "PORTS_UDP", Type: "STRINGSET", StringSetValue: []string{}},
	}
	err := a.registerUntil(in)
	if err != nil && a.cfg.Cluster == "" && noCluster(err) { // only the implicit default is ever created
		err = a.call("CreateCluster", struct {
			ClusterName string `json:"clusterName"`
		}{"default"}, nil, 3)
		if err == nil {
			in.ClientToken = uuid.NewString()
			err = a.registerUntil(in)
		}
	}
	var e *apiError
	switch {
	case err == nil:
		return ExitNormal
	case errors.Is(err, errAttributes):
		return ExitTerminal
	case errors.As(err, &e) && (e.Code == "InvalidParameterException" || e.Code == "ClientException"):
		return ExitTerminal
	case errors.As(err, &e) && strings.Contains(e.Message, "Container instance type changes are not supported."):
		return ExitTerminal
	}
	return ExitError
}

func noCluster(err error) bool {
	var e *apiError
	return errors.As(err, &e) && (e.Code == "ClusterNotFoundException" || strings.Contains(e.Message, "Cluster not found."))
}

var errAttributes = errors.New("attribute validation failed")

// registerUntil tries until the answer is final.
func (a *Agent) registerUntil(in *registration) error {
	start := time.Now()
	wait := backoff{first: a.cfg.Timers.Register, most: a.cfg.Timers.RegisterMax, factor: 2}
	for {
		var out registered
		err := a.call("RegisterContainerInstance", in, &out, 3)
		var e *apiError
		again := errors.As(err, &e) && slices.Contains([]string{"ThrottlingException", "ServerException", "LimitExceededException"}, e.Code)
		switch {
		case err == nil:
			return a.accept(in, &out)
		case !again || time.Since(start) > a.cfg.Timers.RegisterTotal || !a.sleep(wait.next()):
			return err
		}
	}
}

// accept checks the answer, and saves it.
func (a *Agent) accept(in *registration, out *registered) error {
	if out.ContainerInstance == nil || out.ContainerInstance.ContainerInstanceArn == "" {
		a.m.fault("RegisterContainerInstance answered without containerInstanceArn")
		return errors.New("no containerInstanceArn")
	}
	for _, sent := range in.Attributes {
		if !slices.Contains(out.ContainerInstance.Attributes, sent) {
			a.m.fault("attribute %s=%q did not come back", sent.Name, sent.Value)
			return errAttributes
		}
	}
	arn := out.ContainerInstance.ContainerInstanceArn
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if in.ContainerInstanceArn != "" && arn != in.ContainerInstanceArn {
		a.m.fault("registered again as %s, and became %s", in.ContainerInstanceArn, arn)
	}
	a.m.disk.instanceARN, a.m.disk.cluster = arn, in.Cluster
	for _, at := range out.ContainerInstance.Attributes {
		if at.Name == "ecs.availability-zone" {
			a.m.disk.zone = at.Value
		}
	}
	return nil
}
