package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/poll"
	"github.com/longshore-project/longshore/controlplane/roles"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// openRoles opens the file of the roles' credentials. Without one no role has any, and tasks with a role are told so.
func (p *ControlPlane) openRoles() (err error) {
	if file := p.cfg.RoleCredentials; file != "" {
		if p.roles, err = roles.Open(file, p.cfg.AccountID, p.log.Named("roles")); err != nil {
			return fmt.Errorf("%w: --role-credentials: %w", ErrConfig, err)
		}
	}
	return nil
}

// startRoles makes what issues the credentials of roles. There is a store by now.
func (p *ControlPlane) startRoles(ctx context.Context) error {
	cfg := roles.IssuerConfig{File: p.roles, Account: p.cfg.AccountID, Duration: p.cfg.RoleDuration, Issued: p.keepTaskKey, Log: p.log.Named("roles")}
	if p.cfg.AssumeRoles {
		sdk, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(p.cfg.STSRegion))
		if err != nil {
			return fmt.Errorf("%w: --assume-roles: the AWS SDK's configuration: %w", ErrConfig, err)
		}
		cfg.STS = sts.NewFromConfig(sdk, func(o *sts.Options) {
			if p.cfg.STSEndpoint != "" {
				o.BaseEndpoint = aws.String(p.cfg.STSEndpoint)
			}
		})
	}
	p.issuer = roles.NewIssuer(cfg)
	p.onClose("roles", func() error { p.issuer.Close(); return nil })
	return nil
}

// checkRoles refuses what can't work, and fills in the defaults.
func (c *Config) checkRoles() error {
	if !c.AssumeRoles {
		if c.STSEndpoint != "" || c.STSRegion != "" {
			return fmt.Errorf("%w: --sts-endpoint and --sts-region are for --assume-roles, which is not given", ErrConfig)
		}
		return nil
	}
	if c.STSRegion == "" {
		c.STSRegion = c.Region
	}
	if c.RoleDuration == 0 {
		c.RoleDuration = time.Hour
	}
	if c.RoleDuration < 15*time.Minute || c.RoleDuration > 12*time.Hour {
		return fmt.Errorf("%w: --role-duration %s is not between 15m and 12h", ErrConfig, c.RoleDuration)
	}
	if u, err := url.Parse(c.STSEndpoint); c.STSEndpoint != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%w: --sts-endpoint %q is not like https://sts.example.com", ErrConfig, c.STSEndpoint)
	}
	return nil
}

// role is a role's credentials for a task, as agents' sockets want them.
func (p *ControlPlane) role(role string, t *store.Task, execution bool, ready func()) (poll.Role, error) {
	c, err := p.issuer.Get(role, roles.Task{Cluster: t.Cluster, ID: t.ID}, execution, ready)
	if errors.Is(err, roles.ErrPending) {
		err = poll.ErrRolePending
	}
	return poll.Role{Arn: c.RoleArn, AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken, Expiration: c.Expiration}, err
}

// keepTaskKey keeps what every replica needs to verify what a task signs with the keys that it is about to be given.
func (p *ControlPlane) keepTaskKey(ctx context.Context, t roles.Task, c roles.Credentials) error {
	k := auth.NewTaskKey(c.AccessKeyID, c.SecretAccessKey, c.SessionToken, p.signedFor(ctx, t), time.Now(), c.Expiration)
	k.Cluster, k.Task, k.RoleArn = t.Cluster, t.ID, c.RoleArn
	err := p.store.Txn().Create(k).Commit(ctx)
	if errors.Is(err, store.ErrConflict) { // STS gave the same keys again
		return nil
	}
	return err
}

// signedFor are the regions that calls of a task may be signed for: this control plane's, and that in the ARN of the task's
// instance, which its agent signs for. They differ for hosts that registered when --region was another.
func (p *ControlPlane) signedFor(ctx context.Context, t roles.Task) []string {
	instance := ""
	_ = p.store.Read(ctx, func(v *store.View) error {
		if task := v.Task(t.Cluster, t.ID); task != nil {
			instance = aws.ToString(task.Object.ContainerInstanceArn)
		}
		return nil
	})
	return regionsOf(p.cfg.Region, instance)
}

// regionsOf is a region, and after it that of an ARN where it is another.
func regionsOf(own, instance string) []string {
	if at, err := arn.Parse(instance); err == nil && at.Region != "" && at.Region != own {
		return []string{own, at.Region}
	}
	return []string{own}
}

// taskKeys finds the keys that tasks may sign with.
func (p *ControlPlane) taskKeys() func(context.Context, string) (*auth.TaskKey, error) {
	return auth.TaskKeys(p.store, func(id string) *auth.TaskKey {
		c, named, ok := p.roles.Key(id)
		if !ok {
			return nil
		}
		return auth.Static(c.SecretAccessKey, c.SessionToken, c.Expiration, named)
	})
}
