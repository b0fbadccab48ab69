package scheduler

import "testing"

// BenchmarkPass is a look at a steady service of 1000 instances, after a change on one of them.
func BenchmarkPass(b *testing.B) {
	w := newWorld(b, 1000)
	w.create(w.define(), constrained("attribute:env==prod"))
	w.settle()
	s := w.snapshot()
	b.ReportAllocs()
	for b.Loop() {
		s.hosts[500] = w.host(s.hosts[500].Instance.ID)
		if !reconcile(s, &w.cfg).empty() {
			b.Fatal("the service is not steady")
		}
	}
}
