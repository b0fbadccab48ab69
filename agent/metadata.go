package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/ec2"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// The times that the instance metadata service has.
const (
	metadataProbe = time.Second      // to answer at all: a host where it does not, and that does not look like an EC2 instance, is none
	metadataTry   = 3 * time.Second  // for all that is asked, where it is known to be there
	metadataSure  = 30 * time.Second // until something else is done without its answer, for now
)

// ec2Instance is what the instance metadata service says; nil on a host that has none.
type ec2Instance = ec2.Instance

// A lookout is the question whether this is an EC2 instance. It is asked beside everything else that an agent does when it
// starts, and only what needs the answer waits for it.
type lookout struct {
	answered chan struct{}
	ec2      *ec2Instance  // nil: an own host
	service  *ec2.Metadata // of an EC2 instance
	err      error
}

// wait is the answer, waited for until ctx ends.
func (l *lookout) wait(ctx context.Context) (*ec2Instance, error) {
	select {
	case <-l.answered:
		return l.ec2, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Retrieve are the credentials of the instance's role.
func (l *lookout) Retrieve(ctx context.Context) (aws.Credentials, error) {
	ec2, err := l.wait(ctx)
	if err == nil && ec2 == nil {
		err = errors.New("this host has no role of an instance profile: it is no EC2 instance")
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	return l.service.Role().Retrieve(ctx)
}

// wasEC2 says whether this host registered as an EC2 instance.
func (a *Agent) wasEC2() bool {
	return a.identity != nil && strings.HasPrefix(a.identity.InstanceID, "i-")
}

// metadataOff says why the instance metadata service is not to be asked; empty when it is. A host that registered as another one before is
// that still, and one whose kernel rules out that it is an EC2 instance is not asked, unless the address of a service is set.
func (a *Agent) metadataOff() string {
	switch {
	case a.opt.NoMetadata, a.cfg.InstanceMetadataOff, a.cfg.External:
		return "it is not to be asked"
	case a.identity != nil && !a.wasEC2():
		return "it registered as another host before"
	case a.identity == nil && a.cfg.InstanceMetadataAddress == "":
		return notEC2(a.opt.Root)
	}
	return ""
}

// lookOut finds out whether this is an EC2 instance. Where it is certain to be one, by its firmware or by its registration, or where the
// service is there and busy, it is asked until it answers: it may come up later than this agent. The error ends the agent.
func (a *Agent) lookOut(ctx context.Context) error {
	defer close(a.lookout.answered)
	if no := a.metadataOff(); no != "" {
		a.log.Info("This is an own host, not an EC2 instance; the instance metadata service is not asked", zap.String("why", no))
		return nil
	}
	service, begun, said := ec2.New(a.cfg.InstanceMetadataAddress), time.Now(), time.Time{}
	certain := a.wasEC2() || saysEC2(a.opt.Root)
	again := session.BackOff{First: 100 * time.Millisecond, Most: 5 * time.Second, Factor: 2, Jitter: 0.2}
	for {
		limit := metadataProbe
		if certain {
			limit = metadataTry
		}
		try, cancel := context.WithTimeout(ctx, limit)
		found, err := service.Instance(try)
		cancel()
		var e *ec2.Error
		switch errors.As(err, &e); {
		case ctx.Err() != nil:
			a.lookout.err = cmp.Or(err, ctx.Err())
			return nil
		case err == nil:
			return a.isEC2(ctx, service, found, begun)
		case !certain && e != nil && e.Busy():
			certain = true
		case !certain:
			a.log.Info("No instance metadata: this is an own host, not an EC2 instance", zap.Error(err), zap.Duration("duration", time.Since(begun)))
			return nil
		case a.identity == nil && e != nil && e.Off():
			a.log.Warn("The instance metadata service is switched off for this EC2 instance: it is registered as an own host", zap.Error(err))
			return nil
		}
		if time.Since(begun) > 2*time.Second && time.Since(said) > time.Minute {
			said = time.Now()
			a.log.Error("This EC2 instance's metadata is not to be had; containers are looked after, and who this host is to the control plane waits for it", zap.Error(err), zap.Duration("waited", time.Since(begun)))
		}
		a.link.failed(err)
		waitingFor("Waiting for the instance metadata: " + err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(again.Next()):
		}
	}
}

// isEC2 is told who this EC2 instance is.
func (a *Agent) isEC2(ctx context.Context, service *ec2.Metadata, found *ec2Instance, begun time.Time) error {
	a.log.Info("This is an EC2 instance", zap.String("instanceId", found.InstanceID), zap.String("zone", found.AvailabilityZone), zap.String("type", found.InstanceType), zap.Duration("duration", time.Since(begun)))
	if a.wasEC2() && a.identity.InstanceID != found.InstanceID {
		a.lookout.err = fmt.Errorf("the saved state is that of %s, and this is %s", a.identity.InstanceID, found.InstanceID)
		if a.state == nil { // a command, which leaves that to the agent
			return nil
		}
		next := *a.identity
		next.CopiedTo = found.InstanceID
		if err := a.saveIdentity(next); err != nil {
			return err
		}
		return ErrReload
	}
	if a.identity == nil {
		a.lookout.err = a.lostUserData(ctx, service)
	}
	a.lookout.ec2, a.lookout.service = found, service
	return nil
}

// lostUserData is the error about an instance whose user data never reached it: cloud-init found no source of data, and there is some. It would
// register in the wrong cluster.
func (a *Agent) lostUserData(ctx context.Context, service *ec2.Metadata) error {
	data, err := durable.Read(filepath.Join(a.opt.Root, "run/cloud-init/result.json"), 1<<20)
	var result struct{ V1 struct{ Datasource string } }
	if err != nil || json.Unmarshal(data, &result) != nil || !strings.HasPrefix(result.V1.Datasource, "DataSourceNone") {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTry)
	defer cancel()
	if has, err := service.HasUserData(ctx); err != nil || !has {
		return nil
	}
	return errors.New("cloud-init did not find this instance's user data (DataSourceNone in /run/cloud-init/result.json), and there is some: this host would register with the wrong settings. \"cloud-init clean --reboot\" has it try again")
}

// settleRegion is the region that is configured, else that of the instance.
func (a *Agent) settleRegion(ctx context.Context) error {
	if a.cfg.Region != "" {
		return nil
	}
	if a.identity != nil && a.identity.Region != "" {
		a.cfg.Region = a.identity.Region
		return nil
	}
	ec2, err := a.lookout.wait(ctx)
	if err != nil {
		return err
	}
	if ec2 == nil || ec2.Region == "" {
		return fmt.Errorf("no region: set AWS_DEFAULT_REGION in %s", config.DefaultFile)
	}
	a.cfg.Region = ec2.Region
	return nil
}

// The states of an Auto Scaling group that matter here.
const inService = "InService"

// untilInService waits while this instance is in its Auto Scaling group's warm pool. The Amazon ECS agent gives up after 120 looks and
// registers; an instance that is known to be warmed is not registered here however long that takes.
func (a *Agent) untilInService(ctx context.Context) error {
	if !a.cfg.WarmPool || a.lookout.service == nil || !a.registered.IsZero() {
		return nil
	}
	said := ""
	for {
		state, err := a.lookout.service.LifecycleState(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && (state == inService || state == ""):
			return nil
		case err != nil:
			state = err.Error()
		}
		if state != said {
			said = state
			a.log.Info("This instance registers when its Auto Scaling group moves it to InService (ECS_WARM_POOLS_CHECK)", zap.String("state", state))
		}
		a.link.failed(fmt.Errorf("waiting in the warm pool: %s", state))
		waitingFor("Waiting in the warm pool: " + state)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.opt.WarmPoolLook):
		}
	}
}

// instanceTags are those to register with: the configured ones, and the EC2 instance's where that is asked for.
func (a *Agent) instanceTags(ctx context.Context) (map[string]string, error) {
	if a.cfg.PropagateTagsFrom != config.PropagateFromEC2 {
		return a.cfg.InstanceTags, nil
	}
	const setting = "ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM=" + config.PropagateFromEC2
	if a.lookout.ec2 == nil {
		a.log.Warn("This is no EC2 instance, so that there are no tags to propagate", zap.String("setting", setting))
		return a.cfg.InstanceTags, nil
	}
	client := awsapi.New(awsapi.Config{Endpoints: a.cfg.Endpoints, HTTPClient: a.client, UserAgent: a.userAgent()})
	tags, err := client.DescribeInstanceTags(ctx, awsapi.Caller{Region: a.lookout.ec2.Region, Credentials: a.lookout}, a.lookout.ec2.InstanceID)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; allow ec2:DescribeTags to the instance's role, or set it to none", setting, err)
	}
	maps.Copy(tags, a.cfg.InstanceTags)
	return tags, nil
}
