package roles

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"go.uber.org/zap"
)

// ErrPending says that a role's credentials are being asked for; who wants them is told when there is an answer.
var ErrPending = errors.New("its credentials are being asked for")

// STS is the call of the Security Token Service that an [Issuer] makes; *sts.Client has it.
type STS interface {
	AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, options ...func(*sts.Options)) (*sts.AssumeRoleOutput, error)
}

// IssuerConfig configures an [Issuer].
type IssuerConfig struct {
	// File has the roles with static keys; nil: none.
	File *Roles
	// STS assumes the roles that are in no file; nil: there are none.
	STS STS
	// Account is that of roles which are named without an ARN.
	Account string
	// Duration is how long the credentials of STS are to live. Default one hour, which every role allows.
	Duration time.Duration
	// Issued is told of each set of credentials of a task role that STS gave for a task, before anybody gets it. Its error
	// only says that these keys can't sign calls to the control plane. May be nil.
	Issued func(ctx context.Context, t Task, c Credentials) error
	Log    *zap.Logger
}

const (
	assumeTimeout = 30 * time.Second // the SDK's own attempts included
	mostCalls     = 8                // to STS at once
	// renewAhead is how long before their end, or halfway to it where that is later, credentials are not handed out any more but asked for anew.
	renewAhead = 30 * time.Minute
)

// Issuer has the credentials of roles for tasks: from the file where the role is in it, which are the same for every task,
// else from STS, which are a session of one task. It is safe for concurrent use; nothing of what it holds is written anywhere.
type Issuer struct {
	cfg   IssuerConfig
	now   func() time.Time
	calls chan struct{}
	ctx   context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu       sync.Mutex
	sessions map[session]*issued
}

// Task names a task.
type Task struct {
	Cluster, ID string
}

// session is what STS is asked for.
type session struct {
	role      string
	task      Task
	execution bool
}

// issued is what STS has answered, or a call under way.
type issued struct {
	pending bool
	wanted  []func() // told when the call ends
	got     Credentials
	at      time.Time
	err     error
}

// NewIssuer makes an issuer. Close ends its calls.
func NewIssuer(c IssuerConfig) *Issuer {
	if c.Duration == 0 {
		c.Duration = time.Hour
	}
	i := &Issuer{cfg: c, now: time.Now, calls: make(chan struct{}, mostCalls), sessions: map[session]*issued{}}
	i.ctx, i.end = context.WithCancel(context.Background())
	return i
}

// Close ends the calls that are under way and waits for them.
func (i *Issuer) Close() {
	i.end()
	i.wg.Wait()
}

// Get returns a role's credentials for a task. role is an ARN, or the name of a role of the own account. While STS is
// asked, the error is [ErrPending], and ready is called once, from another goroutine, when that has ended. A refusal is returned
// once; the next call asks again.
func (i *Issuer) Get(role string, t Task, execution bool, ready func()) (Credentials, error) {
	c, err := i.cfg.File.Get(role)
	if i.cfg.STS == nil || !errors.Is(err, ErrUnknown) {
		return c, err
	}
	if !strings.HasPrefix(role, "arn:") {
		role = "arn:aws:iam::" + i.cfg.Account + ":role/" + role
	}
	key, now := session{role, t, execution}, i.now()
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.sessions[key]
	switch {
	case s == nil:
	case s.pending:
		s.wanted = append(s.wanted, ready)
		return Credentials{}, ErrPending
	case s.err != nil:
		delete(i.sessions, key)
		return Credentials{}, s.err
	case s.fresh(now):
		return s.got, nil
	}
	i.forget(now)
	i.sessions[key] = &issued{pending: true, wanted: []func(){ready}}
	i.wg.Go(func() { i.assume(key) })
	return Credentials{}, ErrPending
}

// fresh says whether credentials have more time left than that at which they are renewed.
func (s *issued) fresh(now time.Time) bool {
	life := s.got.Expiration.Sub(s.at)
	return s.got.Expiration.Sub(now) > min(renewAhead, life/2)+min(time.Minute, life/20)
}

// forget drops what has expired; the caller holds mu.
func (i *Issuer) forget(now time.Time) {
	for key, s := range i.sessions {
		if !s.pending && s.err == nil && s.got.Expiration.Before(now) {
			delete(i.sessions, key)
		}
	}
}

// assume asks STS, and tells who waits.
func (i *Issuer) assume(key session) {
	got, err := i.ask(key)
	i.mu.Lock()
	s := i.sessions[key]
	wanted := s.wanted
	*s = issued{got: got, err: err, at: i.now()}
	i.mu.Unlock()
	for _, ready := range wanted {
		ready()
	}
}

func (i *Issuer) ask(key session) (Credentials, error) {
	ctx, cancel := context.WithTimeout(i.ctx, assumeTimeout)
	defer cancel()
	select {
	case i.calls <- struct{}{}:
		defer func() { <-i.calls }()
	case <-ctx.Done():
		return Credentials{}, fmt.Errorf("STS was not asked: %w", ctx.Err())
	}
	begun := i.now()
	name := key.task.ID
	if name == "" { // the images of a task that is yet to be made
		name = "prepare"
	}
	out, err := i.cfg.STS.AssumeRole(ctx, &sts.AssumeRoleInput{
		RoleArn: aws.String(key.role), RoleSessionName: aws.String(name), DurationSeconds: aws.Int32(int32(i.cfg.Duration / time.Second)),
	})
	if err != nil {
		return Credentials{}, explained(err)
	}
	c := out.Credentials
	if c == nil || aws.ToString(c.AccessKeyId) == "" || aws.ToString(c.SecretAccessKey) == "" || c.Expiration == nil {
		return Credentials{}, errors.New("STS answered without credentials")
	}
	got := Credentials{key.role, *c.AccessKeyId, *c.SecretAccessKey, aws.ToString(c.SessionToken), *c.Expiration}
	i.cfg.Log.Info("a role was assumed for a task", zap.String("role", key.role), zap.String("task", key.task.ID), zap.Time("expiration", got.Expiration), zap.Duration("duration", i.now().Sub(begun)))
	if i.cfg.Issued != nil && !key.execution {
		if err := i.cfg.Issued(ctx, key.task, got); err != nil {
			i.cfg.Log.Warn("the keys of a task's role can't be kept to verify its own calls: it can't protect itself with them", zap.String("task", key.task.ID), zap.Error(err))
		}
	}
	return got, nil
}

// explained is STS's answer without the request's details.
func explained(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		return fmt.Errorf("STS AssumeRole: %s: %s", api.ErrorCode(), api.ErrorMessage())
	}
	return fmt.Errorf("STS AssumeRole: %w", err)
}
