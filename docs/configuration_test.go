// Package docs holds documents, and tests that keep those which are made from the code in step with it.
package docs

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/agent/config"
)

// configuration is docs/configuration.md, made from the agent's table of settings.
func configuration() string {
	var b strings.Builder
	b.WriteString(`# Settings of longshore-agent

Made from the table in agent/config; ` + "`UPDATE=1 go test ./docs`" + ` writes it anew.

Settings come from the environment, then from /etc/ecs/ecs.config (KEY=VALUE, as systemd reads an EnvironmentFile), then from the JSON file that
ECS_AGENT_CONFIG_FILE_PATH names, then from the defaults below. A value that can't be read is a warning and the default counts; an unknown name is a
warning with the nearest known one. Both are in the log, in ` + "`longshore-agent status`" + ` and in ` + "`longshore-agent doctor`" + `, with the file and the line; with
ECS_CONFIG_STRICT=true the agent does not start. ` + "`longshore-agent config`" + ` prints what is set and where, ` + "`longshore-agent config --all`" + ` every setting.

What amazon-ecs-agent does with a value that is wrong is done here too: a few timeouts are raised to their least value, the settings that say what an instance is
are errors, and anything else counts as not set. Beyond that, settings that guard the host are errors when they can't be understood.

| name | type | default | meaning |
|---|---|---|---|
`)
	cell := func(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
	for _, k := range config.Knobs {
		meaning := k.Meaning
		if k.Bounds != "" {
			meaning += " (" + k.Bounds + ")"
		}
		if s := fmt.Sprint(k.Support); k.Support != config.Supported {
			meaning += "; **" + s + "**"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.Name, cell(k.Type), cell(k.Default), cell(meaning))
	}
	b.WriteString(`
## Refused, or without effect

Every variable that amazon-ecs-agent and its host service read on Linux is in the table above. These have no effect here; whoever sets one to anything but
its default is told so.

| name | why |
|---|---|
`)
	for _, k := range config.Knobs {
		if k.Support != config.Supported {
			fmt.Fprintf(&b, "| `%s` | %s |\n", k.Name, cell(string(k.Support)))
		}
	}
	return b.String()
}

func TestTheListOfSettingsIsTheCodes(t *testing.T) {
	want := configuration()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile("configuration.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md is not what agent/config says; write it anew with: UPDATE=1 go test ./docs")
	}
}
