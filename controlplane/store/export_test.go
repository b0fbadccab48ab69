package store

// CheckSpace is a look at etcd's size now.
func (s *Store) CheckSpace() { s.checkSpace() }

// Decode is what reads a record.
var Decode = decode
