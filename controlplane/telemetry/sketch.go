package telemetry

import (
	"maps"
	"math"
	"slices"
	"time"
)

// A sketch counts values in buckets that grow by 5 %, so that a quantile is within 2.5 % of a value that was seen. Values up
// to 1 are one bucket.
type sketch struct {
	count map[int16]uint32
	n     uint64
	most  float64 // the greatest, exactly
}

const growth = 1.05

func bucketOf(v float64) int16 {
	if !(v > 1) { // and what is no number
		return 0
	}
	return int16(math.Ceil(math.Log(min(v, 1e12)) / math.Log(growth)))
}

// valueOf is the middle of a bucket.
func valueOf(bucket int16) float64 {
	if bucket <= 0 {
		return 0.5
	}
	return math.Pow(growth, float64(bucket)) * (1 + 1/growth) / 2
}

// add counts a value, and remembers the peak of its period.
func (s *sketch) add(v, peak float64) {
	if s.count == nil {
		s.count = map[int16]uint32{}
	}
	s.count[bucketOf(v)]++
	s.n++
	if peak = max(peak, v); peak > s.most && !math.IsInf(peak, 0) {
		s.most = peak
	}
}

// merge adds another sketch to this one.
func (s *sketch) merge(o *sketch) {
	if s.count == nil {
		s.count = map[int16]uint32{}
	}
	for b, n := range o.count {
		s.count[b] += n
	}
	s.n, s.most = s.n+o.n, max(s.most, o.most)
}

// quantile is the value below which the share q of the values lies; 0 without values. It is never above the greatest.
func (s *sketch) quantile(q float64) float64 {
	if s.n == 0 {
		return 0
	}
	rank, seen := uint64(math.Ceil(q*float64(s.n))), uint64(0)
	for _, b := range slices.Sorted(maps.Keys(s.count)) {
		if seen += uint64(s.count[b]); seen >= max(rank, 1) {
			return min(valueOf(b), s.most)
		}
	}
	return s.most
}

// The window of a series.
const (
	slotLength = 3 * time.Hour
	slots      = 8
)

// Window is how far back a series goes.
const Window = slotLength * slots

// series is the use of all containers of a name in a service.
type series struct {
	at          time.Time // of the last news
	reservation Reservation
	slots       [slots]slot
	throttled   float64 // seconds, since this replica knows the series
	kills       float64
}

type slot struct {
	number      int64 // of the slot since the epoch
	first       time.Time
	cpu, memory sketch
	kills       float64
	throttled   float64
}

func (s *series) add(v sample, throttled, kills float64, r Reservation, now time.Time) {
	number := now.UnixNano() / int64(slotLength)
	p := &s.slots[number%slots]
	if p.number != number {
		*p = slot{number: number, first: now}
	}
	p.cpu.add(float64(v.cpu), float64(v.cpuMax))
	p.memory.add(float64(v.memory), float64(v.memoryMax))
	p.kills += kills
	p.throttled += throttled
	s.at, s.reservation = now, r
	s.throttled += throttled
	s.kills += kills
}

// sum is the window's slots as one.
func (s *series) sum(now time.Time) slot {
	number := now.UnixNano() / int64(slotLength)
	var all slot
	for i := range s.slots {
		p := &s.slots[i]
		if p.number <= number-slots || p.number > number || p.cpu.n == 0 {
			continue
		}
		if all.first.IsZero() || p.first.Before(all.first) {
			all.first = p.first
		}
		all.cpu.merge(&p.cpu)
		all.memory.merge(&p.memory)
		all.kills += p.kills
		all.throttled += p.throttled
	}
	return all
}
