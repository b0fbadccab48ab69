package acs_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/protocol/acs"
)

var all = []any{
	&acs.HeartbeatMessage{}, &acs.HeartbeatAckRequest{}, &acs.PayloadMessage{}, &acs.CloseMessage{}, &acs.AckRequest{}, &acs.NackRequest{},
	&acs.PerformUpdateMessage{}, &acs.StageUpdateMessage{}, &acs.IAMRoleCredentialsMessage{}, &acs.IAMRoleCredentialsAckRequest{}, &acs.ErrorMessage{},
	&acs.AttachTaskNetworkInterfacesMessage{}, &acs.AttachInstanceNetworkInterfacesMessage{}, &acs.ConfirmAttachmentMessage{}, &acs.TaskManifestMessage{},
	&acs.TaskStopVerificationMessage{}, &acs.TaskStopVerificationAck{},
}

func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				fill(r, v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(r, v.Index(0))
		fill(r, v.Index(1))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(r, k)
		fill(r, e)
		v.SetMapIndex(k, e)
	case reflect.String:
		v.SetString([]string{"x", "ä<&>\u2028", `"\` + "\n"}[r.IntN(3)])
	case reflect.Int64:
		v.SetInt(r.Int64())
	case reflect.Float64:
		v.SetFloat(r.Float64())
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic(v.Type().String())
	}
}

func TestEveryMessageSurvivesItsFrame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := rapid.SampledFrom(all).Draw(rt, "message")
		want := reflect.New(reflect.TypeOf(m).Elem())
		fill(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), want.Elem())
		frame, err := acs.Encode(want.Interface())
		if err != nil {
			rt.Fatal(err)
		}
		got, err := acs.Decode(frame)
		if err != nil {
			rt.Fatalf("%v\n%s", err, frame)
		}
		if d := cmp.Diff(want.Interface(), got, cmpopts.EquateEmpty()); d != "" {
			rt.Fatal(d)
		}
	})
}

func TestExceptionsHaveTwoForms(t *testing.T) {
	for _, text := range []string{
		`{"InactiveInstanceException":"gone"}`, `{"InactiveInstanceException":{"message":"gone"}}`, `{"type":"InactiveInstanceException","message":{"message":"gone"}}`,
	} {
		m, err := acs.Decode([]byte(text))
		if e, ok := m.(*acs.Exception); err != nil || !ok || e.Error() != "InactiveInstanceException: gone" {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	e := &acs.Exception{Type: acs.BadRequestException, Message: `no "x"`}
	if got := string(acs.EncodeBare(e)); got != `{"BadRequestException":"no \"x\""}` {
		t.Error(got)
	}
	if frame, err := acs.Encode(e); err != nil || string(frame) != `{"type":"BadRequestException","message":{"message":"no \"x\""}}` {
		t.Error(string(frame), err)
	}
}

func TestWhatIsNotAMessageIsATypedError(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "malformed message: unexpected end of JSON input",
		`[]`:                                 "malformed message: JSON array where map[string]json.RawMessage belongs",
		`{}`:                                 `malformed message: the member "type" is missing`,
		`{"type":7}`:                         "malformed message: type: JSON number where string belongs",
		`{"type":"Poke"}`:                    `unknown message type "Poke"`,
		`{"type":"AckRequest","message":[]}`: "malformed AckRequest: JSON array where acs.AckRequest belongs",
		`{"type":"AckRequest","message":{"messageId":1}}`:         "malformed AckRequest: messageId: JSON number where string belongs",
		`{"type":"HeartbeatMessage","message":{"healthy":1e999}}`: "malformed HeartbeatMessage: healthy: JSON number where bool belongs",
		`{"FancyException":"x"}`:                                  `malformed message: the member "type" is missing`,
		strings.Repeat(" ", acs.MaxFrame+1):                       "malformed message: 4194305 bytes; at most 4194304 are accepted",
	} {
		m, err := acs.Decode([]byte(text))
		if err == nil || m != nil {
			t.Errorf("%.60s: %v", text, m)
			continue
		}
		var unknown *acs.UnknownTypeError
		var format *acs.FormatError
		if !errors.As(err, &unknown) && !errors.As(err, &format) || err.Error() != want {
			t.Errorf("%.60s: %v, want %s", text, err, want)
		}
	}
	for _, m := range []any{nil, 7, acs.AckRequest{}, (*acs.AckRequest)(nil), &acs.Task{}, &acs.Exception{Type: "X"}, (*acs.Exception)(nil)} {
		if frame, err := acs.Encode(m); err == nil {
			t.Errorf("%T: %s", m, frame)
		}
	}
}

func TestNullsAreAbsentAndOneBadTaskDoesNotHarmTheOthers(t *testing.T) {
	m, err := acs.Decode([]byte(`{"type":"PayloadMessage","message":{"messageId":"m","clusterArn":null,"tasks":[null,
		{"arn":"a","containers":[null,{"name":"c","command":null,"portMappings":[null]}],"volumes":[null]},{"arn":"b","cpu":"x"},{"arn":7},7]}}`))
	if err != nil {
		t.Fatal(err)
	}
	p := m.(*acs.PayloadMessage)
	if len(p.Tasks) != 1 || p.Tasks[0].Arn != "a" || len(p.Tasks[0].Containers) != 1 || len(p.Tasks[0].Containers[0].PortMappings) != 0 || len(p.Tasks[0].Volumes) != 0 {
		t.Errorf("%+v", p.Tasks)
	}
	if len(p.Undecodable) != 3 || p.Undecodable[0].Arn != "b" || p.Undecodable[0].Err.Error() != "malformed Task: cpu: JSON string where float64 belongs" || p.Undecodable[1].Arn != "" {
		t.Errorf("%+v", p.Undecodable)
	}
	if err := p.Validate(); err == nil || err.Error() != "clusterArn is empty" {
		t.Error(err)
	}
	for _, m := range all {
		text := `{"type":"` + acs.TypeOf(m) + `","message":null}`
		got, err := acs.Decode([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if v, ok := got.(interface{ Validate() error }); ok && v.Validate() == nil {
			t.Errorf("an empty %s is valid", acs.TypeOf(m))
		}
	}
}

func TestATaskIsJudgedByItsNames(t *testing.T) {
	good := func() *acs.Task {
		return &acs.Task{Arn: "a", DesiredStatus: "RUNNING", Volumes: []*acs.Volume{{Name: "v"}}, Containers: []*acs.Container{
			{Name: "c", Overrides: `{"command":["x"]}`, MountPoints: []*acs.MountPoint{{SourceVolume: "v"}}, DependsOn: []*acs.ContainerDependency{{ContainerName: "d"}}, VolumesFrom: []*acs.VolumeFrom{{SourceContainer: "d"}}},
			{Name: "d", Overrides: "{}"}}}
	}
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	if command, err := good().Containers[0].CommandOverride(); err != nil || len(command) != 1 {
		t.Error(command, err)
	}
	if err := (&acs.Task{Arn: "a", DesiredStatus: "STOPPED"}).Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*acs.Task){
		"arn is empty":        func(t *acs.Task) { t.Arn = "" },
		"containers is empty": func(t *acs.Task) { t.Containers = nil },
		`desiredStatus is "DANCING"; it must be RUNNING or STOPPED`:                         func(t *acs.Task) { t.DesiredStatus = "DANCING" },
		"volumes[0].name is empty":                                                          func(t *acs.Task) { t.Volumes[0].Name = "" },
		`volumes[1].name "v" appears twice`:                                                 func(t *acs.Task) { t.Volumes = append(t.Volumes, t.Volumes[0]) },
		"containers[1].name is empty":                                                       func(t *acs.Task) { t.Containers[1].Name = "" },
		`containers[1].name "c" appears twice`:                                              func(t *acs.Task) { t.Containers[1].Name = "c" },
		`container c: mountPoints[0].sourceVolume "w" is not a volume of the task`:          func(t *acs.Task) { t.Volumes[0].Name, t.Containers[0].MountPoints[0].SourceVolume = "v", "w" },
		`container c: dependsOn[0].containerName "e" is not a container of the task`:        func(t *acs.Task) { t.Containers[0].DependsOn[0].ContainerName = "e" },
		`container c: volumesFrom[0].sourceContainer "e" is not a container of the task`:    func(t *acs.Task) { t.Containers[0].VolumesFrom[0].SourceContainer = "e" },
		`container d: overrides must be {"command":[…]} or {}: unknown field "environment"`: func(t *acs.Task) { t.Containers[1].Overrides = `{"environment":[]}` },
		`container d: overrides must be {"command":[…]} or {}: unexpected EOF`:              func(t *acs.Task) { t.Containers[1].Overrides = `{` },
		`container d: overrides has data after its end`:                                     func(t *acs.Task) { t.Containers[1].Overrides = `{} {}` },
	} {
		task := good()
		spoil(task)
		if err := task.Validate(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestAnInterfaceNeedsAnAddressAndAGatewayInCIDRForm(t *testing.T) {
	m := &acs.AttachTaskNetworkInterfacesMessage{MessageID: "m", ClusterArn: "c", ContainerInstanceArn: "i", TaskArn: "t", WaitTimeoutMs: 1,
		ElasticNetworkInterfaces: []*acs.ElasticNetworkInterface{{MacAddress: "02:00:00:00:00:01", Ec2ID: "eni-1", IPv4Addresses: []*acs.IPv4Address{{PrivateAddress: "10.0.1.5", Primary: true}}, SubnetGatewayIpv4Address: "10.0.1.1/24"}}}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	m.ElasticNetworkInterfaces[0].SubnetGatewayIpv4Address = "10.0.1.1"
	if err := m.Validate(); err == nil || !strings.Contains(err.Error(), "elasticNetworkInterfaces[0].subnetGatewayIpv4Address") {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"type":"PayloadMessage","message":{"messageId":"m","tasks":[{"arn":"a","containers":[{"name":"c","overrides":"{}"}]},null,7]}}`))
	f.Add([]byte(`{"InactiveInstanceException":"x"}`))
	f.Add([]byte(`{"type":"SecurityGroupsMessage","message":{"messageId":"m","generation":1,"groups":[{"groupId":"sg-a","members":["10.0.0.1"],"ingress":[{"protocol":"tcp","fromPort":80,"toPort":80,"cidrs":["::/0"],"groups":["sg-a"]}]}]}}`))
	f.Add([]byte(`{"type":"TaskManifestMessage","message":{"tasks":[null,{}]}}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		m, err := acs.Decode(frame)
		if err != nil {
			return
		}
		if v, ok := m.(interface{ Validate() error }); ok {
			_ = v.Validate()
		}
		if p, ok := m.(*acs.PayloadMessage); ok {
			for _, task := range p.Tasks {
				_ = task.Validate()
			}
			p.Undecodable = nil
		}
		again, err := acs.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(again) {
			t.Fatalf("%s", again)
		}
		back, err := acs.Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, back, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}
