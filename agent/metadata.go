package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
)

// The times that the instance metadata service has.
const (
	metadataProbe = time.Second      // to answer at all: a host where it does not is no EC2 instance
	metadataSure  = 30 * time.Second // on a host that was an EC2 instance when it registered
)

// ec2Instance is what the instance metadata service says; nil on a host that has none.
type ec2Instance struct {
	InstanceID       string `json:"instanceId"`
	Region           string `json:"region"`
	AvailabilityZone string `json:"availabilityZone"`
	InstanceType     string `json:"instanceType"`
	ImageID          string `json:"imageId"`

	document, signature string
	role                aws.CredentialsProvider
}

// A lookout is the question whether this is an EC2 instance. It is asked beside everything else that an agent does when it
// starts, and only what needs the answer waits for it.
type lookout struct {
	answered chan struct{}
	ec2      *ec2Instance // nil: an own host
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
	return ec2.role.Retrieve(ctx)
}

// lookOut finds out whether this is an EC2 instance. A host that registered as another one before is that still,
// and one whose kernel rules it out is not asked, unless the address of an instance metadata service is set.
func (a *Agent) lookOut(ctx context.Context) {
	defer close(a.lookout.answered)
	no := ""
	switch registered := a.identity != nil; {
	case a.opt.NoMetadata, a.cfg.InstanceMetadataOff, a.cfg.External:
		no = "it is not to be asked"
	case registered && !strings.HasPrefix(a.identity.InstanceID, "i-"):
		no = "it registered as another host before"
	case !registered && a.cfg.InstanceMetadataAddress == "":
		no = notEC2(a.opt.Root)
	}
	if no != "" {
		a.log.Info("This is an own host, not an EC2 instance; the instance metadata service is not asked", zap.String("why", no))
		return
	}
	limit := metadataProbe
	if a.identity != nil {
		limit = metadataSure
	}
	begun := time.Now()
	ec2, err := probeMetadata(ctx, a.cfg, limit)
	a.lookout.ec2, a.lookout.err = ec2, err
	switch {
	case err != nil || ctx.Err() != nil:
	case ec2 == nil:
		a.log.Info("No instance metadata: this is an own host, not an EC2 instance", zap.Duration("duration", time.Since(begun)))
	default:
		a.log.Info("This is an EC2 instance", zap.String("instanceId", ec2.InstanceID), zap.String("zone", ec2.AvailabilityZone), zap.String("type", ec2.InstanceType))
	}
}

// settleRegion is the region that is configured, else that of the instance.
func (a *Agent) settleRegion(ctx context.Context) error {
	if a.cfg.Region != "" {
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

// probeMetadata asks the instance metadata service within limit. It returns nil without an error when there is none: when
// nobody answers, or what answers is not the service.
func probeMetadata(ctx context.Context, cfg *config.Config, limit time.Duration) (*ec2Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true} // no proxy, ever
	client := imds.New(imds.Options{
		Endpoint: cfg.InstanceMetadataAddress, ClientEnableState: imds.ClientEnabled, Retryer: aws.NopRetryer{},
		HTTPClient: &http.Client{Transport: transport},
	})
	document, err := dynamicData(ctx, client, "instance-identity/document")
	for err != nil && limit > metadataProbe && ctx.Err() == nil { // it was there before
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
			document, err = dynamicData(ctx, client, "instance-identity/document")
		}
	}
	if err != nil {
		return nil, nil
	}
	out := &ec2Instance{document: string(document)}
	if json.Unmarshal(document, out) != nil || out.InstanceID == "" {
		return nil, nil
	}
	signature, err := dynamicData(ctx, client, "instance-identity/signature")
	if err != nil {
		return nil, fmt.Errorf("the instance metadata service has an identity document but no signature of it: %w", err)
	}
	out.signature = string(signature)
	out.role = ec2rolecreds.New(func(o *ec2rolecreds.Options) {
		o.Client = imds.New(imds.Options{Endpoint: cfg.InstanceMetadataAddress, ClientEnableState: imds.ClientEnabled, HTTPClient: &http.Client{Transport: transport, Timeout: 5 * time.Second}})
	})
	return out, nil
}

func dynamicData(ctx context.Context, client *imds.Client, path string) ([]byte, error) {
	out, err := client.GetDynamicData(ctx, &imds.GetDynamicDataInput{Path: path})
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Content.Close() }()
	return io.ReadAll(io.LimitReader(out.Content, 64<<10))
}
