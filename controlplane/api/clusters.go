package api

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/arn"
)

func (s *Server) clusterOperations() operations {
	unsupported := []string{"configuration.managedStorageConfiguration", "serviceConnectDefaults"}
	return operations{
		"CreateCluster":         handle(s.createCluster).refusing(unsupported...).refusing("capacityProviders", "defaultCapacityProviderStrategy"),
		"DescribeClusters":      handle(s.describeClusters),
		"ListClusters":          handle(s.listClusters),
		"UpdateCluster":         handle(s.updateCluster).refusing(unsupported...),
		"UpdateClusterSettings": handle(s.updateClusterSettings),
		"DeleteCluster":         handle(s.deleteCluster),
	}
}

// A cluster's statuses. It is DEPROVISIONING while DeleteCluster makes sure that nobody has put anything into it: whoever
// creates something in a cluster has the condition in the transaction that the cluster's record is unchanged.
const (
	clusterActive         = "ACTIVE"
	clusterDeprovisioning = "DEPROVISIONING"
	clusterInactive       = "INACTIVE"
)

func clusterIsActive(c *store.Cluster) bool { return aws.ToString(c.Object.Status) == clusterActive }

func (s *Server) createCluster(ctx context.Context, c *call, in *ecs.CreateClusterInput) (*ecs.CreateClusterOutput, error) {
	name := arn.DefaultCluster
	if in.ClusterName != nil {
		name = *in.ClusterName
	}
	if err := checkName("Cluster", name); err != nil {
		return nil, err
	}
	if c.identity.Role == store.RoleHost && name != arn.DefaultCluster {
		return nil, c.denied(s.clusterARN(name))
	}
	if err := errors.Join(checkClusterSettings(in.Settings), checkTags(in.Tags), checkPlace(in.Tags, policy.OnCluster)); err != nil {
		return nil, err
	}
	var object types.Cluster
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		old := v.Cluster(name)
		if old != nil && clusterIsActive(old) {
			object = s.clusterObject(v, old, allClusterFields)
			return errNothingToDo
		}
		r := &store.Cluster{}
		if old != nil {
			r.Meta = old.Meta
		}
		r.Object = types.Cluster{
			ClusterArn: aws.String(s.clusterARN(name)), ClusterName: aws.String(name), Status: aws.String(clusterActive),
			Settings: mergeClusterSettings(s.defaultClusterSettings(v, c), in.Settings), Tags: orEmpty(in.Tags), Configuration: in.Configuration,
		}
		object = s.clusterObject(v, r, allClusterFields)
		if old != nil {
			txn.Update(r)
		} else {
			txn.Create(r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.CreateClusterOutput{Cluster: &object}, nil
}

func checkClusterSettings(settings []types.ClusterSetting) error {
	for _, x := range settings {
		if x.Name != types.ClusterSettingNameContainerInsights {
			return invalid("Unknown cluster setting %.200q; the only one is containerInsights.", string(x.Name))
		}
		switch aws.ToString(x.Value) {
		case "enabled", "disabled", "enhanced":
		default:
			return invalid("The value of the cluster setting containerInsights should be one of [enabled, disabled, enhanced], but was %.200q.", aws.ToString(x.Value))
		}
	}
	return nil
}

func (s *Server) defaultClusterSettings(v *store.View, c *call) []types.ClusterSetting {
	return []types.ClusterSetting{{Name: types.ClusterSettingNameContainerInsights, Value: aws.String(s.accountSetting(v, c.principal(), types.SettingNameContainerInsights))}}
}

func mergeClusterSettings(have, add []types.ClusterSetting) []types.ClusterSetting {
	out := slices.Clone(have)
	for _, x := range add {
		i := slices.IndexFunc(out, func(h types.ClusterSetting) bool { return h.Name == x.Name })
		if i < 0 {
			out = append(out, x)
		} else {
			out[i] = x
		}
	}
	return out
}

var allClusterFields = types.ClusterField("").Values()

// clusterObject is a cluster as clients see it: counts computed, and what include asks for beside them.
func (s *Server) clusterObject(v *store.View, r *store.Cluster, include []types.ClusterField) types.Cluster {
	o := types.Cluster{
		ClusterArn: r.Object.ClusterArn, ClusterName: r.Object.ClusterName, Status: r.Object.Status,
		CapacityProviders: []string{}, DefaultCapacityProviderStrategy: []types.CapacityProviderStrategyItem{},
		Tags: []types.Tag{}, Settings: []types.ClusterSetting{}, Statistics: []types.KeyValuePair{},
	}
	n := countCluster(v, aws.ToString(r.Object.ClusterName))
	o.RegisteredContainerInstancesCount = n.instances
	o.RunningTasksCount, o.PendingTasksCount = n.tasks("running"), n.tasks("pending")
	o.ActiveServicesCount = n.services("active")
	for _, field := range include {
		switch field {
		case types.ClusterFieldTags:
			o.Tags = orEmpty(r.Object.Tags)
		case types.ClusterFieldSettings:
			o.Settings = orEmpty(r.Object.Settings)
		case types.ClusterFieldConfigurations:
			o.Configuration = r.Object.Configuration
		case types.ClusterFieldStatistics:
			o.Statistics = n.statistics()
		case types.ClusterFieldAttachments:
			o.Attachments = []types.Attachment{}
		}
	}
	return o
}

// clusterCount counts what is in a cluster, by the name of the statistic.
type clusterCount struct {
	instances int32
	by        map[string]int32
}

// launchTypes are the launch types that statistics tell apart, as they are written in the statistics' names.
var launchTypes = []string{"EC2", "Fargate", "External"}

func launchTypeName(t types.LaunchType) string {
	switch t {
	case types.LaunchTypeExternal:
		return "External"
	case types.LaunchTypeFargate:
		return "Fargate"
	}
	return "EC2"
}

func countCluster(v *store.View, name string) clusterCount {
	n := clusterCount{by: map[string]int32{}}
	for i := range v.Instances(name) {
		if instanceIsRegistered(i) {
			n.instances++
		}
	}
	for t := range v.Tasks(name) {
		switch aws.ToString(t.Object.LastStatus) {
		case "RUNNING":
			n.by["running"+launchTypeName(t.Object.LaunchType)+"TasksCount"]++
		case task.Pending, task.Provisioning:
			n.by["pending"+launchTypeName(t.Object.LaunchType)+"TasksCount"]++
		}
	}
	for x := range v.Services(name) {
		switch status := aws.ToString(x.Object.Status); status {
		case "ACTIVE", "DRAINING":
			n.by[strings.ToLower(status)+launchTypeName(x.Object.LaunchType)+"ServiceCount"]++
		}
	}
	return n
}

func (n clusterCount) tasks(state string) (sum int32) {
	for _, t := range launchTypes {
		sum += n.by[state+t+"TasksCount"]
	}
	return sum
}

func (n clusterCount) services(status string) (sum int32) {
	for _, t := range launchTypes {
		sum += n.by[status+t+"ServiceCount"]
	}
	return sum
}

func (n clusterCount) statistics() []types.KeyValuePair {
	out := []types.KeyValuePair{}
	add := func(name string) {
		out = append(out, types.KeyValuePair{Name: aws.String(name), Value: aws.String(strconv.Itoa(int(n.by[name])))})
	}
	for _, t := range launchTypes {
		add("running" + t + "TasksCount")
		add("pending" + t + "TasksCount")
	}
	for _, t := range launchTypes {
		add("active" + t + "ServiceCount")
		add("draining" + t + "ServiceCount")
	}
	return out
}

func (s *Server) describeClusters(ctx context.Context, _ *call, in *ecs.DescribeClustersInput) (*ecs.DescribeClustersOutput, error) {
	refs := in.Clusters
	if len(refs) == 0 {
		refs = []string{arn.DefaultCluster}
	}
	if err := atMost("clusters", refs, 100); err != nil {
		return nil, err
	}
	for _, field := range in.Include {
		if err := oneOf("include", field, allClusterFields); err != nil {
			return nil, err
		}
	}
	out := &ecs.DescribeClustersOutput{Clusters: []types.Cluster{}, Failures: []types.Failure{}}
	err := s.read(ctx, func(v *store.View) error {
		for _, ref := range refs {
			name, err := s.clusterRef(&ref)
			if err != nil {
				return err
			}
			if r := v.Cluster(name); r != nil {
				out.Clusters = append(out.Clusters, s.clusterObject(v, r, in.Include))
			} else {
				out.Failures = append(out.Failures, missing(s.clusterARN(name)))
			}
		}
		return nil
	})
	return out, err
}

// missing is the failure of something that does not exist.
func missing(resource string) types.Failure {
	return types.Failure{Arn: aws.String(resource), Reason: aws.String("MISSING")}
}

func (s *Server) listClusters(ctx context.Context, c *call, in *ecs.ListClustersInput) (*ecs.ListClustersOutput, error) {
	var arns []string
	err := s.read(ctx, func(v *store.View) error {
		for r := range v.Clusters() {
			if clusterIsActive(r) {
				arns = append(arns, s.clusterARN(aws.ToString(r.Object.ClusterName)))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(arns)
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 100}, arns, itself)
	return &ecs.ListClustersOutput{ClusterArns: orEmpty(page), NextToken: next}, err
}

// changeCluster applies f to a copy of an ACTIVE cluster.
func (s *Server) changeCluster(ctx context.Context, ref *string, f func(o *types.Cluster)) (*types.Cluster, error) {
	var object types.Cluster
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r, err := s.activeCluster(v, ref)
		if err != nil {
			return err
		}
		changed := *r
		f(&changed.Object)
		object = s.clusterObject(v, &changed, allClusterFields)
		txn.Update(&changed)
		return nil
	})
	return &object, err
}

func (s *Server) updateCluster(ctx context.Context, _ *call, in *ecs.UpdateClusterInput) (*ecs.UpdateClusterOutput, error) {
	if err := checkClusterSettings(in.Settings); err != nil {
		return nil, err
	}
	cluster, err := s.changeCluster(ctx, in.Cluster, func(o *types.Cluster) {
		o.Settings = mergeClusterSettings(o.Settings, in.Settings)
		if in.Configuration != nil {
			o.Configuration = in.Configuration
		}
	})
	return &ecs.UpdateClusterOutput{Cluster: cluster}, err
}

func (s *Server) updateClusterSettings(ctx context.Context, _ *call, in *ecs.UpdateClusterSettingsInput) (*ecs.UpdateClusterSettingsOutput, error) {
	if err := checkClusterSettings(in.Settings); err != nil {
		return nil, err
	}
	cluster, err := s.changeCluster(ctx, in.Cluster, func(o *types.Cluster) { o.Settings = mergeClusterSettings(o.Settings, in.Settings) })
	return &ecs.UpdateClusterSettingsOutput{Cluster: cluster}, err
}

// deleteCluster makes an empty cluster INACTIVE, in two steps: DEPROVISIONING keeps everybody from putting anything into
// it, and a second look finds what was put into it in the meantime.
func (s *Server) deleteCluster(ctx context.Context, _ *call, in *ecs.DeleteClusterInput) (*ecs.DeleteClusterOutput, error) {
	name, err := s.clusterRef(in.Cluster)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r := v.Cluster(name)
		if r == nil {
			return errClusterNotFound
		}
		if err := holdsNothing(v, name); err != nil {
			return err
		}
		if !clusterIsActive(r) {
			return errNothingToDo
		}
		changed := *r
		changed.Object.Status = aws.String(clusterDeprovisioning)
		txn.Update(&changed).StateChange()
		return nil
	})
	if err != nil {
		return nil, err
	}
	var object types.Cluster
	var refused error
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		r := v.Cluster(name)
		if r == nil {
			return errClusterNotFound
		}
		changed := *r
		if refused = holdsNothing(v, name); refused != nil {
			changed.Object.Status = aws.String(clusterActive)
		} else if aws.ToString(r.Object.Status) == clusterDeprovisioning {
			changed.Object.Status = aws.String(clusterInactive)
			changed.InactiveSince = s.cfg.Now()
		}
		object = s.clusterObject(v, &changed, allClusterFields)
		if *changed.Object.Status == aws.ToString(r.Object.Status) {
			return errNothingToDo
		}
		txn.Update(&changed).StateChange()
		return nil
	})
	if err := errors.Join(err, refused); err != nil {
		return nil, err
	}
	return &ecs.DeleteClusterOutput{Cluster: &object}, nil
}

// holdsNothing says what keeps a cluster from being deleted.
func holdsNothing(v *store.View, cluster string) error {
	const text = "The Cluster cannot be deleted while %s are active"
	for i := range v.Instances(cluster) {
		if instanceIsRegistered(i) {
			return exception("ClusterContainsContainerInstancesException", text+" or draining.", "Container Instances")
		}
	}
	for x := range v.Services(cluster) {
		if aws.ToString(x.Object.Status) != "INACTIVE" {
			return exception("ClusterContainsServicesException", text+".", "Services")
		}
	}
	for t := range v.Tasks(cluster) {
		if aws.ToString(t.Object.LastStatus) != "STOPPED" {
			return exception("ClusterContainsTasksException", text+".", "Tasks")
		}
	}
	return nil
}
