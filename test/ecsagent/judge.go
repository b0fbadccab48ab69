package ecsagent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
)

// crash is what makes the real agent's process die.
type crash struct{ what string }

func (c crash) Error() string { return "the agent crashes: " + c.what }

// judge says whether the agent can load a task; the error is a crash when it dies of it.
func (t *wireTask) judge() error {
	if err := t.nulls(); err != nil {
		return err
	}
	if t.Arn == nil || *t.Arn == "" {
		return errors.New("it has no arn")
	}
	switch strings.ToUpper(deref(t.DesiredStatus)) {
	case "NONE", "UNKNOWN", "MANIFEST_PULLED", "CREATED", "RUNNING", "STOPPED", "DEAD":
	default:
		return fmt.Errorf("desiredStatus %q is unknown", deref(t.DesiredStatus))
	}
	for _, v := range t.Volumes {
		if err := v.judge(t.Attachments); err != nil {
			return err
		}
	}
	for _, c := range t.Containers {
		if c.Overrides == nil {
			continue
		}
		var known struct {
			Command []string `json:"command"`
		}
		if err := strictly(*c.Overrides, &known); err != nil {
			return fmt.Errorf("overrides %q of container %s: %w", *c.Overrides, deref(c.Name), err)
		}
	}
	return nil
}

// nulls finds what the agent dereferences without looking.
func (t *wireTask) nulls() error {
	for i, c := range t.Containers {
		if c == nil {
			return crash{fmt.Sprintf("containers[%d] is null", i)}
		}
	}
	for i, v := range t.Volumes {
		if v == nil || v.Name == nil {
			return crash{fmt.Sprintf("volumes[%d] or its name is null", i)}
		}
	}
	for i, a := range t.Attachments {
		if a == nil || a.AttachmentType == nil {
			return crash{fmt.Sprintf("attachments[%d] or its attachmentType is null", i)}
		}
		for k, p := range a.AttachmentProperties {
			if p == nil || p.Name == nil {
				return crash{fmt.Sprintf("attachments[%d].attachmentProperties[%d] or its name is null", i, k)}
			}
		}
	}
	return nil
}

func (v *wireVolume) judge(attachments []*wireAttachment) error {
	switch deref(v.Type) {
	case "", "host":
		if v.Host != nil {
			return nil
		}
		named := func(a *wireAttachment) bool {
			return slices.Contains([]string{"amazonebs", "s3files"}, *a.AttachmentType)
		}
		if deref(v.Type) == "" && slices.ContainsFunc(attachments, named) {
			return nil
		}
		return fmt.Errorf("volume %s has no host", *v.Name)
	case "docker":
		if v.DockerVolumeConfiguration == nil {
			return fmt.Errorf("volume %s has no dockerVolumeConfiguration", *v.Name)
		}
	case "efs":
		if v.EFSVolumeConfiguration == nil {
			return fmt.Errorf("volume %s has no efsVolumeConfiguration", *v.Name)
		}
	default:
		return fmt.Errorf("unrecognized volume type %q", *v.Type)
	}
	return nil
}

// lost are the settings of a task that the agent would take in without a word and then not apply as they are meant, or
// that fail only when the container is created.
func (t *wireTask) lost() (faults []string) {
	if deref(t.DesiredStatus) == "STOPPED" {
		return nil
	}
	add := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if deref(t.Family) == "" || deref(t.Version) == "" {
		add("family or version is missing: the containers' labels and names come from them")
	}
	mode := deref(t.NetworkMode)
	if !slices.Contains([]string{"bridge", "host", "awsvpc", "none"}, mode) {
		add("networkMode is %q", mode)
	}
	if len(t.Containers) == 0 {
		add("it has no containers")
	}
	volumes := map[string]bool{}
	for _, v := range t.Volumes {
		volumes[*v.Name] = true
	}
	for _, c := range t.Containers {
		faults = append(faults, c.lost(mode, volumes)...)
	}
	return faults
}

func (c *wireContainer) lost(mode string, volumes map[string]bool) (faults []string) {
	add := func(format string, args ...any) {
		faults = append(faults, "container "+deref(c.Name)+": "+fmt.Sprintf(format, args...))
	}
	if deref(c.Name) == "" || deref(c.Image) == "" {
		add("name or image is missing")
	}
	if deref(c.ContainerArn) == "" {
		add("containerArn is missing")
	}
	for _, m := range c.MountPoints {
		if m == nil || !volumes[deref(m.SourceVolume)] {
			add("a mount point is of a volume that the task does not have")
		}
	}
	for _, p := range c.PortMappings {
		if p == nil || (deref(p.ContainerPort) == 0) == (deref(p.ContainerPortRange) == "") {
			add("a port mapping needs either containerPort or containerPortRange")
		}
	}
	if c.DockerConfig == nil || c.DockerConfig.HostConfig == nil {
		add("dockerConfig.hostConfig is missing: networkMode must be in it too")
		return faults
	}
	var host container.HostConfig
	if err := strictly(*c.DockerConfig.HostConfig, &host); err != nil {
		add("hostConfig %q is not the engine's: %v", *c.DockerConfig.HostConfig, err)
	}
	if string(host.NetworkMode) != mode && mode != "awsvpc" {
		add("networkMode is %q, and %q in hostConfig", mode, host.NetworkMode)
	}
	var config container.Config
	if c.DockerConfig.Config != nil {
		if err := strictly(*c.DockerConfig.Config, &config); err != nil {
			add("config %q is not the engine's: %v", *c.DockerConfig.Config, err)
		}
	}
	checked := config.Healthcheck != nil && len(config.Healthcheck.Test) > 0 && config.Healthcheck.Test[0] != "NONE"
	if checked != (deref(c.HealthCheckType) == "docker") {
		add("a health check needs both healthCheckType and config.Healthcheck")
	}
	return faults
}

// strictly decodes a document whose members must all be known.
func strictly(document string, into any) error {
	d := json.NewDecoder(strings.NewReader(document))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

// unknownMember names a member that the agent's model does not have, empty for none. The agent ignores it: what was meant
// by it is lost.
func unknownMember(message []byte, model any) string {
	d := json.NewDecoder(bytes.NewReader(message))
	d.DisallowUnknownFields()
	if err := d.Decode(model); err != nil {
		return err.Error()
	}
	return ""
}
