package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"sort"
	"strconv"
	"time"

	"github.com/longshore-project/longshore/internal/durable"
)

// readJSON reads the JSON file: an object whose members are the settings' JSON names (Knob.JSON), in any case. A duration
// is a number of nanoseconds or a string such as "3h". A missing file is no error, since the variable that names it is
// often set by packaging; one that can't be understood is.
func (l *loader) readJSON(name string) {
	data, err := durable.Read(name, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		l.warnf("ECS_AGENT_CONFIG_FILE_PATH names %s, which does not exist: it is ignored", name)
		return
	}
	if err != nil {
		l.errorf("read the JSON configuration: %w", err)
		return
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		l.errorf("read the JSON configuration %s: %w", name, err)
		return
	}
	l.readMembers(members, name)
}

// readMembers takes settings under their JSON names.
func (l *loader) readMembers(members map[string]json.RawMessage, name string) {
	keys := make([]string, 0, len(members))
	for key := range members {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		k, ok := knobByJSON(key)
		if !ok {
			l.warnf("unknown member %q in %s is ignored", key, name)
			continue
		}
		l.set(k.Name, textOf(k, members[key]), name+" member "+key)
	}
}

// userDataFile is where cloud-init keeps an instance's user data as it came.
const userDataFile = "/var/lib/cloud/instance/user-data.txt"

// readUserData reads settings out of user data that is a JSON object with a member ECSAgentConfiguration. User data of another kind, and none, is
// nobody's fault.
func (l *loader) readUserData(name string) {
	data, err := durable.Read(name, maxFile)
	var document struct {
		ECSAgentConfiguration map[string]json.RawMessage
	}
	if err != nil || !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return
	}
	if err := json.Unmarshal(data, &document); err != nil {
		l.warnf("the user data in %s begins like JSON and is none: %v; it is ignored", name, err)
		return
	}
	l.readMembers(document.ECSAgentConfiguration, name)
}

// textOf turns a JSON value into the text that the environment would have.
func textOf(k *Knob, raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil && k.Type == "duration" {
		return time.Duration(n).String()
	}
	if string(raw) == "null" {
		return ""
	}
	var compact bytes.Buffer
	if json.Compact(&compact, raw) == nil {
		return compact.String()
	}
	return string(raw)
}
