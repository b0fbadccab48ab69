//go:build bench

package bench

import (
	"fmt"
	"slices"
	"time"
)

// series is a set of measured durations.
type series []time.Duration

func (s *series) add(d time.Duration) { *s = append(*s, d) }

// at is the value below which the share p of the series lies, in milliseconds.
func (s series) at(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := min(int(p*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}

func (s series) median() float64 { return s.at(0.5) }

func (s series) String() string {
	return fmt.Sprintf("median %.1f ms, p99 %.1f ms (n=%d)", s.median(), s.at(0.99), len(s))
}
