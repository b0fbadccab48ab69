package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"

	"github.com/longshore-project/longshore/protocol/acs"
)

// decodeDockerConfig reads the two documents of a container. A member that acs's types don't have is refused by name,
// unless it says nothing (null, false, 0, "", or lists and objects of such).
func decodeDockerConfig(d *acs.DockerConfig) (config acs.ContainerConfig, host acs.HostConfig, err error) {
	if d == nil {
		return config, host, nil
	}
	if err := decodeDocument("dockerConfig.config", d.Config, &config); err != nil {
		return config, host, err
	}
	if err := decodeDocument("dockerConfig.hostConfig", d.HostConfig, &host); err != nil {
		return config, host, err
	}
	return config, host, nil
}

func decodeDocument(name, document string, into any) error {
	if document == "" {
		return nil
	}
	if err := unknownMembers(name, []byte(document), reflect.TypeOf(into).Elem()); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(document), into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// unknownMembers walks a document along a Go type and names the first member that the type doesn't have and that means
// something. Names are compared as encoding/json compares them, without regard to case.
func unknownMembers(path string, document []byte, t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Struct:
		var members map[string]json.RawMessage
		if err := json.Unmarshal(document, &members); err != nil {
			return fmt.Errorf("%s is not a JSON object: %w", path, err)
		}
		for _, name := range sortedKeys(members) {
			field, ok := member(t, name)
			if !ok {
				if !neutral(members[name]) {
					return fmt.Errorf("%s.%s is not supported (its value is %s)", path, name, excerpt(members[name]))
				}
				continue
			}
			if err := unknownMembers(path+"."+name, members[name], field); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Slice && elem(t.Elem()).Kind() == reflect.Struct:
		var list []json.RawMessage
		if err := json.Unmarshal(document, &list); err != nil {
			return fmt.Errorf("%s is not a list: %w", path, err)
		}
		for i, e := range list {
			if err := unknownMembers(fmt.Sprintf("%s[%d]", path, i), e, t.Elem()); err != nil {
				return err
			}
		}
	}
	return nil
}

func elem(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		return t.Elem()
	}
	return t
}

func member(t reflect.Type, name string) (reflect.Type, bool) {
	for i := range t.NumField() {
		tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if strings.EqualFold(tag, name) {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}

// neutral reports whether a value says nothing.
func neutral(raw json.RawMessage) bool {
	var v any
	d := json.NewDecoder(bytes.NewReader(raw))
	if d.Decode(&v) != nil {
		return false
	}
	return empty(v)
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case float64:
		return v == 0
	case string:
		return v == ""
	case []any:
		for _, e := range v {
			if !empty(e) {
				return false
			}
		}
		return true
	case map[string]any:
		for _, e := range v {
			if !empty(e) {
				return false
			}
		}
		return true
	}
	return false
}

func excerpt(raw json.RawMessage) string {
	s := string(bytes.TrimSpace(raw))
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
