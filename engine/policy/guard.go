package policy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
)

// Options configures a [Guard].
type Options struct {
	File    string   // DefaultFile if empty
	Sockets []string // of container engines, in addition to DefaultSockets
	Log     *zap.Logger
	Timeout time.Duration // of one judgement, 2 s if zero
	Places  Places        // of this host if nil
}

// maxHung bounds the judgements that wait for a file system which does not answer. Beyond it tasks are denied.
const maxHung = 16

// Guard implements [engine.Policy] with the file. It is safe for concurrent use.
type Guard struct {
	opt   Options
	slots chan struct{}

	mu   sync.Mutex // guards the last reading
	read bool
	sum  [sha256.Size]byte
	last *Policy // nil: no policy
	err  error
}

var _ engine.Policy = (*Guard)(nil)

// NewGuard makes a Guard. The file is read when it is asked.
func NewGuard(opt Options) *Guard {
	if opt.File == "" {
		opt.File = DefaultFile
	}
	if opt.Timeout == 0 {
		opt.Timeout = 2 * time.Second
	}
	if opt.Log == nil {
		opt.Log = zap.NewNop()
	}
	if opt.Places == nil {
		opt.Places = Resolver{Sockets: append(opt.Sockets, DefaultSockets...)}
	}
	return &Guard{opt: opt, slots: make(chan struct{}, maxHung)}
}

// Load is the policy as the file says it now, nil if there is none. It logs whenever that has changed.
func (g *Guard) Load() (*Policy, error) {
	data, err := durable.Read(g.opt.File, maxSize, notOthers)
	g.mu.Lock()
	defer g.mu.Unlock()
	missing := errors.Is(err, fs.ErrNotExist)
	sum := sha256.Sum256(data)
	if err != nil {
		sum = sha256.Sum256([]byte(err.Error()))
	}
	if g.read && sum == g.sum {
		return g.last, g.err
	}
	first := !g.read
	g.read, g.sum, g.last, g.err = true, sum, nil, nil
	log := g.opt.Log.With(zap.String("path", g.opt.File))
	switch {
	case missing:
		if !first {
			log.Warn("The host policy was removed; nothing is denied to tasks any more")
		}
		return nil, nil
	case err == nil:
		g.last, err = Parse(g.opt.File, data)
	}
	if err != nil {
		g.err = err
		log.Error("The host policy can't be used: no new task runs on this host until it is corrected or removed; what runs stays", zap.Error(err))
		return nil, g.err
	}
	log.Info("The host policy is in force", zap.Int("rules", len(g.last.Rules)), zap.String("digest", g.last.Digest))
	return g.last, nil
}

// notOthers refuses a policy that others can write, which is nobody's word.
func notOthers(info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("the host policy %s has mode %04o, so that others than its owner can write it; chmod 644 it", info.Name(), mode)
	}
	return nil
}

// errorName begins every reason of a denial.
const errorName = "HostPolicyError: "

// Judge judges a task. It has the deadline of [Options].Timeout: what can't be found out in that time is denied.
func (g *Guard) Judge(ctx context.Context, t engine.PolicyTask) engine.PolicyVerdict {
	p, err := g.Load()
	switch {
	case err != nil:
		return engine.PolicyVerdict{Denial: fmt.Sprintf("%sno new task runs on this host until its policy is corrected: %s", errorName, oneLine(err))}
	case p == nil:
		return engine.PolicyVerdict{}
	}
	select {
	case g.slots <- struct{}{}:
	default:
		return engine.PolicyVerdict{Denial: fmt.Sprintf("%s%d judgements wait for file systems that don't answer, so that where the host paths lead can't be compared with %s", errorName, maxHung, p.File)}
	}
	ctx, cancel := context.WithTimeout(ctx, g.opt.Timeout)
	defer cancel()
	done := make(chan []Decision, 1)
	go func() {
		defer func() { <-g.slots }()
		done <- p.Evaluate(t, g.opt.Places)
	}()
	select {
	case decisions := <-done:
		return p.verdict(decisions)
	case <-ctx.Done():
		return engine.PolicyVerdict{Denial: fmt.Sprintf("%swhere the host paths lead could not be found out within %s, to compare it with %s; is a network file system down?", errorName, g.opt.Timeout, p.File)}
	}
}

// Check judges a task for a person to read: every request that is not simply allowed.
func (g *Guard) Check(p *Policy, t engine.PolicyTask) []Decision {
	decisions := p.Evaluate(t, g.opt.Places)
	return append(worst(decisions, Deny), worst(decisions, Warn)...)
}

// verdict puts decisions into words.
func (p *Policy) verdict(decisions []Decision) engine.PolicyVerdict {
	var v engine.PolicyVerdict
	for _, d := range worst(decisions, Warn) {
		v.Warnings = append(v.Warnings, d.Reason(p.File))
	}
	if denied := worst(decisions, Deny); len(denied) > 0 {
		v.Denial = errorName + denied[0].Reason(p.File)
		if more := len(denied) - 1; more > 0 {
			v.Denial += fmt.Sprintf(" (and %d more)", more)
		}
	}
	return v
}

// Attributes are the attributes by which placement sees the policy; none without a policy.
func (g *Guard) Attributes() map[string]string {
	p, err := g.Load()
	switch {
	case err != nil:
		return map[string]string{AttributePrefix: "invalid"}
	case p == nil:
		return nil
	}
	return p.Attributes()
}

// oneLine is an error of several lines in one.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
