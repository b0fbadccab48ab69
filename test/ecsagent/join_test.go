package ecsagent_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/test/ecsagent"
)

func TestAnAgentWithoutAClusterMakesTheDefaultOneAndJoins(t *testing.T) {
	p := newPlane(t)
	a := p.join(func(c *ecsagent.Config) { c.Cluster = "" })
	p2 := func() types.ContainerInstance { return p.instance(a) }
	p.connected(a)
	a.expect("the cluster's creation", 1, ecsagent.Is(ecsagent.Called, "CreateCluster"))
	i := p2()
	if got := aws.ToString(i.Status); got != "ACTIVE" {
		t.Errorf("the instance is %s", got)
	}
	if !strings.Contains(a.InstanceARN(), ":container-instance/default/") {
		t.Errorf("the instance is %s", a.InstanceARN())
	}
	if a.Zone() == "" {
		t.Error("no availability zone was told")
	}
	if v := i.VersionInfo; v == nil || aws.ToString(v.AgentVersion) != "1.105.1" || aws.ToString(v.AgentHash) != "8dfceca6" || aws.ToString(v.DockerVersion) != "DockerVersion: 20.10.24" {
		t.Errorf("the versions are %+v; they come with the control channel", v)
	}
}

func TestAnAgentOfANamedClusterNeverMakesIt(t *testing.T) {
	p := newPlane(t)
	a := p.join(func(c *ecsagent.Config) { c.Cluster = "elsewhere" })
	if code := a.Wait(); code != ecsagent.ExitError {
		t.Errorf("the process exits with %d, and its supervisor must try again", code)
	}
	refused := a.Journal(ecsagent.Is(ecsagent.Refused, "RegisterContainerInstance"))
	if len(refused) != 1 || !strings.Contains(refused[0].Text, "ClusterNotFoundException") || !strings.Contains(refused[0].Text, "Cluster not found.") {
		t.Errorf("the refusals are %v", refused)
	}
	p.cluster("elsewhere")
	a.restart()
	p.connected(a)
	if n := len(a.Journal(ecsagent.Is(ecsagent.Called, "CreateCluster"))); n != 0 {
		t.Errorf("%d clusters were made", n)
	}
}

func TestWhatAnAgentSaysOfItsMachineIsDescribed(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) { c.Attributes = map[string]string{"env": "prod", "empty": ""} })
	p.connected(a)
	i := p.instance(a)
	for name, want := range map[string]string{"env": "prod", "empty": "", "ecs.os-type": "linux", "ecs.capability.external": ""} {
		at := slices.IndexFunc(i.Attributes, func(x types.Attribute) bool { return aws.ToString(x.Name) == name })
		if at < 0 || aws.ToString(i.Attributes[at].Value) != want {
			t.Errorf("attribute %s is not %q", name, want)
		}
	}
	for _, r := range i.RegisteredResources {
		switch aws.ToString(r.Name) {
		case "CPU":
			if r.IntegerValue != 4096 {
				t.Errorf("CPU is %d", r.IntegerValue)
			}
		case "PORTS":
			if !slices.Contains(r.StringSetValue, "51678") {
				t.Errorf("the reserved ports are %v", r.StringSetValue)
			}
		}
	}
	urls := a.Journal(func(e ecsagent.Entry) bool { return e.Kind == ecsagent.Connected })
	for _, e := range urls {
		u := must(url.Parse(e.Text))(t)
		if e.Type == "ACS" && (u.Query().Get("clusterArn") != "daemonset" || u.Query().Get("sendCredentials") != "true" || u.Query().Get("dockerVersion") != "DockerVersion: 20.10.24") {
			t.Errorf("the control channel is at %s", e.Text)
		}
	}
}

func TestSpacesInASocketsAddressMayBeWrittenEitherWay(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) { c.SpacesAsPercent = true })
	p.connected(a)
}

func TestWithTLSAnAgentThatTakesAnyCertificateJoinsAndOthersDoNot(t *testing.T) {
	borrowed := httptest.NewTLSServer(nil)
	defer borrowed.Close()
	pair := borrowed.TLS.Certificates[0]
	dir := t.TempDir()
	for file, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(pair.PrivateKey))(t)},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := newPlane(t, func(c *controlplane.Config) {
		c.TLSCert, c.TLSKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		c.Log = zap.NewNop() // the agent that does not join would be a warning after the test
	})
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) { c.AnyCertificate = true })
	p.connected(a)
	for _, e := range a.Journal(func(e ecsagent.Entry) bool { return e.Kind == ecsagent.Connected }) {
		if !strings.HasPrefix(e.Text, "wss://") {
			t.Errorf("%s is at %s", e.Type, e.Text)
		}
	}
	b := p.join()
	if code := b.Wait(); code != ecsagent.ExitError {
		t.Errorf("an agent that does not trust the certificate exits with %d", code)
	}
}

func TestAnEC2MachineIsKnownByItsIdentityDocument(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) {
		c.Identity = `{"instanceId":"i-0123456789abcdef0","instanceType":"m5.large","imageId":"ami-1","availabilityZone":"us-west-2c","architecture":"x86_64"}`
	})
	p.connected(a)
	if i := p.instance(a); aws.ToString(i.Ec2InstanceId) != "i-0123456789abcdef0" || a.Zone() != "us-west-2c" {
		t.Errorf("the instance is %s in %s", aws.ToString(i.Ec2InstanceId), a.Zone())
	}
	a.Stop()
	a.restart(func(c *ecsagent.Config) { c.Identity = strings.Replace(c.Identity, "m5.large", "m5.xlarge", 1) })
	if code := a.Wait(); code != ecsagent.ExitTerminal {
		t.Errorf("an instance of another type exits with %d", code)
	}
}

func TestARestartedAgentIsTheSameInstanceAndKeepsItsCustomAttributes(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) { c.Attributes = map[string]string{"env": "prod"} })
	p.connected(a)
	before := a.InstanceARN()
	if code := a.Stop(); code != ecsagent.ExitNormal {
		t.Fatalf("SIGTERM: %d", code)
	}
	p.until("the end of the connection", func() bool { return !p.instance(a).AgentConnected })
	a.restart()
	p.connected(a)
	if a.InstanceARN() != before {
		t.Errorf("%s became %s", before, a.InstanceARN())
	}
	calls := a.Journal(ecsagent.Is(ecsagent.Called, "RegisterContainerInstance"))
	var again struct{ Attributes []struct{ Name string } }
	if err := json.Unmarshal(calls[len(calls)-1].Body, &again); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(again.Attributes, func(x struct{ Name string }) bool { return x.Name == "env" }) {
		t.Error("the agent sent its custom attributes again: the simulation is wrong")
	}
	if !slices.ContainsFunc(p.instance(a).Attributes, func(x types.Attribute) bool { return aws.ToString(x.Name) == "env" && aws.ToString(x.Value) == "prod" }) {
		t.Error("the custom attribute is gone")
	}
	list := must(p.admin.ListContainerInstances(t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String("daemonset")}))(t)
	if len(list.ContainerInstanceArns) != 1 {
		t.Errorf("the instances are %v", list.ContainerInstanceArns)
	}
}

func TestAnAgentThatLostItsStateIsANewInstance(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join()
	p.connected(a)
	before := a.InstanceARN()
	a.Stop()
	a.Forget()
	a.restart()
	p.connected(a)
	if a.InstanceARN() == before {
		t.Error("it is the old one")
	}
}

func TestAKeyThatNobodyKnowsEndsTheProcessSoThatItIsTriedAgain(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(func(c *ecsagent.Config) { c.Key.SecretAccessKey = strings.Repeat("x", 40) })
	if code := a.Wait(); code != ecsagent.ExitError {
		t.Errorf("it exits with %d", code)
	}
}

func TestTelemetryIsAcknowledgedAndTheInstanceShowsItsHealth(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join()
	p.connected(a)
	for _, typ := range []string{"PublishMetricsRequest", "PublishInstanceStatusRequest"} {
		a.expect(typ, 1, ecsagent.Is(ecsagent.Sent, typ))
	}
	for _, typ := range []string{"HeartbeatMessage", "AckPublishMetric", "AckPublishInstanceStatus"} {
		a.expect(typ, 1, ecsagent.Is(ecsagent.Received, typ))
	}
	p.until("the instance's health", func() bool {
		out := must(p.admin.DescribeContainerInstances(t.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String("daemonset"),
			ContainerInstances: []string{a.InstanceARN()}, Include: []types.ContainerInstanceField{types.ContainerInstanceFieldContainerInstanceHealth}}))(t)
		h := out.ContainerInstances[0].HealthStatus
		return h != nil && h.OverallStatus == types.InstanceHealthCheckStateOk
	})
}

func TestAnAgentMayAskForTheTagsOfItsInstanceAndDrainIt(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join()
	p.connected(a)
	must(p.admin.TagResource(t.Context(), &ecs.TagResourceInput{ResourceArn: aws.String(a.InstanceARN()), Tags: []types.Tag{{Key: aws.String("rack"), Value: aws.String("7")}}}))(t)
	if tags := must(a.Tags(a.InstanceARN()))(t); tags["rack"] != "7" {
		t.Errorf("the tags are %v", tags)
	}
	if err := a.SpotInterruption(); err != nil {
		t.Fatal(err)
	}
	if s := aws.ToString(p.instance(a).Status); s != "DRAINING" {
		t.Errorf("the instance is %s", s)
	}
}

func TestADeregisteredInstanceIsToldBarelyThatItIsInactive(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join()
	p.connected(a)
	must(p.admin.DeregisterContainerInstance(t.Context(), &ecs.DeregisterContainerInstanceInput{Cluster: aws.String("daemonset"), ContainerInstance: aws.String(a.InstanceARN()), Force: aws.Bool(true)}))(t)
	a.expect("the sleep of an hour", 1, ecsagent.Is(ecsagent.Suspended, ""))
	rejected := a.expect("the refusal", 1, ecsagent.Is(ecsagent.Rejected, "ACS"))[0]
	var bare map[string]string
	if err := json.Unmarshal(rejected.Body, &bare); err != nil || len(bare) != 1 || bare["InactiveInstanceException"] == "" || !strings.HasPrefix(rejected.Text, "400 ") {
		t.Errorf("the refusal is %s", rejected.Text)
	}
	// Whoever starts it again becomes a new instance.
	before := a.InstanceARN()
	a.Stop()
	a.Forget()
	a.restart()
	p.connected(a)
	if a.InstanceARN() == before {
		t.Error("the deregistered instance came back")
	}
}
