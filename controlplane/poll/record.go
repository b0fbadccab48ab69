package poll

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// errGone: the instance is not registered any more.
var errGone = errors.New("the container instance has been deregistered")

// sequenceBlock is how many sequence numbers are reserved with one write.
const sequenceBlock = 1000

// sequence gives out an instance's sequence numbers from a block.
type sequence struct{ next, end int64 }

// reserve takes the next block out of the instance's record, which the caller then writes.
func reserve(i *store.Instance, now time.Time) sequence {
	first := max(i.SequenceNumber+1, now.UnixMilli())
	i.SequenceNumber = first + sequenceBlock - 1
	return sequence{first, i.SequenceNumber}
}

// versions are what an agent's query says about itself.
type versions struct {
	agent, hash, docker, boot, address string
	trusts                             []string
}

// recordConnection writes that this replica holds the instance's socket, and reserves sequence numbers. listed says that the
// agent has said all that it runs.
func (s *Server) recordConnection(ctx context.Context, session *store.Session, at place, about versions, listed bool) (*store.Connection, sequence, error) {
	var conn *store.Connection
	var numbers sequence
	failpoint.Hit("poll/before-connection")
	err := store.Retry(ctx, func() error {
		var old *store.Instance
		if err := s.cfg.Store.Read(ctx, func(v *store.View) error { old = v.Instance(at.cluster, at.id); return nil }); err != nil {
			return err
		}
		if old == nil || !registered(old) {
			return errGone
		}
		now := time.Now()
		i := *old
		i.DisconnectedSince = time.Time{}
		numbers = reserve(&i, now)
		setVersions(&i, about)
		i.Unlisted, i.Boot = i.Unlisted && !listed, cmp.Or(about.boot, i.Boot)
		i.Trusts = about.trusts
		conn = &store.Connection{Cluster: at.cluster, Instance: at.id, Replica: s.cfg.Replica, Since: now.UTC().Truncate(time.Millisecond), Boot: about.boot, Address: about.address}
		return s.cfg.Store.Txn().Update(&i).Put(conn, session.Lease()).StateChange().Commit(ctx)
	})
	failpoint.Hit("poll/after-connection")
	return conn, numbers, err
}

// setVersions takes over what agents do not send when they register.
func setVersions(i *store.Instance, about versions) {
	was := types.VersionInfo{}
	if i.Object.VersionInfo != nil {
		was = *i.Object.VersionInfo
	}
	is := was
	for _, m := range []struct {
		into **string
		said string
	}{{&is.AgentVersion, about.agent}, {&is.AgentHash, about.hash}, {&is.DockerVersion, about.docker}} {
		if m.said != "" && len(m.said) <= 255 && m.said != aws.ToString(*m.into) {
			*m.into = aws.String(m.said)
		}
	}
	if is != was {
		i.Object.VersionInfo = &is
		i.Object.Version++
	}
}

// moreNumbers reserves another block.
func (s *Server) moreNumbers(ctx context.Context, at place) (numbers sequence, err error) {
	err = s.changeInstance(ctx, at, func(i *store.Instance) bool {
		numbers = reserve(i, time.Now())
		return true
	})
	return numbers, err
}

// changeInstance changes a copy of the instance's record and writes it when change says so.
func (s *Server) changeInstance(ctx context.Context, at place, change func(i *store.Instance) bool) error {
	return store.Retry(ctx, func() error {
		var old *store.Instance
		if err := s.cfg.Store.Read(ctx, func(v *store.View) error { old = v.Instance(at.cluster, at.id); return nil }); err != nil {
			return err
		}
		if old == nil {
			return errGone
		}
		i := *old
		if !change(&i) {
			return nil
		}
		return s.cfg.Store.Txn().Update(&i).StateChange().Commit(ctx)
	})
}

// recordEnd deletes the Connection record, if it is still this one, and notes since when the instance is away.
func (s *Server) recordEnd(ctx context.Context, conn *store.Connection) error {
	failpoint.Hit("poll/before-disconnection")
	err := store.Retry(ctx, func() error {
		var now *store.Connection
		var old *store.Instance
		err := s.cfg.Store.Read(ctx, func(v *store.View) error {
			now, old = v.Connection(conn.Cluster, conn.Instance), v.Instance(conn.Cluster, conn.Instance)
			return nil
		})
		if err != nil || now == nil || now.Revision() != conn.Revision() {
			return err // a newer connection has replaced it, or the lease is gone: the keeper notes that
		}
		txn := s.cfg.Store.Txn().Delete(now)
		if old != nil {
			i := *old
			i.DisconnectedSince = time.Now().UTC().Truncate(time.Millisecond)
			txn.Update(&i)
		}
		return txn.StateChange().Commit(ctx)
	})
	failpoint.Hit("poll/after-disconnection")
	return err
}

// markDisconnected notes that an instance is away whose connection ended without a word.
func (s *Server) markDisconnected(ctx context.Context, at place) error {
	err := store.Retry(ctx, func() error {
		var conn *store.Connection
		var old *store.Instance
		err := s.cfg.Store.Read(ctx, func(v *store.View) error {
			conn, old = v.Connection(at.cluster, at.id), v.Instance(at.cluster, at.id)
			return nil
		})
		if err != nil || conn != nil || old == nil || !old.DisconnectedSince.IsZero() {
			return err
		}
		i := *old
		i.DisconnectedSince = time.Now().UTC().Truncate(time.Millisecond)
		return s.cfg.Store.Txn().Unchanged(&store.Connection{Cluster: at.cluster, Instance: at.id}).Update(&i).StateChange().Commit(ctx)
	})
	return err
}

// accepted is a task whose payload was acknowledged, with the desired status that the payload had.
type accepted struct{ id, desired string }

// accept has an acknowledgement written.
func (s *Server) accept(at place, a accepted) {
	s.acceptedMu.Lock()
	s.accepted[at] = append(s.accepted[at], a)
	s.acceptedMu.Unlock()
	kick(s.dirty)
}

// recordAll writes acknowledgements, of all sessions, many with one transaction.
func (s *Server) recordAll(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.dirty:
		}
		pause.Reset(s.cfg.AcceptDelay)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		s.acceptedMu.Lock()
		all := s.accepted
		s.accepted = map[place][]accepted{}
		s.acceptedMu.Unlock()
		var list []acceptedAt
		for at, of := range all {
			for _, a := range of {
				list = append(list, acceptedAt{at, a})
			}
		}
		var wg sync.WaitGroup
		turns := make(chan struct{}, 4)
		for part := range slices.Chunk(list, 50) {
			turns <- struct{}{}
			wg.Go(func() {
				defer func() { <-turns }()
				if err := s.recordAccepted(ctx, part); err != nil && ctx.Err() == nil {
					s.log.Warn("that tasks were accepted was not recorded", zap.Int("count", len(part)), zap.Error(err))
				}
			})
		}
		wg.Wait()
	}
}

type acceptedAt struct {
	at place
	accepted
}

// recordAccepted sets AcceptedAt of tasks that still have the acknowledged desired status.
func (s *Server) recordAccepted(ctx context.Context, list []acceptedAt) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	failpoint.Hit("poll/before-accepted")
	defer failpoint.Hit("poll/after-accepted")
	return store.Retry(ctx, func() error {
		txn, now := s.cfg.Store.Txn().StateChange(), time.Now().UTC().Truncate(time.Millisecond)
		s.cfg.Store.Peek(func(v *store.View) { // it has the tasks: their payloads were made from it
			for _, a := range list {
				t := v.Task(a.at.cluster, a.id)
				if t != nil && t.Instance == a.at.id && t.AcceptedAt.IsZero() && aws.ToString(t.Object.DesiredStatus) == a.desired && !task.IsStopped(t) {
					n := task.Accepted(t)
					n.AcceptedAt = now
					txn.Update(n)
				}
			}
		})
		if txn.Len() == 0 {
			return nil
		}
		return txn.Commit(ctx)
	})
}
