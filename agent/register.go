package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// maxThrottled is how long a registration that the service puts off is repeated.
const maxThrottled = time.Hour

// registration is what is known when the agent registers.
type registration struct {
	cfg     *config.Config
	host    Host
	engine  engine.Info
	can     abilities    // of the engine
	gpus    []string     // ids
	ec2     *ec2Instance // nil outside EC2
	arn     string       // of the instance to register again; empty for a new one
	token   string       // the same for every attempt of one registration
	tags    map[string]string
	first   bool // the control plane has a new record of the instance to register again
	version agentapi.VersionInfo

	policy map[string]string // attributes of the host's policy

	newToken func() (string, error) // which is kept until it is no longer needed; nil: one that is not

	keys  keys // this host's access keys in their order; nil: one
	known bool // this process has been registered

	failed func(error) // is told of each attempt that is made again; may be nil
}

// keys are tried one after the other; *hostkey.Ring is one.
type keys interface{ Next() bool }

// input is the call's input.
func (r *registration) input() *agentapi.RegisterContainerInstanceInput {
	cluster, document, signature := r.cfg.ClusterOrDefault(), "", ""
	if r.ec2 != nil && !r.cfg.AllowNoIdentity {
		document, signature = r.ec2.Document, r.ec2.Signature
	}
	in := &agentapi.RegisterContainerInstanceInput{
		Cluster: &cluster, ClientToken: &r.token, InstanceIdentityDocument: &document, InstanceIdentityDocumentSignature: &signature,
		Attributes: withPolicy(attributes(r.cfg, r.host, r.engine, r.can, r.ec2, r.arn == "" || r.first), r.policy), VersionInfo: &r.version,
		TotalResources: []agentapi.Resource{
			integerResource("CPU", r.host.CPU), integerResource("MEMORY", r.host.Memory),
			portResource("PORTS", r.cfg.ReservedPorts), portResource("PORTS_UDP", r.cfg.ReservedPortsUDP),
		},
	}
	for _, id := range r.gpus {
		in.PlatformDevices = append(in.PlatformDevices, agentapi.PlatformDevice{Id: &id, Type: agentapi.PlatformDeviceTypeGpu})
	}
	if r.arn != "" {
		in.ContainerInstanceArn = &r.arn
	}
	for _, key := range slices.Sorted(maps.Keys(r.tags)) {
		value := r.tags[key]
		in.Tags = append(in.Tags, agentapi.Tag{Key: &key, Value: &value})
	}
	return in
}

func integerResource(name string, value int64) agentapi.Resource {
	kind := "INTEGER"
	return agentapi.Resource{Name: &name, Type: &kind, IntegerValue: int32(min(value, math.MaxInt32))}
}

func portResource(name string, ports []uint16) agentapi.Resource {
	kind := "STRINGSET"
	set := make([]string, len(ports))
	for i, p := range ports {
		set[i] = strconv.Itoa(int(p))
	}
	return agentapi.Resource{Name: &name, Type: &kind, StringSetValue: set}
}

// TerminalError is an error that a restart does not heal: the agent exits with 5, and its supervisor leaves it.
type TerminalError struct{ Err error }

// Error is the cause's text.
func (e *TerminalError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *TerminalError) Unwrap() error { return e.Err }

// verdict is what to do about an attempt to register that failed.
type verdict int

const (
	giveUp        verdict = iota // the error is final
	nextKey                      // the control plane does not take the key
	retryLater                   // the service puts us off: try for an hour
	retryForever                 // the control plane can't be reached: nothing is wrong with us
	makeCluster                  // the implicit cluster "default" does not exist
	registerAnew                 // the instance to register again is not known any more
	terminalError                // the error is final, and so is the agent
)

// judge decides by the error of an attempt (agent-protocol section 1.7).
func (r *registration) judge(err error) verdict {
	var api *agentapi.APIError
	if !errors.As(err, &api) {
		if strings.Contains(err.Error(), "no credentials") {
			return giveUp
		}
		return retryForever
	}
	switch {
	case r.cfg.Cluster == "" && (api.Code == "ClusterNotFoundException" || strings.Contains(api.Message, "Cluster not found.")):
		return makeCluster
	case api.Code == "UnrecognizedClientException", r.keys != nil && api.Code == "AccessDeniedException":
		return nextKey
	case r.arn != "" && (api.Code == "InactiveInstanceException" || api.Code == "InvalidInstanceException"):
		return registerAnew
	case api.Code == "ConflictException": // another machine has this one's identity, or this one's last connection is not noticed to have ended
		return retryForever
	case api.Code == "InvalidParameterException" || api.Code == "ClientException":
		return terminalError
	case api.Retryable() || api.Code == "ServerException":
		return retryLater
	}
	return giveUp
}

// register registers until it succeeds or can't, and returns the container instance's ARN. It is quick to find a control
// plane that comes up, and patient with one that is overloaded. The error is a [*TerminalError] where a restart would not
// help.
func (r *registration) register(ctx context.Context, api session.API, log *zap.Logger) (string, error) {
	unreachable := session.BackOff{First: 100 * time.Millisecond, Most: 15 * time.Second, Factor: 1.7, Jitter: 0.2}
	throttled := session.BackOff{First: 3 * time.Second, Most: 192 * time.Second, Factor: 2, Jitter: 0.2}
	begun, madeCluster := time.Now(), false
	for {
		var out agentapi.RegisterContainerInstanceOutput
		in := r.input()
		err := api.Call(ctx, "RegisterContainerInstance", in, &out)
		if err == nil {
			arn, err := r.accepted(in, &out)
			if err != nil || r.arn == "" || r.first || arn == r.arn && out.ContainerInstance.Version != 1 {
				return arn, err
			}
			// Its record is new, and does not have the attributes that go with a first registration. The ARN or the token says
			// that it is the same one.
			if r.first = true; arn != r.arn {
				log.Warn("The control plane did not know this container instance any more and made a new one; containers stay as they are", zap.String("instance", arn), zap.String("old", r.arn))
				r.arn = ""
			}
			continue
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		var wait time.Duration
		verdict := r.judge(err)
		if verdict == nextKey {
			if r.keys != nil && r.keys.Next() {
				log.Warn("The control plane does not take this host's access key; trying with the one before it, or the configured one", zap.Error(err))
				continue
			}
			if verdict = giveUp; r.known { // somebody ended the key: tasks are looked after, as long as nobody says otherwise
				verdict, begun = retryLater, time.Now()
			}
		}
		switch verdict {
		case giveUp:
			return "", fmt.Errorf("register with cluster %s at %s: %w", r.cfg.ClusterOrDefault(), r.where(), err)
		case terminalError:
			return "", &TerminalError{r.explain(err)}
		case makeCluster:
			if madeCluster {
				return "", fmt.Errorf("the cluster default was created and is not there: %w", err)
			}
			madeCluster = true
			name := "default"
			log.Info("There is no cluster; creating the cluster default")
			if err := api.Call(ctx, "CreateCluster", &agentapi.CreateClusterInput{ClusterName: &name}, nil); err != nil {
				return "", fmt.Errorf("create the cluster default: %w", err)
			}
			continue
		case registerAnew:
			log.Warn("The control plane does not know this container instance any more; registering as a new one; containers stay as they are", zap.String("instance", r.arn), zap.Error(err))
			if r.arn, r.token, err = "", uuid.NewString(), nil; r.newToken != nil {
				r.token, err = r.newToken()
			}
			if err != nil {
				return "", err
			}
			continue
		case retryLater:
			if time.Since(begun) > maxThrottled {
				return "", fmt.Errorf("register with cluster %s: not accepted for %s: %w", r.cfg.ClusterOrDefault(), maxThrottled, err)
			}
			wait = throttled.Next()
		case retryForever:
			wait = unreachable.Next()
		}
		if r.failed != nil {
			r.failed(err)
		}
		log.Warn("The registration did not succeed; trying again", zap.String("endpoint", r.where()), zap.Error(err), zap.Duration("retry", wait))
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (r *registration) where() string {
	if r.cfg.APIEndpoint != "" {
		return r.cfg.APIEndpoint
	}
	return "the ECS endpoint of " + r.cfg.Region
}

// explain adds what to do about a terminal refusal.
func (r *registration) explain(err error) error {
	if strings.Contains(err.Error(), "Container instance type changes are not supported.") {
		return fmt.Errorf("register again as %s: %w; this host is another machine than the one that registered: to register it as a new container instance, remove %s and start again", r.arn, err, r.cfg.DataDir)
	}
	return fmt.Errorf("register with cluster %s at %s: %w; change the configuration and start again", r.cfg.ClusterOrDefault(), r.where(), err)
}

// accepted checks the answer: it must have an ARN and every attribute that was sent, with its value.
func (r *registration) accepted(in *agentapi.RegisterContainerInstanceInput, out *agentapi.RegisterContainerInstanceOutput) (string, error) {
	if out.ContainerInstance == nil || text(out.ContainerInstance.ContainerInstanceArn) == "" {
		return "", errors.New("the control plane accepted the registration and answered no container instance")
	}
	answered := map[string]string{}
	for _, a := range out.ContainerInstance.Attributes {
		answered[text(a.Name)] = text(a.Value)
	}
	var wrong []string
	for _, a := range in.Attributes {
		if value, ok := answered[*a.Name]; !ok || value != text(a.Value) {
			wrong = append(wrong, *a.Name)
		}
	}
	if len(wrong) > 0 {
		return "", &TerminalError{fmt.Errorf("attribute validation failed: the control plane did not answer with the attributes that were sent: %s", strings.Join(wrong, ", "))}
	}
	return *out.ContainerInstance.ContainerInstanceArn, nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
