package store

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

func TestARecordOfAnOlderVersionIsMigratedStepByStep(t *testing.T) {
	migrations[0] = func(kind string, _ json.RawMessage) (json.RawMessage, error) {
		return json.RawMessage(`{"Name":"` + kind + `","Latest":7}`), nil
	}
	defer delete(migrations, 0)
	e, err := migrate("family", envelope{Version: 0, Record: json.RawMessage(`{}`)})
	if err != nil || e.Version != schemaVersion || string(e.Record) != `{"Name":"family","Latest":7}` {
		t.Errorf("%+v %v", e, err)
	}
}

func TestAfterARestoreAnInstanceIsUnlistedAndAServiceCountsFromTheNewRevision(t *testing.T) {
	i := &Instance{Cluster: "c", ID: "i"}
	s := &Service{Cluster: "c", Object: types.Service{ServiceName: aws.String("s")}, Failures: map[string]Failure{"": {Seen: 900}}}
	for _, r := range []Record{i, s} {
		value, _, err := encode(r)
		if err != nil {
			t.Fatal(err)
		}
		restored, err := Restored(r.key(), []byte(value), 5)
		if err != nil {
			t.Fatal(err)
		}
		back, err := decode(r.key(), restored, 1)
		if err != nil {
			t.Fatal(err)
		}
		switch back := back.(type) {
		case *Instance:
			if !back.Unlisted {
				t.Error("the instance's tasks count as known")
			}
		case *Service:
			if back.Failures[""].Seen != 5 {
				t.Errorf("%+v", back.Failures)
			}
		}
	}
}

func TestATaskThatWasGivenUpStaysUntilItsHostCouldBeBack(t *testing.T) {
	now := time.Now()
	v := newView()
	v.put("cluster/c", &Cluster{Object: types.Cluster{ClusterName: aws.String("c")}})
	for id, unreported := range map[string]bool{"reported": false, "unreported": true} {
		stopped := now.Add(-2 * time.Hour)
		v.put("task/c/"+id, &Task{Cluster: "c", ID: id, Instance: "i", Unreported: unreported, Object: types.Task{LastStatus: aws.String("STOPPED"), StoppedAt: &stopped}})
	}
	cfg := PurgeConfig{}.withDefaults()
	doomed := purgeableTasks(v, "c", cfg, now)
	if len(doomed) != 1 || doomed[0][0].(*Task).ID != "reported" {
		t.Errorf("%v", doomed)
	}
	if doomed = purgeableTasks(v, "c", cfg, now.Add(cfg.Away)); len(doomed) != 2 {
		t.Errorf("after %s %v", cfg.Away, doomed)
	}
}
