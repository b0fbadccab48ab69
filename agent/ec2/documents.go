package ec2

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Instance is an EC2 instance as it says of itself.
type Instance struct {
	InstanceID       string `json:"instanceId"`
	Region           string `json:"region"`
	AvailabilityZone string `json:"availabilityZone"`
	InstanceType     string `json:"instanceType"`
	ImageID          string `json:"imageId"`

	// Document is the identity document as it was given, to the byte, and Signature EC2's base64 RSA signature of it.
	Document, Signature string `json:"-"`
	// VPC and Subnet are those of the primary interface; Outpost is where the instance is, empty in a region.
	VPC, Subnet, Outpost string `json:"-"`
}

// Notice is that EC2 is about to take the instance away. At is when, or, of a recommendation, when it was made. Action is stop, terminate or
// hibernate, and empty in a recommendation.
type Notice struct {
	Action string
	At     time.Time
}

func parseInstance(document string) (*Instance, error) {
	out := &Instance{Document: document}
	if err := json.Unmarshal([]byte(document), out); err != nil {
		return nil, fmt.Errorf("the identity document: %w", err)
	}
	if out.InstanceID == "" {
		return nil, errors.New("the identity document names no instance")
	}
	return out, nil
}

func parseNotice(text string) (*Notice, error) {
	var n struct {
		Action     string
		Time       time.Time
		NoticeTime time.Time
	}
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return nil, fmt.Errorf("the notice: %w", err)
	}
	if n.Time.IsZero() {
		n.Time = n.NoticeTime
	}
	return &Notice{n.Action, n.Time}, nil
}

// plainMAC says whether an answer is a MAC address, and can be part of a path.
func plainMAC(s string) bool {
	_, err := net.ParseMAC(s)
	return err == nil
}
