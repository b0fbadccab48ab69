package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

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
