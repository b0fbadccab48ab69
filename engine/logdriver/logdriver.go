// Package logdriver is about where the output of containers goes, for engines that leave that to us: what an engine and the log process of a
// container have in common. The process itself is in logprocess, so that who only makes containers doesn't carry the drivers.
//
// # Model
//
// Each container has a process of its own, longshore-log, which the engine starts with the container's output as pipes and which ends when
// both pipes do: it depends on neither the agent nor the engine, so that an upgrade of either loses no line. Its settings are a file.
//
//	stdout ─► lines ─┐
//	                 ├─► driver: one at a time, in order
//	stderr ─► lines ─┘
//
// A line is what ends with a newline, or 16 KiB of it, as Docker splits them. In the blocking mode a driver that can't write makes the
// container wait; in the non-blocking mode (option "mode") there is a buffer between them, and what doesn't fit is dropped and counted.
package logdriver

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/longshore-project/longshore/internal/durable"
)

// Settings are what longshore-log is told.
type Settings struct {
	Driver    string            `json:"driver"`
	Options   map[string]string `json:"options,omitempty"`
	Dir       string            `json:"dir"` // of its own: json-file writes there, and every driver its [Status]
	Container Container         `json:"container"`
}

// Container is whose output it is. Its methods are what a tag's template may name, as in Docker.
type Container struct {
	ContainerID, ContainerName, Image, ContainerImageID string
	Created                                             time.Time
	Labels                                              map[string]string
	Env                                                 []string
}

// ID is the short id.
func (c Container) ID() string { return c.ContainerID[:min(12, len(c.ContainerID))] }

// FullID is the whole id.
func (c Container) FullID() string { return c.ContainerID }

// Name is the container's name.
func (c Container) Name() string { return c.ContainerName }

// ImageName is the image as the definition names it.
func (c Container) ImageName() string { return c.Image }

// ImageID is the image's short id.
func (c Container) ImageID() string { return c.ContainerImageID[:min(19, len(c.ContainerImageID))] }

// ImageFullID is the image's whole id.
func (c Container) ImageFullID() string { return c.ContainerImageID }

// DaemonName is who runs the container.
func (Container) DaemonName() string { return "longshore" }

// Hostname is the host's name.
func (Container) Hostname() (string, error) { return os.Hostname() }

// maxSettings bounds a file of settings.
const maxSettings = 1 << 20

// ReadSettings reads a file of settings.
func ReadSettings(name string) (Settings, error) {
	b, err := durable.Read(name, maxSettings)
	if err != nil {
		return Settings{}, err
	}
	var s Settings
	if err := json.Unmarshal(b, &s); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// common are the options that every driver has.
//
// The cache is the copy that Docker keeps of output that goes elsewhere; there is none here, so what bounds it or switches it off holds.
var common = []string{"mode", "max-buffer-size", "tag", "labels", "labels-regex", "env", "env-regex", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}

// drivers are those that there are, with the options that each has beside the common ones.
var drivers = map[string][]string{
	"json-file": {"max-size", "max-file"},
	"journald":  nil,
	"syslog":    {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"},
	"fluentd": {"fluentd-address", "fluentd-async", "fluentd-async-connect", "fluentd-buffer-limit", "fluentd-retry-wait", "fluentd-max-retries",
		"fluentd-sub-second-precision", "fluentd-request-ack", "fluentd-write-timeout"},
	"awslogs": {"awslogs-region", "awslogs-endpoint", "awslogs-group", "awslogs-stream", "awslogs-create-group", "awslogs-create-stream", "awslogs-datetime-format",
		"awslogs-multiline-pattern", "awslogs-credentials-endpoint", "awslogs-format", "awslogs-force-flush-interval-seconds"},
	"none": nil,
}

// Drivers are the names of those that there are, sorted.
func Drivers() []string { return slices.Sorted(maps.Keys(drivers)) }

// Check refuses by name a driver or an option that there is not, before a container is made.
func Check(driver string, options map[string]string) error {
	own, known := drivers[driver]
	if !known {
		return fmt.Errorf("there is no log driver %q; there are %s", driver, strings.Join(Drivers(), ", "))
	}
	for o := range options {
		if !slices.Contains(own, o) && !slices.Contains(common, o) {
			return fmt.Errorf("log driver %s has no option %q", driver, o)
		}
	}
	if m := options["mode"]; m != "" && m != Blocking && m != NonBlocking {
		return fmt.Errorf("option mode is %q; it must be %s or %s", m, Blocking, NonBlocking)
	}
	if v, given := options["max-buffer-size"]; given {
		if options["mode"] != NonBlocking {
			return fmt.Errorf("option max-buffer-size needs mode %s", NonBlocking)
		}
		if n, err := units.RAMInBytes(v); err != nil || n <= 0 {
			return fmt.Errorf("option max-buffer-size is %q; it must be a size, such as 4m", v)
		}
	}
	return nil
}

// The values of the option mode.
const (
	Blocking    = "blocking"
	NonBlocking = "non-blocking"
)

// Status is what a log process says of itself, in the file status.json of its folder, when something was lost.
type Status struct {
	Dropped   int64     `json:"dropped"` // lines that had no room in the buffer of the non-blocking mode
	Failed    int64     `json:"failed"`  // lines that the driver could not write
	LastError string    `json:"lastError,omitempty"`
	Since     time.Time `json:"since,omitzero"` // of the first loss
}

// StatusFile is the name of the status in a log process's folder.
const StatusFile = "status.json"

// Write writes the status into a log process's folder.
func (s Status) Write(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, StatusFile)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// ReadStatus reads the status of a container's log process; nothing was lost if there is none.
func ReadStatus(dir string) (s Status, err error) {
	b, err := os.ReadFile(filepath.Join(dir, StatusFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return s, err
}
