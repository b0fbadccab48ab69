package engine

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/protocol/acs"
)

const jsonFile = "json-file"

// cachedSince is the first API version of a Docker that keeps a copy of output which its driver sends elsewhere (20.10).
const cachedSince = "1.41"

// withoutCopy has the engine keep no copy of output that goes elsewhere, where the option does not say otherwise. Drivers that can be read
// back have none.
func withoutCopy(s *Spec, info Info) {
	l := s.HostConfig.LogConfig
	if l == nil || info.Name != "docker" || !atLeast(info.APIVersion, cachedSince) || slices.Contains([]string{"", "none", jsonFile, "local", "journald"}, l.Type) || l.Config["cache-disabled"] != "" {
		return
	}
	changed := *l
	if changed.Config = maps.Clone(l.Config); changed.Config == nil {
		changed.Config = map[string]string{}
	}
	changed.Config["cache-disabled"] = "true"
	s.HostConfig.LogConfig = &changed
}

// atLeast compares versions such as 1.41.
func atLeast(version, least string) bool {
	major, minor, _ := strings.Cut(version, ".")
	leastMajor, leastMinor, _ := strings.Cut(least, ".")
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	return cmp.Or(cmp.Compare(number(major), number(leastMajor)), cmp.Compare(number(minor), number(leastMinor))) >= 0
}

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
