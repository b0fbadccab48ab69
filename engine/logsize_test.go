package engine

import (
	"maps"
	"testing"

	"github.com/longshore-project/longshore/protocol/acs"
)

func TestAJSONFileLogWithoutABoundGetsOne(t *testing.T) {
	bound := map[string]string{"max-size": "10m", "max-file": "3"}
	for name, c := range map[string]struct {
		driver, size string
		given, want  *acs.LogConfig
	}{
		"nothing said":        {"json-file", "10m", nil, &acs.LogConfig{Type: "json-file", Config: bound}},
		"named":               {"journald", "10m", &acs.LogConfig{Type: "json-file"}, &acs.LogConfig{Type: "json-file", Config: bound}},
		"other options":       {"", "10m", &acs.LogConfig{Type: "json-file", Config: map[string]string{"tag": "x"}}, &acs.LogConfig{Type: "json-file", Config: map[string]string{"tag": "x", "max-size": "10m", "max-file": "3"}}},
		"bounded by the user": {"json-file", "10m", &acs.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1g"}}, &acs.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1g"}}},
		"another driver":      {"json-file", "10m", &acs.LogConfig{Type: "none"}, &acs.LogConfig{Type: "none"}},
		"another default":     {"journald", "10m", nil, nil},
		"default not known":   {"", "10m", nil, nil},
		"switched off":        {"json-file", "0", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{}
			s.HostConfig.LogConfig = c.given
			remark := boundLog(&s, c.driver, c.size, 3)
			got := s.HostConfig.LogConfig
			if (got == nil) != (c.want == nil) || got != nil && (got.Type != c.want.Type || !maps.Equal(got.Config, c.want.Config)) {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			if changed := got != c.given; changed != (remark != "") {
				t.Errorf("remark %q", remark)
			}
		})
	}
}

func TestNoCopyIsKeptOfOutputThatGoesElsewhereWhereThatIsSaid(t *testing.T) {
	docker := Info{Name: "docker", APIVersion: "1.41"}
	for name, c := range map[string]struct {
		info  Info
		given *acs.LogConfig
		want  string
	}{
		"awslogs":               {docker, &acs.LogConfig{Type: "awslogs", Config: map[string]string{"awslogs-group": "g"}}, "true"},
		"a newer engine":        {Info{Name: "docker", APIVersion: "1.50"}, &acs.LogConfig{Type: "fluentd"}, "true"},
		"the definition's word": {docker, &acs.LogConfig{Type: "awslogs", Config: map[string]string{"cache-disabled": "false"}}, "false"},
		"read from its files":   {docker, &acs.LogConfig{Type: "json-file"}, ""},
		"kept nowhere":          {docker, &acs.LogConfig{Type: "none"}, ""},
		"the engine's default":  {docker, nil, ""},
		"an engine without one": {Info{Name: "docker", APIVersion: "1.40"}, &acs.LogConfig{Type: "awslogs"}, ""},
		"containerd":            {Info{Name: "containerd", APIVersion: "1.44"}, &acs.LogConfig{Type: "awslogs"}, ""},
	} {
		s := Spec{}
		s.HostConfig.LogConfig = c.given
		before := 0
		if c.given != nil {
			before = len(c.given.Config)
		}
		withoutCopy(&s, c.info)
		got := ""
		if l := s.HostConfig.LogConfig; l != nil {
			got = l.Config["cache-disabled"]
		}
		if got != c.want || c.given != nil && len(c.given.Config) != before {
			t.Errorf("%s: %q, want %q; the definition's own are %v", name, got, c.want, c.given)
		}
	}
}
