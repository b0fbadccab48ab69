package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// EngineVolume is a named volume of a container engine.
type EngineVolume struct {
	Name    string
	Driver  string // empty: local
	Options map[string]string
	Labels  map[string]string
}

// VolumeKeeper is a Runtime that makes named volumes with drivers and options.
type VolumeKeeper interface {
	VolumeRemover

	// CreateVolume makes a volume. One of that name and driver that exists already is left as it is, whatever its options
	// and labels; one of another driver is AlreadyExists. InvalidArgument: the engine has no such driver, or refuses the
	// name or the options. Options may be judged only when the volume is first mounted.
	CreateVolume(ctx context.Context, v EngineVolume) error

	// InspectVolume returns a volume by its name, whoever made it. NotFound if there is none.
	InspectVolume(ctx context.Context, name string) (EngineVolume, error)
}

const (
	localDriver = "local"
	efsPlugin   = "amazon-ecs-volume-plugin"
	// nfsOptions are those that Amazon recommends for EFS, without the address.
	nfsOptions = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
)

// hostPath is the path of the host that a volume is; empty if it is a volume of the engine.
func hostPath(v *acs.Volume) string {
	if v.Host == nil {
		return ""
	}
	return v.Host.SourcePath
}

// shared reports whether a volume outlives its tasks under a name that they share.
func shared(v *acs.Volume) bool {
	return v.DockerVolumeConfiguration != nil && v.DockerVolumeConfiguration.Scope == "shared"
}

// goesWithTask reports whether a volume is one of the engine's that is made and removed with the task.
func goesWithTask(v *acs.Volume) bool { return hostPath(v) == "" && !shared(v) }

// engineName is the name of a volume on the engine.
func engineName(t *Task, v *acs.Volume) string {
	if shared(v) {
		return v.Name
	}
	return volumeName(t, v.Name)
}

func checkVolume(v *acs.Volume, host Host) error {
	if v == nil || v.Name == "" {
		return fmt.Errorf("the volume has no name")
	}
	switch v.Type {
	case "", "host":
		switch {
		case v.Host == nil:
			return fmt.Errorf("volume %s has no host member", v.Name)
		case v.Host.SourcePath != "" && !strings.HasPrefix(v.Host.SourcePath, "/"):
			return fmt.Errorf("volume %s: sourcePath %q is not absolute", v.Name, v.Host.SourcePath)
		}
	case "docker":
		switch d := v.DockerVolumeConfiguration; {
		case d == nil:
			return fmt.Errorf("volume %s of type docker has no dockerVolumeConfiguration", v.Name)
		case d.Scope != "" && d.Scope != "task" && d.Scope != "shared":
			return fmt.Errorf("volume %s: scope %q is neither task nor shared", v.Name, d.Scope)
		}
	case "efs":
		return checkEFS(v, host)
	case "fsxWindowsFileServer":
		return fmt.Errorf("volume %s: volume type %q is not supported on Linux", v.Name, v.Type)
	default:
		return fmt.Errorf("volume %s: unrecognized volume type: %q", v.Name, v.Type)
	}
	return nil
}

func checkEFS(v *acs.Volume, host Host) error {
	e := v.EFSVolumeConfiguration
	switch {
	case e == nil || e.FileSystemID == "" || strings.ContainsAny(e.FileSystemID, "/:,. "):
		return fmt.Errorf("volume %s of type efs has no fileSystemId", v.Name)
	case e.RootDirectory != "" && !strings.HasPrefix(e.RootDirectory, "/"):
		return fmt.Errorf("volume %s: rootDirectory %q is not absolute", v.Name, e.RootDirectory)
	case e.AuthorizationConfig != nil && enabled(e.AuthorizationConfig.Iam):
		return fmt.Errorf("volume %s: authorizationConfig.iam is not supported; use an access point, or the file system's own permissions", v.Name)
	case host.EFSPlugin:
		return nil
	case enabled(e.TransitEncryption):
		return fmt.Errorf("volume %s: transitEncryption needs the volume plugin %s, which this host does not have (ECS_VOLUME_PLUGIN_CAPABILITIES lacks efsAuth)", v.Name, efsPlugin)
	case e.AuthorizationConfig != nil && e.AuthorizationConfig.AccessPointID != "":
		return fmt.Errorf("volume %s: authorizationConfig.accessPointId needs the volume plugin %s, which this host does not have (ECS_VOLUME_PLUGIN_CAPABILITIES lacks efsAuth)", v.Name, efsPlugin)
	case host.Region == "":
		return fmt.Errorf("volume %s: the address of an EFS file system needs a region, and this host has none (AWS_DEFAULT_REGION)", v.Name)
	}
	return nil
}

func enabled(s string) bool { return strings.EqualFold(s, "ENABLED") }

// engineVolume is what a volume of the task is on the engine; false if it is a path of the host, or an anonymous volume,
// which the engine makes by itself.
func engineVolume(t *Task, v *acs.Volume, host Host) (EngineVolume, bool) {
	out := EngineVolume{Name: engineName(t, v), Driver: localDriver}
	switch d := v.DockerVolumeConfiguration; {
	case v.EFSVolumeConfiguration != nil:
		out.Driver, out.Options = efsMount(v.EFSVolumeConfiguration, host)
	case d != nil:
		out.Options, out.Labels = d.DriverOpts, d.Labels
		if d.Driver != "" {
			out.Driver = d.Driver
		}
	default:
		return EngineVolume{}, false
	}
	return out, true
}

// efsMount is how an EFS file system is mounted: by its plugin where the host has it, else as the NFS export that it is.
func efsMount(e *acs.EFSVolumeConfiguration, host Host) (driver string, options map[string]string) {
	root := e.RootDirectory
	if root == "" {
		root = "/"
	}
	if !host.EFSPlugin {
		suffix := ".amazonaws.com"
		if strings.HasPrefix(host.Region, "cn-") {
			suffix += ".cn"
		}
		return localDriver, map[string]string{"type": "nfs", "device": ":" + root, "o": "addr=" + e.FileSystemID + ".efs." + host.Region + suffix + "," + nfsOptions}
	}
	var o []string
	if enabled(e.TransitEncryption) {
		o = append(o, "tls")
		if e.TransitEncryptionPort != 0 {
			o = append(o, fmt.Sprintf("tlsport=%d", e.TransitEncryptionPort))
		}
	}
	if a := e.AuthorizationConfig; a != nil && a.AccessPointID != "" {
		o = append(o, "accesspoint="+a.AccessPointID)
	}
	options = map[string]string{"type": "efs", "device": e.FileSystemID + ":" + root}
	if len(o) > 0 {
		options["o"] = strings.Join(o, ",")
	}
	return efsPlugin, options
}

// keepsVolumes reports whether a container mounts a volume that must be made on the engine first.
func keepsVolumes(t *Task, c *Container) bool {
	return slices.ContainsFunc(c.payload.MountPoints, func(m *acs.MountPoint) bool {
		v := t.volumes[m.SourceVolume]
		return v != nil && (v.DockerVolumeConfiguration != nil || v.EFSVolumeConfiguration != nil)
	})
}

// ensureVolumes makes the engine's volumes that a container mounts, and holds shared ones to what the task says of them.
// Doing it again changes nothing.
func ensureVolumes(ctx context.Context, runtime Runtime, t *Task, c *Container, host Host) error {
	for _, m := range c.payload.MountPoints {
		v := t.volumes[m.SourceVolume]
		if v == nil {
			continue
		}
		want, ok := engineVolume(t, v, host)
		if !ok {
			continue
		}
		keeper, ok := runtime.(VolumeKeeper)
		if !ok {
			return fmt.Errorf("CannotCreateVolumeError: volume %s: this container engine has no volumes with drivers", v.Name)
		}
		if err := ensureVolume(ctx, keeper, v, want, host); err != nil {
			return fmt.Errorf("CannotCreateVolumeError: volume %s: %w", v.Name, err)
		}
	}
	return nil
}

func ensureVolume(ctx context.Context, keeper VolumeKeeper, v *acs.Volume, want EngineVolume, host Host) error {
	have, err := keeper.InspectVolume(ctx, want.Name)
	switch {
	case err == nil && shared(v) && host.MatchSharedVolumes:
		return differs(have, want)
	case err == nil:
		return nil
	case !errdefs.IsNotFound(err):
		return err
	case shared(v) && !v.DockerVolumeConfiguration.Autoprovision:
		return fmt.Errorf("the shared volume %s does not exist on this host, and autoprovision is off; create it, or set autoprovision", want.Name)
	}
	failpoint.Hit("engine/create-volume-before")
	err = keeper.CreateVolume(ctx, want)
	failpoint.Hit("engine/create-volume-after")
	return err
}

// differs says in what a shared volume is another than the task wants.
func differs(have, want EngineVolume) error {
	const hint = "; ECS_SHARED_VOLUME_MATCH_FULL_CONFIG asks for equal ones"
	switch {
	case have.Driver != want.Driver:
		return fmt.Errorf("the shared volume %s exists with driver %s, and the task wants %s%s", want.Name, have.Driver, want.Driver, hint)
	case !maps.Equal(have.Options, want.Options):
		return fmt.Errorf("the shared volume %s exists with driver options %v, and the task wants %v%s", want.Name, have.Options, want.Options, hint)
	case !maps.Equal(have.Labels, want.Labels):
		return fmt.Errorf("the shared volume %s exists with labels %v, and the task wants %v%s", want.Name, have.Labels, want.Labels, hint)
	}
	return nil
}

// removeVolumes removes the volumes that live as long as the task. One that a container of the task still uses goes with
// the last of them.
func removeVolumes(ctx context.Context, runtime Runtime, t *Task) error {
	r, ok := runtime.(VolumeRemover)
	if !ok {
		return nil
	}
	for _, name := range sortedKeys(t.volumes) {
		v := t.volumes[name]
		if !goesWithTask(v) {
			continue
		}
		if err := r.RemoveVolume(ctx, engineName(t, v)); err != nil && !errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}
