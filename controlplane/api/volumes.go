package api

import (
	"cmp"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// maxPortRanges is how many ranges of ports one container may have.
const maxPortRanges = 100

// fileSystemID is the id of an Amazon EFS file system, and accessPointID that of an access point of one.
var (
	fileSystemID  = regexp.MustCompile(`^fs-[0-9a-f]{8,40}$`)
	accessPointID = regexp.MustCompile(`^fsap-[0-9a-f]{8,40}$`)
)

// completeVolumes says of a volume without configuration that the engine makes it, and of a Docker volume and an EFS file
// system what ECS says when they don't.
func completeVolumes(volumes []types.Volume) []types.Volume {
	out := make([]types.Volume, len(volumes))
	for i, v := range volumes {
		switch {
		case v.DockerVolumeConfiguration != nil:
			d := *v.DockerVolumeConfiguration
			d.Scope = cmp.Or(d.Scope, types.ScopeTask)
			d.Driver = aws.String(dockerDriver(&d))
			v.DockerVolumeConfiguration = &d
		case v.EfsVolumeConfiguration != nil:
			e := *v.EfsVolumeConfiguration
			e.RootDirectory = aws.String(cmp.Or(aws.ToString(e.RootDirectory), "/"))
			v.EfsVolumeConfiguration = &e
		case v.Host == nil:
			v.Host = &types.HostVolumeProperties{}
		}
		out[i] = v
	}
	return out
}

// dockerDriver is the driver of a Docker volume.
func dockerDriver(d *types.DockerVolumeConfiguration) string {
	return cmp.Or(aws.ToString(d.Driver), "local")
}

func checkVolumes(d *types.TaskDefinition) error {
	seen := map[string]bool{}
	for _, v := range d.Volumes {
		name := aws.ToString(v.Name)
		switch {
		case name == "":
			return clientError("Volume.name should not be null or empty.")
		case !namePattern.MatchString(name):
			return clientError("Volume name %.300q is invalid: it must be 1 to 255 letters, digits, - and _.", name)
		case seen[name]:
			return clientError("Duplicate volume name '%s'.", name)
		}
		seen[name] = true
		if err := checkVolume(&v, name); err != nil {
			return err
		}
	}
	return nil
}

func sourcePath(v *types.Volume) string {
	if v.Host == nil {
		return ""
	}
	return aws.ToString(v.Host.SourcePath)
}

func checkVolume(v *types.Volume, name string) error {
	var kinds []string
	if source := sourcePath(v); source != "" {
		kinds = append(kinds, "host")
		if !path.IsAbs(source) {
			return clientError("Invalid sourcePath for volume '%s': %.300q is not an absolute path of the host.", name, source)
		}
	}
	if d := v.DockerVolumeConfiguration; d != nil {
		kinds = append(kinds, "dockerVolumeConfiguration")
		if err := enumeration("volumes.dockerVolumeConfiguration.scope", d.Scope, d.Scope.Values()); err != nil {
			return err
		}
		if aws.ToBool(d.Autoprovision) && d.Scope != types.ScopeShared {
			return clientError("Invalid setting for volume '%s'. Autoprovision is only for the scope shared; a volume of scope task is always created.", name)
		}
	}
	if e := v.EfsVolumeConfiguration; e != nil {
		kinds = append(kinds, "efsVolumeConfiguration")
		if err := checkEFS(e, name); err != nil {
			return err
		}
	}
	if len(kinds) > 1 {
		return clientError("Only one volume type may be specified for volume '%s', but it has %s.", name, strings.Join(kinds, " and "))
	}
	return nil
}

func checkEFS(e *types.EFSVolumeConfiguration, name string) error {
	if !fileSystemID.MatchString(aws.ToString(e.FileSystemId)) {
		return clientError("Invalid fileSystemId for volume '%s': %.300q; it must be fs- and 8 to 40 hexadecimal digits.", name, aws.ToString(e.FileSystemId))
	}
	if root := aws.ToString(e.RootDirectory); !path.IsAbs(root) {
		return clientError("Invalid rootDirectory for volume '%s': %.300q is not an absolute path.", name, root)
	}
	if err := enumeration("volumes.efsVolumeConfiguration.transitEncryption", e.TransitEncryption, e.TransitEncryption.Values()); err != nil {
		return err
	}
	encrypted := e.TransitEncryption == types.EFSTransitEncryptionEnabled
	if p := e.TransitEncryptionPort; p != nil && (!encrypted || *p < 1 || *p > 65535) {
		return clientError("Invalid transitEncryptionPort %d for volume '%s': it must be 1 to 65535, with transitEncryption ENABLED.", *p, name)
	}
	a := e.AuthorizationConfig
	if a == nil || aws.ToString(a.AccessPointId) == "" {
		return nil
	}
	switch {
	case !accessPointID.MatchString(*a.AccessPointId):
		return clientError("Invalid accessPointId for volume '%s': %.300q.", name, *a.AccessPointId)
	case !encrypted:
		return clientError("EFS transit encryption must be enabled for volume '%s', because it has an access point.", name)
	case aws.ToString(e.RootDirectory) != "/":
		return clientError("Volume '%s' has an access point; its rootDirectory must be / or left out.", name)
	}
	return nil
}

// parsePortRange reads "8000-8010".
func parsePortRange(s string) (first, last int32, ok bool) {
	from, to, dash := strings.Cut(s, "-")
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	return int32(a), int32(b), dash && err1 == nil && err2 == nil && a >= 1 && a < b
}

func checkPortRange(d *types.TaskDefinition, c *types.ContainerDefinition, m types.PortMapping) error {
	text := *m.ContainerPortRange
	if _, _, ok := parsePortRange(text); !ok {
		return clientError("Invalid 'containerPortRange' setting for container '%s': %.100q; it must be two ports, the lower first, such as 8000-8010.", *c.Name, text)
	}
	switch {
	case d.NetworkMode != types.NetworkModeBridge && d.NetworkMode != types.NetworkModeAwsvpc:
		return clientError("The containerPortRange of container '%s' is not supported when networkMode=%s; use bridge.", *c.Name, d.NetworkMode)
	case aws.ToInt32(m.ContainerPort) != 0 || aws.ToInt32(m.HostPort) != 0:
		return clientError("A port mapping of container '%s' has the containerPortRange %s and a containerPort or hostPort; the range excludes both.", *c.Name, text)
	}
	return enumeration("portMappings.protocol", m.Protocol, m.Protocol.Values())
}

// checkPortOverlap lets a port of a container be in one mapping only where one of them is a range, and bounds the ranges.
func checkPortOverlap(c *types.ContainerDefinition) error {
	type span struct {
		first, last int32
		protocol    types.TransportProtocol
		text        string
	}
	var ranges []span
	for _, m := range c.PortMappings {
		if first, last, ok := parsePortRange(aws.ToString(m.ContainerPortRange)); ok {
			ranges = append(ranges, span{first, last, cmp.Or(m.Protocol, types.TransportProtocolTcp), *m.ContainerPortRange})
		}
	}
	if len(ranges) > maxPortRanges {
		return clientError("Container '%s' has %d port ranges; at most %d are allowed.", *c.Name, len(ranges), maxPortRanges)
	}
	for i, r := range ranges {
		for _, o := range ranges[i+1:] {
			if r.protocol == o.protocol && r.first <= o.last && o.first <= r.last {
				return clientError("The port ranges %s and %s of container '%s' overlap.", r.text, o.text, *c.Name)
			}
		}
		for _, m := range c.PortMappings {
			if p := aws.ToInt32(m.ContainerPort); m.ContainerPortRange == nil && cmp.Or(m.Protocol, types.TransportProtocolTcp) == r.protocol && p >= r.first && p <= r.last {
				return clientError("The container port %d of container '%s' is in its port range %s too.", p, *c.Name, r.text)
			}
		}
	}
	return nil
}
