package api

// HoldReports has an instance's reports wait as if one were just being written. waiting tells how many do.
func (s *Server) HoldReports(cluster, instance string) (waiting func() int, release func()) {
	q, at := &s.reports, cluster+"/"+instance
	q.mu.Lock()
	defer q.mu.Unlock()
	q.of[at] = []*report{{}}
	return func() int {
			q.mu.Lock()
			defer q.mu.Unlock()
			return len(q.of[at]) - 1
		}, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.of[at] = q.of[at][1:]
			close(q.of[at][0].head)
		}
}
