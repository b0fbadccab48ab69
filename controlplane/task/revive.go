package task

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// Forgotten tells whether an instance that the store does not have may be one that it has forgotten, because it is empty or was
// restored from a backup: nothing says that the instance was deregistered, or its cluster deleted.
func Forgotten(v *store.View, cluster, id string) bool {
	c := v.Cluster(cluster)
	return v.Instance(cluster, id) == nil && v.Departed(cluster, id) == nil && (c == nil || aws.ToString(c.Object.Status) == "ACTIVE")
}

// Revive adds to txn a forgotten instance, and its cluster if that is forgotten too. Nothing is placed there, and nothing that
// is known to run there is stopped, until its agent has said what it runs.
func Revive(txn *store.Txn, v *store.View, owner arn.Owner, i *store.Instance) {
	if c := v.Cluster(i.Cluster); c != nil {
		txn.Unchanged(c)
	} else {
		txn.Create(&store.Cluster{Object: types.Cluster{
			ClusterArn: aws.String(owner.Cluster(i.Cluster)), ClusterName: aws.String(i.Cluster), Status: aws.String("ACTIVE"),
			Settings: []types.ClusterSetting{{Name: types.ClusterSettingNameContainerInsights, Value: aws.String("disabled")}}, Tags: []types.Tag{},
		}})
	}
	i.Unlisted = true
	txn.Create(i)
	if v.Allocation(i.Cluster, i.ID) == nil {
		txn.Create(&store.Allocation{Cluster: i.Cluster, Instance: i.ID, Tasks: map[string]store.Resources{}})
	}
	txn.StateChange()
}

// Registering is the status of an instance that is known only because its agent connected: what its host has is not known
// until the agent registers again, as it does when it is restarted.
const Registering = "REGISTERING"

// Connecting is the record of a forgotten instance whose agent connects without registering.
func Connecting(owner arn.Owner, cluster, id, key string, now time.Time) *store.Instance {
	return &store.Instance{
		Cluster: cluster, ID: id, RegisteredBy: key, JoinedAt: *stamp(now),
		Object: types.ContainerInstance{
			ContainerInstanceArn: aws.String(owner.ContainerInstance(cluster, id)), Status: aws.String(Registering), RegisteredAt: stamp(now),
			StatusReason:        aws.String("Its record was lost and made again when its agent connected. Restart the agent to have it register; its tasks keep running."),
			RegisteredResources: []types.Resource{}, Attributes: []types.Attribute{}, Attachments: []types.Attachment{}, Tags: []types.Tag{}, Version: 1,
		},
	}
}

// OtherMachine is what the agent of a machine is told that is not the one which runs as the instance.
func OtherMachine(instance, boot string) string {
	return "Another machine runs as the container instance " + instance + " (its kernel's boot id is " + boot + "): this one is a copy of it. To make it an instance of its own, stop its agent, " +
		"give it an /etc/machine-id of its own, remove the agent's data directory (/var/lib/ecs), and start the agent again."
}
