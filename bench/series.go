//go:build bench

package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
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

// table is what a run prints at its end: what was measured, beside its floor and the aim.
type table struct{ rows [][]string }

// add notes a row, and prints it at once. An empty cell says that there is nothing to say.
func (t *table) add(what, ours, floor, ratio, aim string) {
	t.rows = append(t.rows, []string{what, ours, floor, ratio, aim, loadNow()})
	fmt.Printf("%s: %s | floor %s | ratio %s | aim %s | load %s\n", what, ours, floor, ratio, aim, loadNow())
}

// ratio is that of two medians.
func ratio(ours, floor series) string {
	if floor.median() == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", ours.median()/floor.median())
}

func ms(v float64) string { return fmt.Sprintf("%.1f ms", v) }

func (t *table) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nmeasured\tours\tfloor\tratio\taim\tload")
	for _, r := range t.rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	_ = w.Flush()
}

// loadNow is the machine's load over the last minute: figures that were taken beside other work say less.
func loadNow() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}
