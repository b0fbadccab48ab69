// Package dropin reads what an amazon-ecs-agent has left on a host that it ran on before: its state file, agent.db, which says who this host
// is to the control plane and what its tasks are. It is read and never written, so that the other agent can come back to it.
//
// # The file
//
// A bbolt database with JSON values (agent-protocol section 9), which the other agent holds open for as long as it runs. That lock is how the
// two agents keep out of each other's way: [Open] takes a reader's share of it and fails with [ErrRunning] while the other one has it, and
// whoever keeps what Open returns open keeps the other agent waiting at its own start. What is decoded is a copy in memory.
//
//	bucket        key                    what is read
//	metadata      a name                 agent-version, cluster-name, container-instance-arn, ec2-instance-id, task-manifest-seq-num
//	tasks         the task's id          what the task is, its statuses, and what the control plane was told
//	containers    task id and name       the same of a container, with its id and name on the engine; it is newer than its copy in the task
//
// # What becomes of a task
//
// A record as the engine of tasks keeps it ([engine.TaskRecord]), by which it finds the containers: they have the labels of ECS and none of
// ours. It has no values of variables and no secrets. It is partial, as that of a task which was rebuilt from labels is: nothing is made from it
// before the control plane sends the whole task.
//
// A task can't be taken over whose network or namespaces the other agent has made (awsvpc, pidMode and ipcMode task, Service Connect):
// [Task.Obstacle] says so.
package dropin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/statemgr"
)

// FileName is the state file's name in the data directory.
const FileName = "agent.db"

// ErrRunning means that an amazon-ecs-agent runs on this host.
var ErrRunning = errors.New("an amazon-ecs-agent runs on this host")

// The bounds of what is read.
const (
	maxValue = 8 << 20
	maxTasks = 10_000
)

// Predecessor is the state file of another agent, held against it.
type Predecessor struct{ held *os.File }

// State is what a state file says.
type State struct {
	AgentVersion  string
	Cluster       string // as that agent was configured
	InstanceArn   string
	EC2InstanceID string // empty off EC2
	Sequence      int64  // of the last task manifest that was obeyed; -1: none
	Transaction   uint64 // of the file; it rises with each change
	Tasks         []Task // in the order of their ids
}

// Open opens the state file in a data directory and holds it against its owner until it is closed; nil if there is none. The error is or wraps
// [ErrRunning] while the owner runs, and names its process if that is known.
func Open(dir, proc string) (*Predecessor, error) {
	path := filepath.Join(dir, FileName)
	held, err := statemgr.Hold(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, statemgr.ErrInUse):
		return nil, fmt.Errorf("%w: %s has %s open; stop it (systemctl disable --now ecs; docker stop ecs-agent), then start this agent again; its containers are not touched by either", ErrRunning, owner(path, proc), path)
	case err != nil:
		return nil, fmt.Errorf("the state of an amazon-ecs-agent: %w", err)
	}
	return &Predecessor{held}, nil
}

// Close lets the other agent go on.
func (p *Predecessor) Close() error { return p.held.Close() }

// owner is the process that has a file locked, as the kernel's list says (proc_locks(5)).
func owner(path, proc string) string {
	var st fs.FileInfo
	var err error
	if st, err = os.Stat(path); err != nil {
		return "it"
	}
	locks, err := os.ReadFile(filepath.Join(proc, "locks"))
	if err != nil {
		return "it"
	}
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[3] != "WRITE" {
			continue
		}
		if i := strings.LastIndexByte(f[5], ':'); i < 0 || f[5][i+1:] != strconv.FormatUint(inode(st), 10) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(proc, f[4], "comm"))
		return fmt.Sprintf("process %s (%s)", f[4], strings.TrimSpace(string(name)))
	}
	return "it"
}

// Read reads the state. It is nil if the file is not an amazon-ecs-agent's, or one that it has only begun.
func (p *Predecessor) Read() (*State, error) {
	db, err := statemgr.Copy(p.held)
	if err != nil {
		return nil, fmt.Errorf("the state of an amazon-ecs-agent: %w", err)
	}
	defer func() { _ = db.Close() }()
	s, err := read(db)
	if err != nil {
		return nil, fmt.Errorf("the state of an amazon-ecs-agent, %s: %w", p.held.Name(), err)
	}
	return s, nil
}

func read(db *statemgr.Snapshot) (*State, error) {
	names, err := db.Buckets()
	if err != nil || !slices.Contains(names, "metadata") || !slices.Contains(names, "tasks") {
		return nil, err
	}
	s := &State{Sequence: -1, Transaction: db.Transaction}
	if err := db.Each("metadata", s.metadata); err != nil {
		return nil, err
	}
	if s.InstanceArn == "" { // it has never registered
		return nil, nil
	}
	if _, err := arn.Parse(s.InstanceArn); err != nil {
		return nil, fmt.Errorf("container-instance-arn: %w", err)
	}
	containers := map[key]*container{}
	err = db.Each("containers", func(_ string, value []byte) error {
		if len(value) > maxValue {
			return nil // its copy in the task counts
		}
		var of struct {
			DockerID, DockerName string
			Container            *container
		}
		if json.Unmarshal(value, &of) != nil || of.Container == nil {
			return nil
		}
		of.Container.id, of.Container.name = of.DockerID, strings.TrimPrefix(of.DockerName, "/")
		containers[key{of.Container.TaskArn, of.Container.Name}] = of.Container
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, db.Each("tasks", func(id string, value []byte) error {
		if len(s.Tasks) == maxTasks {
			return fmt.Errorf("it has more than %d tasks", maxTasks)
		}
		s.Tasks = append(s.Tasks, taskOf(id, value, containers))
		return nil
	})
}

// metadata reads one of the values that are no task's. A number is kept as a text.
func (s *State) metadata(name string, value []byte) error {
	var text string
	if len(value) > maxValue || json.Unmarshal(value, &text) != nil {
		return nil // another version's
	}
	switch name {
	case "agent-version":
		s.AgentVersion = text
	case "cluster-name":
		s.Cluster = text
	case "container-instance-arn":
		s.InstanceArn = text
	case "ec2-instance-id":
		s.EC2InstanceID = text
	case "task-manifest-seq-num":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			s.Sequence = n
		}
	}
	return nil
}
