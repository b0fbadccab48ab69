package replicas

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/aws/aws-sdk-go-v2/aws"
)

// load is what clients do, and the history of it.
type load struct {
	w      *world
	number int // of the world's loads
	key    aws.Credentials
	begun  time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	stale   []porcupine.Operation // reads whose answers say that they may be old
	subject map[string]*subject   // by kind: the object that is being asked of
	made    int
	stops   map[string]bool // tasks that somebody asked to stop
	tokens  []string
	counts  map[string]int
	slowest time.Duration // of reads
}

// subject is an object of the load: after some calls, or some whose outcome nobody knows, there is a new one, so that the
// search for an order stays small.
type subject struct {
	kind, name string
	calls      int
	unknown    int
	arn        string // of a cluster or a task, when it is known
	awsvpc     bool
}

const (
	mostCalls   = 80
	mostUnknown = 5
)

// forever is when a call whose outcome is unknown may take effect at the latest.
const forever = int64(1) << 62

var kinds = []string{"register service", "register tag", counter, once, once}

func newLoad(w *world, key aws.Credentials) *load {
	l := &load{w: w, number: len(w.loads), key: key, begun: time.Now(), subject: map[string]*subject{}, stops: map[string]bool{}, counts: map[string]int{}}
	w.loads = append(w.loads, l)
	return l
}

// run has a client make calls until ctx ends.
func (l *load) run(ctx context.Context, id int, url string) {
	c := l.w.client(url, l.key)
	for ctx.Err() == nil {
		kind := rand.IntN(len(kinds))
		s, err := l.pick(ctx, c, kind)
		if err != nil {
			continue // the time is over, or the next attempt finds what this one has made
		}
		switch kinds[kind] {
		case "register service":
			l.service(ctx, id, c, s)
		case "register tag":
			l.tag(ctx, id, c, s)
		case counter:
			l.family(ctx, id, c, s)
		default:
			l.task(ctx, id, c, s)
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(20 * time.Millisecond)):
		}
	}
}

// pick is the kind's object of now; the first who needs another one makes it.
func (l *load) pick(ctx context.Context, c *client, kind int) (*subject, error) {
	place := fmt.Sprint(kind)
	l.mu.Lock()
	s := l.subject[place]
	if s != nil && s.calls < mostCalls && s.unknown < mostUnknown {
		defer l.mu.Unlock()
		s.calls++
		return s, nil
	}
	l.made++
	n := &subject{kind: kinds[kind], name: fmt.Sprintf("x%d-%d", l.number, l.made), awsvpc: kind%2 == 0}
	l.subject[place] = n
	l.mu.Unlock()
	if s != nil && s.kind == once && s.arn != "" { // its room is for others
		l.stopping(s.arn)
		if err := c.must(ctx, "StopTask", object{"cluster": "main", "task": s.arn}, nil); err != nil {
			return nil, err
		}
	}
	switch n.kind {
	case "register service":
		return n, c.must(ctx, "CreateService", object{"cluster": "main", "serviceName": n.name, "taskDefinition": "plain", "desiredCount": 0, "clientToken": n.name,
			"placementConstraints": []object{{"type": "memberOf", "expression": "attribute:nowhere == here"}}}, nil)
	case "register tag":
		var out struct{ Cluster struct{ ClusterArn string } }
		err := c.must(ctx, "CreateCluster", object{"clusterName": n.name}, &out)
		l.mu.Lock()
		n.arn = out.Cluster.ClusterArn
		l.mu.Unlock()
		return n, err
	case once:
		l.mu.Lock()
		l.tokens = append(l.tokens, n.name)
		l.mu.Unlock()
	}
	return n, nil
}

// ordered tells whether some load of the world has asked for a task's end.
func (w *world) ordered(task string) bool {
	return slices.ContainsFunc(w.loads, func(l *load) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.stops[task]
	})
}

func (l *load) stopping(arn string) {
	l.mu.Lock()
	l.stops[arn] = true
	l.mu.Unlock()
}

// note writes a call into the history.
func (l *load) note(id int, s *subject, i input, begun time.Time, a *answer, value string) {
	ended := time.Now()
	o := output{value: value}
	end := int64(ended.Sub(l.begun))
	begin := int64(begun.Sub(l.begun))
	kind, _, _ := strings.Cut(s.kind, " ")
	i.object = kind + " " + s.kind + " " + s.name
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case a.done() && a.stale != "":
		l.counts["stale"]++
		l.stale = append(l.stale, porcupine.Operation{ClientId: id, Input: i, Call: begin, Output: o, Return: end})
		return
	case a.done():
		l.counts["done"]++
		if i.op == "read" {
			l.slowest = max(l.slowest, a.took)
		}
	case i.op == "read":
		l.counts["unread"]++
		return
	case a.refused():
		l.counts["refused "+a.code]++
		return
	default:
		l.counts["unknown"]++
		o, end = output{unknown: true}, forever
		s.unknown++
	}
	l.history = append(l.history, porcupine.Operation{ClientId: id, Input: i, Call: begin, Output: o, Return: end})
}

func (l *load) service(ctx context.Context, id int, c *client, s *subject) {
	begun := time.Now()
	if rand.IntN(2) == 0 {
		n := 1 + rand.IntN(900)
		a := c.call(ctx, "UpdateService", object{"cluster": "main", "service": s.name, "desiredCount": n}, nil)
		if a.code == "ServiceNotFoundException" || a.code == "ServiceNotActiveException" {
			return // it is being made
		}
		l.note(id, s, input{op: "write", value: fmt.Sprint(n)}, begun, a, "")
		return
	}
	var out struct{ Services []struct{ DesiredCount int } }
	a := c.call(ctx, "DescribeServices", object{"cluster": "main", "services": []string{s.name}}, &out)
	if a.done() && len(out.Services) == 0 {
		return
	}
	value := ""
	if a.done() && out.Services[0].DesiredCount > 0 {
		value = fmt.Sprint(out.Services[0].DesiredCount)
	}
	l.note(id, s, input{op: "read"}, begun, a, value)
}

func (l *load) tag(ctx context.Context, id int, c *client, s *subject) {
	l.mu.Lock()
	arn := s.arn
	l.mu.Unlock()
	if arn == "" {
		return
	}
	begun := time.Now()
	if rand.IntN(2) == 0 {
		value := fmt.Sprint(rand.Uint64())
		a := c.call(ctx, "TagResource", object{"resourceArn": arn, "tags": []object{{"key": "k", "value": value}}}, nil)
		l.note(id, s, input{op: "write", value: value}, begun, a, "")
		return
	}
	var out struct{ Tags []struct{ Key, Value string } }
	a := c.call(ctx, "ListTagsForResource", object{"resourceArn": arn}, &out)
	value := ""
	if len(out.Tags) > 0 {
		value = out.Tags[0].Value
	}
	if a.stale != "" && a.code != "" {
		return // made after what is known
	}
	l.note(id, s, input{op: "read"}, begun, a, value)
}

func (l *load) family(ctx context.Context, id int, c *client, s *subject) {
	begun := time.Now()
	var out struct {
		TaskDefinition struct{ Revision int }
	}
	if rand.IntN(3) == 0 {
		a := c.call(ctx, "RegisterTaskDefinition", object{"family": s.name, "containerDefinitions": []object{{"name": "main", "image": "i", "memory": 64}}}, &out)
		l.note(id, s, input{op: "add"}, begun, a, fmt.Sprint(out.TaskDefinition.Revision))
		return
	}
	a := c.call(ctx, "DescribeTaskDefinition", object{"taskDefinition": s.name}, &out)
	if a.code == "ClientException" { // there is none
		a = &answer{status: 200, stale: a.stale, took: a.took}
	}
	value := ""
	if out.TaskDefinition.Revision > 0 {
		value = fmt.Sprint(out.TaskDefinition.Revision)
	}
	l.note(id, s, input{op: "read"}, begun, a, value)
}

type wireTask struct {
	TaskArn, DesiredStatus, LastStatus string
}

func (l *load) task(ctx context.Context, id int, c *client, s *subject) {
	l.mu.Lock()
	arn := s.arn
	l.mu.Unlock()
	begun := time.Now()
	var out struct {
		Tasks    []wireTask
		Failures []struct{ Reason, Arn string }
	}
	switch what := rand.IntN(20); {
	case arn == "" || what < 6:
		in := object{"cluster": "main", "taskDefinition": "plain", "clientToken": s.name, "startedBy": s.name}
		if s.awsvpc {
			in["taskDefinition"], in["networkConfiguration"] = "own", object{"awsvpcConfiguration": object{"subnets": []string{"subnet-a"}}}
		}
		a := c.call(ctx, "RunTask", in, &out)
		i := input{op: "add"}
		switch {
		case a.done() && len(out.Tasks) == 1:
			l.mu.Lock()
			s.arn = out.Tasks[0].TaskArn
			l.mu.Unlock()
			l.note(id, s, i, begun, a, out.Tasks[0].TaskArn)
		case a.done():
			l.mu.Lock()
			l.counts["no host"]++
			l.mu.Unlock()
		default:
			l.note(id, s, i, begun, a, "")
		}
	case what == 6:
		l.stopping(arn)
		a := c.call(ctx, "StopTask", object{"cluster": "main", "task": arn}, nil)
		l.note(id, s, input{op: "write"}, begun, a, "")
	default:
		a := c.call(ctx, "DescribeTasks", object{"cluster": "main", "tasks": []string{arn}}, &out)
		if a.done() && len(out.Tasks) == 0 {
			l.note(id, s, input{op: "read"}, begun, a, "")
			return
		}
		value := ""
		if a.done() {
			value = arn
			if out.Tasks[0].DesiredStatus == "STOPPED" {
				value += " stopped"
			}
		}
		l.note(id, s, input{op: "read"}, begun, a, value)
	}
}

// past holds each answer that may be old to what was so at some time before it.
func (l *load) past(history []porcupine.Operation) {
	l.w.Helper()
	for _, read := range l.stale {
		of, value := read.Input.(input), read.Output.(output).value
		task, stopped, _ := strings.Cut(value, " ")
		adds, was, ended := 0, value == "", false
		for _, o := range history {
			i := o.Input.(input)
			if i.object != of.object || o.Call > read.Return {
				continue
			}
			switch i.op {
			case "add":
				adds++
				was = was || o.Output.(output).unknown || o.Output.(output).value == task
			case "write":
				ended = true
				was = was || i.value == value
			}
		}
		kind, _, _ := strings.Cut(of.object, " ")
		if !was && !(kind == counter && number(value) <= adds) || stopped != "" && !ended {
			l.w.Errorf("%s: a read that says it may be old answers %q, which never was", of.object, value)
		}
	}
}

// judge looks for an order of all calls in which every answer is right.
func (l *load) judge() {
	l.w.Helper()
	l.mu.Lock()
	history := slices.Clone(l.history)
	l.w.Logf("%d calls on %d objects: %v; the slowest current read took %s", len(history), l.made, l.counts, l.slowest)
	l.mu.Unlock()
	l.past(history)
	for _, part := range model.Partition(history) {
		result := porcupine.CheckOperationsTimeout(model, part, 2*time.Minute)
		if result == porcupine.Ok {
			continue
		}
		var b strings.Builder
		for _, o := range part {
			fmt.Fprintf(&b, "%12d %12d client %d: %s\n", o.Call/1000, o.Return/1000, o.ClientId, model.DescribeOperation(o.Input, o.Output))
		}
		l.w.Errorf("%s: %v, is there no order of these calls (µs) in which all answers are right:\n%s", part[0].Input.(input).object, result, b.String())
	}
}
