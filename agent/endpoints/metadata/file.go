package metadata

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// FileName is the container metadata file, and inside is where its directory is in a container.
const (
	FileName = "ecs-container-metadata.json"
	inside   = "/opt/ecs/metadata"
)

// The values of [File].MetadataFileStatus.
const (
	statusInitial = "INITIAL" // what is known before the container is there
	statusReady   = "READY"   // all
)

// File is what is in the container metadata file.
type File struct {
	Cluster                string        `json:",omitempty"`
	ContainerInstanceARN   string        `json:",omitempty"`
	TaskARN                string        `json:",omitempty"`
	TaskDefinitionFamily   string        `json:",omitempty"`
	TaskDefinitionRevision string        `json:",omitempty"`
	ContainerID            string        `json:",omitempty"`
	ContainerName          string        `json:",omitempty"`
	DockerContainerName    string        `json:",omitempty"`
	ImageID                string        `json:",omitempty"`
	ImageName              string        `json:",omitempty"`
	PortMappings           []FileBinding `json:",omitempty"`
	Networks               []Network     `json:",omitempty"`
	MetadataFileStatus     string        `json:",omitempty"`
	AvailabilityZone       string        `json:",omitempty"`
	HostPrivateIPv4Address string        `json:",omitempty"`
	HostPublicIPv4Address  string        `json:",omitempty"`
	HostIPv6Address        string        `json:",omitempty"`
}

// FileBinding is a published port.
type FileBinding struct {
	ContainerPort int32
	HostPort      int32
	BindIP        string `json:"BindIp"`
	Protocol      string
}

// FilesConfig configures [Files]. All fields are required.
type FilesConfig struct {
	Dir      string // on the host; each container has a directory of its own beneath it
	Tasks    func() []engine.TaskStatus
	Instance func() (cluster, arn string)
	Place    func() Place
	Address  func() (private, public, ipv6 string) // of the host
	Log      *zap.Logger
}

// Files keeps the metadata files of containers: one is made before its container (INITIAL), completed once the container
// runs (READY), again when it was started again, and removed with its task. A container gets the file's directory as a
// read-only mount, so that a file that is replaced as a whole is seen there.
type Files struct {
	cfg    FilesConfig
	wake   chan struct{}
	mu     sync.Mutex        // guards what follows
	ready  map[string]string // by directory: the container id and start that the file is of
	absent map[string]bool   // containers without a file: they were made before it was asked for
}

// NewFiles makes a Files.
func NewFiles(cfg FilesConfig) *Files {
	return &Files{cfg: cfg, wake: make(chan struct{}, 1), ready: map[string]string{}, absent: map[string]bool{}}
}

// dir is the directory of a container's file.
func (f *Files) dir(taskArn, container string) (string, error) {
	a, err := arn.Parse(taskArn)
	if err != nil {
		return "", fmt.Errorf("the container metadata file: %w", err)
	}
	id := a.ID()
	for _, name := range []string{id, container} {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return "", fmt.Errorf("the container metadata file: %q can't be a directory", name)
		}
	}
	return filepath.Join(f.cfg.Dir, id, container), nil
}

// Prepare is an [engine.Prepare]: it writes the file and adds the mount and ECS_CONTAINER_METADATA_FILE.
func (f *Files) Prepare(t *acs.Task, container string, s *engine.Spec) error {
	dir, err := f.dir(t.Arn, container)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("the container metadata file: %w", err)
	}
	if err := f.write(dir, f.initial(t.Arn, t.Family, t.Version, container)); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.ready, dir)
	f.mu.Unlock()
	sum := sha256.Sum256([]byte(t.Arn + "\x00" + container)) // volumesFrom puts those of several containers into one
	target := inside + "/" + hex.EncodeToString(sum[:16])
	s.Mounts = append(s.Mounts[:len(s.Mounts):len(s.Mounts)], engine.Mount{Type: "bind", Source: dir, Target: target, ReadOnly: true})
	s.AddEnv("ECS_CONTAINER_METADATA_FILE=" + target + "/" + FileName)
	f.Wake()
	return nil
}

func (f *Files) initial(taskArn, family, version, container string) *File {
	cluster, instance := f.cfg.Instance()
	file := &File{Cluster: cluster, ContainerInstanceARN: instance, TaskARN: taskArn, TaskDefinitionFamily: family, TaskDefinitionRevision: version,
		ContainerName: container, MetadataFileStatus: statusInitial, AvailabilityZone: f.cfg.Place().Zone}
	file.HostPrivateIPv4Address, file.HostPublicIPv4Address, file.HostIPv6Address = f.cfg.Address()
	return file
}

// write replaces the file as a whole. It is for every user of the container.
func (f *Files) write(dir string, file *File) error {
	data, err := json.Marshal(file)
	if err != nil {
		return fmt.Errorf("the container metadata file: %w", err)
	}
	name := filepath.Join(dir, FileName)
	err = os.WriteFile(name+".new", data, 0o644)
	if err == nil {
		err = os.Chmod(name+".new", 0o644) // whatever the umask is
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return fmt.Errorf("the container metadata file: %w", err)
	}
	return nil
}

// Wake has the files compared with the containers soon. It returns at once.
func (f *Files) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

const (
	soon     = 500 * time.Millisecond // between looks while a file waits for its container
	seldom   = time.Minute
	keepTask = 10 * time.Minute // a directory that no task has is removed at this age
)

// Run keeps the files up to date until ctx ends.
func (f *Files) Run(ctx context.Context) error {
	for {
		wait := seldom
		if f.look() {
			wait = soon
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case <-f.wake:
			timer.Stop()
		}
	}
}

// look completes the files of the containers that run. It reports whether there are some that wait.
func (f *Files) look() (waiting bool) {
	tasks := f.cfg.Tasks()
	known := map[string]bool{}
	for i := range tasks {
		t := &tasks[i]
		for j := range t.Containers {
			c := &t.Containers[j]
			dir, err := f.dir(t.Arn, c.Name)
			if err != nil {
				continue
			}
			known[filepath.Dir(dir)] = true
			if t.Known != "STOPPED" && c.Known != "STOPPED" && f.complete(t, c, dir) {
				waiting = true
			}
		}
	}
	f.sweep(known)
	return waiting
}

// complete writes a container's file if it runs and the file is not of this start of it. It reports whether it is to be
// looked at again soon.
func (f *Files) complete(t *engine.TaskStatus, c *engine.ContainerStatus, dir string) (again bool) {
	of := c.RuntimeID + " " + c.StartedAt.String() + " " + strings.Join(c.Addresses, ",")
	f.mu.Lock()
	done := f.ready[dir] == of || f.absent[c.RuntimeID]
	f.mu.Unlock()
	if done {
		return false
	}
	if c.Known != "RUNNING" || c.Pid == 0 {
		return c.RuntimeID != ""
	}
	if _, err := os.Stat(filepath.Join(dir, FileName)); errors.Is(err, fs.ErrNotExist) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.absent[c.RuntimeID] = true
		return false
	}
	file := f.initial(t.Arn, t.Family, t.Version, c.Name)
	file.ContainerID, file.DockerContainerName, file.ImageID, file.ImageName = c.RuntimeID, "/"+c.RuntimeName, c.ImageID, c.Image
	for _, b := range bindings(c) {
		file.PortMappings = append(file.PortMappings, FileBinding{ContainerPort: b.ContainerPort, HostPort: b.HostPort, BindIP: b.BindIP, Protocol: b.Protocol})
	}
	file.Networks, file.MetadataFileStatus = networks(t, c, false), statusReady
	if err := f.write(dir, file); err != nil {
		f.cfg.Log.Warn("A container metadata file could not be completed; it is tried again", zap.String("task", t.Arn), zap.String("container", c.Name), zap.Error(err))
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready[dir] = of
	return false
}

// sweep removes the directories of tasks that are no more.
func (f *Files) sweep(known map[string]bool) {
	entries, err := os.ReadDir(f.cfg.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(f.cfg.Dir, e.Name())
		info, err := e.Info()
		if known[dir] || err != nil || time.Since(info.ModTime()) < keepTask {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			f.cfg.Log.Warn("The metadata files of a task that is gone could not be removed", zap.String("directory", dir), zap.Error(err))
			continue
		}
		f.mu.Lock()
		for name := range f.ready {
			if filepath.Dir(name) == dir {
				delete(f.ready, name)
			}
		}
		f.mu.Unlock()
	}
}
