package containerd

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/engine"
)

// Facts is what a test says of the host.
type Facts = facts

// ExecUser is who a process is.
type ExecUser = execUser

// Compose turns a Spec and an image into the OCI runtime's configuration.
func Compose(spec engine.Spec, image engine.ImageConfig, f Facts) (*specs.Spec, error) {
	return compose(record{Spec: spec, Image: image}, f)
}

// ParseConfig reads an image's configuration.
func ParseConfig(blob []byte) (engine.ImageConfig, error) {
	d, err := parseConfig(blob)
	return d.config(), err
}

// Hosts, ResolvConf and WithoutLoopback make the files of a container's /etc.
var (
	Hosts           = hosts
	ResolvConf      = resolvConf
	WithoutLoopback = withoutLoopback
)

// OCIRuntime is the name, the shim and the program that a setting names.
func OCIRuntime(setting string) (string, error) {
	o, err := newOCIRuntime(setting)
	return o.name + " " + o.shim + " " + o.program, err
}

// CompileAppArmor has the AppArmor profile compiled and loads it nowhere.
func CompileAppArmor() error { return loadAppArmor("--skip-kernel-load") }

// ShimAddress reads what containerd writes of a shim.
var ShimAddress = parseAddress

// Remembered is how many manifests a Runtime remembers, and how many users.
func (r *Runtime) Remembered() (manifests, users int) {
	r.images.mu.Lock()
	defer r.images.mu.Unlock()
	return len(r.images.byRoot), len(r.images.users)
}
