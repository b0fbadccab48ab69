package statemgr

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// IdentityName is the identity's file name in the data directory.
const IdentityName = "identity.json"

// IdentityVersion is the version of [Identity] that this package writes.
const IdentityVersion = 1

const maxIdentity = 64 << 10

// Identity is which container instance this host is, and by what it was known when it became that.
type Identity struct {
	Version              int    `json:"version"`
	Cluster              string `json:"cluster"` // as configured
	ContainerInstanceArn string `json:"containerInstanceArn"`
	MachineID            string `json:"machineId,omitempty"`     // /etc/machine-id: another one means a copied disk
	BootID               string `json:"bootId,omitempty"`        // of the last start of the agent
	InstanceID           string `json:"ec2InstanceId,omitempty"` // the id the instance registered with
	Region               string `json:"region,omitempty"`        // the EC2 instance's
	CopiedTo             string `json:"copiedTo,omitempty"`      // the EC2 instance on which this identity was found, whose it is not
	Engine               string `json:"engine,omitempty"`        // on which its tasks are: docker or containerd
	Predecessor          uint64 `json:"predecessor,omitempty"`   // the last transaction of an amazon-ecs-agent's state that was looked at
}

// LoadIdentity reads the identity kept in a directory. It is nil if there is none yet. A file that can't be read is an
// error and stays as it is: registering without it would make a second instance of the host.
func LoadIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, IdentityName)
	raw, err := durable.Read(path, maxIdentity)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	id := &Identity{}
	if err == nil {
		err = json.Unmarshal(raw, id)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the instance's identity %s can't be read: %w; restore it, or remove it to register this host as a new container instance", path, err)
	case id.Version > IdentityVersion:
		return nil, fmt.Errorf("the instance's identity %s has version %d, and this agent knows versions up to %d; start the newer agent again", path, id.Version, IdentityVersion)
	}
	return id, nil
}

// SaveIdentity replaces the identity kept in a directory. It is durable when it returns nil; when it fails the old one is
// still there.
func SaveIdentity(dir string, id Identity) error {
	id.Version = IdentityVersion
	raw, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	failpoint.Hit("statemgr/identity-before")
	err = durable.Write(filepath.Join(dir, IdentityName), append(raw, '\n'), 0o600)
	failpoint.Hit("statemgr/identity-after")
	if err != nil {
		return fmt.Errorf("save the instance's identity: %w", err)
	}
	return nil
}

// RemoveIdentity forgets the identity durably. Removing what is not there does nothing.
func RemoveIdentity(dir string) error {
	if err := os.Remove(filepath.Join(dir, IdentityName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
