package imagecache

import (
	"context"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Authority fetches the credentials that a task's payload points at (registryAuthentication: Amazon ECR, Secrets Manager).
type Authority interface {
	// Registry returns them for a task, kept ones as long as they live. stale, unless nil, are those that the registry
	// refused just now, so that the same ones are of no use. Its errors are Unauthenticated, or ctx's.
	Registry(ctx context.Context, taskArn string, auth *acs.RegistryAuthentication, stale *Credentials) (*Credentials, error)
}

// pull pulls with the credentials that the task asks for, else with the host's for the registry: first those of the
// Keyring, then those of Docker's file and its helpers. If fetched ones are
// refused, which those that expired between two layers are too, they are fetched once more, and if they are others then,
// the pull goes on with them.
func (c *Cache[I]) pull(ctx context.Context, name name, req *Request) (img I, err error) {
	auth, err := c.fetch(ctx, name, req, nil)
	if err != nil {
		return img, err
	}
	img, err = c.join(ctx, name, auth, req)
	if err == nil || auth == nil || ctx.Err() != nil || !errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err) {
		return img, err
	}
	renewed, ferr := c.fetch(ctx, name, req, auth)
	if ferr != nil || renewed == nil || renewed.same(auth) {
		return img, err
	}
	req.note("%s refused the credentials; they were fetched anew", name.registry)
	c.cfg.Log.Warn("the registry refused the credentials, the pull goes on with new ones", zap.String("task", req.TaskArn), zap.String("container", req.Container),
		zap.String("step", "pull"), zap.String("image", req.Ref), zap.Error(err))
	return c.join(ctx, name, renewed, req)
}

// fetch asks the authority, or the host's sources; nil: there are none. A failure is a [*PullError].
func (c *Cache[I]) fetch(ctx context.Context, name name, req *Request, stale *Credentials) (auth *Credentials, err error) {
	if req.Auth != nil {
		auth, err = c.cfg.Authority.Registry(ctx, req.TaskArn, req.Auth, stale)
	} else if auth = c.cfg.Credentials.find(name.repository); auth == nil {
		auth, err = c.cfg.DockerConfig.find(ctx, name.repository, stale)
	}
	switch {
	case err == nil:
		return auth, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, &PullError{Image: name.given, Registry: name.registry, Cause: &classed{errdefs.Resolve(err), err.Error()}, ECR: isECR(req.Auth)}
}

func isECR(auth *acs.RegistryAuthentication) bool { return auth != nil && auth.Type == "ecr" }
