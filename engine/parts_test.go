package engine

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/protocol/acs"
)

func TestTheLedgerGivesBackExactlyWhatItTook(t *testing.T) {
	l := newLedger(Host{CPU: 100, Memory: 100, DynamicPorts: [2]int32{5000, 5001}, ReservedUDP: []int32{53}})
	need := func(cpu, memory int64, ports ...PortKey) Need { return Need{CPU: cpu, Memory: memory, Ports: ports} }
	web, dns := PortKey{80, "tcp"}, PortKey{53, "udp"}
	if g := l.ask("a", need(60, 10, web), func() {}); g.State != GrantHeld {
		t.Fatal(g)
	}
	if g := l.ask("a", need(60, 10, web), func() {}); g.State != GrantHeld || l.cpu != 60 {
		t.Fatal("asking again took more", l.cpu)
	}
	woken := ""
	if g := l.ask("b", need(50, 10, web), func() { woken += "b" }); g.State != GrantWaiting || !strings.Contains(g.Reason, "40 of 100 free") || !strings.Contains(g.Reason, "80/tcp is held by a") {
		t.Fatal(g)
	}
	if g := l.ask("c", need(90, 10), func() { woken += "c" }); g.State != GrantWaiting {
		t.Fatal(g)
	}
	if g := l.ask("d", need(1, 1, dns), func() {}); g.State != GrantNever || !strings.Contains(g.Reason, "53/udp") {
		t.Fatal(g)
	}
	if g := l.ask("e", need(1, 101), func() {}); g.State != GrantNever || !strings.Contains(g.Reason, "101 MiB of memory and the host has 100") {
		t.Fatal(g)
	}
	none := func(PortKey) bool { return false }
	ports, err := l.dynamic("a", []Port{{80, 0, "tcp"}, {81, 0, "tcp"}, {82, 9, "tcp"}}, none)
	if err != nil || fmt.Sprint(ports) != "[{80 5000 tcp} {81 5001 tcp} {82 9 tcp}]" {
		t.Fatal(ports, err)
	}
	if _, err := l.dynamic("a", []Port{{83, 0, "tcp"}}, none); err == nil || !strings.Contains(err.Error(), "5000 to 5001") {
		t.Fatal(err)
	}
	if _, err := l.dynamic("a", []Port{{83, 0, "udp"}}, func(k PortKey) bool { return k.Port == 5000 }); err != nil || l.ports[PortKey{5001, "udp"}] != "a" {
		t.Fatal(err, l.ports)
	}
	l.release("a")
	if woken != "b" || l.grant("b").State != GrantHeld || l.grant("c").State != GrantWaiting {
		t.Fatal(woken)
	}
	l.force("c", need(90, 10)) // its processes turn out to be there
	if l.cpu != 140 || len(l.waiting) != 0 || l.grant("c").State != GrantHeld {
		t.Fatal(l.cpu, l.waiting)
	}
	l.release("c")
	l.release("b")
	if l.cpu != 0 || l.memory != 0 || len(l.ports) != 1 || len(l.waiting) != 0 {
		t.Fatal(l.cpu, l.memory, l.ports, l.waiting)
	}
}

func TestATaskThatWaitsNeitherStarvesNorBlocksTheOthersForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(Host{CPU: 100, Memory: 100})
		l.ask("running", Need{CPU: 60}, nil)
		l.ask("for ever", Need{CPU: 10}, nil)
		var admitted atomic.Bool
		if g := l.ask("big", Need{CPU: 90, Memory: 50}, func() { admitted.Store(true) }); g.State != GrantWaiting {
			t.Fatal(g)
		}
		// A small task comes every 20 s and takes a minute; without patience the big one would never find 90 units free.
		passed, held := 0, 0
		small := func(arn string) {
			if g := l.ask(arn, Need{CPU: 5}, func() {}); g.State == GrantHeld {
				passed++
			} else if held++; !admitted.Load() && !strings.Contains(g.Reason, "task big has waited since ") {
				t.Errorf("%+v", g)
			}
			time.AfterFunc(time.Minute, func() { l.release(arn) })
		}
		until := func(begin time.Time, d time.Duration) {
			for i := 0; time.Since(begin) < d; i++ {
				small(fmt.Sprint(begin.Unix(), i))
				<-time.After(20 * time.Second)
				l.review()
			}
		}
		until(time.Now(), 55*time.Second)
		if passed == 0 || held != 0 {
			t.Errorf("in the first minute %d passed and %d were held", passed, held)
		}
		if g := l.ask("other", Need{Memory: 10}, nil); g.State != GrantHeld {
			t.Errorf("it needs nothing that the big one lacks: %+v", g)
		}
		passed, held = 0, 0
		until(time.Now(), 55*time.Second) // from 1 to 2 minutes
		if passed != 0 || held == 0 || admitted.Load() {
			t.Errorf("while the big one goes first %d passed and %d were held", passed, held)
		}
		passed, held = 0, 0
		until(time.Now(), 110*time.Second) // from 2 to 4: it waits for what does not end, and blocks nobody
		if passed == 0 || admitted.Load() {
			t.Errorf("when its time was over %d passed", passed)
		}
		l.release("running")
		l.release("for ever")
		until(time.Now(), 4*time.Minute)
		if !admitted.Load() {
			t.Error("the big one starved")
		}
	})
}

func TestAForeignListenerIsFoundAndNamed(t *testing.T) {
	any4, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer any4.Close()
	local6, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer local6.Close()
	tcp, udp := int32(any4.Addr().(*net.TCPAddr).Port), int32(local6.LocalAddr().(*net.UDPAddr).Port)
	name := fmt.Sprintf("process %d (", os.Getpid())
	for _, c := range []struct {
		mode     string
		port     int32
		protocol string
		want     string
	}{
		{"bridge", tcp, "tcp", fmt.Sprintf("0.0.0.0:%d", tcp)}, {"host", tcp, "tcp", name}, {"bridge", tcp, "udp", ""},
		{"bridge", udp, "udp", fmt.Sprintf("[::1]:%d", udp)}, {"host", udp, "udp", ""}, {"bridge", 0, "tcp", ""},
	} {
		got := foreign("/proc", &Container{NetworkMode: c.mode, Ports: []Port{{80, c.port, c.protocol}}})
		if c.want == "" && got != "" || !strings.Contains(got, c.want) || got != "" && !strings.Contains(got, name) {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if all := listeners(filepath.Join(t.TempDir(), "none")); len(all) != 0 {
		t.Error(all)
	}
}

func TestOnlyWhatIsKnownIsTakenFromDockerConfig(t *testing.T) {
	for document, want := range map[string]string{
		``: "", `{}`: "", `null`: "", `{"privileged":true}`: "", `{"PidsLimit":null,"OomKillDisable":false,"RestartPolicy":{"Name":"","MaximumRetryCount":0},"Binds":[]}`: "",
		`{"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}]}`: "", `{"Tmpfs":{"/x":"size=1"}}`: "",
		`{"Binds":["/a:/b"]}`:                     "hostConfig.Binds is not supported",
		`{"Ulimits":[{"Name":"n","Colour":"x"}]}`: "hostConfig.Ulimits[0].Colour",
		`{"LogConfig":{"Mode":"x"}}`:              "hostConfig.LogConfig.Mode",
		`{"Privileged":"yes"}`:                    "hostConfig: json",
		`[]`:                                      "not a JSON object", `{"a":`: "not a JSON object", `{"Ulimits":{}}`: "Ulimits is not a list",
	} {
		_, _, err := decodeDockerConfig(&acs.DockerConfig{HostConfig: document})
		if got := fmt.Sprint(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", document, err, want)
		}
	}
}

func TestATaskIsRebuiltFromItsLabels(t *testing.T) {
	p := &acs.Task{Arn: "arn:t", TaskClusterArn: "c", DesiredStatus: "RUNNING", Family: "f", Version: "3", NetworkMode: "bridge", Containers: []*acs.Container{
		{Name: "web", Image: "i:1", Essential: true, CPU: 5, Memory: 6, StopTimeout: 9, PortMappings: []*acs.PortMapping{{ContainerPort: 80, HostPort: 8080}},
			DependsOn: []*acs.ContainerDependency{{ContainerName: "db", Condition: "HEALTHY"}}, VolumesFrom: []*acs.VolumeFrom{{SourceContainer: "db"}}},
		{Name: "db", Image: "i:2", CPU: 7, StartTimeout: 4, RestartPolicy: &acs.RestartPolicy{Enabled: true, IgnoredExitCodes: []int64{2}, RestartAttemptPeriod: 90}},
		{Name: "late", Image: "i:3", Essential: true},
	}}
	task, err := ParseTask(p, Host{})
	if err != nil {
		t.Fatal(err)
	}
	var states []State
	for _, c := range task.Containers[:2] {
		labels, err := labelsOf(task, c, 1, "sha256:d", "c", nil)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, State{Name: containerName(task, c.Name, 1), Labels: labels})
	}
	back, rec, err := rebuild("arn:t", states, noon)
	if err != nil {
		t.Fatal(err)
	}
	if !rec.Rebuilt || rec.container("web").ImageDigest != "sha256:d" || len(rec.Containers) != 3 {
		t.Errorf("%+v", rec)
	}
	if d := cmp.Diff(task.Need, back.Need); d != "" {
		t.Error(d)
	}
	for i, c := range task.Containers[:2] {
		b := back.Containers[i]
		if b.Name != c.Name || b.Essential != c.Essential || b.StopTimeout != c.StopTimeout || b.StartTimeout != c.StartTimeout || !cmp.Equal(b.Restart, c.Restart) ||
			!cmp.Equal(b.Ports, c.Ports) || len(b.DependsOn) != len(c.DependsOn) || containerName(back, b.Name, 1) != containerName(task, c.Name, 1) {
			t.Errorf("%+v\n%+v", b, c)
		}
	}
	states[0].Labels[LabelTask] = `{"v":99}`
	if _, _, err := rebuild("arn:t", states, noon); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Error(err)
	}
}

func FuzzParseTask(f *testing.F) {
	f.Add([]byte(`{"arn":"a","desiredStatus":"RUNNING","containers":[{"name":"c","image":"i","overrides":"{\"command\":[\"x\"]}","portMappings":[{"containerPort":80}],
		"dockerConfig":{"hostConfig":"{\"NetworkMode\":\"host\"}"},"dependsOn":[{"containerName":"c","condition":"START"}]}]}`))
	f.Add([]byte(`{"arn":"a","desiredStatus":"DEAD","volumes":[{"name":"v","host":{}}],"containers":[{"name":"c","image":"i","mountPoints":[{"sourceVolume":"v","containerPath":"/x"}],"volumesFrom":[{"sourceContainer":"d"}]},{"name":"d","image":"i","links":["c:e"]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p := &acs.Task{}
		if json.Unmarshal(raw, p) != nil {
			return
		}
		task, err := ParseTask(p, Host{CPU: 1, Memory: 1})
		if err != nil {
			return
		}
		rec := newRecord(task, "RUNNING", noon)
		obs := &Observed{Engine: EngineObserved{Available: true, LookedAt: noon}, Containers: map[string]*ContainerObserved{}}
		next := settle(task, rec, obs, Settings{}, noon)
		plan(task, next, obs, Settings{}, noon)
		report(task, next, obs, noon)
		if task.Doom != "" {
			return
		}
		for _, c := range task.Containers {
			if _, err := specOf(task, rec, c, &Image{}, Host{}, nil); err != nil {
				t.Error(err)
			}
			bindsOf(task, c)
		}
	})
}

func FuzzRebuild(f *testing.F) {
	f.Add(`{"v":1,"attempt":1,"essential":true,"containers":["a","b"],"need":{"cpu":1},"dependsOn":[{"container":"b","condition":"START"}],"ports":[{"Container":80,"Host":80,"Protocol":"tcp"}]}`)
	f.Fuzz(func(t *testing.T, label string) {
		_, rec, err := rebuild("arn:t", []State{{Name: "n", Labels: map[string]string{LabelTask: label, LabelContainerName: "a"}}}, noon)
		if err == nil && len(rec.Containers) == 0 {
			t.Error("a task without containers was rebuilt")
		}
	})
}

func FuzzParseSocket(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1")
	f.Fuzz(func(_ *testing.T, line string) { parseSocket(line, "tcp") })
}
