package poll

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

const (
	// keepPrepared is for how long an agent keeps images that nobody uses yet.
	keepPrepared = time.Hour
	// mostReason is how much of an agent's reason is kept, in bytes.
	mostReason = 1024
	// recordTime bounds the writing of an answer.
	recordTime = 10 * time.Second
)

// preparation is a [store.Preparation] that has no answer, and what it takes to ask for it.
type preparation struct {
	*store.Preparation
	def  *types.TaskDefinition // with the images that are fixed; nil when there is none any more
	task *store.Task           // as one of the deployment would be
}

// name names it to the agent: with another attempt it is other work.
func (p *preparation) name() string {
	return fmt.Sprintf("%s/%s/%d", p.Service, p.Deployment, p.Attempt)
}

// prepared is what was asked.
type prepared struct {
	record *store.Preparation
	again  time.Time // when it is asked again
	pause  time.Duration
}

// preparationsOn are those that wait for the answer of an instance.
func preparationsOn(v *store.View, i *store.Instance) (out []preparation) {
	knows := has(i, acs.CapabilityPrepareImages)
	for r := range v.PreparationsOn(i.Cluster, i.ID) {
		if !knows || r.Status != "" {
			continue
		}
		p := preparation{Preparation: r}
		if svc := v.Service(r.Cluster, r.Service); svc != nil {
			for _, d := range svc.Object.Deployments {
				def := placement.Definition(v, aws.ToString(d.TaskDefinition))
				if aws.ToString(d.Id) != r.Deployment || def == nil {
					continue
				}
				p.def = task.Pinned(&def.Object, task.RevisionOf(v, r.Cluster, r.Service, r.Deployment))
				// The same one each time: credentials are kept by it.
				id := strings.ReplaceAll(uuid.NewSHA1(uuid.Nil, []byte(r.Instance+"/"+p.name())).String(), "-", "")
				p.task = &store.Task{Cluster: r.Cluster, ID: id, Instance: r.Instance, Service: r.Service, Deployment: r.Deployment, ExecutionCredentialsID: id}
				p.task.Object.DesiredStatus = aws.String(task.Running)
			}
		}
		out = append(out, p)
	}
	return out
}

// prepare asks for what is due and tells when the next asking is, zero for never; false when the socket has ended.
func (c *acsSession) prepare(j job, now time.Time) (next time.Time, ok bool) {
	live := map[string]bool{}
	for i := range j.preparations {
		p := &j.preparations[i]
		name := p.name()
		live[name] = true
		sent := c.preparing[name]
		if sent == nil {
			sent = &prepared{pause: c.cfg.Resend}
			c.preparing[name] = sent
		}
		sent.record = p.Preparation
		if !sent.again.After(now) {
			asked, ok := c.askFor(j, p)
			switch {
			case !ok:
				return next, false
			case asked:
				sent.again = now.Add(sent.pause)
				sent.pause = min(2*sent.pause, c.cfg.ResendMax)
			default:
				sent.again = now.Add(rolePause)
			}
		}
		if next.IsZero() || sent.again.Before(next) {
			next = sent.again
		}
	}
	for name := range c.preparing {
		if !live[name] {
			delete(c.preparing, name)
		}
	}
	return next, true
}

// askFor asks the agent for the images of one preparation. asked is false when the credentials for that are yet to come, ok
// when the socket has ended.
func (c *acsSession) askFor(j job, p *preparation) (asked, ok bool) {
	if p.def == nil {
		return true, true // the scheduler drops it
	}
	credentials, err := c.cfg.credentialsFor(p.def, p.task, c.notify)
	switch {
	case errors.Is(err, ErrRolePending):
		return false, true
	case err != nil:
		c.recordPrepared(p.Preparation, store.PreparationFailed, err.Error())
		return true, true
	}
	m := &acs.PrepareImagesMessage{
		ClusterArn: j.clusterArn, ContainerInstanceArn: j.instanceArn, MessageID: uuid.NewString(), Preparation: p.name(),
		KeepSeconds: int64(keepPrepared.Seconds()), ExecutionRoleCredentials: credentials.Execution,
	}
	build := payload{def: p.def, task: p.task, credentials: credentials}
	if a, err := arn.Parse(j.instanceArn); err == nil {
		build.region = a.Region
	}
	for i := range p.def.ContainerDefinitions {
		d := &p.def.ContainerDefinitions[i]
		m.Images = append(m.Images, &acs.PrepareImage{Name: aws.ToString(d.Name), Image: aws.ToString(d.Image), RegistryAuthentication: build.registryAuthentication(d)})
	}
	err = c.send(m)
	c.log().Debug("asked for images", zap.String("preparation", m.Preparation), zap.Int("images", len(m.Images)), zap.Error(err))
	return true, err == nil || errors.Is(err, errTooLarge)
}

// imagesPrepared takes the agent's answer.
func (c *acsSession) imagesPrepared(m *acs.ImagesPreparedMessage) {
	sent := c.preparing[m.Preparation]
	if err := m.Validate(); err != nil || sent == nil {
		c.log().Debug("an answer about images was ignored: nobody waits for it", zap.String("preparation", clip(m.Preparation)), zap.Error(err))
		return
	}
	c.log().Info("images were prepared", zap.String("preparation", m.Preparation), zap.String("status", m.Status), zap.String("reason", clip(m.Reason)))
	c.recordPrepared(sent.record, m.Status, strings.ToValidUTF8(m.Reason[:min(len(m.Reason), mostReason)], ""))
}

// recordPrepared writes an answer. One that could not be written is asked for again.
func (c *acsSession) recordPrepared(r *store.Preparation, status, reason string) {
	ctx, cancel := context.WithTimeout(c.ctx, recordTime)
	defer cancel()
	n := *r
	n.Status, n.Reason = status, reason
	err := c.crew.aside(func() error { return c.cfg.Store.Txn().Update(&n).StateChange().Commit(ctx) })
	if err != nil && !errors.Is(err, store.ErrConflict) && c.ctx.Err() == nil {
		c.log().Warn("that images were prepared was not recorded; the agent is asked again", zap.String("service", r.Service), zap.Error(err))
	}
}
