package controlplane

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
)

// hosts makes container instances: one that trusts what it is told, one that is unmodified, one that is away, one that is gone.
func (p *ControlPlane) hosts(t *testing.T, trusts ...string) {
	t.Helper()
	session, err := p.store.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	txn := p.store.Txn().Create(&store.Cluster{Object: types.Cluster{ClusterName: aws.String("c"), Status: aws.String("ACTIVE")}})
	for id, of := range map[string]store.Instance{"ours": {Boot: "b", Trusts: trusts}, "unmodified": {}, "away": {Boot: "b", Trusts: []string{}}, "gone": {}} {
		of.Cluster, of.ID = "c", id
		of.Object = types.ContainerInstance{ContainerInstanceArn: aws.String("arn:aws:ecs:us-west-2:000000000000:container-instance/c/" + id), Status: aws.String("ACTIVE")}
		if id == "gone" {
			of.Object.Status = aws.String("INACTIVE")
		}
		txn.Create(&of)
		if id == "ours" || id == "unmodified" {
			txn.Put(&store.Connection{Cluster: "c", Instance: id, Replica: p.replica, Boot: of.Boot}, session.Lease())
		}
	}
	if err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestHostsThatWouldNotTrustTheNextCAAreNamedWithTheReason(t *testing.T) {
	cfg := Config{DataDir: t.TempDir(), TLS: true, ReplicasWait: 200 * time.Millisecond}
	p := rotated(t, cfg)
	next, err := certs.Announce(t.Context(), p.store, p.seal, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p.hosts(t, "another", next)
	_, err = RotateCA(t.Context(), cfg.DataDir, false)
	for _, says := range []string{"2 hosts do not trust", "/unmodified (an unmodified agent", "/away (it is not connected)"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("not refused with %q: %v", says, err)
		}
	}
	for _, not := range []string{"/ours", "/gone"} {
		if err != nil && strings.Contains(err.Error(), not) {
			t.Errorf("%s is named: %v", not, err)
		}
	}
	if a, err := RotateCA(t.Context(), cfg.DataDir, true); err != nil || a.Signs != next {
		t.Errorf("by force: %+v, %v", a, err)
	}
}

// A process that ends after any step leaves a whole CA, and the replacement goes on.
func TestAReplacementOfTheCAGoesOnWhereverItWasBrokenOff(t *testing.T) {
	for name, broken := range map[string]func(t *testing.T, p *ControlPlane){
		"before anything": func(*testing.T, *ControlPlane) {},
		"announced": func(t *testing.T, p *ControlPlane) {
			if _, err := certs.Announce(t.Context(), p.store, p.seal, time.Now()); err != nil {
				t.Fatal(err)
			}
		},
		"replaced in the store, and not in the files": func(t *testing.T, p *ControlPlane) {
			if _, err := certs.Announce(t.Context(), p.store, p.seal, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := certs.Replace(t.Context(), p.store, p.seal); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{DataDir: t.TempDir(), TLS: true}
			p := rotated(t, cfg)
			first := p.CA()
			broken(t, p)
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			p = rotated(t, cfg)
			a, err := RotateCA(t.Context(), cfg.DataDir, false)
			if err != nil || a.Next != "" || bytes.Equal(p.CA(), first) || string(p.authority.Load().PEM()) != a.Certificate {
				t.Errorf("%+v, %v", a, err)
			}
			if done, err := RotateSeal(t.Context(), cfg.DataDir); err != nil || len(done.Damaged) > 0 {
				t.Errorf("the seal key is replaced: %+v, %v", done, err)
			}
		})
	}
}

func TestTheCAOfReplicasIsReplacedOnEach(t *testing.T) {
	endpoints, shared := sharedEtcd(t), t.TempDir()+"/the.seal"
	p := rotated(t, Config{DataDir: t.TempDir(), EtcdEndpoints: endpoints, SealKeyFile: shared, TLS: true})
	other := Config{DataDir: t.TempDir(), EtcdEndpoints: endpoints, SealKeyFile: shared, TLS: true}
	q := rotated(t, other)
	was := Config{DataDir: t.TempDir(), EtcdEndpoints: endpoints, SealKeyFile: shared, TLS: true}
	if err := rotated(t, was).Close(); err != nil { // one that is away meanwhile
		t.Fatal(err)
	}
	a, err := RotateCA(t.Context(), p.cfg.DataDir, false)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the other replica signs with the next one", func() bool { return string(q.authority.Load().PEM()) == a.Certificate })
	if back := rotated(t, was); string(back.authority.Load().PEM()) != a.Certificate {
		t.Error("a replica that was away has another one")
	}
}

func TestACAThatEndsSoonIsTold(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	p := rotated(t, Config{DataDir: t.TempDir(), Log: zap.New(core)})
	ends := p.authority.Load().Certificate().NotAfter
	for before, told := range map[time.Duration]int{endsSoon + time.Hour: 0, endsSoon - time.Hour: 1} {
		logs.TakeAll()
		p.sayWhenItEnds(ends.Add(-before))
		a, err := p.describeAuthorities(t.Context(), ends.Add(-before))
		if n := logs.FilterMessageSnippet("the own CA ends").Len(); n != told || err != nil || a.EndsSoon != (told > 0) {
			t.Errorf("%s before its end it is told %d times, %+v, %v", before, n, a, err)
		}
	}
}
