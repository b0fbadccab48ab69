package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// limited is an agent on an engine with a cgroup driver that there is none for, or with this machine's own.
func limited(t *testing.T, driver string, cfg config.Config) *Agent {
	t.Helper()
	cfg.TaskLimits, cfg.DataDir = true, t.TempDir()
	a := &Agent{cfg: &cfg, log: zap.NewNop()}
	a.info.Store(&engine.Info{CgroupVersion: 1, CgroupDriver: driver, APIVersion: "1.41"})
	return a
}

func advertises(attributes []agentapi.Attribute, name string) bool {
	for _, a := range attributes {
		if *a.Name == name {
			return true
		}
	}
	return false
}

func TestTaskLimitsAreAdvertisedOnlyWhereTheyWereProved(t *testing.T) {
	const capability = "ecs.capability.task-cpu-mem-limit"
	a := limited(t, "none", config.Config{})
	groups, err := a.newGroups()
	if err != nil || groups != nil || advertises(attributes(a.cfg, a.host, *a.info.Load(), abilities{}, nil, true), capability) {
		t.Errorf("limits that can't be set: %v %v", groups, err)
	}
	a = limited(t, "none", config.Config{TaskLimitsDemanded: true})
	var terminal *TerminalError
	if _, err := a.newGroups(); !errors.As(err, &terminal) || !strings.Contains(err.Error(), `cgroup driver "none" is neither cgroupfs nor systemd`) {
		t.Errorf("limits that are demanded: %v", err)
	}
	a = limited(t, "cgroupfs", config.Config{CgroupPath: "/sys/fs/cgroup", CgroupCPUPeriod: 100 * time.Millisecond, TaskPidsLimit: 50})
	groups, err = a.newGroups()
	if err != nil || groups == nil || !advertises(attributes(a.cfg, a.host, *a.info.Load(), abilities{}, nil, true), capability) {
		t.Errorf("this machine's control groups v1: %v %v", groups, err)
	}
	a = limited(t, "cgroupfs", config.Config{})
	a.cfg.TaskLimits = false
	if groups, err := a.newGroups(); groups != nil || err != nil {
		t.Errorf("switched off: %v %v", groups, err)
	}
}

func TestARegistrationShowsTheHostsPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(file, []byte("deny privileged\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := limited(t, "none", config.Config{HostPolicyFile: file})
	r := &registration{cfg: a.cfg, policy: a.newGuard().Attributes()}
	in := r.input()
	last := ""
	for _, at := range in.Attributes {
		if *at.Name < last {
			t.Errorf("%s comes after %s", *at.Name, last)
		}
		last = *at.Name
	}
	if !advertises(in.Attributes, "longshore.policy") || !advertises(in.Attributes, "longshore.policy.privileged") {
		t.Errorf("%v", in.Attributes)
	}
}
