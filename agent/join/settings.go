package join

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/internal/durable"
)

// The lines around what join writes into ecs.config. A later assignment of a key wins there, so the block goes before whatever the
// file says above it, and the file is again as it was when the block is taken out.
const (
	blockBegin = "# Written by longshore-agent join; longshore-agent leave takes it out, up to the line that says end."
	blockEnd   = "# The end of what longshore-agent join has written."
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// setting is a line of the block.
type setting struct{ key, value string }

// merge is the file's text with the block in it, in place of an earlier one. What the file says about another control plane is
// refused unless force.
func merge(file string, block []setting, force bool) ([]byte, error) {
	now, err := read(file)
	if err != nil {
		return nil, err
	}
	if before, _ := config.ParseEnvFile(now); !force {
		for _, s := range block[:2] { // the control plane and the cluster
			if old := last(before, s.key); old != "" && old != s.value && !(s.key == "ECS_BACKEND_HOST" && sameURL(old, s.value)) {
				return nil, fails("Leave that control plane first, \"longshore-agent leave\", or have this file's line overruled: --force.", "%s says %s=%s, and this join %s", file, s.key, old, s.value)
			}
		}
	}
	text, _ := cut(now)
	if len(text) > 0 && text[len(text)-1] != '\n' {
		text = append(text, '\n')
	}
	var b bytes.Buffer
	b.Write(text)
	fmt.Fprintln(&b, blockBegin)
	for _, s := range block {
		fmt.Fprintf(&b, "%s=%s\n", s.key, quote(s.value))
	}
	fmt.Fprintln(&b, blockEnd)
	// What stands before can swallow the block: a quote that is never closed, a backslash at the end.
	after, _ := config.ParseEnvFile(b.Bytes())
	for _, s := range block {
		if last(after, s.key) != s.value {
			return nil, fails("Close the quote, or take the backslash from the last line.", "%s can't be added to: what it ends with would swallow %s", file, s.key)
		}
	}
	return b.Bytes(), nil
}

// cut is a file's text without the block, and whether there was one. A block whose end is missing ends with the text.
func cut(text []byte) (rest []byte, had bool) {
	begin := bytes.Index(text, []byte(blockBegin))
	if begin < 0 || begin > 0 && text[begin-1] != '\n' {
		return bytes.Clone(text), false
	}
	rest = bytes.Clone(text[:begin])
	if end := bytes.Index(text[begin:], []byte(blockEnd)); end >= 0 {
		_, after, _ := bytes.Cut(text[begin+end:], []byte("\n"))
		rest = append(rest, after...)
	}
	return rest, true
}

// Environ is an environment, KEY=VALUE each, without what the block in file says: an agent that systemd starts does not have the
// environment of the shell in which somebody joins or leaves.
func Environ(file string, environ []string) []string {
	text, err := read(file)
	rest, had := cut(text)
	if err != nil || !had {
		return environ
	}
	begin := bytes.Index(text, []byte(blockBegin))
	block, _ := config.ParseEnvFile(text[begin : begin+len(text)-len(rest)])
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(block, func(a config.Assignment) bool { return a.Key == key })
	})
}

// last is the value of a key that wins; empty if it has none.
func last(all []config.Assignment, key string) (value string) {
	for _, a := range all {
		if a.Key == key {
			value = a.Value
		}
	}
	return value
}

// quote is a value as an environment file has it.
func quote(value string) string {
	if strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:+=@%,~[]") == "" {
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", "$", `\$`).Replace(value) + `"`
}

// read reads a configuration file; one that is not there is empty.
func read(file string) ([]byte, error) {
	data, err := durable.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}
