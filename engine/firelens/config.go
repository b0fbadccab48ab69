package firelens

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// entry is a setting of a section.
type entry struct{ key, value string }

// Config is the router's main configuration.
func (r *Router) Config() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "# The log router of task %s\n", r.task.Arn)
	if r.task.Kind == Fluentd {
		r.fluentd(&b)
	} else {
		r.fluentBit(&b)
	}
	return []byte(b.String())
}

// records are the fields that each record gets.
func (r *Router) records() []entry {
	if !r.metadata {
		return nil
	}
	return []entry{{"ecs_cluster", r.task.Cluster}, {"ecs_task_arn", r.task.Arn}, {"ecs_task_definition", r.task.Definition}}
}

func (r *Router) fluentBit(b *strings.Builder) {
	section := func(name string, entries ...entry) {
		fmt.Fprintf(b, "\n[%s]\n", name)
		for _, e := range entries {
			fmt.Fprintf(b, "    %s %s\n", e.key, e.value)
		}
	}
	section("INPUT", entry{"Name", "forward"}, entry{"unix_path", socketTarget + "/" + socketName})
	if r.task.Bridge {
		section("INPUT", entry{"Name", "forward"}, entry{"Listen", "0.0.0.0"}, entry{"Port", forwardPort})
	}
	section("INPUT", entry{"Name", "tcp"}, entry{"Tag", healthTag}, entry{"Listen", "127.0.0.1"}, entry{"Port", healthPort})
	for _, s := range r.task.Sources {
		if p := s.Options[optionInclude]; p != "" {
			section("FILTER", entry{"Name", "grep"}, entry{"Match", r.match(s.Name)}, entry{"Regex", logKey + " " + p})
		}
		if p := s.Options[optionExclude]; p != "" {
			section("FILTER", entry{"Name", "grep"}, entry{"Match", r.match(s.Name)}, entry{"Exclude", logKey + " " + p})
		}
	}
	if records := r.records(); records != nil {
		entries := []entry{{"Name", "record_modifier"}, {"Match", "*"}}
		for _, e := range records {
			entries = append(entries, entry{"Record", e.key + " " + e.value})
		}
		section("FILTER", entries...)
	}
	if r.include != "" {
		fmt.Fprintf(b, "\n@INCLUDE %s\n", r.include)
	}
	section("OUTPUT", entry{"Name", "null"}, entry{"Match", healthTag})
	for _, s := range r.task.Sources {
		entries := outputEntries(r.task.Kind, s, func(variable string) string { return "${" + variable + "}" })
		if entries != nil {
			section("OUTPUT", append([]entry{entries[0], {"Match", r.match(s.Name)}}, entries[1:]...)...)
		}
	}
}

func (r *Router) fluentd(b *strings.Builder) {
	section := func(open string, lines func(line func(format string, args ...any))) {
		fmt.Fprintf(b, "\n<%s>\n", open)
		lines(func(format string, args ...any) { fmt.Fprintf(b, "    "+format+"\n", args...) })
		name, _, _ := strings.Cut(open, " ")
		fmt.Fprintf(b, "</%s>\n", name)
	}
	plain := func(open string, entries ...entry) {
		section(open, func(line func(string, ...any)) {
			for _, e := range entries {
				line("%s %s", e.key, e.value)
			}
		})
	}
	plain("source", entry{"@type", "unix"}, entry{"path", socketTarget + "/" + socketName})
	if r.task.Bridge {
		plain("source", entry{"@type", "forward"}, entry{"bind", "0.0.0.0"}, entry{"port", forwardPort})
	}
	section("source", func(line func(string, ...any)) {
		line("@type tcp\n    tag %s\n    bind 127.0.0.1\n    port %s", healthTag, healthPort)
		line("<parse>\n        @type none\n    </parse>")
	})
	plain("match "+healthTag, entry{"@type", "null"})
	for _, s := range r.task.Sources {
		for _, f := range []struct{ option, kind string }{{optionInclude, "regexp"}, {optionExclude, "exclude"}} {
			if p := s.Options[f.option]; p != "" {
				section("filter "+r.match(s.Name), func(line func(string, ...any)) {
					line("@type grep\n    <%s>\n        key %s\n        pattern %s\n    </%s>", f.kind, logKey, p, f.kind)
				})
			}
		}
	}
	if records := r.records(); records != nil {
		section("filter **", func(line func(string, ...any)) {
			line("@type record_transformer\n    <record>")
			for _, e := range records {
				line("    %s %s", e.key, e.value)
			}
			line("</record>")
		})
	}
	if r.include != "" {
		fmt.Fprintf(b, "\n@include %s\n", r.include)
	}
	for _, s := range r.task.Sources {
		if entries := outputEntries(r.task.Kind, s, func(variable string) string { return `"#{ENV['` + variable + `']}"` }); entries != nil {
			plain("match "+r.match(s.Name), entries...)
		}
	}
}

// outputEntries are the settings of a container's output, its plugin first; nil when it configures none. secret writes a
// reference to a variable of the router's environment.
func outputEntries(kind string, s Source, secret func(variable string) string) []entry {
	options := outputOptions(s.Options)
	if len(options) == 0 {
		return nil
	}
	entries := []entry{{outputKey(kind), typeOf(kind, options)}}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if name != outputKey(kind) && !(kind == FluentBit && strings.EqualFold(name, outputKey(kind))) {
			entries = append(entries, entry{name, options[name]})
		}
	}
	for _, name := range slices.Sorted(slices.Values(s.Secrets)) {
		entries = append(entries, entry{name, secret(SecretVariable(name, s.Index))})
	}
	return entries
}
