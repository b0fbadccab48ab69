// Package secrets fetches what a task's definition names and does not hold: values of SSM Parameter Store and Secrets
// Manager, files of variables and of a log router's configuration in S3, and credentials for the registries of its images.
//
// # The model
//
// Everything is fetched with the credentials of the task's execution role, which the control plane sends and which live in
// memory ([Roles]); a task waits a bounded time for them. The first container of a task that asks has the values of all
// its containers fetched, each value once, side by side and as few calls as the services allow; the others find them. They
// stay in memory until [Resolver.Release], and go nowhere but into the containers: no record, log line, label or error
// holds one.
//
//	secrets.go    Resolver: what a container gets
//	fetch.go      one fetch of all that a task names
//	reference.go  valueFrom of secrets, ARNs of files
//	envfile.go    the form of files of variables
//	registry.go   credentials of registries: Amazon ECR, Secrets Manager
//
// What can't be had is an error that begins with ECS's name for it and says what was asked for, where, and the cause.
package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// Roles are the credentials of tasks' execution roles (poll.Credentials is one).
type Roles interface {
	// Execution returns those of a task, waiting for them until ctx ends.
	Execution(ctx context.Context, taskArn string) (acs.IAMRoleCredentials, error)
}

// Config configures a [Resolver].
type Config struct {
	AWS    *awsapi.Client
	Roles  Roles
	Host   aws.CredentialsProvider // the host's own, for registries that a task asks for without an execution role
	Region string                  // where what names no region is asked for
	Log    *zap.Logger
	// CredentialsWait bounds how long a task waits for its role's credentials. Default 1 min.
	CredentialsWait time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Resolver fetches. It is safe for concurrent use.
type Resolver struct {
	cfg    Config
	tokens tokens

	mu    sync.Mutex
	tasks map[string]*taskValues // by ARN
}

// taskValues are the fetched values of one task; whoever holds the place may fetch.
type taskValues struct {
	place  chan struct{}
	values *values // nil until they were fetched
}

// New makes a Resolver.
func New(cfg Config) *Resolver {
	if cfg.CredentialsWait <= 0 {
		cfg.CredentialsWait = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Resolver{cfg: cfg, tasks: map[string]*taskValues{}}
}

// Resolve returns what a container of a task gets from elsewhere. It is an [engine.Secrets].
func (r *Resolver) Resolve(ctx context.Context, task *acs.Task, container string) (engine.Resolved, error) {
	t := r.task(task.Arn)
	select {
	case t.place <- struct{}{}:
		defer func() { <-t.place }()
	case <-ctx.Done():
		return engine.Resolved{}, ctx.Err()
	}
	if t.values == nil {
		fetched, err := r.fetch(ctx, task)
		if err != nil {
			return engine.Resolved{}, err
		}
		t.values = fetched
	}
	for _, c := range task.Containers {
		if c.Name == container {
			return t.values.resolve(c)
		}
	}
	return engine.Resolved{}, fmt.Errorf("the task has no container %q", container)
}

// Release forgets a task's values. Releasing what is not held does nothing.
func (r *Resolver) Release(taskArn string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tasks, taskArn)
}

func (r *Resolver) task(arn string) *taskValues {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tasks[arn]
	if t == nil {
		t = &taskValues{place: make(chan struct{}, 1)}
		r.tasks[arn] = t
	}
	return t
}

// resolve gives a container its part of the values. Of two files with one variable the first counts.
func (v *values) resolve(c *acs.Container) (engine.Resolved, error) {
	out := engine.Resolved{FileEnvironment: map[string]string{}, Environment: map[string]string{}, LogOptions: map[string]string{}}
	for i := len(c.EnvironmentFiles) - 1; i >= 0; i-- {
		maps.Copy(out.FileEnvironment, v.files[c.EnvironmentFiles[i].Value])
	}
	if c.FirelensConfiguration != nil {
		out.RouterConfig = v.router
	}
	for _, s := range c.Secrets {
		value, err := v.secret(s)
		if err != nil {
			return engine.Resolved{}, err
		}
		if s.Target == engine.TargetLogDriver {
			out.LogOptions[s.Name] = string(value)
		} else {
			out.Environment[s.Name] = string(value)
		}
	}
	return out, nil
}

// role is the execution role's credentials of a task, asked for anew with each call.
func (r *Resolver) role(ctx context.Context, taskArn string) (acs.IAMRoleCredentials, aws.CredentialsProvider, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.CredentialsWait, errNoRole)
	defer cancel()
	held, err := r.cfg.Roles.Execution(ctx, taskArn)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNoRole) {
			return held, nil, fmt.Errorf("the control plane sent no credentials of the task's execution role within %s; "+
				"the task definition needs an executionRoleArn that the control plane has credentials for", r.cfg.CredentialsWait)
		}
		return held, nil, err
	}
	return held, aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		now, err := r.cfg.Roles.Execution(ctx, taskArn)
		if err != nil {
			return aws.Credentials{}, err
		}
		return aws.Credentials{AccessKeyID: now.AccessKeyID, SecretAccessKey: now.SecretAccessKey, SessionToken: now.SessionToken, Source: "execution role"}, nil
	}), nil
}

var errNoRole = errors.New("no credentials of the execution role")
