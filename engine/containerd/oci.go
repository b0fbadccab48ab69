package containerd

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
)

const runcShim = "io.containerd.runc.v2"

// shimName is how containerd names shims: the program of io.containerd.kata.v2 is containerd-shim-kata-v2.
var shimName = regexp.MustCompile(`^io\.containerd\.([a-z0-9-]+)\.v[0-9]+$`)

// ociRuntime is what makes containers: a shim, and where it is runc's the program that it calls.
type ociRuntime struct {
	name    string // runc, crun, kata …
	shim    string
	program string // empty: the shim's own, runc
}

// newOCIRuntime finds what a setting names. A program is found here, because containerd's PATH is another's affair, and where there is none
// every start would fail.
func newOCIRuntime(setting string) (ociRuntime, error) {
	if setting == "" {
		return ociRuntime{name: "runc", shim: runcShim}, nil
	}
	if m := shimName.FindStringSubmatch(setting); m != nil {
		return ociRuntime{name: m[1], shim: setting}, nil
	}
	program, err := exec.LookPath(setting)
	if err == nil {
		program, err = filepath.Abs(program)
	}
	if err != nil {
		return ociRuntime{}, fmt.Errorf("there is no OCI runtime %q: install it, or name a program with its path, or a shim such as io.containerd.kata.v2: %w", setting, err)
	}
	return ociRuntime{name: filepath.Base(program), shim: runcShim, program: program}, nil
}

// info is what a container's record says of it.
func (o ociRuntime) info() (containers.RuntimeInfo, error) {
	info := containers.RuntimeInfo{Name: o.shim}
	if o.program == "" {
		return info, nil
	}
	options, err := typeurl.MarshalAny(&runcoptions.Options{BinaryName: o.program})
	info.Options = options
	return info, err
}
