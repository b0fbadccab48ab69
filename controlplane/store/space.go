package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// etcdDefaultQuota is the backend quota of an etcd that was not told one.
const etcdDefaultQuota = 2 << 30

// space knows whether the store is nearly full.
type space struct {
	mu   sync.Mutex
	last Space // what was found at the last look
	// compacted is the revision up to which the history was dropped; the watching goroutine's own.
	compacted int64
	look      chan struct{} // have a look now
}

func (p *space) init() { p.look = make(chan struct{}, 1) }

// refuse is the error for a transaction that would fill the store further, nil while there is room.
func (p *space) refuse() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := p.last; {
	case !now.Full:
		return nil
	case now.DiskShort:
		return fmt.Errorf("%w: only %d MiB are free on its disk; make room there", ErrFull, now.DiskFree>>20)
	default:
		return fmt.Errorf("%w: %d of %d MiB are used; stopped tasks and old events are being purged, try again later",
			ErrFull, now.Size>>20, now.Quota>>20)
	}
}

// noSpace is called when etcd refused a write for want of space.
func (p *space) noSpace() {
	p.mu.Lock()
	p.last.Full, p.last.Alarm = true, true
	p.mu.Unlock()
	select {
	case p.look <- struct{}{}:
	default:
	}
}

// Space is how full the store is.
type Space struct {
	Size, Quota int64 // bytes of the largest member's database, and what it may have
	Alarm       bool  // etcd refuses writes by itself
	DiskFree    int64 // bytes free on the disk of the embedded server
	DiskShort   bool  // these are too few
	Full        bool  // only deletes and state changes are accepted
}

// Space returns what was found at the last look.
func (s *Store) Space() Space {
	p := &s.space
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// watchSpace looks at etcd's size from time to time, replicas at different times.
func (s *Store) watchSpace() {
	timer := time.NewTimer(jitter(s.cfg.SpaceInterval))
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-timer.C:
		case <-s.space.look:
		}
		s.checkSpace()
		timer.Reset(jitter(s.cfg.SpaceInterval))
	}
}

// checkSpace sets whether the store is nearly full and, if it may, makes room.
func (s *Store) checkSpace() {
	now, inUse, err := s.measure()
	if err != nil {
		if s.ctx.Err() == nil {
			s.log.Warn("ask etcd for its size", zap.Error(err))
		}
		return
	}
	limit := int64(float64(now.Quota) * s.cfg.FullAt)
	if s.cfg.Maintain && (now.Alarm || now.Size >= limit*3/4) {
		if err := s.makeRoom(now, inUse, limit); err != nil {
			s.log.Warn("make room in etcd", zap.Int64("size", now.Size), zap.Int64("quota", now.Quota), zap.Error(err))
		}
		if now, _, err = s.measure(); err != nil {
			return
		}
	}
	now.Full = now.Alarm || now.Size >= limit || now.DiskShort
	p := &s.space
	p.mu.Lock()
	was := p.last.Full
	p.last = now
	p.mu.Unlock()
	fields := []zap.Field{zap.Int64("size", now.Size), zap.Int64("quota", now.Quota), zap.Bool("alarm", now.Alarm)}
	if s.cfg.Disk != "" {
		fields = append(fields, zap.String("disk", s.cfg.Disk), zap.Int64("disk_free", now.DiskFree), zap.Int64("disk_reserve", s.cfg.DiskReserve))
	}
	switch {
	case now.Full && !was:
		s.log.Error("the store is nearly full: until there is room only deletes and state changes are accepted", fields...)
	case was && !now.Full:
		s.log.Info("the store has room again", fields...)
	}
}

// measure asks all members, and the disk.
func (s *Store) measure() (now Space, inUse int64, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	if s.cfg.Disk != "" {
		var disk unix.Statfs_t
		if err := unix.Statfs(s.cfg.Disk, &disk); err != nil {
			return now, 0, fmt.Errorf("look at the disk of %s: %w", s.cfg.Disk, err)
		}
		now.DiskFree = int64(disk.Bavail) * disk.Bsize
		now.DiskShort = now.DiskFree < s.cfg.DiskReserve
	}
	answered := 0
	for _, endpoint := range s.endpoints() {
		status, e := s.client.Status(ctx, endpoint)
		if e != nil {
			err = e
			continue
		}
		answered++
		quota := status.DbSizeQuota
		if quota == 0 {
			quota = s.cfg.Quota
		}
		if quota == 0 {
			quota = etcdDefaultQuota
		}
		if now.Quota == 0 || status.DbSize*now.Quota > now.Size*quota {
			now.Size, now.Quota, inUse = status.DbSize, quota, status.DbSizeInUse
		}
	}
	if answered == 0 {
		return now, 0, unavailable(s.ctx, err)
	}
	alarms, err := s.client.AlarmList(ctx)
	if err != nil {
		return now, 0, unavailable(s.ctx, err)
	}
	for _, a := range alarms.Alarms {
		now.Alarm = now.Alarm || a.Alarm == pb.AlarmType_NOSPACE
	}
	return now, inUse, nil
}

// endpoints of the client; the in-process one has none and ignores what it is given.
func (s *Store) endpoints() []string {
	if e := s.client.Endpoints(); len(e) > 0 {
		return e
	}
	return []string{""}
}

// makeRoom drops etcd's history, gives free pages back when there are many, and disarms the alarm when that helped.
func (s *Store) makeRoom(now Space, inUse, limit int64) error {
	ctx, cancel := context.WithTimeout(s.ctx, 10*s.cfg.Timeout)
	defer cancel()
	// The view is brought up to what others have written to keys that are not ours: their history takes room too. Its revision
	// is the last that this process needs; another replica's watch reloads if it is behind.
	if err := s.Read(ctx, func(*View) error { return nil }); err != nil {
		return err
	}
	if revision := s.view.Load().revision; revision > s.space.compacted {
		if _, err := s.client.Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return fmt.Errorf("compact: %w", err)
		}
		s.space.compacted = revision
		var err error
		if now, inUse, err = s.measure(); err != nil {
			return err
		}
	}
	// Below the limit free pages are used again and cost nothing; a defragmentation stops a member for as long as it takes.
	if (now.Alarm || now.Size >= limit) && inUse < now.Size*9/10 {
		err := s.defragment(ctx)
		if err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		if now, _, err = s.measure(); err != nil {
			return err
		}
	}
	if now.Alarm && now.Size < limit {
		return s.disarm(ctx)
	}
	return nil
}

// defragment has the members that have many free pages give them back, one after the other. It looks anew before each member: what
// another replica has done is not done again.
func (s *Store) defragment(ctx context.Context) error {
	for _, endpoint := range s.endpoints() {
		status, err := s.client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		if status.DbSizeInUse >= status.DbSize*9/10 {
			continue
		}
		if _, err := s.client.Defragment(ctx, endpoint); err != nil {
			return err
		}
	}
	return nil
}

// disarm takes the NOSPACE alarms back, and no other.
func (s *Store) disarm(ctx context.Context) error {
	alarms, err := s.client.AlarmList(ctx)
	if err != nil {
		return err
	}
	for _, a := range alarms.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := s.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return errors.Join(errors.New("disarm the alarm"), err)
		}
	}
	return nil
}
