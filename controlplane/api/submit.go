package api

func (s *Server) submitOperations() operations { return nil }
