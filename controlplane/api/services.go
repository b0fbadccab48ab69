package api

func (s *Server) serviceOperations() operations { return nil }
