package poll

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// withRoles makes the world's definition one with roles, that of revision 4.
func (w *world) withRoles(change func(d *types.TaskDefinition)) func(d *types.TaskDefinition) {
	w.Helper()
	return func(d *types.TaskDefinition) {
		d.Revision, d.TaskDefinitionArn = 4, aws.String(owner.TaskDefinition("logging-agent", 4))
		change(d)
		w.create(&store.TaskDefinition{Object: *d})
	}
}

// issuer issues credentials for every role but "gone", with numbers that rise.
func issuer(life time.Duration) (func(*Config), *atomic.Int64) {
	var n atomic.Int64
	return func(c *Config) {
		c.RenewPause = 20 * time.Millisecond
		c.Role = func(role string, _ *store.Task, _ bool, _ func()) (Role, error) {
			if role == "gone" {
				return Role{}, errors.New("no such role")
			}
			return Role{Arn: "arn:" + role, AccessKeyID: fmt.Sprint("AK", n.Add(1)), SecretAccessKey: "planted", Expiration: time.Now().Add(life)}, nil
		}
	}, &n
}

func TestCredentialsOfATasksRolesTravelWithItAndKeepTheirIdsWhenTheyAreRenewed(t *testing.T) {
	configure, _ := issuer(time.Second) // an end at whole seconds, so that it is near always
	w := newWorld(t, configure)
	placed := w.place(instance, w.withRoles(func(d *types.TaskDefinition) { d.TaskRoleArn, d.ExecutionRoleArn = aws.String("t"), aws.String("e") }))
	a := w.connect(instance)
	p := next[*acs.PayloadMessage](a)
	task, execution := p.Tasks[0].RoleCredentials, p.Tasks[0].ExecutionRoleCredentials
	if task == nil || execution == nil || task.RoleArn != "arn:t" || execution.RoleArn != "arn:e" || task.CredentialsID != placed.TaskCredentialsID ||
		execution.CredentialsID != placed.ExecutionCredentialsID || len(task.CredentialsID) != 36 || task.CredentialsID == execution.CredentialsID {
		t.Fatalf("%+v %+v", task, execution)
	}
	if _, err := time.Parse(time.RFC3339, task.Expiration); err != nil {
		t.Error(err)
	}
	a.ack(p)
	seen := map[string]string{}
	for len(seen) < 2 {
		m := next[*acs.IAMRoleCredentialsMessage](a)
		if m.Validate() != nil || m.TaskArn != *placed.Object.TaskArn {
			t.Fatalf("%+v", m)
		}
		seen[m.RoleType] = m.RoleCredentials.CredentialsID
		if m.RoleCredentials.AccessKeyID == task.AccessKeyID || m.RoleCredentials.AccessKeyID == execution.AccessKeyID {
			t.Error("old credentials were sent again")
		}
	}
	if seen[acs.RoleTypeTask] != task.CredentialsID || seen[acs.RoleTypeExecution] != execution.CredentialsID {
		t.Error(seen)
	}
	for _, l := range w.logs.All() {
		if strings.Contains(fmt.Sprint(l.Message, l.ContextMap()), "planted") {
			t.Error(l)
		}
	}
}

func TestAnAgentThatAsksGetsTheCredentialsOfTheTasksItHas(t *testing.T) {
	configure, _ := issuer(time.Hour)
	w := newWorld(t, configure)
	placed := w.place(instance, w.withRoles(func(d *types.TaskDefinition) { d.TaskRoleArn = aws.String("t") }))
	a := w.connect(instance)
	a.ack(next[*acs.PayloadMessage](a))
	w.until("the task is accepted", func() bool { return !w.task(placed.ID).AcceptedAt.IsZero() })
	a = w.connect(instance)
	if m := next[*acs.IAMRoleCredentialsMessage](a); m.RoleType != acs.RoleTypeTask || m.RoleCredentials.CredentialsID != placed.TaskCredentialsID {
		t.Errorf("%+v", m)
	}
}

func TestATaskWhoseRoleCanNotBeHadIsStoppedWithTheReason(t *testing.T) {
	configure, _ := issuer(time.Hour)
	for name, change := range map[string]func(d *types.TaskDefinition){
		"task role": func(d *types.TaskDefinition) { d.TaskRoleArn = aws.String("gone") },
		"execution role": func(d *types.TaskDefinition) {
			d.ExecutionRoleArn = aws.String("gone")
			d.ContainerDefinitions[0].Secrets = []types.Secret{{Name: aws.String("A"), ValueFrom: aws.String("a")}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, configure)
			placed := w.place(instance, w.withRoles(change))
			a := w.connect(instance)
			p := next[*acs.PayloadMessage](a)
			if p.Tasks[0].DesiredStatus != "STOPPED" || p.Tasks[0].RoleCredentials != nil || p.Tasks[0].ExecutionRoleCredentials != nil {
				t.Errorf("%+v", p.Tasks[0])
			}
			o := w.task(placed.ID).Object
			if aws.ToString(o.StoppedReason) != "ECS was unable to assume the role 'gone' that was provided for this task: no such role" || o.StopCode != types.TaskStopCodeTaskFailedToStart {
				t.Errorf("%s %s", aws.ToString(o.StoppedReason), o.StopCode)
			}
		})
	}
}

func TestAnExecutionRoleThatNothingNeedsIsNotDemanded(t *testing.T) {
	configure, _ := issuer(time.Hour)
	w := newWorld(t, configure)
	w.place(instance, w.withRoles(func(d *types.TaskDefinition) { d.ExecutionRoleArn = aws.String("gone") }))
	p := next[*acs.PayloadMessage](w.connect(instance))
	if p.Tasks[0].DesiredStatus != "RUNNING" || p.Tasks[0].ExecutionRoleCredentials != nil {
		t.Errorf("%+v", p.Tasks[0])
	}
}

// TestATaskWaitsWhileItsRoleIsAskedFor has the credentials come late: nothing is sent before, and at once then, also when they
// are renewed.
func TestATaskWaitsWhileItsRoleIsAskedFor(t *testing.T) {
	var mu sync.Mutex
	var waiting []func()
	serial, there := 0, map[int]bool{} // which credentials have come
	w := newWorld(t, func(c *Config) {
		c.RenewPause, c.Resend, c.ResendMax = 20*time.Millisecond, time.Hour, time.Hour // it is not the resending that brings it
		c.Role = func(role string, _ *store.Task, execution bool, ready func()) (Role, error) {
			mu.Lock()
			defer mu.Unlock()
			if !there[serial] {
				waiting = append(waiting, ready)
				return Role{}, ErrRolePending
			}
			life := time.Hour
			if serial == 0 {
				life = time.Second // to be renewed soon
			}
			return Role{Arn: role, AccessKeyID: fmt.Sprint("AK", serial), SecretAccessKey: "s", Expiration: time.Now().Add(life)}, nil
		}
	})
	come := func() {
		w.until("somebody waits", func() bool { mu.Lock(); defer mu.Unlock(); return len(waiting) > 0 })
		mu.Lock()
		there[serial] = true
		tell := waiting
		waiting = nil
		mu.Unlock()
		for _, ready := range tell {
			ready()
		}
	}
	w.place(instance, w.withRoles(func(d *types.TaskDefinition) { d.TaskRoleArn = aws.String("t") }))
	a := w.connect(instance)
	come()
	p := next[*acs.PayloadMessage](a)
	if c := p.Tasks[0].RoleCredentials; p.Tasks[0].DesiredStatus != "RUNNING" || c == nil || c.AccessKeyID != "AK0" {
		t.Fatalf("%+v", p.Tasks[0])
	}
	mu.Lock()
	serial++
	mu.Unlock()
	a.ack(p)
	come()
	for {
		if m := next[*acs.IAMRoleCredentialsMessage](a); m.RoleCredentials.AccessKeyID == "AK1" {
			return
		}
	}
}
