package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/poll"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
)

const (
	// mostPreparations is how many are remembered, under way or done.
	mostPreparations = 64
	// preparationPriority is behind that of every task's container.
	preparationPriority = 1000
	// longestKeep bounds for how long a control plane has images kept that nobody uses.
	longestKeep = 24 * time.Hour
	// answerTime bounds the writing of an answer; one that is lost is asked for again.
	answerTime = 10 * time.Second
)

// preparer makes images local before the tasks that need them are placed. It works through each preparation once, however
// often it is asked, and remembers the outcome in memory only: after a restart it is asked again, and finds the images there.
type preparer struct {
	ensure func(ctx context.Context, req imagecache.Request) (engine.Image, func(), error)
	pin    func(id string, until time.Time)
	answer func(ctx context.Context, m *acs.ImagesPreparedMessage) error
	roles  *poll.Credentials
	log    *zap.Logger

	mu    sync.Mutex
	works map[string]*preparing
	ctx   context.Context // nil: not running
	wg    sync.WaitGroup
}

// preparing is one preparation.
type preparing struct {
	begun   time.Time
	outcome *acs.ImagesPreparedMessage // nil: it is under way
}

// run lets preparations be worked on until ctx ends.
func (p *preparer) run(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	<-ctx.Done()
	p.mu.Lock()
	p.ctx = nil
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// take takes a message of the control plane. It returns at once.
func (p *preparer) take(m *acs.PrepareImagesMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil {
		return // it is asked again
	}
	ctx, w := p.ctx, p.works[m.Preparation]
	switch {
	case w != nil && w.outcome == nil:
		return
	case w != nil:
		p.wg.Go(func() { p.say(ctx, m, w.outcome) })
		return
	case !p.room():
		return // the outcome of the others comes first
	}
	w = &preparing{begun: time.Now()}
	if p.works == nil {
		p.works = map[string]*preparing{}
	}
	p.works[m.Preparation] = w
	p.wg.Go(func() {
		outcome := p.work(ctx, m)
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		w.outcome = outcome
		p.mu.Unlock()
		p.say(ctx, m, outcome)
	})
}

// room makes room for another preparation by forgetting the oldest that is done; false when all are under way.
func (p *preparer) room() bool {
	if len(p.works) < mostPreparations {
		return true
	}
	oldest := ""
	for name, w := range p.works {
		if w.outcome != nil && (oldest == "" || w.begun.Before(p.works[oldest].begun)) {
			oldest = name
		}
	}
	delete(p.works, oldest)
	return oldest != ""
}

// work makes the images of one preparation local, side by side, and keeps them for a while.
func (p *preparer) work(ctx context.Context, m *acs.PrepareImagesMessage) *acs.ImagesPreparedMessage {
	begun := time.Now()
	log := p.log.With(zap.String("step", "prepare"), zap.String("preparation", m.Preparation))
	owner := "preparation " + m.Preparation // where a task's ARN would be
	if c := m.ExecutionRoleCredentials; c != nil {
		p.roles.Lend(owner, c)
		defer p.roles.Return(owner)
	}
	keep := min(time.Duration(m.KeepSeconds)*time.Second, longestKeep)
	var group errgroup.Group
	for _, i := range m.Images {
		group.Go(func() error {
			img, release, err := p.ensure(ctx, imagecache.Request{
				TaskArn: owner, Container: i.Name, Ref: i.Image, Priority: preparationPriority, Auth: i.RegistryAuthentication,
			})
			if err != nil {
				return fmt.Errorf("container %s: %w", i.Name, err)
			}
			p.pin(img.ID, time.Now().Add(keep))
			release()
			return nil
		})
	}
	out := &acs.ImagesPreparedMessage{Preparation: m.Preparation, Status: acs.PreparedReady}
	if err := group.Wait(); err != nil {
		out.Status, out.Reason = acs.PreparedFailed, strings.ToValidUTF8(err.Error(), "?")
		log.Warn("The images of a task that is to come can't be had; the task that it replaces goes on", zap.Error(err), zap.Duration("duration", time.Since(begun)))
		return out
	}
	log.Info("The images of a task that is to come are here", zap.Int("images", len(m.Images)), zap.Duration("kept", keep), zap.Duration("duration", time.Since(begun)))
	return out
}

func (p *preparer) say(ctx context.Context, m *acs.PrepareImagesMessage, outcome *acs.ImagesPreparedMessage) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	said := *outcome
	said.MessageID = m.MessageID
	if err := p.answer(ctx, &said); err != nil && ctx.Err() == nil {
		p.log.Info("What was prepared could not be told; the control plane asks again", zap.String("preparation", m.Preparation), zap.Error(err))
	}
}

// newPreparer joins the preparer to its parts.
func (a *Agent) newPreparer() *preparer {
	return &preparer{
		ensure: a.cache.Ensure, pin: a.cache.Pin, roles: a.roles, log: a.log,
		answer: func(ctx context.Context, m *acs.ImagesPreparedMessage) error {
			if now := a.polling.Load(); now != nil {
				return now.Say(ctx, m)
			}
			return errors.New("there is no session with the control plane")
		},
	}
}
