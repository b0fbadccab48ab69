// Package ids derives the unguessable ids in the URLs that containers are given: the <id> of ECS_CONTAINER_METADATA_URI,
// ECS_CONTAINER_METADATA_URI_V4 and ECS_AGENT_URI.
//
// An id is HMAC-SHA256 of the task's ARN and the container's name under a key of this host, in the form of a UUID. So nothing is
// stored for a container, the id is the same after a restart of the agent, and who does not have the key can't make one.
package ids

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/uuid"

	"github.com/longshore-project/longshore/engine"
)

// KeyName is the key's file in the state directory. Who removes it makes the URLs of running containers unknown.
const KeyName = "endpoint-key"

const keySize = 32

// IDs are the ids of one host. They are safe for concurrent use.
type IDs struct {
	key []byte

	mu    sync.Mutex
	found map[string]named // by id: what Find found
}

// maxFound bounds what is remembered; an id that was forgotten is found again.
const maxFound = 10_000

// named is a container of a task.
type named struct{ task, container string }

// Known is the container whose id it is, if [IDs.Find] has found it before: an id is one container's for good, and to look
// through all of them each time would cost more than the rest of an answer.
func (i *IDs) Known(id string) (taskArn, container string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, ok := i.found[id]
	return n.task, n.container, ok
}

func (i *IDs) know(id string, n named) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.found == nil || len(i.found) >= maxFound {
		i.found = map[string]named{}
	}
	i.found[id] = n
}

// Open reads the key in a directory, or makes one. A file that is no key is an error, which says so.
func Open(dir string) (*IDs, error) {
	name := filepath.Join(dir, KeyName)
	key, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, keySize)
		rand.Read(key)
		if err = write(name, key); err != nil {
			return nil, fmt.Errorf("make the key of the containers' URLs: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the key of the containers' URLs: %w", err)
	}
	if len(key) != keySize {
		return nil, fmt.Errorf("%s has %d bytes and not the %d of a key: remove it; the metadata URLs of running containers are then unknown until their tasks are replaced", name, len(key), keySize)
	}
	return &IDs{key: key}, nil
}

// write makes the file as a whole, readable by its owner only.
func write(name string, key []byte) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Of is the id of a container of a task.
func (i *IDs) Of(taskArn, container string) string {
	m := hmac.New(sha256.New, i.key)
	m.Write([]byte(taskArn))
	m.Write([]byte{0})
	m.Write([]byte(container))
	var id uuid.UUID
	copy(id[:], m.Sum(nil))
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80 // a UUID's version and variant
	return id.String()
}

// Find is the container with an id among tasks.
func (i *IDs) Find(id string, tasks []engine.TaskStatus) (task *engine.TaskStatus, container *engine.ContainerStatus) {
	for t := range tasks {
		for c := range tasks[t].Containers {
			if theirs := tasks[t].Containers[c].EndpointID; theirs == id && id != "" || theirs == "" && i.Of(tasks[t].Arn, tasks[t].Containers[c].Name) == id {
				i.know(id, named{tasks[t].Arn, tasks[t].Containers[c].Name})
				return &tasks[t], &tasks[t].Containers[c]
			}
		}
	}
	return nil, nil
}
