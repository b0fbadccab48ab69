// Package firelens writes the configuration of a FireLens log router: the Fluentd or Fluent Bit container that takes the
// output of a task's other containers.
//
// # The model
//
// Containers whose log driver is awsfirelens log through the engine's own fluentd driver, into a unix socket that lies in
// a directory of the host and is mounted into the router as /var/run. The router's main configuration is generated here and
// mounted where the router's image looks for it:
//
//	inputs    the socket; in networkMode bridge also port 24224 for containers that send by themselves (FLUENT_HOST);
//	          port 8877 on loopback, for a health check of the router
//	filters   ecs_cluster, ecs_task_arn and ecs_task_definition in each record, unless enable-ecs-log-metadata is false;
//	          include-pattern and exclude-pattern of a container
//	include   config-file-value: a file of the router's image, or an object in S3 that the agent fetches and mounts beside
//	outputs   one for each container whose options name one; a container without options is routed by the included file
//
// A record's tag is "<container>-firelens-<task id>". [New] checks a task's part, [Router.Config] is pure and byte for byte the same for the same task,
// [Prepare] puts it on the host and [Remove] takes it away.
//
// What the options say can't break out of its line: a value with a line break or a NUL is refused.
package firelens

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Driver is the log driver of containers that log through the task's router.
const Driver = "awsfirelens"

// The kinds of router.
const (
	Fluentd   = "fluentd"
	FluentBit = "fluentbit"
)

// Options of the router's firelensConfiguration.
const (
	OptionMetadata  = "enable-ecs-log-metadata"
	OptionFileType  = "config-file-type"
	OptionFileValue = "config-file-value"
)

// Options of a container's log configuration that are not the output's.
const (
	optionInclude = "include-pattern"
	optionExclude = "exclude-pattern"
	optionBuffer  = "log-driver-buffer-limit"
)

const (
	socketName      = "fluent.sock"
	forwardPort     = "24224"
	healthPort      = "8877"
	healthTag       = "firelens-healthcheck"
	maxBuffer       = 536870912 // bytes; ECS's bound of log-driver-buffer-limit
	logKey          = "log"     // where the engine's driver puts a line
	fluentdTarget   = "/fluentd/etc/fluent.conf"
	fluentBitTarget = "/fluent-bit/etc/fluent-bit.conf"
	socketTarget    = "/var/run"
	// Where an object of S3 is mounted, as in Amazon ECS.
	fluentdExternal   = "/fluentd/etc/external.conf"
	fluentBitExternal = "/fluent-bit/etc/external.conf"
)

// Source is a container that logs through the router.
type Source struct {
	Name    string
	Index   int               // in the task; part of the names of secret options
	Options map[string]string // of its logConfiguration
	Secrets []string          // names of its secretOptions
}

// Task is what a router's configuration is made of.
type Task struct {
	Kind       string            // fluentd or fluentbit
	Options    map[string]string // of firelensConfiguration
	Bridge     bool              // the router has a network of its own
	Cluster    string
	Arn        string
	Definition string // family:revision
	Sources    []Source
}

// Router is a checked [Task].
type Router struct {
	task     Task
	metadata bool
	include  string // a path in the router
	external string // the ARN of the object in S3 that is mounted there; empty: the file is the image's own
}

// New checks what a task says of its router. Its errors are for who wrote the task definition.
func New(t Task) (*Router, error) {
	r := &Router{task: t, metadata: true}
	if t.Kind != Fluentd && t.Kind != FluentBit {
		return nil, fmt.Errorf("firelensConfiguration: the type %q is neither fluentd nor fluentbit", t.Kind)
	}
	if taskID(t.Arn) == "" || !oneLine(t.Arn+t.Cluster+t.Definition) {
		return nil, fmt.Errorf("firelensConfiguration: the task's ARN %q, cluster or family can't be written to a configuration file", t.Arn)
	}
	if err := r.readOptions(); err != nil {
		return nil, fmt.Errorf("firelensConfiguration: %w", err)
	}
	for _, s := range t.Sources {
		if err := checkSource(t.Kind, s); err != nil {
			return nil, fmt.Errorf("the %s options of container %s: %w", Driver, s.Name, err)
		}
	}
	return r, nil
}

func (r *Router) readOptions() error {
	o := r.task.Options
	for _, name := range slices.Sorted(maps.Keys(o)) {
		value := o[name]
		switch name {
		case OptionMetadata:
			on, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("the option %s is %q; it must be true or false", name, value)
			}
			r.metadata = on
		case OptionFileType:
			switch {
			case value != "file" && value != "s3":
				return fmt.Errorf("the option %s is %q; it must be file or s3", name, value)
			case o[OptionFileValue] == "":
				return fmt.Errorf("the option %s needs %s, the file's path in the router's image or its ARN in S3", name, OptionFileValue)
			}
		case OptionFileValue:
			if err := r.readFile(o[OptionFileType], value); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the option %q is none of %s, %s and %s", name, OptionMetadata, OptionFileType, OptionFileValue)
		}
	}
	return nil
}

func (r *Router) readFile(kind, value string) error {
	switch {
	case kind == "":
		return fmt.Errorf("the option %s needs %s", OptionFileValue, OptionFileType)
	case kind == "s3" && (!s3Object.MatchString(value) || !oneLine(value)):
		return fmt.Errorf("the option %s is %q; with %s s3 it must be like arn:aws:s3:::bucket/path/extra.conf", OptionFileValue, value, OptionFileType)
	case kind == "s3":
		r.external = value
		if r.include = fluentBitExternal; r.task.Kind == Fluentd {
			r.include = fluentdExternal
		}
	case !path.IsAbs(value) || !oneLine(value) || value == r.ConfigTarget():
		return fmt.Errorf("the option %s is %q; it must be an absolute path in the router's image other than %s", OptionFileValue, value, r.ConfigTarget())
	default:
		r.include = value
	}
	return nil
}

// s3Object is the ARN of an object.
var s3Object = regexp.MustCompile(`^arn:[a-z0-9-]+:s3:::[^/]+/.+$`)

// External is the ARN of the object in S3 that the router includes, and where it is mounted; empty if there is none.
func (r *Router) External() (arn, target string) {
	if r.external == "" {
		return "", ""
	}
	return r.external, r.include
}

// InS3 reports whether the options of a firelensConfiguration name an object in S3, and which.
func InS3(options map[string]string) (arn string, ok bool) {
	return options[OptionFileValue], options[OptionFileType] == "s3"
}

// outputKey is the option that names a container's output plugin.
func outputKey(kind string) string {
	if kind == Fluentd {
		return "@type"
	}
	return "Name"
}

func checkSource(kind string, s Source) error {
	if _, err := BufferLimit(s.Options); err != nil {
		return err
	}
	options := outputOptions(s.Options)
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		if !oneLine(s.Options[name]) || !isKey(name) {
			return fmt.Errorf("the option %q can't be written to a configuration file: names have no spaces, and values no line breaks", name)
		}
	}
	for _, name := range s.Secrets {
		if !isKey(name) {
			return fmt.Errorf("the secret option %q can't be written to a configuration file: names have no spaces", name)
		}
	}
	if len(options)+len(s.Secrets) > 0 && typeOf(kind, options) == "" {
		return fmt.Errorf("they configure an output and lack %s, the name of its plugin", outputKey(kind))
	}
	return nil
}

// typeOf is the output's plugin. Fluent Bit's keys have no case.
func typeOf(kind string, options map[string]string) string {
	for name, value := range options {
		if name == outputKey(kind) || kind == FluentBit && strings.EqualFold(name, outputKey(kind)) {
			return value
		}
	}
	return ""
}

func outputOptions(options map[string]string) map[string]string {
	out := maps.Clone(options)
	for _, name := range []string{optionInclude, optionExclude, optionBuffer} {
		delete(out, name)
	}
	return out
}

func oneLine(s string) bool { return !strings.ContainsAny(s, "\r\n\x00") }

func isKey(s string) bool {
	return s != "" && !strings.ContainsAny(s, " \t\r\n\x00<>[]#") && !strings.HasPrefix(s, "@INCLUDE")
}

// BufferLimit is the option log-driver-buffer-limit: how many bytes the engine's driver keeps for a router that is slow; 0
// means the driver's default.
func BufferLimit(options map[string]string) (int64, error) {
	text, set := options[optionBuffer]
	if !set {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxBuffer {
		return 0, fmt.Errorf("the option %s is %q; it must be a number of bytes from 0 to %d", optionBuffer, text, maxBuffer)
	}
	return n, nil
}

// ConfigTarget is where the router's image looks for its main configuration.
func (r *Router) ConfigTarget() string {
	if r.task.Kind == Fluentd {
		return fluentdTarget
	}
	return fluentBitTarget
}

// match is the pattern of the records of one container.
func (r *Router) match(container string) string {
	if r.task.Kind == Fluentd {
		return container + "-firelens**"
	}
	return container + "-firelens*"
}

// SecretVariable is the variable of the router's environment that holds a secret option of a container.
func SecretVariable(option string, index int) string { return option + "_" + strconv.Itoa(index) }

// LogOptions are the options of the engine's fluentd driver for a container: into the router's socket below dir, without
// waiting for the router when async.
func LogOptions(dir, container, taskArn string, options map[string]string, async bool) (map[string]string, error) {
	limit, err := BufferLimit(options)
	if err != nil {
		return nil, err
	}
	out := map[string]string{
		"fluentd-address":              "unix://" + path.Join(SocketDir(dir), socketName),
		"fluentd-async":                strconv.FormatBool(async),
		"fluentd-sub-second-precision": "true",
		"tag":                          container + "-firelens-" + taskID(taskArn),
	}
	if limit > 0 {
		out["fluentd-buffer-limit"] = strconv.FormatInt(limit, 10)
	}
	return out, nil
}

// Environment tells a container where the router listens for those that send by themselves.
func Environment(routerAddress string) ([]string, error) {
	if routerAddress == "" {
		return nil, errors.New("the log router has no address on the bridge yet")
	}
	return []string{"FLUENT_HOST=" + routerAddress, "FLUENT_PORT=" + forwardPort}, nil
}
