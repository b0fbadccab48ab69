package poll

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

const preparedDeployment = "ecs-svc/1234567890123456789"

// preparing is a world with a service whose deployment is to have its images on the instance, whose agent can do that.
func preparing(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := newWorld(t, append([]func(*Config){func(c *Config) { c.Resend, c.ResendMax = 20*time.Millisecond, 50*time.Millisecond }}, change...)...)
	w.knows(true)
	w.create(&store.Service{Cluster: cluster, Object: types.Service{
		ServiceName: aws.String("web"), Status: aws.String("ACTIVE"), TaskDefinition: definition().TaskDefinitionArn,
		Deployments: []types.Deployment{{Id: aws.String(preparedDeployment), Status: aws.String("PRIMARY"), TaskDefinition: definition().TaskDefinitionArn}},
	}})
	return w
}

// knows has the agent say, or not, that it prepares images.
func (w *world) knows(images bool) {
	w.Helper()
	i := *w.instance(instance)
	i.Object.Attributes = nil
	if images {
		i.Object.Attributes = []types.Attribute{{Name: aws.String(acs.CapabilityPrepareImages)}}
	}
	txn := w.store.Txn()
	txn.Update(&i)
	w.commit(txn)
}

func (w *world) prepare(attempt int32) {
	w.Helper()
	w.create(&store.Preparation{Cluster: cluster, Service: "web", Instance: instance, Deployment: preparedDeployment, Attempt: attempt, Since: time.Now()})
}

func (w *world) preparation() (p *store.Preparation) {
	w.store.Peek(func(v *store.View) {
		for r := range v.Preparations(cluster, "web") {
			p = r
		}
	})
	return p
}

func (a *agent) prepared(m *acs.PrepareImagesMessage, status, reason string) {
	a.Helper()
	a.send(&acs.ImagesPreparedMessage{MessageID: m.MessageID, Preparation: m.Preparation, Status: status, Reason: reason})
}

func TestImagesAreAskedForAgainUntilTheAnswerIsOnRecord(t *testing.T) {
	w := preparing(t)
	a := w.connect(instance)
	w.prepare(1)
	first, second := next[*acs.PrepareImagesMessage](a), next[*acs.PrepareImagesMessage](a)
	if first.Preparation != "web/"+preparedDeployment+"/1" || second.Preparation != first.Preparation || second.MessageID == first.MessageID || first.KeepSeconds != 3600 ||
		first.ContainerInstanceArn != owner.ContainerInstance(cluster, instance) || len(first.Images) != 2 || first.Images[0].Name != "web" || first.Images[0].Image != "web:1" || first.ExecutionRoleCredentials != nil {
		t.Fatalf("%+v, then %+v", first, second)
	}
	a.prepared(&acs.PrepareImagesMessage{MessageID: "x", Preparation: "web/another/1"}, acs.PreparedReady, "") // nobody asked
	a.prepared(first, "PERHAPS", "")                                                                           // nor for that
	a.prepared(first, acs.PreparedFailed, strings.Repeat("é", mostReason))
	w.until("the answer is on record", func() bool { return w.preparation().Status == store.PreparationFailed })
	if p := w.preparation(); len(p.Reason) == 0 || len(p.Reason) > mostReason || strings.Contains(p.Reason, "\uFFFD") || p.Attempt != 1 {
		t.Errorf("%d bytes of reason, attempt %d", len(p.Reason), p.Attempt)
	}
	n := *w.preparation() // the scheduler asks anew
	n.Attempt, n.Status, n.Reason = 2, "", ""
	txn := w.store.Txn()
	txn.Update(&n)
	w.commit(txn)
	for m := next[*acs.PrepareImagesMessage](a); ; m = next[*acs.PrepareImagesMessage](a) { // one of the first attempt may have been on its way
		if strings.HasSuffix(m.Preparation, "/2") {
			a.prepared(m, acs.PreparedReady, "")
			break
		}
	}
	w.until("the second answer is on record", func() bool { return w.preparation().Status == store.PreparationReady })
}

func TestAnAgentOrAReplicaThatStartsAgainWhileImagesArePreparedAsksForTheSameWork(t *testing.T) {
	configure, _ := issuer(time.Hour)
	w := preparing(t, configure)
	w.executes()
	w.prepare(1)
	before := next[*acs.PrepareImagesMessage](w.connect(instance)) // which leaves without an answer
	same := func(what string, m *acs.PrepareImagesMessage) {
		t.Helper()
		if m.Preparation != before.Preparation || m.ExecutionRoleCredentials == nil || m.ExecutionRoleCredentials.CredentialsID != before.ExecutionRoleCredentials.CredentialsID {
			t.Errorf("%s: %+v, and before %+v", what, m, before)
		}
	}
	same("the agent is back", next[*acs.PrepareImagesMessage](w.connect(instance)))
	w.stop()
	other, _ := issuer(time.Hour)
	_, url, _ := w.replica(func(c *Config) { c.Resend, c.ResendMax = 20*time.Millisecond, 50*time.Millisecond }, other)
	a := w.connectTo(url, instance)
	m := next[*acs.PrepareImagesMessage](a)
	same("the control plane is back", m)
	a.prepared(m, acs.PreparedReady, "")
	w.until("the answer is on record", func() bool { return w.preparation().Status == store.PreparationReady })
}

// executes gives the service's definition an execution role.
func (w *world) executes() {
	w.Helper()
	def := definition()
	def.Revision, def.TaskDefinitionArn, def.ExecutionRoleArn = 5, aws.String(owner.TaskDefinition("logging-agent", 5)), aws.String("e")
	def.ContainerDefinitions[0].RepositoryCredentials = &types.RepositoryCredentials{CredentialsParameter: aws.String("arn:aws:secretsmanager:us-west-2:123456789012:secret:pull")}
	w.create(&store.TaskDefinition{Object: *def})
	var svc store.Service
	w.store.Peek(func(v *store.View) { svc = *v.Service(cluster, "web") })
	svc.Object.Deployments = []types.Deployment{{Id: aws.String(preparedDeployment), Status: aws.String("PRIMARY"), TaskDefinition: def.TaskDefinitionArn}}
	txn := w.store.Txn()
	txn.Update(&svc)
	w.commit(txn)
}

func TestImagesWaitForTheExecutionRoleThatTheyNeedAndFailWithoutIt(t *testing.T) {
	asked, says := make(chan struct{}, 1), make(chan error, 1)
	says <- ErrRolePending
	w := preparing(t, func(c *Config) {
		c.Role = func(string, *store.Task, bool, func()) (Role, error) {
			err := <-says
			says <- err
			select {
			case asked <- struct{}{}:
			default:
			}
			return Role{}, err
		}
	})
	w.executes()
	w.connect(instance)
	w.prepare(1)
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("nobody asked for the role")
	}
	if p := w.preparation(); p.Status != "" {
		t.Errorf("%+v while the role is asked for", p)
	}
	<-says
	says <- errors.New("no such role")
	w.until("the failure is on record", func() bool { return w.preparation().Status == store.PreparationFailed })
	if !strings.Contains(w.preparation().Reason, "no such role") || len(w.logs.FilterMessage("asked for images").All()) > 0 {
		t.Error(w.preparation().Reason)
	}
}

func TestAnAgentThatDoesNotKnowPreparationsIsNotAsked(t *testing.T) {
	w := preparing(t)
	w.knows(false)
	w.prepare(1)
	a := w.connect(instance)
	w.place(instance)
	if m, err := a.read(); err != nil {
		t.Fatal(err)
	} else if _, asked := m.(*acs.PrepareImagesMessage); asked {
		t.Error("it was asked for images")
	}
}
