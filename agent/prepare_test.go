package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/longshore-project/longshore/agent/poll"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestImagesArePreparedOnceHoweverOftenTheyAreAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told, ensured, pinned []string
		lost := 1 // answers
		roles := &poll.Credentials{}
		p := &preparer{
			roles: roles, log: nopLog,
			ensure: func(ctx context.Context, req imagecache.Request) (engine.Image, func(), error) {
				<-time.After(time.Minute)
				held, err := roles.Execution(ctx, req.TaskArn)
				if err != nil || held.AccessKeyID != "AKIA" {
					t.Error(held, err)
				}
				mu.Lock()
				defer mu.Unlock()
				ensured = append(ensured, req.Ref)
				if req.Ref == "absent:1" {
					return engine.Image{}, nil, errors.New("no such image")
				}
				return engine.Image{ID: "id of " + req.Ref}, func() {}, nil
			},
			pin: func(id string, until time.Time) {
				mu.Lock()
				defer mu.Unlock()
				pinned = append(pinned, id)
				if left := time.Until(until); left != time.Hour {
					t.Error(left)
				}
			},
			answer: func(_ context.Context, m *acs.ImagesPreparedMessage) error {
				mu.Lock()
				defer mu.Unlock()
				if lost--; lost >= 0 {
					return errors.New("broken pipe")
				}
				told = append(told, m.MessageID+" "+m.Preparation+" "+m.Status+" "+m.Reason)
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.run(ctx) }()
		synctest.Wait()
		ask := func(id, name string, refs ...string) {
			m := &acs.PrepareImagesMessage{MessageID: id, ContainerInstanceArn: "i", Preparation: name, KeepSeconds: 3600, ExecutionRoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "x", AccessKeyID: "AKIA"}}
			for _, r := range refs {
				m.Images = append(m.Images, &acs.PrepareImage{Name: r, Image: r})
			}
			p.take(m)
		}
		ask("m1", "svc/d/1", "a:1", "b:1")
		ask("m2", "svc/d/1", "a:1", "b:1")
		<-time.After(2 * time.Minute)
		synctest.Wait()
		if len(told) != 0 || len(ensured) != 2 {
			t.Error("the first answer was to be lost", told, ensured)
		}
		ask("m3", "svc/d/1", "a:1", "b:1")
		ask("m4", "svc/d/2", "absent:1")
		<-time.After(2 * time.Minute)
		synctest.Wait()
		slices.Sort(told)
		if got := strings.Join(told, "; "); got != "m3 svc/d/1 READY ; m4 svc/d/2 FAILED container absent:1: no such image" || len(ensured) != 3 || len(pinned) != 2 {
			t.Error(got, ensured, pinned)
		}
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		if _, err := roles.Execution(short, "preparation svc/d/1"); err == nil {
			t.Error("the credentials are still there")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ask("m5", "svc/d/3", "a:1") // nobody works any more
	})
}

func TestAnAgentThatStartsAgainWhileItPreparesImagesDoesItWhenItIsAskedAgain(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	h.engine.Publish(enginetest.FakeImage{Ref: "next:1"})
	h.engine.Hang("Pull")
	ask := func() {
		c.raw(`{"type":"PrepareImagesMessage","message":{"clusterArn":"c","containerInstanceArn":"` + first + `","messageId":"m","preparation":"web/ecs-svc/1/1","keepSeconds":60,"images":[{"name":"web","image":"next:1"}]}}`)
	}
	leave := h.start()
	c.expect("connected " + first)
	ask()
	for deadline := time.After(patience); h.engine.Calls("Pull") == 0; {
		select {
		case <-deadline:
			t.Fatal("nothing is pulled")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	h.engine.Heal("Pull")
	c.quiet()
	leave = h.start()
	c.expect("connected " + first)
	ask()
	c.expect("acs ImagesPreparedMessage")
	if _, err := h.engine.Image(t.Context(), "next:1"); err != nil {
		t.Error(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}
