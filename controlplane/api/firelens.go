package api

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

const (
	firelensMetadata  = "enable-ecs-log-metadata"
	firelensFileType  = "config-file-type"
	firelensFileValue = "config-file-value"
	firelensBuffer    = "log-driver-buffer-limit"
	maxFirelensBuffer = 536870912 // bytes
)

// notOfOutput are the options of a container's log configuration that are not its output's.
var notOfOutput = []string{"include-pattern", "exclude-pattern", firelensBuffer}

func routed(c *types.ContainerDefinition) bool {
	return c.LogConfiguration != nil && c.LogConfiguration.LogDriver == types.LogDriverAwsfirelens
}

// logRouter is the container that the others log through, nil without one.
func logRouter(d *types.TaskDefinition) *types.ContainerDefinition {
	for i := range d.ContainerDefinitions {
		if d.ContainerDefinitions[i].FirelensConfiguration != nil {
			return &d.ContainerDefinitions[i]
		}
	}
	return nil
}

// checkFirelens holds the log router and what logs through it to what an agent can write a configuration of.
func checkFirelens(d *types.TaskDefinition) error {
	router := logRouter(d)
	for i := range d.ContainerDefinitions {
		c := &d.ContainerDefinitions[i]
		switch {
		case c.FirelensConfiguration != nil && c != router:
			return setting("firelensConfiguration", c, "A task has one log router, and container '%s' is it already.", *router.Name)
		case c == router && routed(c):
			return setting("logConfiguration", c, "A log router can't use the log driver awsfirelens itself.")
		case routed(c) && router == nil:
			return setting("logConfiguration", c, "The log driver awsfirelens needs a container with a firelensConfiguration in the task definition.")
		case routed(c):
			if err := checkRouted(c, router.FirelensConfiguration.Type); err != nil {
				return err
			}
		}
	}
	if router == nil {
		return nil
	}
	return checkRouter(router)
}

func checkRouter(c *types.ContainerDefinition) error {
	f := c.FirelensConfiguration
	if err := enumeration("firelensConfiguration.type", f.Type, f.Type.Values()); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.Options)) {
		value := f.Options[name]
		switch name {
		case firelensMetadata:
			if _, err := strconv.ParseBool(value); err != nil {
				return setting("firelensConfiguration", c, "The option %s must be true or false, but was %.100q.", name, value)
			}
		case firelensFileType:
			switch {
			case value != "file" && value != "s3":
				return setting("firelensConfiguration", c, "The option %s must be file or s3, but was %.100q.", name, value)
			case f.Options[firelensFileValue] == "":
				return setting("firelensConfiguration", c, "The option %s needs %s.", name, firelensFileValue)
			}
		case firelensFileValue:
			kind := f.Options[firelensFileType]
			switch {
			case kind == "":
				return setting("firelensConfiguration", c, "The option %s needs %s.", name, firelensFileType)
			case kind == "s3" && !objectARN.MatchString(value):
				return setting("firelensConfiguration", c, "The option %s must be the ARN of an object in S3, such as arn:aws:s3:::bucket/path/extra.conf, but was %.300q.", name, value)
			case kind != "s3" && (!path.IsAbs(value) || strings.ContainsAny(value, "\r\n\x00")):
				return setting("firelensConfiguration", c, "The option %s must be an absolute path in the container's image, but was %.300q.", name, value)
			}
		default:
			return setting("firelensConfiguration", c, "There is no option %.100q; there are %s, %s and %s.", name, firelensMetadata, firelensFileType, firelensFileValue)
		}
	}
	return nil
}

func checkRouted(c *types.ContainerDefinition, kind types.FirelensConfigurationType) error {
	o := c.LogConfiguration.Options
	key, named, output := "Name", false, len(c.LogConfiguration.SecretOptions) > 0
	if kind == types.FirelensConfigurationTypeFluentd {
		key = "@type"
	}
	for name, value := range o {
		if name == "" || strings.ContainsAny(name, " \t\r\n\x00<>[]#") || strings.ContainsAny(value, "\r\n\x00") {
			return setting("logConfiguration", c, "The option %.100q can't be written to a configuration file: names have no spaces, and values no line breaks.", name)
		}
		output = output || !slices.Contains(notOfOutput, name)
		named = named || strings.EqualFold(name, key) && value != ""
	}
	if output && !named {
		return setting("logConfiguration", c, "The options of awsfirelens configure an output and lack %s, the name of its plugin.", key)
	}
	if text, ok := o[firelensBuffer]; ok {
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n < 0 || n > maxFirelensBuffer {
			return setting("logConfiguration", c, "The option %s must be a number of bytes from 0 to %d, but was %.100q.", firelensBuffer, maxFirelensBuffer, text)
		}
	}
	return nil
}

// configInS3 reports whether a log router's configuration includes an object of S3.
func configInS3(c *types.ContainerDefinition) bool {
	return c.FirelensConfiguration != nil && c.FirelensConfiguration.Options[firelensFileType] == "s3"
}

func requiredByFirelens(c *types.ContainerDefinition) (names []string) {
	if f := c.FirelensConfiguration; f != nil {
		names = append(names, ecsCapability+"firelens."+string(f.Type))
		if kind := f.Options[firelensFileType]; kind != "" {
			names = append(names, ecsCapability+"firelens.options.config."+kind)
		}
		if user, _, _ := strings.Cut(aws.ToString(c.User), ":"); user != "" && user != "0" && user != "root" {
			names = append(names, ecsCapability+"firelens.non-root-user")
		}
	}
	if routed(c) {
		if _, ok := c.LogConfiguration.Options[firelensBuffer]; ok {
			names = append(names, ecsCapability+"logging-driver.awsfirelens.log-driver-buffer-limit")
		}
	}
	return names
}
