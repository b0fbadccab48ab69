package network_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestAFileThatCantBeReadIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is not a regular file",
		file("large", strings.Repeat(" ", 16<<20+1)): "more than 16777216",
		file("wrong", `{"subnets":{"s":{}}}`):        `wrong: subnet "s": it needs a cidrBlock`,
	} {
		if _, err := network.Open(path, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func TestAChangedFileIsReadAgainAndABadOneToldOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "network.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(example)
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		n, err := network.Open(file, zap.New(core))
		if err != nil {
			t.Fatal(err)
		}
		reloads := 0
		n.OnReload(func() { reloads++ })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.Run(ctx, time.Second) }()
		for _, step := range []struct {
			text          string
			reloads, logs int
			subnets       int
		}{
			{example, 1, 1, 2}, // written again: another file
			{"", 1, 1, 2},      // as it is
			{"{", 1, 2, 2},     // bad, and told
			{"", 1, 2, 2},
			{`{"subnets":{"s":{"cidrBlock":"10.0.0.0/24"}}}`, 2, 3, 1},
		} {
			if step.text != "" {
				write(step.text)
			}
			<-time.After(3 * time.Second) // of the bubble
			synctest.Wait()
			if reloads != step.reloads || logs.Len() != step.logs || len(n.Config().Subnets) != step.subnets {
				t.Errorf("%.20q: read %d times, %d lines, %d subnets", step.text, reloads, logs.Len(), len(n.Config().Subnets))
			}
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * time.Second)
		synctest.Wait()
		if logs.Len() != 4 || len(n.Config().Subnets) != 1 {
			t.Errorf("a file that is gone was told %d times", logs.Len()-3)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAHostIsToldOfWhatConcernsItAndOfAGroupOnlyWhenItChanges(t *testing.T) {
	st := storetest.New(t)
	n, err := network.Open("", nil)
	if err != nil {
		t.Fatal(err)
	}
	n.Set(parse(t, example))
	n.Follow(st)
	web, lb := n.Groups([]string{"sg-web"}), n.Groups([]string{"sg-lb", "sg-lb"})
	if len(web) != 2 || web[0].GroupID != "sg-lb" || web[0].Members == 0 || web[0].SecurityGroup.Ingress != nil || web[1].Members != 0 || len(web[1].Ingress) != 2 {
		t.Errorf("%+v", web)
	}
	if len(lb) != 1 || lb[0].Members != 0 || len(lb[0].Ingress) != 1 {
		t.Errorf("%+v", lb)
	}
	same := func(a, b network.GroupState) bool { return a.Rules == b.Rules && a.Members == b.Members }
	n.Set(parse(t, strings.Replace(example, `"fromPort": 443`, `"fromPort": 442`, 1)))
	if now := n.Groups([]string{"sg-web"}); !same(now[1], web[1]) || same(n.Groups([]string{"sg-lb"})[0], lb[0]) {
		t.Error("a change of one group's rules is one of another's")
	}
	before := n.Groups([]string{"sg-web"})
	a := &store.Address{Address: "10.20.0.7", Subnet: "subnet-a", Cluster: "c", Task: "t", SecurityGroups: []string{"sg-lb"}}
	if err := st.Txn().Create(a).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := n.Groups([]string{"sg-web"})
	if same(now[0], before[0]) || !same(now[1], before[1]) || now[0].SecurityGroup.Members[0] != "10.20.0.7" {
		t.Errorf("%+v", now[0].SecurityGroup)
	}
	if u := n.Usage(); len(u) != 3 || u[0].Taken != 1 || u[0].Usable != 6 || u[0].Subnet != "subnet-a" {
		t.Errorf("%+v", u)
	}
	if gone := n.Groups([]string{"sg-none"}); len(gone) != 1 || gone[0].Ingress != nil || gone[0].Egress != nil {
		t.Errorf("a group that is not configured allows %+v", gone)
	}
	if err := st.Txn().Delete(a).Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := n.Groups([]string{"sg-web"}); len(now[0].SecurityGroup.Members) != 0 || n.Usage()[0].Taken != 0 {
		t.Errorf("%+v", now[0].SecurityGroup)
	}
}
