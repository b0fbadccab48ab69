package upgrade

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// next is the version after a transcript's: it says all that the transcript does, and everywhere what nobody knows yet.
type next struct{}

// stranger is the name of all that is new.
const stranger = "longshoreNext"

// agent is a message of the next version's agent, with its headers.
func (n *next) agent(body []byte, header map[string]string) ([]byte, map[string]string) {
	if n == nil {
		return body, header
	}
	header = maps.Clone(header)
	if header == nil {
		header = map[string]string{}
	}
	header["X-Longshore-Next"] = "1"
	return n.more(body), header
}

// more is a message with new members in all of its objects.
func (n *next) more(body []byte) []byte {
	var v any
	if n == nil || len(body) == 0 || json.Unmarshal(body, &v) != nil {
		return body
	}
	enrich(v, "")
	out, err := json.Marshal(v)
	if err != nil {
		return body
	}
	return out
}

// data are members whose members are somebody's data.
var data = []string{"environment", "options", "labels", "driverOpts", "properties"}

func enrich(v any, name string) {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			enrich(member, name)
		}
		if !slices.Contains(data, name) {
			v[stranger] = map[string]any{"list": []any{1, "two", nil, map[string]any{"three": 3.5}}, "deep": map[string]any{"deeper": true}}
			v[stranger+"Text"] = strings.Repeat("ü", 50)
		}
	case []any:
		for _, e := range v {
			enrich(e, name)
		}
	}
}

// frames are what the next version says before a frame: a message, and values of known ones, that nobody knows yet.
func (n *next) frames(of *step) [][]byte {
	if n == nil {
		return nil
	}
	out := [][]byte{[]byte(`{"type":"LongshoreNextMessage","message":{"messageId":"1","reason":["of","some","kind"]}}`)}
	var v object
	if json.Unmarshal(of.Body, &v) != nil {
		return out
	}
	message, _ := v["message"].(object)
	switch of.Name {
	case "PublishHealthRequest":
		message["tasks"] = []object{{"taskArn": "arn:aws:ecs:us-west-2:000000000000:task/daemonset/00000000000000000000000000000000", "containers": []object{{"containerName": "web", "healthStatus": "SPLENDID"}}}}
	case "PublishInstanceStatusRequest":
		message["statuses"] = []object{{"type": "NextRuntime", "status": "SPLENDID"}}
	case "TaskManifestMessage":
		return out // another one would be obeyed
	case "NackRequest":
		message["reason"] = "SPLENDID"
	default:
		return out
	}
	if frame, err := json.Marshal(v); err == nil {
		out = append(out, frame)
	}
	return out
}

func TestTodaysControlPlaneServesTheAgentsOfTheNextVersion(t *testing.T) {
	t.Parallel()
	for name, steps := range transcripts(t) {
		t.Run(name, func(t *testing.T) {
			s := speak(t, steps, &next{})
			told := map[string]int{}
			for _, e := range s.logs.All() {
				line := e.Message
				for _, member := range []string{"operation", "member", "type"} {
					if v, ok := e.ContextMap()[member].(string); ok {
						line += " " + v
					}
				}
				told[line]++
			}
			for _, line := range []string{
				"a client sent a member that this version does not know; it is ignored SubmitTaskStateChange longshoreNext",
				"a client sent a member that this version does not know; it is ignored SubmitTaskStateChange containers[].longshoreNext",
				"an agent sent messages of a type that this version does not know; they are ignored LongshoreNextMessage",
			} {
				if told[line] != 1 {
					t.Errorf("%q stands in the log %d times, beside %v", line, told[line], told)
				}
			}
		})
	}
}

func TestTodaysAgentRunsUnderTheControlPlanesOfTheNextVersion(t *testing.T) {
	t.Parallel()
	for name, steps := range transcripts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := answer(t, steps, &next{})
			for _, line := range []string{
				`msg="The control plane sends messages of a type that this version does not know; they are ignored" type=LongshoreNextMessage`,
				`msg="The telemetry service sends messages of a type that this version does not know; they are ignored" type=LongshoreNextMessage`,
			} {
				if n := strings.Count(a.host.log(), line); n < 2 || n > 3 { // two processes, one of which registers anew
					t.Errorf("%s stands in the log %d times", line, n)
				}
			}
		})
	}
}
