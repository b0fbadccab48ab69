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
