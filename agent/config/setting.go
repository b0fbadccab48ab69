package config

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// Setting is one knob as it is set: what "longshore-agent config" shows.
type Setting struct {
	Name   string            `json:"name"`
	Value  string            `json:"value"`          // as it was given, or the default; secrets are hidden
	Source string            `json:"source"`         // the environment, a file and its line, or "default"
	Note   string            `json:"note,omitempty"` // why the value is not the one that was given, or has no effect
	mark   [sha256.Size]byte // of what was given; no secret can be read from it
}

// fromDefault is the source of what nobody set.
const fromDefault = "default"

// note keeps what became of a knob.
func (l *loader) note(c *Config, k *Knob, v value, given bool, note string) {
	s := Setting{Name: k.Name, Value: k.Default, Source: fromDefault, Note: note}
	if given {
		s.Value, s.Source, s.mark = strings.TrimSpace(v.text), v.source, sha256.Sum256([]byte(v.text))
	}
	if k.Type == "secret" && s.Value != "" {
		s.Value = Secret(s.Value).String()
	}
	c.Settings = append(c.Settings, s)
}

// Changed names the settings that differ between two configurations, by what was given and not by where.
func Changed(a, b *Config) []string {
	var names []string
	for _, s := range b.Settings {
		i := slices.IndexFunc(a.Settings, func(o Setting) bool { return o.Name == s.Name })
		if i < 0 || a.Settings[i].mark != s.mark {
			names = append(names, s.Name)
		}
	}
	return names
}

// strictly makes the warnings errors, where ECS_CONFIG_STRICT asks for it.
func (l *loader) strictly(c *Config) {
	if !c.Strict {
		return
	}
	for _, w := range l.warnings {
		l.errs = append(l.errs, fmt.Errorf("%s (ECS_CONFIG_STRICT=true: a warning is an error)", w))
	}
	l.warnings = nil
}
