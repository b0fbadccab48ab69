package roles

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"go.uber.org/zap"
)

// ErrPending says that a role's credentials are being asked for; who wants them is told when there is an answer.
var ErrPending = errors.New("its credentials are being asked for")

var errNoCredentials = errors.New("STS answered without credentials")

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
	// RetryFor bounds how long STS is asked again after answers that may be better the next time: time-outs, connections that
	// fail, 5xx, throttling. Default 5 minutes.
	RetryFor time.Duration
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
	// firstPause and mostPause are those between two calls after such answers; each is twice the one before.
	firstPause, mostPause = time.Second, 30 * time.Second
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
	begun   time.Time // when it was asked first
	calls   int       // that have failed so far
	next    time.Time // of the next call
	problem error     // of the last one
	wanted  []func()  // told when the call ends
	got     Credentials
	at      time.Time
	err     error
}

// NewIssuer makes an issuer. Close ends its calls.
func NewIssuer(c IssuerConfig) *Issuer {
	if c.Duration == 0 {
		c.Duration = time.Hour
	}
	if c.RetryFor == 0 {
		c.RetryFor = 5 * time.Minute
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
// asked, the error is [ErrPending], and ready, which may be nil, is called once, from another goroutine, when that has ended. STS
// is asked again after a passing failure, within RetryFor; a refusal is final. An error is returned once; the next call asks again.
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
		s.want(ready)
		return Credentials{}, ErrPending
	case s.err != nil:
		delete(i.sessions, key)
		return Credentials{}, s.err
	case s.fresh(now):
		return s.got, nil
	}
	i.forget(now)
	s = &issued{pending: true, begun: now}
	s.want(ready)
	i.sessions[key] = s
	i.wg.Go(func() { i.assume(key) })
	return Credentials{}, ErrPending
}

// mostWanted bounds those who are told of an answer. One who asks again and again is there many times.
const mostWanted = 4096

func (s *issued) want(ready func()) {
	if ready == nil {
		return
	}
	if len(s.wanted) == mostWanted {
		s.wanted = slices.Delete(s.wanted, 0, mostWanted/2)
	}
	s.wanted = append(s.wanted, ready)
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

// assume asks STS until there is an answer that counts, and tells who waits. An issuer that is closed leaves them waiting: what
// its end looks like is no answer.
func (i *Issuer) assume(key session) {
	pause := firstPause
	for {
		got, err := i.ask(key)
		if i.ctx.Err() != nil {
			return
		}
		if err == nil || !passing(err) || !i.later(key, pause, err) {
			i.answered(key, got, err)
			return
		}
		select {
		case <-i.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

// later notes a passing failure; false when there is no time for another call.
func (i *Issuer) later(key session, pause time.Duration, err error) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.sessions[key]
	s.calls, s.problem, s.next = s.calls+1, explained(err), i.now().Add(pause)
	if s.next.Sub(s.begun) > i.cfg.RetryFor {
		return false
	}
	i.cfg.Log.Warn("STS can't give a task its role now; it is asked again", zap.String("role", key.role), zap.String("task", key.task.ID), zap.Int("calls", s.calls), zap.Duration("retry", pause), zap.Error(s.problem))
	return true
}

// answered keeps an answer, and tells who waits for it.
func (i *Issuer) answered(key session, got Credentials, err error) {
	i.mu.Lock()
	s := i.sessions[key]
	wanted := s.wanted
	if err != nil {
		err = explained(err)
		if s.calls > 1 {
			err = fmt.Errorf("%w (the last of %d calls in %s)", err, s.calls, i.now().Sub(s.begun).Round(time.Second))
		}
	}
	*s = issued{got: got, err: err, at: i.now()}
	i.mu.Unlock()
	for _, ready := range wanted {
		ready()
	}
}

// Waits says in words which credentials of a task STS has not given yet, and why; nothing if it waits for none.
func (i *Issuer) Waits(t Task) (out []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, s := range i.sessions {
		switch {
		case key.task != t || !s.pending:
		case s.problem == nil:
			out = append(out, fmt.Sprintf("STS is asked for the role %s since %s", key.role, s.begun.UTC().Format(time.RFC3339)))
		default:
			out = append(out, fmt.Sprintf("STS did not give the role %s in %d calls since %s: %v; the next call is at %s, and after %s the task is stopped", key.role, s.calls,
				s.begun.UTC().Format(time.RFC3339), s.problem, s.next.UTC().Format(time.RFC3339), i.cfg.RetryFor))
		}
	}
	slices.Sort(out)
	return out
}

// passing says whether an error of a call may be gone at the next one. An answer counts, unless it says that STS has too much to do,
// or a fault of its own, or that the control plane's own credentials had just ended; without an answer it is worth another call.
func passing(err error) bool {
	var api smithy.APIError
	var answered *smithyhttp.ResponseError
	if errors.As(err, &api) {
		switch code := api.ErrorCode(); code {
		case "ExpiredToken", "ExpiredTokenException", "RequestExpired":
			return true
		default:
			_, throttled := retry.DefaultThrottleErrorCodes[code]
			_, again := retry.DefaultRetryableErrorCodes[code]
			if throttled || again || api.ErrorFault() == smithy.FaultServer {
				return true
			}
		}
	}
	if errors.As(err, &answered) && answered.Response != nil {
		status := answered.HTTPStatusCode()
		return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status < 300 && api == nil
	}
	var invalid smithy.InvalidParamsError
	return api == nil && !errors.Is(err, errNoCredentials) && !errors.As(err, &invalid)
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
		return Credentials{}, err
	}
	c := out.Credentials
	if c == nil || aws.ToString(c.AccessKeyId) == "" || aws.ToString(c.SecretAccessKey) == "" || c.Expiration == nil {
		return Credentials{}, errNoCredentials
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
