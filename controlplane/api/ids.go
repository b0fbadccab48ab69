package api

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/longshore-project/longshore/controlplane/store"
)

// defaultCluster is the cluster of calls that name none.
const defaultCluster = "default"

// newID is a new task's or instance's id: 32 hex digits.
func newID() string { return strings.ReplaceAll(uuid.NewString(), "-", "") }

func (s *Server) arn(resource string) string {
	return "arn:aws:ecs:" + s.cfg.Region + ":" + s.cfg.AccountID + ":" + resource
}

func (s *Server) clusterARN(name string) string { return s.arn("cluster/" + name) }

func (s *Server) serviceARN(cluster, name string) string {
	return s.arn("service/" + cluster + "/" + name)
}

func (s *Server) taskARN(cluster, id string) string { return s.arn("task/" + cluster + "/" + id) }

func (s *Server) instanceARN(cluster, id string) string {
	return s.arn("container-instance/" + cluster + "/" + id)
}

func (s *Server) taskDefinitionARN(family string, revision int32) string {
	return s.arn("task-definition/" + family + ":" + strconv.Itoa(int(revision)))
}

// parseARN splits an ARN of ours into its resource type and the path after it. Partition, service, region and account
// must be this control plane's.
func (s *Server) parseARN(ref string) (kind string, path []string, err error) {
	f := strings.SplitN(ref, ":", 6)
	if len(f) != 6 || f[0] != "arn" || f[1] != "aws" || f[2] != "ecs" {
		return "", nil, invalid("The ARN provided is invalid.")
	}
	if f[3] != s.cfg.Region {
		return "", nil, invalid("Invalid identifier: Identifier is for region %s. Your region is %s", f[3], s.cfg.Region)
	}
	if f[4] != s.cfg.AccountID {
		return "", nil, invalid("Invalid identifier: Identifier is for account %s. Your accountId is %s", f[4], s.cfg.AccountID)
	}
	parts := strings.Split(f[5], "/")
	if len(parts) < 2 {
		return "", nil, invalid("Invalid identifier: Unexpected number of separators")
	}
	return parts[0], parts[1:], nil
}

// clusterRef is the name of the cluster that a name or an ARN means; absent is the cluster default.
func (s *Server) clusterRef(ref *string) (string, error) {
	if ref == nil || *ref == "" {
		return defaultCluster, nil
	}
	if !strings.HasPrefix(*ref, "arn:") {
		return *ref, nil
	}
	kind, path, err := s.parseARN(*ref)
	switch {
	case err != nil:
		return "", err
	case kind != "cluster":
		return "", invalid("Unsupported resource type: %s", kind)
	case len(path) != 1:
		return "", invalid("Invalid identifier: Unexpected number of separators")
	}
	return path[0], nil
}

// The kinds of memberRef.
const (
	kindService  = "service"
	kindTask     = "task"
	kindInstance = "container-instance"
)

// memberRef is the name or id of a service, task or container instance of a cluster, given as such or as an ARN, with
// the cluster's name in it or without (the form before 2018). An id may be 32 hex digits or a UUID with dashes.
func (s *Server) memberRef(kind, cluster, ref string) (string, error) {
	name := ref
	if strings.HasPrefix(ref, "arn:") {
		k, path, err := s.parseARN(ref)
		switch {
		case err != nil:
			return "", err
		case k != kind:
			return "", invalid("Unsupported resource type: %s", k)
		case len(path) > 2:
			return "", invalid("Invalid identifier: Unexpected number of separators")
		case len(path) == 2 && path[0] != cluster:
			return "", invalid("Invalid identifier: Identifier is for cluster %s. Your cluster is %s", path[0], cluster)
		}
		name = path[len(path)-1]
	} else if strings.ContainsAny(ref, "/:") {
		return "", invalid("Invalid identifier: Unexpected number of separators")
	}
	if kind != kindService {
		name = normalID(name)
	}
	return name, nil
}

var dashedUUID = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// normalID is an id as it is stored: a UUID loses its dashes.
func normalID(id string) string {
	if dashedUUID.MatchString(id) {
		return strings.ToLower(strings.ReplaceAll(id, "-", ""))
	}
	return id
}

// taskDefinitionRef splits family, family:revision or an ARN with or without revision; revision 0 is the latest ACTIVE.
func (s *Server) taskDefinitionRef(ref string) (family string, revision int32, err error) {
	if strings.HasPrefix(ref, "arn:") {
		kind, path, err := s.parseARN(ref)
		switch {
		case err != nil:
			return "", 0, err
		case kind != "task-definition":
			return "", 0, invalid("Unsupported resource type: %s", kind)
		case len(path) != 1:
			return "", 0, invalid("Invalid identifier: Unexpected number of separators")
		}
		ref = path[0]
	}
	family, number, given := strings.Cut(ref, ":")
	if strings.Contains(number, ":") {
		return "", 0, invalid("Invalid identifier: Unexpected number of separators")
	}
	if !given {
		return family, 0, nil
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n < 1 {
		return "", 0, invalid("Invalid revision number. Number: %.100s", number)
	}
	return family, int32(n), nil
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
