package metadata

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

const (
	tagsFor     = 5 * time.Second // that tags are not asked for again
	tagsTimeout = 2 * time.Second // for each of the two questions; the answer must be out within 5 s
	tagsKept    = 1024
)

// tagCache keeps a control plane from being asked for every request of every container.
type tagCache struct {
	mu   sync.Mutex
	kept map[string]tagged
}

type tagged struct {
	tags map[string]string
	err  error
	at   time.Time
}

// get is what ask says, or what it said a moment ago. Requests for different resources do not wait for each other.
func (c *tagCache) get(ctx context.Context, arn string, ask func(context.Context, string) (map[string]string, error)) (map[string]string, error) {
	c.mu.Lock()
	t, ok := c.kept[arn]
	c.mu.Unlock()
	if ok && time.Since(t.at) < tagsFor {
		return t.tags, t.err
	}
	ctx, cancel := context.WithTimeout(ctx, tagsTimeout)
	defer cancel()
	tags, err := ask(ctx, arn)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil || len(c.kept) >= tagsKept {
		c.kept = map[string]tagged{}
	}
	c.kept[arn] = tagged{tags, err, time.Now()}
	return tags, err
}

// addTags adds the tags of the instance and of the task. What can't be had is left out, and in version 4 said.
func (s *Server) addTags(ctx context.Context, t *Task, four bool) {
	if s.cfg.Tags == nil {
		return
	}
	_, instance := s.cfg.Instance()
	for _, of := range []struct {
		field, arn string
		into       *map[string]string
	}{{"ContainerInstanceTags", instance, &t.ContainerInstanceTags}, {"TaskTags", t.TaskARN, &t.TaskTags}} {
		tags, err := s.tags.get(ctx, of.arn, s.cfg.Tags)
		if err == nil {
			*of.into = tags
			continue
		}
		s.cfg.Log.Warn("Tags for task metadata could not be had", zap.String("task", t.TaskARN), zap.String("resource", of.arn), zap.Error(err))
		if four {
			t.Errors = append(t.Errors, tagError(of.field, of.arn, err))
		}
	}
}

func tagError(field, arn string, err error) TagError {
	out := TagError{ErrorField: field, ErrorMessage: err.Error(), ResourceARN: arn}
	var api *agentapi.APIError
	if errors.As(err, &api) {
		out.ErrorCode, out.ErrorMessage, out.StatusCode, out.RequestID = api.Code, api.Message, api.StatusCode, api.RequestID
	}
	return out
}
