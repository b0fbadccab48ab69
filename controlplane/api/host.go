package api

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/join"
)

// hostOperation tells a host what the control plane knows about its key and its container instance. Hosts and administrators
// may. It is how "longshore-agent join" knows that a key and a cluster are good and that the daemons run, and "leave" that the
// instance is drained.
const hostOperation = join.HostOperation

// endKeyOperation has a host that leaves take its own key with it. Hosts may.
const endKeyOperation = join.EndKeyOperation

// endKey answers an EndKey call. The sockets of the key are closed by whoever serves them.
func (s *Server) endKey(ctx context.Context, c *call) ([]byte, error) {
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		k := v.Key(c.identity.AccessKeyID)
		if k == nil || k.Enrolment || !k.Revoked.IsZero() {
			return errNothingToDo
		}
		ended := *k
		ended.Revoked = c.now
		txn.Update(&ended).StateChange()
		return nil
	})
	return []byte("{}"), err
}

// host answers a Host call.
func (s *Server) host(ctx context.Context, c *call, body []byte) ([]byte, error) {
	var in join.HostInput
	if _, err := awsjson.Unmarshal(body, &in); err != nil {
		return nil, exception("SerializationException", "The request body is not what Host takes: %v", err)
	}
	name, err := s.clusterRef(in.Cluster)
	if err != nil {
		return nil, err
	}
	out := &join.HostOutput{Region: &s.cfg.Region}
	err = s.read(ctx, func(v *store.View) error {
		if k := v.Key(c.identity.AccessKeyID); k != nil {
			describeKey(k, out)
		}
		cluster := v.Cluster(name)
		if cluster == nil || !clusterIsActive(cluster) {
			if name == arn.DefaultCluster && in.ContainerInstance == nil {
				return nil
			}
			return errClusterNotFound
		}
		if in.ContainerInstance == nil {
			return nil
		}
		i, err := s.lookupInstance(v, name, *in.ContainerInstance)
		if err != nil || i == nil {
			return err
		}
		if err := c.speaksFor(i); err != nil {
			return err
		}
		out.Instance, err = s.hostInstance(v, i)
		return err
	})
	if err != nil {
		return nil, err
	}
	return awsjson.Marshal(out)
}

// describeKey says what a key is good for.
func describeKey(k *store.Key, out *join.HostOutput) {
	if !k.Expires.IsZero() {
		out.Expires = aws.String(k.Expires.UTC().Format(time.RFC3339))
	}
	if k.MaxUses > 0 {
		out.Uses = aws.Int32(max(0, k.MaxUses-k.Uses))
	}
}

// hostInstance is an instance as its host is told.
func (s *Server) hostInstance(v *store.View, i *store.Instance) (*join.HostInstance, error) {
	out := &join.HostInstance{
		Status: i.Object.Status, StatusReason: i.Object.StatusReason, AgentConnected: aws.Bool(v.Connection(i.Cluster, i.ID) != nil),
		Tasks: aws.Int32(int32(len(slices.Collect(v.LiveOn(i.Cluster, i.ID))))), Daemons: []join.Daemon{},
	}
	if !instanceIsRegistered(i) {
		return out, nil
	}
	daemons, err := scheduler.NewModel(v, i.Cluster, s.cfg.Scheduling, s.cfg.Now()).Daemons(i.ID)
	for _, d := range daemons {
		state := d.Reason
		if d.Detail != "" {
			state += ": " + d.Detail
		}
		out.Daemons = append(out.Daemons, join.Daemon{Service: &d.Service, Ready: aws.Bool(d.Reason == "RUNNING"), State: &state})
	}
	return out, err
}
