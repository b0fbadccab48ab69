package controlplane_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// caller calls the API of a process that may be killed at any time.
type caller struct {
	p   *process
	key aws.Credentials
}

// answerError is an error that the API answered: the call was judged, and is not repeated.
type answerError struct {
	status        int
	code, message string
}

func (e *answerError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message) }

// call repeats a call until it is answered. Only one goroutine may do so: it also brings a killed process back.
func (c caller) call(ctx context.Context, operation string, in, out any) error {
	for {
		err := c.once(ctx, operation, in, out)
		var answered *answerError
		if err == nil || errors.As(err, &answered) && answered.status < 500 {
			if err != nil {
				return fmt.Errorf("%s: %w", operation, err)
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w\n%s", operation, err, c.p.log)
		}
		if err := c.p.awaitReady(ctx); err != nil {
			return err
		}
	}
}

func (c caller) once(ctx context.Context, operation string, in, out any) error {
	body, err := awsjson.MarshalRequest(in)
	if err != nil {
		return &answerError{message: err.Error()}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.p.url+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", awsjson.ContentType)
	r.Header.Set("X-Amz-Target", ecsapi.TargetPrefix+operation)
	hash := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, c.key, r, hex.EncodeToString(hash[:]), "ecs", "us-west-2", time.Now()); err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		code, message := awsjson.DecodeError(answer.Header, data)
		return &answerError{answer.StatusCode, code, message}
	}
	if out == nil {
		return nil
	}
	_, err = awsjson.Unmarshal(data, out)
	return err
}

// agents are two hosts whose containers never fail. They note what they are told.
type agents struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	tasks  map[string]*agentTask // by ARN
	wrong  []string
	keep   bool // no host may be told to stop its last RUNNING task
}

type agentTask struct {
	family          string
	instance        string
	stopped         bool // the container is gone
	told            bool // that it is RUNNING was sent, if not accepted yet
	accepted        map[string]bool
	running, runEnd chan struct{} // closed when the report was accepted
}

// joinAgents registers two container instances, and connects them until leave.
func joinAgents(ctx context.Context, host caller, definition *types.TaskDefinition) (*agents, error) {
	a := &agents{tasks: map[string]*agentTask{}}
	ctx, a.cancel = context.WithCancel(ctx)
	for i := range 2 {
		in := &ecsapi.RegisterContainerInstanceInput{ClientToken: aws.String(fmt.Sprint("host-", i))}
		in.Cluster = aws.String("daemonset")
		in.TotalResources = []types.Resource{
			{Name: aws.String("CPU"), Type: aws.String("INTEGER"), IntegerValue: 2048},
			{Name: aws.String("MEMORY"), Type: aws.String("INTEGER"), IntegerValue: 4096},
			{Name: aws.String("PORTS"), Type: aws.String("STRINGSET"), StringSetValue: []string{"22"}},
			{Name: aws.String("PORTS_UDP"), Type: aws.String("STRINGSET"), StringSetValue: []string{}},
		}
		for _, required := range definition.RequiresAttributes {
			in.Attributes = append(in.Attributes, types.Attribute{Name: required.Name, Value: required.Value})
		}
		in.Attributes = append(in.Attributes, types.Attribute{Name: aws.String(acs.CapabilitySecurityGroups)})
		var out ecs.RegisterContainerInstanceOutput
		if err := host.call(ctx, "RegisterContainerInstance", in, &out); err != nil {
			a.cancel()
			return nil, err
		}
		instance := aws.ToString(out.ContainerInstance.ContainerInstanceArn)
		a.wg.Go(func() {
			for ctx.Err() == nil {
				_ = a.connect(ctx, host, instance) // until it is there again
				pause(ctx, 10*time.Millisecond)
			}
		})
	}
	return a, nil
}

func (a *agents) leave() {
	a.cancel()
	a.wg.Wait()
}

// connect speaks ACS until the connection ends.
func (a *agents) connect(ctx context.Context, host caller, instance string) error {
	query := url.Values{"clusterArn": {"daemonset"}, "containerInstanceArn": {instance}, "agentVersion": {"1.0.0"}, "agentHash": {"x"},
		"dockerVersion": {"DockerVersion: 20.10.24"}, "protocolVersion": {"2"}, "seqNum": {"1"}, "sendCredentials": {"true"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, host.p.url+"/acs/ws?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	none := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(ctx, host.key, r, hex.EncodeToString(none[:]), "ecs", "us-west-2", time.Now()); err != nil {
		return err
	}
	conn, _, err := websocket.Dial(ctx, r.URL.String(), &websocket.DialOptions{HTTPHeader: r.Header})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(acs.MaxFrame)
	for {
		_, frame, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		message, err := acs.Decode(frame)
		if err != nil {
			a.note("a frame can't be read: %v", err)
			continue
		}
		var reply any
		switch m := message.(type) {
		case *acs.HeartbeatMessage:
			reply = &acs.HeartbeatAckRequest{MessageID: m.MessageID}
		case *acs.SecurityGroupsMessage:
			reply = &acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID}
		case *acs.AttachTaskNetworkInterfacesMessage:
			reply = &acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID}
		case *acs.PayloadMessage:
			for _, t := range m.Tasks {
				a.take(ctx, host, instance, t)
			}
			reply = &acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID}
		default:
			continue
		}
		data, err := acs.Encode(reply)
		if err != nil {
			return err
		}
		if err := conn.Write(ctx, websocket.MessageText, data); err != nil {
			return err
		}
	}
}

func (a *agents) note(format string, arguments ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong = append(a.wrong, fmt.Sprintf(format, arguments...))
}

// keeps says from now on whether no host may be told to stop its last RUNNING task.
func (a *agents) keeps(one bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep = one
}

// last tells whether of no other task of the instance it was told that it is RUNNING.
func (a *agents) last(arn string, instance string) bool {
	for other, t := range a.tasks {
		if other != arn && t.instance == instance && t.told && !t.stopped {
			return false
		}
	}
	return true
}

// take accepts a task, once: it starts its container, or stops it, and reports that until it is accepted.
func (a *agents) take(ctx context.Context, host caller, instance string, t *acs.Task) {
	a.mu.Lock()
	known := a.tasks[t.Arn]
	switch {
	case known == nil && t.DesiredStatus == "RUNNING":
		known = &agentTask{family: t.Family, instance: instance, accepted: map[string]bool{}, running: make(chan struct{}), runEnd: make(chan struct{})}
		a.tasks[t.Arn] = known
		a.wg.Go(func() {
			a.report(ctx, host, t, "RUNNING", nil)
			close(known.running)
		})
	case known == nil:
		a.wrong = append(a.wrong, "a task that was never started is to be stopped: "+t.Arn)
	case t.DesiredStatus == "STOPPED" && !known.stopped:
		known.stopped = true
		if a.keep && a.last(t.Arn, instance) {
			a.wrong = append(a.wrong, "the old daemon is to be stopped before the new one runs: "+t.Arn)
		}
		a.wg.Go(func() {
			select {
			case <-known.running:
			case <-ctx.Done():
				return
			}
			a.report(ctx, host, t, "STOPPED", aws.Int32(143))
			close(known.runEnd)
		})
	}
	a.mu.Unlock()
}

// report sends one state change until it is accepted.
func (a *agents) report(ctx context.Context, host caller, t *acs.Task, status string, exit *int32) {
	in := &ecs.SubmitTaskStateChangeInput{Cluster: aws.String("daemonset"), Task: aws.String(t.Arn), Status: aws.String(status)}
	for _, c := range t.Containers {
		in.Containers = append(in.Containers, types.ContainerStateChange{ContainerName: aws.String(c.Name), RuntimeId: aws.String("r-" + c.Name),
			Status: aws.String(status), ExitCode: exit})
	}
	a.mu.Lock()
	a.tasks[t.Arn].told = true
	a.mu.Unlock()
	for ctx.Err() == nil {
		err := host.once(ctx, "SubmitTaskStateChange", in, nil)
		var answered *answerError
		if errors.As(err, &answered) && answered.status < 500 {
			a.note("%s of %s is refused: %v", status, t.Arn, err)
			return
		}
		if err == nil {
			a.mu.Lock()
			a.tasks[t.Arn].accepted[status] = true
			a.mu.Unlock()
			return
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// settle waits until so many containers run and every report was accepted.
func (a *agents) settle(ctx context.Context, p *process, running int) error {
	for {
		if err := p.awaitReady(ctx); err != nil {
			return err
		}
		a.mu.Lock()
		run, open := 0, 0
		for _, t := range a.tasks {
			if !t.stopped {
				run++
			}
			if !t.accepted["RUNNING"] || t.stopped && !t.accepted["STOPPED"] {
				open++
			}
		}
		a.mu.Unlock()
		if run == running && open == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d containers run, %d reports are not accepted", run, open)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// judge says whether so many containers were started and stopped, and nothing else was asked.
func (a *agents) judge(started, stopped int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := 0
	for _, t := range a.tasks {
		if t.stopped {
			gone++
		}
	}
	wrong := slices.Clone(a.wrong)
	if len(a.tasks) != started || gone != stopped {
		wrong = append(wrong, fmt.Sprintf("%d containers were started and %d stopped, want %d and %d", len(a.tasks), gone, started, stopped))
	}
	if wrong != nil {
		return fmt.Errorf("the hosts saw: %q", wrong)
	}
	return nil
}
