package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/longshore-project/longshore/agent/poll"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/telemetry"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/statemgr"
)

// How this host belongs to a control plane: it registers, holds the sessions, and does so again when it was forgotten or refused.

// belong registers and holds the sessions, again and again if the control plane forgets this instance. A refusal, of a wrong key as of a
// cluster that does not exist, is told and tried again: containers are looked after meanwhile, and whoever mends it, here or there, need
// not think of this process. patient makes several attempts of one call, once makes one.
func (a *Agent) belong(ctx context.Context, patient, once session.API, signer session.Signer) error {
	if err := a.firstLook(ctx); err != nil {
		return err
	}
	if err := a.untilPreloaded(ctx); err != nil {
		return err
	}
	refused := session.BackOff{First: 5 * time.Second, Most: time.Minute, Factor: 2, Jitter: 0.2}
	for {
		if err := a.register(ctx, patient); err != nil {
			if err = a.unregistered(ctx, err, refused.Next()); err != nil {
				return err
			}
			continue
		}
		refused.Reset()
		notify("STATUS=Registered as " + *a.arn.Load())
		if err := a.sessions(ctx, once, signer); !errors.Is(err, errRegisterAnew) && !errors.Is(err, errOffers) {
			return err
		}
	}
}

// unregistered tells why this host could not be registered, and waits until it is tried again.
func (a *Agent) unregistered(ctx context.Context, err error, retry time.Duration) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	a.log.Warn("This host is not registered; its containers are looked after, and it is tried again", zap.Error(err), zap.Duration("retry", retry))
	a.cutOff(err, true)
	notify("STATUS=Not registered: " + err.Error())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(retry):
		return nil
	}
}

// firstLook waits, for a bounded time, until the engine has looked at its containers: what runs is known before anybody says
// what should.
func (a *Agent) firstLook(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.engine.Ready():
	case <-time.After(10 * time.Second):
	}
	return nil
}

// register registers this host and makes its identity durable.
func (a *Agent) register(ctx context.Context, api session.API) error {
	ec2, err := a.lookout.wait(ctx)
	if err != nil {
		return err
	}
	if err := a.untilInService(ctx); err != nil {
		return err
	}
	tags, err := a.instanceTags(ctx)
	if err != nil {
		return err
	}
	begun, info := time.Now(), *a.info.Load()
	info.VolumeDrivers = slices.Concat(info.VolumeDrivers, volumePlugins(a.opt.Root))
	engineVersion := info.Version
	a.offered = a.offers(abilitiesOf(a.runtime))
	var token string
	err = a.reserve.try(func() (err error) {
		token, err = keptToken(a.cfg.DataDir)
		return err
	})
	if err != nil {
		return err
	}
	r := &registration{
		cfg: a.cfg, host: a.host, engine: info, can: a.offered, gpus: slices.Sorted(maps.Keys(a.gpus)), ec2: ec2, arn: a.savedArn(), token: token, tags: tags,
		version: agentapi.VersionInfo{AgentVersion: &a.opt.Version, AgentHash: &a.opt.Hash, DockerVersion: &engineVersion},
	}
	r.newToken = func() (token string, err error) {
		dropToken(a.cfg.DataDir)
		err = a.reserve.try(func() (err error) { token, err = keptToken(a.cfg.DataDir); return err })
		return token, err
	}
	r.failed = a.unconnected
	r.policy, r.keys, r.known = a.guard.Attributes(), a.key.ring, !a.registered.IsZero()
	failpoint.Hit("agent/register-before")
	arn, err := r.register(ctx, api, a.log)
	failpoint.Hit("agent/register-after")
	if err != nil {
		return err
	}
	identity := statemgr.Identity{Cluster: a.cfg.ClusterOrDefault(), ContainerInstanceArn: arn, MachineID: a.host.MachineID, BootID: a.host.BootID, InstanceID: a.host.MachineID, Engine: engineNamed(a.cfg), Predecessor: a.lastSeen.Transaction}
	if ec2 != nil {
		identity.InstanceID, identity.Region = ec2.InstanceID, ec2.Region
	}
	if a.identity == nil || a.identity.ContainerInstanceArn != arn {
		if err := a.saveIdentity(identity); err != nil {
			return err
		}
		failpoint.Hit("agent/identity-after")
		if a.identity != nil {
			a.log.Warn("This host is a new container instance; containers of the old one stay until the control plane says otherwise", zap.String("instance", arn), zap.String("old", a.identity.ContainerInstanceArn))
		}
	}
	a.identity = &identity
	a.arn.Store(&arn)
	r.arn, r.first = arn, false
	a.enrolled.Store(r.input())
	if a.key.ring.Own() {
		dropToken(a.cfg.DataDir)
	} else if a.mayGoBack() { // unless the configured one has an end: then the session says so
		a.log.Info("This host signs with the configured key for as long as an amazon-ecs-agent can come back to it")
	} else if err := a.askKey(ctx); err != nil {
		a.keyEnds()
	}
	a.registered = time.Now()
	a.log.Info("Registered", zap.String("instance", arn), zap.String("cluster", identity.Cluster), zap.Int64("cpu", a.host.CPU), zap.Int64("memory", a.host.Memory), zap.Duration("duration", time.Since(begun)))
	return nil
}

// sessions holds the ACS and the TCS session until ctx ends or the instance is not registered any more.
func (a *Agent) sessions(ctx context.Context, api session.API, signer session.Signer) error {
	arn := *a.arn.Load()
	found := &session.Endpoints{API: api, Cluster: a.cfg.ClusterOrDefault(), InstanceArn: arn}
	publisher := telemetry.New(telemetry.Config{
		Engine: a.engine, Stats: a.measured.stats, Log: a.log, Client: a.client, Signer: signer, Endpoints: found, Limits: telemetry.Limits(),
		Cluster: a.cfg.ClusterOrDefault(), InstanceArn: arn, AgentVersion: a.opt.Version, AgentHash: a.opt.Hash,
		EngineVersion: a.engineVersion, MetricsDisabled: a.cfg.MetricsDisabled,
	})
	a.telling.Store(publisher)
	pc := poll.Config{
		Engine: afterLook{a.engine}, Sequence: a.state, Credentials: a.roles, Log: a.log, Client: a.client, Signer: signer, Endpoints: found, Limits: session.DefaultLimits(),
		Cluster: a.cfg.ClusterOrDefault(), InstanceArn: arn, AgentVersion: a.opt.Version, AgentHash: a.opt.Hash,
		EngineVersion: a.engineName, Prepare: a.preparer.take, Refused: a.reporter.Refused, Heartbeat: publisher.Heartbeat, Connected: a.connected, Failed: a.unconnected,
		Inactive: a.inactive, Unknown: a.unknown, KeyEnds: a.keyEnds, Trusts: a.trusts, Trust: a.trust, Boot: a.host.BootID, Record: record{a},
	}
	if a.networking != nil {
		pc.Networks = a.networking
	}
	poller, err := poll.New(pc)
	if err != nil {
		return err
	}
	a.polling.Store(poller)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return poller.Run(ctx) })
	group.Go(func() error { return publisher.Run(ctx) })
	group.Go(func() error { return a.offersChange(ctx) })
	group.Go(func() error { return a.comeBack(ctx, api) })
	group.Go(func() error { return a.keepKey(ctx) })
	return group.Wait()
}

// connected is told when the ACS session stands or has ended.
func (a *Agent) connected(up bool) {
	a.metrics.Session(up)
	a.link.set(up)
	if up {
		a.trouble.over()
		a.reporter.Hurry()
		notify("STATUS=Connected as " + *a.arn.Load())
		return
	}
	notify("STATUS=Not connected to the control plane; containers are looked after")
}

// awayAtLeast is how long there must have been no connection for a deregistration to count as "given up as lost". A
// connected instance that somebody deregisters learns it sooner: its socket is closed, and it connects again at once.
const awayAtLeast = 4 * time.Second

// inactive is told that this instance was deregistered. If that happened while the host was away, the control plane gave
// it up as lost, and it joins again as a new container instance. Else somebody wanted it out: it stays out until the
// session asks again, or the agent is started again.
func (a *Agent) inactive(away time.Duration) error {
	if away < awayAtLeast {
		return nil
	}
	a.log.Warn("This container instance was deregistered while it was away; registering anew", zap.Duration("away", away), zap.String("instance", *a.arn.Load()))
	return errRegisterAnew
}
