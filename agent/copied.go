package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/ec2"
	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/statemgr"
)

// A disk that was copied, as by an image that was taken without "longshore-agent clean-instance", has another machine's state: two hosts
// must not be one container instance. That state is set aside, under names that end in .other-machine- and the time, and this host registers as
// a new one. The containers that came with the disk are not this host's: they are neither taken for its tasks nor reported, and stay as
// ECS_ORPHAN_POLICY has it.

// copiedName is the file, in the state directory, that says that the disk was copied.
const copiedName = "copied.json"

// copied is what it holds.
type copied struct {
	At       time.Time `json:"at"` // what was made before is the other machine's
	Instance string    `json:"containerInstanceArn"`
}

// loadCopied reads it; nil where there is none.
func loadCopied(dir string) *copied {
	data, err := durable.Read(filepath.Join(dir, copiedName), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c := &copied{}
	if err == nil {
		err = json.Unmarshal(data, c)
	}
	if err != nil {
		c.At = time.Time{}
	}
	return c
}

// disowned says why a container is not this host's; empty when nothing says so.
func (a *Agent) disowned(s engine.State) string {
	if c := a.copied; c != nil && s.CreatedAt.Before(c.At) {
		return "it came with this machine's image, from the one that was " + c.Instance
	}
	return ""
}

// otherMachine says by what the saved identity is another machine's; empty when it is this one's. On a new boot of an EC2 instance whose
// firmware does not show its id, the metadata is asked for it, for a bounded time: without an answer the registration will notice.
func (a *Agent) otherMachine(ctx context.Context) string {
	id := a.identity
	if id.MachineID != "" && a.host.MachineID != "" && id.MachineID != a.host.MachineID {
		return fmt.Sprintf("its machine id is %s, and this one's %s", id.MachineID, a.host.MachineID)
	}
	if !a.wasEC2() {
		return ""
	}
	now := id.CopiedTo
	if now == "" {
		now = shownInstance(a.opt.Root)
	}
	if now == "" && id.BootID != a.host.BootID && a.metadataOff() == "" {
		now = a.askInstance(ctx)
	}
	if now == "" || now == id.InstanceID {
		return ""
	}
	return fmt.Sprintf("it is of the EC2 instance %s, and this is %s", id.InstanceID, now)
}

// askInstance asks the instance metadata which EC2 instance this is; empty if it does not say so in time.
func (a *Agent) askInstance(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, metadataSure)
	defer cancel()
	service := ec2.New(a.cfg.InstanceMetadataAddress)
	for {
		found, err := service.Instance(ctx)
		if err == nil {
			return found.InstanceID
		}
		if e := (*ec2.Error)(nil); errors.As(err, &e) && e.Off() {
			return ""
		}
		waitingFor("Waiting for the instance metadata: " + err.Error())
		select {
		case <-ctx.Done():
			a.log.Warn("This EC2 instance's metadata is not to be had; its state is used, and it registers when the metadata says whose that is", zap.Error(err))
			return ""
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// markCopied disowns the containers that there are now.
func (a *Agent) markCopied(instance string) error {
	data, err := json.Marshal(copied{time.Now().UTC(), instance})
	if err == nil {
		err = writeDurably(filepath.Join(a.cfg.DataDir, copiedName), data)
	}
	if err != nil {
		return fmt.Errorf("note that the disk was copied: %w", err)
	}
	return nil
}

// setAside puts another machine's state away. The identity goes last: until then it is done again.
func (a *Agent) setAside(dir, why string) error {
	suffix := ".other-machine-" + time.Now().UTC().Format("20060102T150405Z")
	a.log.Warn("The saved state is another machine's, of whose disk this one is a copy; it is set aside, and this host registers as a new container instance. \"longshore-agent clean-instance\" before an image is taken avoids this",
		zap.String("why", why), zap.String("instance", a.identity.ContainerInstanceArn), zap.String("directory", dir), zap.String("suffix", suffix))
	if err := a.reserve.try(func() error { return a.markCopied(a.identity.ContainerInstanceArn) }); err != nil {
		return err
	}
	for _, name := range []string{hostkey.FileName, tokenName, departureName, statemgr.DatabaseName, statemgr.IdentityName} {
		failpoint.Hit("agent/set-aside")
		path := filepath.Join(dir, name)
		if err := os.Rename(path, path+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set another machine's state aside: %w", err)
		}
	}
	a.identity = nil
	return nil
}
