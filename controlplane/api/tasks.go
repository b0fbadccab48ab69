package api

func (s *Server) taskOperations() operations { return nil }
