package upgrade

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// version is the one whose files UPDATE=1 writes.
const version = "1"

// Who speaks, and where.
const (
	operator = "operator" // calls of an administrator
	agentAPI = "agent"    // calls of the agent
	acsWire  = "acs"
	tcsWire  = "tcs"
	machine  = "machine" // what is done to the processes themselves
)

// step is one thing that was said or done.
type step struct {
	On   string `json:"on"`
	Do   string `json:"do"`             // call, open, frame, close; on the machine what is done
	From string `json:"from,omitempty"` // of a frame or an end: agent or control
	Name string `json:"name,omitempty"` // of the operation or the message

	Own    bool              `json:"own,omitempty"`   // signed with the host's own key
	Hours  int               `json:"hours,omitempty"` // how far the date of the signature was off
	Query  string            `json:"query,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	Body   json.RawMessage   `json:"body,omitempty"`

	Status int               `json:"status,omitempty"`
	Told   map[string]string `json:"told,omitempty"` // headers of the answer
	Answer json.RawMessage   `json:"answer,omitempty"`
}

func (s *step) String() string {
	text := fmt.Sprintf("%s %s %s %s %s", s.On, s.Do, s.From, s.Name, s.Body)
	return text[:min(len(text), 1500)]
}

// transcripts are those of all versions that are kept.
func transcripts(t *testing.T) (all map[string][]step) {
	t.Helper()
	paths, err := filepath.Glob("testdata/transcripts/*.jsonl")
	if err != nil || len(paths) == 0 {
		t.Fatalf("there is no transcript: %v", err)
	}
	all = map[string][]step{}
	for _, path := range paths {
		var steps []step
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var s step
			if err := json.Unmarshal(line, &s); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			steps = append(steps, s)
		}
		all[strings.TrimSuffix(filepath.Base(path), ".jsonl")] = steps
	}
	return all
}

// changing are the parts of texts that differ from one life to the next: identifiers, times and addresses.
var changing = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{64}|[0-9a-f]{32}|AKIA[0-9A-Z]{16}|` +
	`[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]+)|127\.0\.0\.1:[0-9]+|[0-9]{15,20}`)

// free are members with a value on which nobody relies, or that is another one a moment later.
var free = map[string]bool{
	"secretAccessKey": true, "secret": true, "version": true, "integerValue": true, "dockerVersion": true, "agentVersion": true, "agentHash": true,
	"message": true, "connectivity": true, "value": true, "stringSetValue": true, "agentConnected": true, "statusReason": true, "hash": true,
}

// bindings say which identifier of this life stands for which of the transcript's.
type bindings map[string]string

// agree tells whether got says all that want says, and binds identifiers: got may have further members and elements.
func (b bindings) agree(want, got any, path string) error {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is %v and was an object", path, got)
		}
		for _, member := range slices.Sorted(maps.Keys(w)) {
			if member == "currentServiceRevisions" || member == "deployments" {
				continue // what is under way is another thing a moment later
			}
			v, there := g[member]
			if !there {
				return fmt.Errorf("%s.%s is missing; it was %v", path, member, w[member])
			}
			if err := b.agree(w[member], v, path+"."+member); err != nil {
				return err
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok {
			return fmt.Errorf("%s is %v and was a list", path, got)
		}
		return b.agreeLists(w, g, path)
	case string:
		g, ok := got.(string)
		if !ok {
			return fmt.Errorf("%s is %v and was %q", path, got, w)
		}
		if free[name] {
			return nil
		}
		return b.agreeTexts(w, g, path)
	case float64:
		if g, ok := got.(float64); !ok || w != g && w < 1e9 && !free[name] {
			return fmt.Errorf("%s is %v and was %v", path, got, w)
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) || want != got && !free[name] {
			return fmt.Errorf("%s is %v and was %v", path, got, want)
		}
	}
	return nil
}

// ofTheMachine are attributes that depend on where the test runs.
var ofTheMachine = regexp.MustCompile(`^(ecs\.capability\.(task-eni|efs|branch)|longshore\.(address|hostname|interface-slots|capability\.security-groups))`)

// agreeLists finds for each element another one that says the same.
func (b bindings) agreeLists(want, got []any, path string) error {
	left := slices.Clone(got)
	for i, w := range want {
		if o, ok := w.(map[string]any); ok && strings.HasSuffix(path, ".attributes") && ofTheMachine.MatchString(fmt.Sprint(o["name"])) {
			continue
		}
		var first error
		found := slices.IndexFunc(left, func(g any) bool {
			try := maps.Clone(b)
			err := try.agree(w, g, path)
			if err == nil {
				maps.Copy(b, try)
			} else if first == nil {
				first = err
			}
			return err == nil
		})
		if found < 0 {
			return fmt.Errorf("%s: there is no element like the %d. of %d: %v (%w)", path, i+1, len(want), w, first)
		}
		left = slices.Delete(left, found, found+1)
	}
	return nil
}

func (b bindings) agreeTexts(want, got, path string) error {
	wanted, had := changing.FindAllString(want, -1), changing.FindAllString(got, -1)
	if changing.ReplaceAllString(want, "*") != changing.ReplaceAllString(got, "*") || len(wanted) != len(had) {
		return fmt.Errorf("%s is %q and was %q", path, got, want)
	}
	for i, w := range wanted {
		if _, err := time.Parse(time.RFC3339Nano, w); err == nil {
			continue
		}
		if bound, ok := b[w]; ok && bound != had[i] {
			return fmt.Errorf("%s is %q and was %q, for which %q is meant to stand", path, got, want, bound)
		}
		b[w] = had[i]
	}
	return nil
}

// matches is agree for JSON; nothing is bound when they don't agree.
func (b bindings) matches(want, got json.RawMessage) error {
	if len(want) == 0 {
		return nil
	}
	var w, g any
	if err := json.Unmarshal(want, &w); err != nil {
		return err
	}
	if err := json.Unmarshal(got, &g); err != nil {
		return fmt.Errorf("%w: %s", err, got)
	}
	try := maps.Clone(b)
	if err := try.agree(w, g, ""); err != nil {
		return err
	}
	maps.Copy(b, try)
	return nil
}

// translate puts this life's identifiers in the places of the transcript's.
func (b bindings) translate(text string) string {
	return changing.ReplaceAllStringFunc(text, func(id string) string {
		if bound, ok := b[id]; ok {
			return bound
		}
		return id
	})
}

// keep binds the identifiers of a text to themselves.
func (b bindings) keep(text string) {
	for _, id := range changing.FindAllString(text, -1) {
		if _, bound := b[id]; !bound {
			b[id] = id
		}
	}
}
