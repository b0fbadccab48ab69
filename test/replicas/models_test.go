package replicas

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// What a call asks of an object. Each object is judged by itself.
type input struct {
	object string // kind and name
	op     string // "read", "write", "add"
	value  string // what is written
}

// What it answered. Of a call whose outcome is unknown nothing is known.
type output struct {
	unknown bool
	refused bool // it was not done, for a reason that is no error of the control plane: no host has room
	value   string
}

// The kinds of objects:
//
//	register  a value that is replaced: a service's desired count, a tag
//	counter   a family of task definitions: "add" answers the next number, "read" the highest
//	once      a task by its client token: "add" answers the same task however often it is asked for, "write" stops it, and
//	          "read" tells the task and whether it is to stop; a task that is to stop never runs again
const (
	register = "register"
	counter  = "counter"
	once     = "once"
)

// step is a kind's specification: whether an object in a state may answer so, and its state after.
func step(state, in, out any) (bool, any) {
	s, i, o := state.(string), in.(input), out.(output)
	kind, _, _ := strings.Cut(i.object, " ")
	switch kind + " " + i.op {
	case "register read", "counter read", "once read":
		return o.unknown || o.value == s, s
	case "register write":
		return true, i.value
	case "counter add":
		next := fmt.Sprint(number(s) + 1)
		return o.unknown || o.value == next, next
	case "once add":
		task, stopped, _ := strings.Cut(s, " ")
		switch {
		case o.refused:
			return task == "", s
		case o.unknown:
			// Done, the task that it made is told by whoever asks next: the specification has it as "?" until then.
			if task == "" {
				return true, "?"
			}
			return true, s
		case task == "" || task == "?":
			return true, strings.TrimSpace(o.value + " " + stopped)
		}
		return o.value == task, s
	case "once write":
		task, _, _ := strings.Cut(s, " ")
		return task != "", task + " stopped"
	}
	panic("no such call: " + i.object + " " + i.op)
}

func number(s string) (n int) {
	_, _ = fmt.Sscan(s, &n) // "" is 0
	return n
}

// model is all objects, each apart.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		of := map[string]int{}
		for _, o := range history {
			name := o.Input.(input).object
			at, seen := of[name]
			if !seen {
				at, of[name] = len(parts), len(parts)
				parts = append(parts, nil)
			}
			parts[at] = append(parts[at], o)
		}
		return parts
	},
	Init:  func() any { return "" },
	Step:  step,
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		return fmt.Sprintf("%s %s %s -> %+v", i.object, i.op, i.value, o)
	},
}

func TestTheSpecificationsTellRightFromWrong(t *testing.T) {
	type call struct {
		op, value  string
		begin, end int64
		out        output
	}
	const never = int64(1) << 62
	for name, c := range map[string]struct {
		kind  string
		calls []call
		right bool
	}{
		"a value that was written is read": {register, []call{{"write", "a", 1, 2, output{}}, {"read", "", 3, 4, output{value: "a"}}}, true},
		"an acknowledged write is lost":    {register, []call{{"write", "a", 1, 2, output{}}, {"read", "", 3, 4, output{}}}, false},
		"an unknown write may show later, and then stays": {register, []call{{"write", "a", 1, never, output{unknown: true}}, {"read", "", 3, 4, output{}},
			{"read", "", 5, 6, output{value: "a"}}, {"read", "", 7, 8, output{}}}, false},
		"a number twice":        {counter, []call{{"add", "", 1, 2, output{value: "1"}}, {"add", "", 3, 4, output{value: "1"}}}, false},
		"a number left out":     {counter, []call{{"add", "", 1, 2, output{value: "1"}}, {"add", "", 3, 4, output{value: "3"}}}, false},
		"unknown numbers":       {counter, []call{{"add", "", 1, never, output{unknown: true}}, {"add", "", 3, 4, output{value: "2"}}}, true},
		"one token, one task":   {once, []call{{"add", "", 1, 2, output{value: "t"}}, {"add", "", 3, 4, output{value: "t"}}}, true},
		"one token, two tasks":  {once, []call{{"add", "", 1, 2, output{value: "t"}}, {"add", "", 3, 4, output{value: "u"}}}, false},
		"a task runs again":     {once, []call{{"add", "", 1, 2, output{value: "t"}}, {"write", "", 3, 4, output{}}, {"read", "", 5, 6, output{value: "t"}}}, false},
		"a stop is read":        {once, []call{{"add", "", 1, 2, output{value: "t"}}, {"write", "", 3, 4, output{}}, {"read", "", 5, 6, output{value: "t stopped"}}}, true},
		"unknown, then the one": {once, []call{{"add", "", 1, never, output{unknown: true}}, {"add", "", 3, 4, output{value: "t"}}, {"read", "", 5, 6, output{value: "t"}}}, true},
	} {
		var history []porcupine.Operation
		for _, o := range c.calls {
			history = append(history, porcupine.Operation{Input: input{c.kind + " x", o.op, o.value}, Call: o.begin, Output: o.out, Return: o.end})
		}
		if got := porcupine.CheckOperationsTimeout(model, history, time.Minute); (got == porcupine.Ok) != c.right {
			t.Errorf("%s: %v", name, got)
		}
	}
}
