package api

import (
	"context"
	"errors"

	"github.com/longshore-project/longshore/controlplane/store"
)

// errNothingToDo ends a [Server.change] without a write.
var errNothingToDo = errors.New("nothing to do")

// read calls f with a view that holds all that was committed before the call.
func (s *Server) read(ctx context.Context, f func(v *store.View) error) error {
	return s.store.Read(ctx, f)
}

// change lets decide read the view and fill a transaction, and commits that; on a conflict decide is called again with
// a newer view. decide must set, not add to, whatever it leaves behind for the answer. It returns errNothingToDo when
// there is nothing to write.
func (s *Server) change(ctx context.Context, decide func(v *store.View, txn *store.Txn) error) error {
	err := store.Retry(ctx, func() error {
		txn := s.store.Txn()
		if err := s.store.Read(ctx, func(v *store.View) error { return decide(v, txn) }); err != nil {
			return err
		}
		return txn.Commit(ctx)
	})
	if errors.Is(err, errNothingToDo) {
		return nil
	}
	return err
}
