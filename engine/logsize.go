package engine

import (
	"fmt"
	"maps"
	"strconv"

	"github.com/longshore-project/longshore/protocol/acs"
)

const jsonFile = "json-file"

// boundLog gives a container whose output goes into json files without a bound one, so that it can't fill the disk. It returns
// a remark for the timeline, empty if there was nothing to do.
func boundLog(s *Spec, driver, size string, files int) (remark string) {
	if size == "" || size == "0" {
		return ""
	}
	l := acs.LogConfig{}
	if s.HostConfig.LogConfig != nil {
		l = *s.HostConfig.LogConfig
	}
	if l.Type == "" {
		l.Type = driver
	}
	if l.Type != jsonFile || l.Config["max-size"] != "" || l.Config["max-file"] != "" {
		return ""
	}
	options := map[string]string{"max-size": size, "max-file": strconv.Itoa(files)}
	maps.Copy(options, l.Config)
	l.Config = options
	s.HostConfig.LogConfig = &l
	return fmt.Sprintf("its json-file log is bounded to %d files of %s (ECS_CONTAINER_LOG_MAX_SIZE, ECS_CONTAINER_LOG_MAX_FILES)", files, size)
}
