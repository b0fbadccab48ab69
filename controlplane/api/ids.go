package api

import (
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

func (s *Server) clusterARN(name string) string { return s.owner.Cluster(name) }

func (s *Server) serviceARN(cluster, name string) string { return s.owner.Service(cluster, name) }

func (s *Server) taskARN(cluster, id string) string { return s.owner.Task(cluster, id) }

func (s *Server) instanceARN(cluster, id string) string {
	return s.owner.ContainerInstance(cluster, id)
}

func (s *Server) taskDefinitionARN(family string, revision int32) string {
	return s.owner.TaskDefinition(family, revision)
}

// clusterRef is the name of the cluster that a name or an ARN means; absent is the cluster default.
func (s *Server) clusterRef(ref *string) (string, error) {
	return s.owner.ParseCluster(aws.ToString(ref))
}

// The kinds of memberRef.
const (
	kindService  = arn.TypeService
	kindTask     = arn.TypeTask
	kindInstance = arn.TypeContainerInstance
)

// memberRef is the name or id of a service, task or container instance of a cluster, given as such or as an ARN, with
// the cluster's name in it or without (the form before 2018). An id may be 32 hex digits or a UUID with dashes; a word that
// is neither is the id of nothing: the caller answers as for anything that does not exist.
func (s *Server) memberRef(kind, cluster, ref string) (string, error) {
	var id string
	var err error
	switch kind {
	case kindService:
		return s.owner.ParseService(cluster, ref)
	case kindTask:
		id, err = s.owner.ParseTask(cluster, ref)
	default:
		id, err = s.owner.ParseContainerInstance(cluster, ref)
	}
	if err != nil && !arn.Is(ref) && namePattern.MatchString(ref) {
		return ref, nil
	}
	return id, err
}

// taskDefinitionRef splits family, family:revision or an ARN with or without revision; revision 0 is the latest ACTIVE.
func (s *Server) taskDefinitionRef(ref string) (family string, revision int32, err error) {
	return s.owner.ParseTaskDefinition(ref)
}

// lookupTaskDefinition finds what [Server.taskDefinitionRef] means: the exact revision in any status, or the latest
// ACTIVE one of the family. It is nil when there is none.
func (s *Server) lookupTaskDefinition(v *store.View, ref string) (*store.TaskDefinition, error) {
	family, revision, err := s.taskDefinitionRef(ref)
	if err != nil {
		return nil, err
	}
	if revision != 0 {
		return v.TaskDefinition(family, revision), nil
	}
	return latestActive(v, family), nil
}

// activeCluster is the ACTIVE cluster that ref means, or the error to answer. A transaction that creates something in the
// cluster has the condition that this record is unchanged ([store.Txn.Unchanged]), so that DeleteCluster can't miss it.
func (s *Server) activeCluster(v *store.View, ref *string) (*store.Cluster, error) {
	name, err := s.clusterRef(ref)
	if err != nil {
		return nil, err
	}
	cluster := v.Cluster(name)
	switch {
	case cluster == nil:
		return nil, errClusterNotFound
	case !clusterIsActive(cluster):
		return nil, errClusterInactive
	}
	return cluster, nil
}

// clusterOf is the name of the ACTIVE cluster that ref means.
func (s *Server) clusterOf(v *store.View, ref *string) (string, error) {
	cluster, err := s.activeCluster(v, ref)
	if err != nil {
		return "", err
	}
	return *cluster.Object.ClusterName, nil
}
