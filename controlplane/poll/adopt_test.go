package poll

import (
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/tcs"
)

const lostTask = "0123456789abcdef0123456789abcdef"

// forgets marks the instance as one of a store that was restored.
func (w *world) forgets() {
	w.Helper()
	i := *w.instance(instance)
	i.Unlisted = true
	w.commit(w.store.Txn().Update(&i))
}

// daemonService is a DAEMON service that runs the world's definition.
func (w *world) daemonService() {
	w.Helper()
	w.create(&store.Service{Cluster: cluster, Object: types.Service{ServiceName: aws.String("agents"), Status: aws.String("ACTIVE"), SchedulingStrategy: types.SchedulingStrategyDaemon,
		Deployments: []types.Deployment{{Id: aws.String("ecs-svc/1"), Status: aws.String("PRIMARY"), TaskDefinition: aws.String(owner.TaskDefinition("logging-agent", 3))}}}})
}

// connectListing opens the ACS socket as Longshore's agent does.
func (w *world) connectListing(boot string) (*agent, *http.Response, error) {
	w.Helper()
	r := w.request(w.url, "/acs/ws", acsQuery(instance), "HOST")
	r.Header.Set(acs.BootHeader, boot)
	transport := &http.Transport{DisableKeepAlives: true}
	w.Cleanup(transport.CloseIdleConnections)
	conn, resp, err := websocket.Dial(w.Context(), r.URL.String(), &websocket.DialOptions{HTTPHeader: r.Header, HTTPClient: &http.Client{Transport: transport}}) //nolint:bodyclose // Dial gives a body that is in memory
	if err != nil {
		return nil, resp, err
	}
	w.Cleanup(func() { _ = conn.CloseNow() })
	return &agent{w, conn}, resp, nil
}

func TestAnAgentThatListsItsTasksHasThemAdoptedBeforeItCountsAsConnected(t *testing.T) {
	w := newWorld(t)
	w.daemonService()
	gone := w.place(instance)
	w.forgets()
	a, resp, err := w.connectListing("boot-1")
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get(acs.TaskListHeader) == "" {
		t.Error("the agent is not asked for its tasks")
	}
	lost := owner.Task(cluster, lostTask)
	a.send(&acs.TaskListMessage{Tasks: []*acs.ListedTask{{TaskArn: lost, DesiredStatus: "RUNNING", KnownStatus: "RUNNING"}}})
	question := next[*acs.DescribeTasksMessage](a)
	if len(question.TaskArns) != 1 || question.TaskArns[0] != lost || w.connected(instance) {
		t.Errorf("%+v, connected: %t", question, w.connected(instance))
	}
	a.send(&acs.TasksDescribedMessage{MessageID: question.MessageID, Tasks: []*acs.TaskDescription{{
		TaskArn: lost, DesiredStatus: "RUNNING", KnownStatus: "RUNNING", Family: "gone", Version: "7", ServiceName: "agents", SchedulingStrategy: "DAEMON",
		Containers: []*acs.ContainerDescription{{Name: "app", Image: "app:1", Essential: true, Memory: 64, Status: "RUNNING"}},
	}}})
	manifest := next[*acs.TaskManifestMessage](a)
	if len(manifest.Tasks) != 1 || manifest.Tasks[0].TaskArn != lost {
		t.Errorf("the manifest has %+v", manifest.Tasks)
	}
	is, was := w.task(lostTask), w.task(gone.ID)
	if is == nil || task.LastStatus(is) != task.Running || is.Service != "agents" || is.Reserved.Memory != 64 || !task.IsStopped(was) {
		t.Errorf("adopted %+v, and what the agent does not have is %s", is, task.LastStatus(was))
	}
	w.store.Peek(func(v *store.View) {
		slot, family := v.DaemonSlot(cluster, "agents", instance), v.Family("gone")
		if slot == nil || slot.Task != lostTask || family == nil || family.Latest != 7 || v.Instance(cluster, instance).Unlisted || len(v.Check()) > 0 {
			t.Errorf("the daemon's place is %+v, the family %+v; %v", slot, family, v.Check())
		}
	})

	_, refused, err := w.connectListing("boot-2")
	if err == nil || refused == nil || refused.StatusCode != http.StatusConflict {
		t.Errorf("a machine with the same identity was answered %v %v", refused, err)
	}
}

func TestATaskOfAnUnmodifiedAgentIsAdoptedFromItsMetrics(t *testing.T) {
	w := newWorld(t)
	w.daemonService()
	w.forgets()
	a := w.connect(instance)
	manifest := next[*acs.TaskManifestMessage](a)
	a.send(&acs.AckRequest{MessageID: manifest.MessageID, Cluster: cluster, ContainerInstance: manifest.ContainerInstanceArn})
	lost := owner.Task(cluster, lostTask)
	a.send(&acs.TaskStopVerificationMessage{MessageID: manifest.MessageID, StopCandidates: []*acs.TaskIdentifier{{TaskArn: lost, DesiredStatus: "STOPPED", TaskClusterArn: owner.Cluster(cluster)}}})
	if ack := next[*acs.TaskStopVerificationAck](a); len(ack.StopTasks) != 0 {
		t.Errorf("a task that is not known is to stop: %+v", ack.StopTasks)
	}
	if !w.instance(instance).Unlisted {
		t.Error("tasks may be placed before it is known what runs")
	}
	w.server.measured(t.Context(), place{cluster, instance}, &tcs.PublishMetricsRequest{TaskMetrics: []*tcs.TaskMetric{{
		TaskArn: lost, TaskDefinitionFamily: "logging-agent", TaskDefinitionVersion: "3", ContainerMetrics: []*tcs.ContainerMetric{{ContainerName: "web"}, {ContainerName: "helper"}},
	}}})
	w.until("the instance's tasks are known", func() bool { return w.task(lostTask) != nil && !w.instance(instance).Unlisted })
	if got := w.task(lostTask); task.LastStatus(got) != task.Running || got.Service != "agents" {
		t.Errorf("%+v", got)
	}
}

func TestAnInstanceThatTheStoreHasForgottenIsMadeAgainWhenItsAgentConnects(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Owner = owner })
	const forgotten, departed = "11111111111111111111111111111111", "22222222222222222222222222222222"
	w.create(&store.Departed{Cluster: cluster, ID: departed, Since: time.Now()})
	a := w.connect(forgotten)
	next[*acs.TaskManifestMessage](a)
	if i := w.instance(forgotten); aws.ToString(i.Object.Status) != task.Registering {
		t.Errorf("%+v", i)
	}
	if _, resp, err := w.dial(w.url, "/acs/ws", acsQuery(departed), "HOST"); err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest { //nolint:bodyclose // in memory
		t.Errorf("an instance that was deregistered is answered %v %v", resp, err)
	}
}
