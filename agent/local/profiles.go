package local

import "net/http/pprof"

// profiles adds the paths that "go tool pprof" knows. They are here and nowhere else: a profile tells what a process has in
// its memory.
func (s *Server) profiles() {
	s.Handle("GET /debug/pprof/", pprof.Index)
	s.Handle("GET /debug/pprof/profile", pprof.Profile)
	s.Handle("GET /debug/pprof/trace", pprof.Trace)
	s.Handle("GET /debug/pprof/symbol", pprof.Symbol)
}
