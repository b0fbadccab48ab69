package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// The attributes that registration knows about.
const (
	attributeZone         = "ecs.availability-zone"
	attributeInstanceType = "ecs.instance-type"
	attributeImage        = "ecs.ami-id"
	attributeArchitecture = "ecs.cpu-architecture"
	// attributeHostID is the stable id of a host outside EC2, which it shows as ec2InstanceId.
	attributeHostID = "longshore.instance-id"
	// attributeBoot is the kernel's id of the boot. The same one again means that only the agent was restarted.
	attributeBoot = "longshore.boot-id"
)

const (
	maxReservedPorts   = 100
	maxAgentAttributes = 1000 // an agent with everything sends about a hundred
)

// registration is what an agent says about its host, judged and completed.
type registration struct {
	cluster    string
	instanceID string // of the instance to register again; empty for a new one
	token      string
	ec2ID      *string
	resources  []types.Resource
	attributes []types.Attribute
	tags       []types.Tag
	version    *types.VersionInfo
}

// registerContainerInstance makes a container instance of a host, or takes in what a registered host says about itself
// now. The same host calls again with the ARN of its instance, and a call that is repeated because its answer was lost
// has the same client token: neither makes a second instance. A host whose instance was deregistered gets a new one.
func (s *Server) registerContainerInstance(ctx context.Context, c *call, in *ecsapi.RegisterContainerInstanceInput) (*ecs.RegisterContainerInstanceOutput, error) {
	r, err := s.readRegistration(in)
	if err != nil {
		return nil, err
	}
	if err := s.alone(ctx, c, r); err != nil {
		return nil, err
	}
	var object types.ContainerInstance
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		cluster := v.Cluster(r.cluster)
		forgotten := s.forgotten(v, c, r)
		if !forgotten && (cluster == nil || !clusterIsActive(cluster)) {
			return errClusterNotFound // its text makes an agent create the cluster default
		}
		i, err := s.registered(v, c, r)
		if err != nil {
			return err
		}
		switch {
		case i != nil:
			if i.RegisteredBy == "" {
				if err := c.identity.Take(v, txn, *i.Object.ContainerInstanceArn, c.now); err != nil {
					return err
				}
			}
			if i, err = s.registerAgain(c, i, r); err != nil {
				return err
			}
			txn.Update(i).StateChange() // a full store must not keep an agent from coming back
		case forgotten:
			i = s.newInstance(c, r, r.instanceID)
			if err := c.identity.Take(v, txn, *i.Object.ContainerInstanceArn, c.now); err != nil {
				return err
			}
			task.Revive(txn, v, s.owner, i)
			s.log.Warn("a container instance that this control plane does not know registered again; its record is made anew under the same ARN", zap.String("containerInstance", *i.Object.ContainerInstanceArn))
		default:
			i = s.registerNew(v, c, r)
			if err := c.identity.Take(v, txn, *i.Object.ContainerInstanceArn, c.now); err != nil {
				return err
			}
			txn.Unchanged(cluster)
			txn.Create(i).Create(&store.Allocation{Cluster: i.Cluster, Instance: i.ID, Tasks: map[string]store.Resources{}})
		}
		object = s.instanceObject(v, i, everyInstanceField)
		return nil
	})
	return &ecs.RegisterContainerInstanceOutput{ContainerInstance: &object}, err
}

// alone refuses an agent while another one is connected as the same instance: one of a machine in another boot, or, where one of the two does
// not say in which it is, one whose connection does not end.
func (s *Server) alone(ctx context.Context, c *call, r *registration) error {
	boot := attributeValue(r.attributes, attributeBoot)
	var i *store.Instance
	var other *store.Connection
	err := s.cfg.Store.Read(ctx, func(v *store.View) (err error) {
		if i, err = s.registered(v, c, r); i != nil {
			other = v.Connection(i.Cluster, i.ID)
		}
		return err
	})
	if err != nil || other == nil || boot != "" && other.Boot == boot {
		return err
	}
	address := task.AddressOf(c.request.RemoteAddr)
	says := task.OtherMachine(i.ID, other.Boot)
	if boot == "" || other.Boot == "" {
		if other, err = task.Outlives(ctx, s.cfg.Store, i.Cluster, i.ID, s.cfg.Overlap); err != nil || other == nil {
			return err
		}
		says = task.OtherAgent(i.ID, other.Address, address)
	}
	s.log.Warn("two machines have the identity of one container instance; the second one is refused: give it an identity of its own",
		zap.String("containerInstance", i.Cluster+"/"+i.ID), zap.String("connected", other.Address), zap.String("refused", address))
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		i, err := s.registered(v, c, r)
		if err != nil || i == nil {
			return err
		}
		n := task.Rivalled(i, other.Address, address, c.now)
		if n == nil {
			return errNothingToDo
		}
		txn.Update(n).StateChange()
		return nil
	})
	if err != nil {
		s.log.Warn("that could not be noted at the container instance", zap.String("containerInstance", i.Cluster+"/"+i.ID), zap.Error(err))
	}
	return exception("ConflictException", "%s", says)
}

// registered finds the instance that a registration is about, nil for none.
func (s *Server) registered(v *store.View, c *call, r *registration) (*store.Instance, error) {
	for _, id := range []string{r.instanceID, r.tokenID(c)} {
		if id == "" {
			continue
		}
		i := v.Instance(r.cluster, id)
		if i == nil || instanceStatus(i) == instanceInactive || instanceStatus(i) == instanceDeregistering {
			continue
		}
		if c.exchanged(v, i, r.token) != nil { // the answer to the exchange may have been lost
			return i, nil
		}
		if i.RegisteredBy == "" && c.identity.MayClaim(v, s.instanceARN(i.Cluster, i.ID)) { // its key was forgotten
			return i, nil
		}
		return i, c.speaksFor(i)
	}
	return nil, nil
}

// tokenID is the id of the instance that a client token makes: the same one for the same key, cluster and token, so that
// two calls side by side make one instance.
func (r *registration) tokenID(c *call) string {
	if r.token == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(c.identity.AccessKeyID + "\x00" + r.cluster + "\x00" + r.token))
	return hex.EncodeToString(sum[:16])
}

func (s *Server) registerNew(v *store.View, c *call, r *registration) *store.Instance {
	id := r.tokenID(c)
	if id == "" || v.Instance(r.cluster, id) != nil {
		id = arn.NewID()
	}
	return s.newInstance(c, r, id)
}

// forgotten tells whether a host registers as an instance that the store has no record of, and may.
func (s *Server) forgotten(v *store.View, c *call, r *registration) bool {
	id, ok := arn.NormalID(r.instanceID)
	return ok && id == r.instanceID && task.Forgotten(v, r.cluster, id) && c.identity.MayClaim(v, s.instanceARN(r.cluster, id))
}

func (s *Server) newInstance(c *call, r *registration, id string) *store.Instance {
	registeredAt := s.cfg.Now().UTC().Truncate(time.Millisecond)
	i := &store.Instance{
		Cluster: r.cluster, ID: id, RegisteredBy: c.identity.AccessKeyID, ClientToken: r.token, JoinedAt: registeredAt,
		Object: types.ContainerInstance{
			ContainerInstanceArn: aws.String(s.instanceARN(r.cluster, id)), Ec2InstanceId: r.ec2ID, Status: aws.String(instanceActive),
			RegisteredAt: &registeredAt, RegisteredResources: r.resources, Attributes: r.attributes, Tags: orEmpty(r.tags),
			VersionInfo: r.version, Version: 1, Attachments: []types.Attachment{},
		},
	}
	i.AgentAttributes = attributeNames(r.attributes)
	s.addZone(i)
	return i
}

// registerAgain is the instance with what its agent says now. System attributes that the agent had and no longer has are
// gone; custom ones stay, since agents send theirs only the first time.
func (s *Server) registerAgain(c *call, old *store.Instance, r *registration) (*store.Instance, error) {
	was, is := attributeValue(old.Object.Attributes, attributeInstanceType), attributeValue(r.attributes, attributeInstanceType)
	if was != "" && is != "" && was != is {
		return nil, clientError("Container instance type changes are not supported.")
	}
	tags, err := mergeTags(old.Object.Tags, r.tags)
	if err != nil {
		return nil, err
	}
	i := *old
	i.ClientToken = r.token
	if i.RegisteredBy == "" {
		i.RegisteredBy = c.identity.AccessKeyID
	}
	if boot := attributeValue(r.attributes, attributeBoot); boot == "" || boot != attributeValue(old.Object.Attributes, attributeBoot) {
		i.JoinedAt = s.cfg.Now().UTC().Truncate(time.Millisecond)
	}
	i.AgentAttributes = attributeNames(r.attributes)
	o := &i.Object
	if instanceStatus(old) == task.Registering {
		o.Status, o.StatusReason = aws.String(instanceActive), nil
	}
	o.StatusReason = task.Alone(o.StatusReason)
	o.Tags, o.RegisteredResources = tags, r.resources
	if r.ec2ID != nil {
		o.Ec2InstanceId = r.ec2ID
	}
	if r.version != nil {
		o.VersionInfo = r.version
	}
	o.Attributes = slices.Clone(r.attributes)
	for _, a := range old.Object.Attributes {
		name := aws.ToString(a.Name)
		fromAgent := slices.Contains(old.AgentAttributes, name) && systemAttribute(name)
		if !fromAgent && indexAttribute(o.Attributes, name) < 0 {
			o.Attributes = append(o.Attributes, a)
			if slices.Contains(old.AgentAttributes, name) {
				i.AgentAttributes = append(i.AgentAttributes, name)
			}
		}
	}
	s.addZone(&i)
	o.Version++
	return &i, nil
}

// addZone gives an instance whose host did not say where it is the control plane's own zone: agents look for one.
func (s *Server) addZone(i *store.Instance) {
	if indexAttribute(i.Object.Attributes, attributeZone) < 0 {
		i.Object.Attributes = append(i.Object.Attributes, types.Attribute{Name: aws.String(attributeZone), Value: aws.String(s.cfg.Zone)})
	}
}

func attributeNames(attributes []types.Attribute) []string {
	names := make([]string, len(attributes))
	for i, a := range attributes {
		names[i] = aws.ToString(a.Name)
	}
	return names
}

func attributeValue(attributes []types.Attribute, name string) string {
	if i := indexAttribute(attributes, name); i >= 0 {
		return aws.ToString(attributes[i].Value)
	}
	return ""
}

// readRegistration judges what the agent sent.
func (s *Server) readRegistration(in *ecsapi.RegisterContainerInstanceInput) (*registration, error) {
	cluster, err := s.clusterRef(in.Cluster)
	if err != nil {
		return nil, err
	}
	r := &registration{cluster: cluster, token: aws.ToString(in.ClientToken), tags: in.Tags, version: in.VersionInfo}
	if ref := aws.ToString(in.ContainerInstanceArn); ref != "" {
		if r.instanceID, err = s.memberRef(kindInstance, cluster, ref); err != nil {
			return nil, err
		}
	}
	if len(r.token) > 64 {
		return nil, invalid("clientToken has %d characters; at most 64 are allowed.", len(r.token))
	}
	if err := cmp.Or(checkTags(in.Tags), checkPlace(in.Tags, policy.OnInstance)); err != nil {
		return nil, err
	}
	if r.resources, err = registeredResources(in.TotalResources, in.PlatformDevices); err != nil {
		return nil, err
	}
	if r.attributes, err = agentAttributes(in.Attributes); err != nil {
		return nil, err
	}
	if err := r.readIdentity(aws.ToString(in.InstanceIdentityDocument)); err != nil {
		return nil, err
	}
	return r, nil
}

// agentAttributes are the attributes as they are echoed: name and value exactly as sent, each name once.
func agentAttributes(sent []types.Attribute) ([]types.Attribute, error) {
	if err := atMost("attributes", sent, maxAgentAttributes); err != nil {
		return nil, err
	}
	out := make([]types.Attribute, 0, len(sent))
	for _, a := range sent {
		name := aws.ToString(a.Name)
		if name == "" || len(name) > 128 || len(aws.ToString(a.Value)) > 1024 {
			return nil, invalid("The attribute %.200q is invalid: a name has 1 to 128 characters, a value at most 1024.", name)
		}
		if !systemAttribute(name) {
			if err := checkAttribute(a); err != nil {
				return nil, err
			}
		}
		kept := types.Attribute{Name: a.Name, Value: a.Value}
		if at := indexAttribute(out, name); at >= 0 {
			out[at] = kept
		} else {
			out = append(out, kept)
		}
	}
	return out, nil
}

// identityDocument is the part of an EC2 instance identity document that is of use. Its signature is not what proves the
// host's identity here; the host's key is.
type identityDocument struct {
	InstanceID       string `json:"instanceId"`
	InstanceType     string `json:"instanceType"`
	ImageID          string `json:"imageId"`
	AvailabilityZone string `json:"availabilityZone"`
	Architecture     string `json:"architecture"`
}

// readIdentity takes the EC2 instance's id and attributes from its identity document, or the id that a host outside EC2
// has given itself. What the agent sent as attribute goes before the document.
func (r *registration) readIdentity(document string) error {
	if id := attributeValue(r.attributes, attributeHostID); id != "" {
		r.ec2ID = &id
	}
	if strings.TrimSpace(document) == "" {
		return nil
	}
	var d identityDocument
	if err := json.Unmarshal([]byte(document), &d); err != nil {
		return invalid("The instanceIdentityDocument is not valid: %v", err)
	}
	if d.InstanceID != "" {
		r.ec2ID = &d.InstanceID
	}
	architecture := d.Architecture
	if architecture == "aarch64" {
		architecture = "arm64"
	}
	for name, value := range map[string]string{
		attributeZone: d.AvailabilityZone, attributeInstanceType: d.InstanceType, attributeImage: d.ImageID, attributeArchitecture: architecture,
	} {
		if value != "" && indexAttribute(r.attributes, name) < 0 {
			r.attributes = append(r.attributes, types.Attribute{Name: aws.String(name), Value: aws.String(value)})
		}
	}
	return nil
}

// registeredResources are the resources as they are stored: CPU, MEMORY, PORTS and PORTS_UDP always, others as sent, and
// the GPUs among the platform devices.
func registeredResources(sent []types.Resource, devices []types.PlatformDevice) ([]types.Resource, error) {
	out := []types.Resource{
		{Name: aws.String("CPU"), Type: aws.String("INTEGER")},
		{Name: aws.String("MEMORY"), Type: aws.String("INTEGER")},
		{Name: aws.String("PORTS"), Type: aws.String("STRINGSET"), StringSetValue: []string{}},
		{Name: aws.String("PORTS_UDP"), Type: aws.String("STRINGSET"), StringSetValue: []string{}},
	}
	for _, r := range sent {
		if err := checkResource(r); err != nil {
			return nil, err
		}
		if aws.ToString(r.Type) == "STRINGSET" {
			r.StringSetValue = orEmpty(r.StringSetValue)
		}
		at := slices.IndexFunc(out, func(o types.Resource) bool { return *o.Name == *r.Name })
		if at < 0 {
			out = append(out, r)
		} else {
			out[at] = r
		}
	}
	var gpus []string
	for _, d := range devices {
		if d.Type == types.PlatformDeviceTypeGpu {
			gpus = append(gpus, aws.ToString(d.Id))
		}
	}
	if gpus != nil {
		out = slices.DeleteFunc(out, func(o types.Resource) bool { return *o.Name == "GPU" })
		out = append(out, types.Resource{Name: aws.String("GPU"), Type: aws.String("STRINGSET"), StringSetValue: gpus})
	}
	return out, nil
}

func checkResource(r types.Resource) error {
	name, kind := aws.ToString(r.Name), aws.ToString(r.Type)
	if name == "" {
		return invalid("A resource of totalResources has no name.")
	}
	want := map[string]string{"CPU": "INTEGER", "MEMORY": "INTEGER", "PORTS": "STRINGSET", "PORTS_UDP": "STRINGSET", "GPU": "STRINGSET"}[name]
	if want != "" && kind != want {
		return invalid("The resource %s has the type %.50q; it must be %s.", name, kind, want)
	}
	if want == "INTEGER" && r.IntegerValue < 0 {
		return invalid("The resource %s is %d; it can't be negative.", name, r.IntegerValue)
	}
	if name != "PORTS" && name != "PORTS_UDP" {
		return nil
	}
	if len(r.StringSetValue) > maxReservedPorts {
		return invalid("The resource %s reserves %d ports; at most %d are allowed.", name, len(r.StringSetValue), maxReservedPorts)
	}
	for _, text := range r.StringSetValue {
		if p, err := strconv.Atoi(text); err != nil || p < 1 || p > 65535 {
			return invalid("The resource %s has the port %.50q; a port is a number from 1 to 65535.", name, text)
		}
	}
	return nil
}

// discoverPollEndpoint says where an agent finds its control channel and where it sends telemetry: under the address at
// which it reached this control plane.
func (s *Server) discoverPollEndpoint(ctx context.Context, c *call, in *ecsapi.DiscoverPollEndpointInput) (*ecsapi.DiscoverPollEndpointOutput, error) {
	cluster, err := s.clusterRef(in.Cluster)
	if err != nil {
		return nil, err
	}
	if ref := aws.ToString(in.ContainerInstance); ref != "" {
		err := s.read(ctx, func(v *store.View) error {
			i, err := s.lookupInstance(v, cluster, ref)
			if err != nil || i == nil {
				return err
			}
			return c.speaksFor(i)
		})
		if err != nil {
			return nil, err
		}
	}
	base := strings.TrimSuffix(s.cfg.BaseURL(c.request), "/")
	out := &ecsapi.DiscoverPollEndpointOutput{}
	out.Endpoint, out.TelemetryEndpoint = aws.String(base+"/acs/"), aws.String(base+"/tcs/")
	return out, nil
}
