package ecsagent

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"
)

// Script is what a container does on a machine. The zero value runs until it is stopped, and then ends with 143.
type Script struct {
	// Digest is the image's, "sha256:…"; without one the registry tells none.
	Digest string
	// Pull runs instead of the image's pull; its error ends the task. It must return when done is closed.
	Pull func(done <-chan struct{}) error
	// ExitAfter is when the container ends by itself, with ExitCode; 0 is never.
	ExitAfter time.Duration
	ExitCode  int
	// StopCode is the exit code after a stop; 0 means 143, as of a process that dies of SIGTERM.
	StopCode int
	// Stop runs before a stop takes effect.
	Stop func()
}

// Machine is a host: what is there whether an agent's process runs or not.
type Machine struct {
	journal
	// Run says what a container does; nil for the zero Script.
	Run func(task, container string) Script

	mu         sync.Mutex
	processes  int
	disk       disk
	containers map[string]*Container // by task ARN and name
	highest    int64                 // highest sequence number that any process saw
	nextPort   int64
}

// disk is what an agent keeps in its state file.
type disk struct {
	cluster     string
	instanceARN string
	zone        string
	manifestSeq int64
	tasks       map[string]*managed
	attachments map[string]*attachment // by ARN
	generation  int64                  // of the security groups
	groups      []*WireGroup
}

func emptyDisk() disk {
	return disk{manifestSeq: -1, tasks: map[string]*managed{}, attachments: map[string]*attachment{}}
}

// NewMachine makes a machine without containers on which no agent ran yet.
func NewMachine() *Machine {
	return &Machine{disk: emptyDisk(), containers: map[string]*Container{}, highest: -1, nextPort: 32768}
}

// Container is a container on the machine's engine.
type Container struct {
	ID, Task, Name string
	Running        bool
	ExitCode       int
	script         Script
	timer          *time.Timer
	watch          func()
}

// Containers are those of a task, or all for an empty ARN, running or not.
func (m *Machine) Containers(task string) []Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Container
	for _, c := range m.containers {
		if task == "" || c.Task == task {
			out = append(out, *c)
		}
	}
	return out
}

// Running is how many containers run.
func (m *Machine) Running() (n int) {
	for _, c := range m.Containers("") {
		if c.Running {
			n++
		}
	}
	return n
}

// InstanceARN is what the agent has saved about its registration; empty before.
func (m *Machine) InstanceARN() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk.instanceARN
}

// Zone is the availability zone that registration told.
func (m *Machine) Zone() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk.zone
}

// Forget is a lost state directory: the agent starts as if for the first time.
func (m *Machine) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk = emptyDisk()
}

// Kill ends a task's container as if its process had died.
func (m *Machine) Kill(task, name string, code int) {
	if c := m.find(task, name); c != nil {
		m.exit(c, code)
	}
}

// Close ends all containers, without a word to anybody.
func (m *Machine) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.containers {
		c.watch = nil
		if c.timer != nil {
			c.timer.Stop()
		}
	}
}

func (m *Machine) script(task, name string) Script {
	if m.Run == nil {
		return Script{}
	}
	return m.Run(task, name)
}

func (m *Machine) find(task, name string) *Container {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.containers[task+" "+name]
}

// start creates and starts a container. A second one for the same name is a mistake of the agent.
func (m *Machine) start(process int, task, name string, s Script) *Container {
	c := &Container{ID: hexID(32), Task: task, Name: name, Running: true, script: s}
	m.mu.Lock()
	if m.containers[task+" "+name] != nil {
		m.fault("container %s of %s was started twice", name, task)
	}
	m.containers[task+" "+name] = c
	if s.ExitAfter > 0 {
		c.timer = time.AfterFunc(s.ExitAfter, func() { m.exit(c, s.ExitCode) })
	}
	m.mu.Unlock()
	m.write(Entry{Process: process, Kind: Started, Task: task, Text: name})
	return c
}

func (m *Machine) exit(c *Container, code int) {
	m.mu.Lock()
	if !c.Running {
		m.mu.Unlock()
		return
	}
	c.Running, c.ExitCode = false, code
	watch := c.watch
	m.mu.Unlock()
	m.write(Entry{Kind: Exited, Task: c.Task, Text: c.Name})
	if watch != nil {
		watch()
	}
}

func (m *Machine) stop(c *Container) {
	if c.script.Stop != nil {
		c.script.Stop()
	}
	code := c.script.StopCode
	if code == 0 {
		code = 143
	}
	m.exit(c, code)
}

// watchFor has f called when the container ends; it returns whether it runs.
func (m *Machine) watchFor(c *Container, f func()) (running bool, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.watch = f
	return c.Running, c.ExitCode
}

func (m *Machine) port() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nextPort++
	return m.nextPort - 1
}

func hexID(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Twin is another machine that takes itself for this one: its state directory is a copy, without the tasks.
func (m *Machine) Twin() *Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	twin := NewMachine()
	twin.disk.cluster, twin.disk.instanceARN, twin.disk.zone, twin.disk.manifestSeq = m.disk.cluster, m.disk.instanceARN, m.disk.zone, m.disk.manifestSeq
	twin.highest = m.highest
	return twin
}
