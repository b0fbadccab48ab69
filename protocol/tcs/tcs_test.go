package tcs_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/protocol/tcs"
)

var all = []any{
	&tcs.HeartbeatMessage{}, &tcs.AckPublishMetric{}, &tcs.AckPublishHealth{}, &tcs.AckPublishInstanceStatus{}, &tcs.StopTelemetrySessionMessage{},
	&tcs.PublishMetricsRequest{}, &tcs.PublishHealthRequest{}, &tcs.PublishInstanceStatusRequest{},
	&tcs.LongshoreProgress{},
}

func fill(r *rand.Rand, v reflect.Value) {
	if v.Type() == reflect.TypeFor[tcs.Time]() {
		v.Set(reflect.ValueOf(tcs.Time{Time: time.UnixMilli(r.Int64N(4e12) - 1e12).UTC()}))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(r, v.Index(0))
		fill(r, v.Index(1))
	case reflect.String:
		v.SetString([]string{"x", "ä<&>"}[r.IntN(2)])
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

func TestEveryMessageSurvivesItsFrameWithAndWithoutHeaderLines(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := rapid.SampledFrom(all).Draw(rt, "message")
		want := reflect.New(reflect.TypeOf(m).Elem())
		fill(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0)), want.Elem())
		body, err := tcs.Encode(want.Interface())
		if err != nil {
			rt.Fatal(err)
		}
		header := http.Header{"Host": {"h:1"}, "Authorization": {"AWS4-HMAC-SHA256 Credential=x"}, "X-Amz-Date": {"20260101T000000Z"}, "X-Other": {"no"}}
		for _, frame := range [][]byte{body, tcs.Frame(header, body)} {
			_, envelope, err := tcs.SplitFrame(frame)
			if err != nil {
				rt.Fatal(err)
			}
			got, err := tcs.Decode(envelope)
			if err != nil {
				rt.Fatal(err)
			}
			if d := cmp.Diff(want.Interface(), got, cmpopts.EquateEmpty()); d != "" {
				rt.Fatal(d)
			}
		}
	})
}

func TestAnAgentsFrameIsHeaderLinesAnEmptyLineAndTheEnvelope(t *testing.T) {
	frame := tcs.Frame(http.Header{"Host": {"h"}, "Authorization": {"a\r\nX: y"}, "X-Amz-Date": {"d"}, "X-Amz-Security-Token": {"t"}}, []byte(`{}`))
	if string(frame) != "Host: h\r\nAuthorization: aX: y\r\nX-Amz-Date: d\r\nX-Amz-Security-Token: t\r\n\r\n{}" {
		t.Errorf("%q", frame)
	}
	header, body, err := tcs.SplitFrame(frame)
	if err != nil || string(body) != "{}" || header.Get("X-Amz-Date") != "d" {
		t.Error(header, string(body), err)
	}
	for _, bad := range []string{"", "Host: h\r\n", "no colon\r\n\r\n{}", "Host: " + strings.Repeat("x", 70<<10) + "\r\n\r\n{}"} {
		var format *tcs.FormatError
		if _, _, err := tcs.SplitFrame([]byte(bad)); !errors.As(err, &format) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func TestWhatIsNotAMessageIsATypedError(t *testing.T) {
	for text, want := range map[string]string{
		``:                "malformed message: unexpected end of JSON input",
		`{"type":"Poke"}`: `unknown message type "Poke"`,
		`{}`:              `malformed message: the member "type" is missing`,
		`{"type":"PublishMetricsRequest","message":{"timestamp":"x"}}`:           "malformed PublishMetricsRequest: ",
		`{"type":"PublishHealthRequest","message":{"tasks":[{"containers":7}]}}`: "malformed PublishHealthRequest: tasks.containers: JSON number where []*tcs.ContainerHealth belongs",
	} {
		if m, err := tcs.Decode([]byte(text)); err == nil || m != nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, %v", text, m, err)
		}
	}
	for _, text := range []string{`{"InactiveInstanceException":"x"}`, `{"type":"InactiveInstanceException","message":{"message":"x"}}`} {
		if m, err := tcs.Decode([]byte(text)); err != nil || m.(*tcs.Exception).Error() != "InactiveInstanceException: x" {
			t.Error(m, err)
		}
	}
	for _, m := range []any{nil, tcs.HeartbeatMessage{}, (*tcs.HeartbeatMessage)(nil), &tcs.Exception{}, &tcs.PublishMetricsRequest{InstanceMetrics: &tcs.InstanceMetrics{Storage: &tcs.InstanceStorage{RootFilesystem: ptr(math.NaN())}}}} {
		if b, err := tcs.Encode(m); err == nil {
			t.Errorf("%T: %s", m, b)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestNullEntriesOfListsAreDropped(t *testing.T) {
	m, err := tcs.Decode([]byte(`{"type":"PublishHealthRequest","message":{"metadata":null,"tasks":[null,{"taskArn":"t","containers":[null]}],"timestamp":1767225600.25}}`))
	if err != nil {
		t.Fatal(err)
	}
	h := m.(*tcs.PublishHealthRequest)
	if len(h.Tasks) != 1 || len(h.Tasks[0].Containers) != 0 || !h.Timestamp.Equal(time.UnixMilli(1767225600250)) {
		t.Errorf("%+v", h)
	}
}

func TestMetricsAreDividedByCountAndBySize(t *testing.T) {
	if parts := tcs.SplitMetrics(&tcs.PublishMetricsRequest{Metadata: &tcs.MetricsMetadata{Idle: true}}); len(parts) != 1 || !parts[0].Metadata.Fin || !parts[0].Metadata.Idle {
		t.Error(parts)
	}
	rapid.Check(t, func(t *rapid.T) {
		m := &tcs.PublishMetricsRequest{Metadata: &tcs.MetricsMetadata{MessageID: "m"}, InstanceMetrics: &tcs.InstanceMetrics{}}
		for i, kib := range rapid.SliceOfN(rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 0, 600}), 0, 25).Draw(t, "sizes") {
			m.TaskMetrics = append(m.TaskMetrics, &tcs.TaskMetric{TaskArn: fmt.Sprint(i), TaskDefinitionFamily: strings.Repeat("x", kib<<10)})
		}
		var got []string
		parts := tcs.SplitMetrics(m)
		for i, p := range parts {
			if p.Metadata.Fin != (i == len(parts)-1) || p.Metadata.MessageID != "m" || (p.InstanceMetrics != nil) != (i == 0) || len(p.TaskMetrics) > tcs.MaxTasks {
				t.Fatalf("part %d of %d: %+v", i, len(parts), p)
			}
			if b, err := tcs.Encode(p); err != nil || len(b) > tcs.MaxSent {
				t.Fatal(len(b), err)
			}
			for _, task := range p.TaskMetrics {
				got = append(got, task.TaskArn)
			}
		}
		if len(got) != len(m.TaskMetrics) {
			t.Fatal(got)
		}
	})
	h := &tcs.PublishHealthRequest{Metadata: &tcs.HealthMetadata{}}
	for range 21 {
		h.Tasks = append(h.Tasks, &tcs.TaskHealth{})
	}
	if parts := tcs.SplitHealth(h); len(parts) != 3 || parts[0].Metadata.Fin || !parts[2].Metadata.Fin || len(parts[2].Tasks) != 1 {
		t.Error(len(parts))
	}
}

func TestACounterAbove63BitsOverflows(t *testing.T) {
	for v, want := range map[uint64][2]int64{5: {5, 0}, math.MaxInt64: {math.MaxInt64, 0}, math.MaxInt64 + 3: {math.MaxInt64, 3}, math.MaxUint64: {math.MaxInt64, math.MaxInt64}} {
		if a, b := tcs.Split(v); a != want[0] || b != want[1] {
			t.Errorf("%d: %d, %d", v, a, b)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("Host: h\r\n\r\n{\"type\":\"PublishMetricsRequest\",\"message\":{\"metadata\":{},\"timestamp\":1.5,\"taskMetrics\":[null,{\"containerMetrics\":[{}]}]}}"))
	f.Add([]byte(`{"type":"PublishInstanceStatusRequest","message":{"statuses":[{"lastUpdated":"2026-01-01T00:00:00Z"}]}}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		_, body, err := tcs.SplitFrame(frame)
		if err != nil {
			return
		}
		m, err := tcs.Decode(body)
		if err != nil {
			return
		}
		if _, err := tcs.Encode(m); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMetricsOfOurOwnAreFoundByTheirNames(t *testing.T) {
	payload := tcs.OwnPayload(tcs.Own(tcs.HostCPUSteal, 2.5, tcs.UnitPercent), tcs.Own(tcs.HostMemoryTotal, 512, tcs.UnitMiB))
	payload = append(payload, nil, &tcs.GeneralMetricsWrapper{Dimensions: []*tcs.Dimension{{Key: "k"}}, GeneralMetrics: []*tcs.GeneralMetric{tcs.Own("other", 1, "")}})
	if v, ok := tcs.OwnValue(payload, tcs.HostMemoryTotal); v != 512 || !ok {
		t.Error(v, ok)
	}
	if v, ok := tcs.OwnValue(payload, "other"); ok {
		t.Error(v)
	}
	if tcs.OwnPayload() != nil {
		t.Error("an empty payload is a payload")
	}
}
