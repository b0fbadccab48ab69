package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// labelVersion is the schema version of [taskLabel].
const labelVersion = 1

// taskLabel is the value of LabelTask: what plan needs of a container and its task if the state file is lost. Nothing in
// it is secret: no environment, no command.
type taskLabel struct {
	Version      int            `json:"v"`
	Attempt      int            `json:"attempt"`
	Essential    bool           `json:"essential"`
	DependsOn    []Dependency   `json:"dependsOn,omitempty"`
	StartTimeout time.Duration  `json:"startTimeout,omitempty"`
	StopTimeout  time.Duration  `json:"stopTimeout,omitempty"`
	Restart      *RestartPolicy `json:"restartPolicy,omitempty"`
	NetworkMode  string         `json:"networkMode,omitempty"`
	Ports        []Port         `json:"ports,omitempty"`
	Ranges       []PortRange    `json:"ranges,omitempty"`
	Image        string         `json:"image,omitempty"`
	Digest       string         `json:"digest,omitempty"`
	Cluster      string         `json:"cluster,omitempty"` // the task's, an ARN
	Siblings     []string       `json:"containers"`        // every container of the task, in the payload's order
	Need         Need           `json:"need"`
	Daemon       bool           `json:"daemon,omitempty"`
	Joins        []string       `json:"joins,omitempty"`   // names of the task's containers whose namespaces, network or volumes it has for good
	Volumes      []string       `json:"volumes,omitempty"` // those that are made and removed with the task, by their names in it
	// Interfaces are those of a task with a network namespace of its own.
	Interfaces []*acs.ElasticNetworkInterface `json:"interfaces,omitempty"`
}

// labelsOf are the labels of a container: the definition's own, ECS's, and ours. joins are the names of the containers that it is bound to, and
// cluster is as the agent is configured.
func labelsOf(t *Task, c *Container, attempt int, digest, cluster string, joins []string) (map[string]string, error) {
	l := taskLabel{Version: labelVersion, Attempt: attempt, Essential: c.Essential, DependsOn: c.DependsOn, StartTimeout: c.StartTimeout,
		StopTimeout: c.StopTimeout, Restart: c.Restart, NetworkMode: c.NetworkMode, Ports: c.Ports, Ranges: c.Ranges, Image: c.Image, Digest: digest, Cluster: t.Cluster, Need: t.Need, Daemon: t.Daemon, Joins: joins, Interfaces: t.payload.ElasticNetworkInterfaces}
	for _, s := range t.Containers {
		l.Siblings = append(l.Siblings, s.Name)
	}
	for _, name := range sortedKeys(t.volumes) {
		if goesWithTask(t.volumes[name]) {
			l.Volumes = append(l.Volumes, name)
		}
	}
	value, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for k, v := range c.config.Labels {
		labels[k] = v
	}
	labels[LabelCluster], labels[LabelContainerName], labels[LabelTaskArn] = clusterName(t.Cluster), c.Name, t.Arn
	labels[LabelFamily], labels[LabelVersion], labels[LabelTask] = t.Family, t.Version, string(value)
	return labels, nil
}

// digestOf is the digest of the image that a container was made from, as its label has it.
func digestOf(st *State) string {
	var l taskLabel
	if json.Unmarshal([]byte(st.Labels[LabelTask]), &l) != nil {
		return ""
	}
	return l.Digest
}

// rebuild makes a task and its record from the containers that carry its labels. The payload it makes has what the labels
// say and nothing more; Rebuilt keeps containers from being made of it.
func rebuild(arn string, states []State, now time.Time) (*Task, *TaskRecord, error) {
	p := &acs.Task{Arn: arn, DesiredStatus: statusRunning}
	labels := map[string]taskLabel{}
	var siblings, gpus, volumes []string
	for _, st := range states {
		var l taskLabel
		if err := json.Unmarshal([]byte(st.Labels[LabelTask]), &l); err != nil {
			return nil, nil, fmt.Errorf("container %s: label %s: %w", st.Name, LabelTask, err)
		}
		if l.Version > labelVersion {
			return nil, nil, fmt.Errorf("container %s: label %s has version %d, and this agent knows up to %d", st.Name, LabelTask, l.Version, labelVersion)
		}
		name := st.Labels[LabelContainerName]
		if old, known := labels[name]; known && l.Attempt < old.Attempt {
			continue
		}
		if l.Daemon {
			p.SchedulingStrategy = schedulingDaemon
		}
		labels[name], siblings = l, l.Siblings
		p.TaskClusterArn, p.Family, p.Version = l.Cluster, st.Labels[LabelFamily], st.Labels[LabelVersion]
		if !Internal(name) {
			p.NetworkMode = l.NetworkMode
		}
		gpus, volumes, p.ElasticNetworkInterfaces = l.Need.GPUs, l.Volumes, l.Interfaces
		p.CPU, p.Memory = float64(l.Need.CPU)/1024, l.Need.Memory
	}
	for _, name := range siblings {
		p.Containers = append(p.Containers, labels[name].container(name))
	}
	for _, name := range volumes { // what is left to decide about them is that they go with the task
		p.Volumes = append(p.Volumes, &acs.Volume{Name: name, Type: "docker", DockerVolumeConfiguration: &acs.DockerVolumeConfiguration{Scope: "task"}})
	}
	t, err := ParseTask(p, Host{})
	if err != nil {
		return nil, nil, err
	}
	t.Doom, t.Need.GPUs = "", gpus
	rec := newRecord(t, statusRunning, now)
	rec.Rebuilt = true
	for _, cr := range rec.Containers {
		cr.Attempt, cr.ImageDigest = max(labels[cr.Name].Attempt, 1), labels[cr.Name].Digest
	}
	return t, rec, nil
}

// container is the part of a payload that a label holds; that of a container without one has only a name.
func (l taskLabel) container(name string) *acs.Container {
	c := &acs.Container{Name: name, Image: l.Image, Essential: l.Essential, StartTimeout: int64(l.StartTimeout / time.Second), StopTimeout: int64(l.StopTimeout / time.Second)}
	if c.Image == "" {
		c.Image = "unknown"
	}
	for _, d := range l.DependsOn {
		condition := d.Condition
		if condition == ConditionCreated || condition == ConditionNetwork { // what is left to decide is the order of stopping
			condition = ConditionStart
		}
		if slices.Contains(l.Siblings, d.Container) {
			c.DependsOn = append(c.DependsOn, &acs.ContainerDependency{ContainerName: d.Container, Condition: string(condition)})
		}
	}
	if r := l.Restart; r != nil {
		c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: int64(r.Period / time.Second)}
		for _, code := range r.Ignored {
			c.RestartPolicy.IgnoredExitCodes = append(c.RestartPolicy.IgnoredExitCodes, int64(code))
		}
	}
	for _, m := range l.Ports {
		c.PortMappings = append(c.PortMappings, &acs.PortMapping{ContainerPort: int64(m.Container), HostPort: int64(m.Host), Protocol: m.Protocol})
	}
	for _, r := range l.Ranges {
		c.PortMappings = append(c.PortMappings, &acs.PortMapping{ContainerPortRange: r.String(), Protocol: r.Protocol})
	}
	return c
}

// containerName is the name of a container on the engine. It depends on the task, the container and the attempt alone,
// so that after a crash the name finds what was made before.
func containerName(t *Task, container string, attempt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", t.Arn, container, attempt))
	return allowed(fmt.Sprintf("ecs-%s-%s-%s-%s", t.Family, t.Version, container, hex.EncodeToString(sum[:10])))
}

// nameOf is what the container is called on the engine.
func (cr *ContainerRecord) nameOf(t *Task) string {
	if cr.RuntimeName != "" {
		return cr.RuntimeName
	}
	return containerName(t, cr.Name, cr.Attempt)
}

// volumeName is the name of a task's anonymous volume on the engine.
func volumeName(t *Task, volume string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00volume\x00%s", t.Arn, volume))
	return allowed(fmt.Sprintf("ecs-%s-%s-%s-%s", t.Family, t.Version, volume, hex.EncodeToString(sum[:10])))
}

// allowed drops what engines do not take in names.
func allowed(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r) {
			return r
		}
		return -1
	}, name)
}
