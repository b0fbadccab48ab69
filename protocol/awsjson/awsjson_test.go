package awsjson_test

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/protocol/awsjson"
	_ "github.com/longshore-project/longshore/protocol/ecsapi"
)

type meta struct{ revision int64 }

type Meta struct{ revision int64 }

type inner struct{ Hidden, Shown string }

type Embedded struct {
	Name  string
	Inner *string
}

type record struct {
	Meta
	meta
	Embedded
	Object   types.Cluster
	Name     string // hides Embedded.Name
	Since    time.Time
	Until    *time.Time
	Count    int64
	Small    uint8
	Flag     bool
	Ratio    float64
	List     []string
	Map      map[string]inner
	ByName   map[types.TaskStopCode]int32
	Blob     []byte
	Raw      json.RawMessage
	Duration time.Duration
	Other    string `awsjson:"other-name"`
	Skipped  string `awsjson:"-"`
	private  string
}

func TestARecordOfOurOwnSurvives(t *testing.T) {
	until := time.UnixMilli(1767225600001).UTC()
	want := record{
		Meta: Meta{1}, meta: meta{2}, Embedded: Embedded{Name: "hidden", Inner: new(string)}, Object: types.Cluster{ClusterName: new("c")}, Name: "n",
		Until: &until, Small: 255, Ratio: math.Inf(-1), List: []string{}, Map: map[string]inner{"k": {Shown: "s"}}, ByName: map[types.TaskStopCode]int32{"b": 1, "a": 0},
		Blob: []byte{0, 255}, Raw: json.RawMessage(`{"a": [1]}`), Duration: time.Second, Other: "o", Skipped: "gone", private: "gone",
	}
	b, err := awsjson.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"blob":"AP8=","byName":{"a":0,"b":1},"count":0,"duration":1000000000,"flag":false,"inner":"","list":[],"map":{"k":{"shown":"s"}},"name":"n",` +
		`"object":{"activeServicesCount":0,"clusterName":"c","pendingTasksCount":0,"registeredContainerInstancesCount":0,"runningTasksCount":0},` +
		`"other-name":"o","ratio":"-Infinity","raw":{"a": [1]},"small":255,"until":1767225600.001}`
	if string(b) != text {
		t.Errorf("got  %s\nwant %s", b, text)
	}
	var got record
	report, err := awsjson.Unmarshal(b, &got)
	if err != nil || len(report.Unknown) > 0 {
		t.Fatal(report, err)
	}
	want.Meta, want.meta, want.Embedded.Name, want.Skipped, want.private = Meta{}, meta{}, "", "", ""
	if d := cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true })); d != "" {
		t.Error(d)
	}
}

func TestARequestLeavesZeroNumbersOutAndAnAnswerWritesThem(t *testing.T) {
	r := types.Resource{Name: new("CPU"), IntegerValue: 4096}
	for want, f := range map[string]func(any) ([]byte, error){
		`{"doubleValue":0,"integerValue":4096,"longValue":0,"name":"CPU"}`: awsjson.Marshal,
		`{"integerValue":4096,"name":"CPU"}`:                               awsjson.MarshalRequest,
	} {
		if b, err := f(r); err != nil || string(b) != want {
			t.Errorf("%s %v, want %s", b, err, want)
		}
	}
}

func TestTimestampsAreReadInEveryForm(t *testing.T) {
	for text, want := range map[string]time.Time{
		`1767225600`:                    time.Unix(1767225600, 0),
		`1767225600.5`:                  time.UnixMilli(1767225600500),
		`1767225600.123456789`:          time.Unix(1767225600, 123456789),
		`1.767225600123E9`:              time.UnixMilli(1767225600123),
		`-1.5`:                          time.UnixMilli(-1500),
		`"2026-01-01T00:00:00Z"`:        time.Unix(1767225600, 0),
		`"2026-01-01T02:00:00.5+02:00"`: time.UnixMilli(1767225600500),
	} {
		var in ecs.SubmitTaskStateChangeInput
		if _, err := awsjson.Unmarshal([]byte(`{"pullStartedAt":`+text+`}`), &in); err != nil || !in.PullStartedAt.Equal(want) {
			t.Errorf("%s: %v, %v", text, in.PullStartedAt, err)
		}
	}
}

func TestWhatIsWrongIsNamedWithItsPath(t *testing.T) {
	deep := strings.Repeat("[", 100)
	for body, want := range map[string]string{
		``:     "",
		` {} `: "",
		`{"family":null,"containerDefinitions":null}`: "",
		`{"cpu":1}`:                                                     "cpu: expected a string, got a number",
		`{"tags":{}}`:                                                   "tags: expected a list, got an object",
		`{"containerDefinitions":[{"cpu":1.0}]}`:                        "",
		`{"containerDefinitions":[{"cpu":2e2}]}`:                        "",
		`{"containerDefinitions":[{"cpu":1.5}]}`:                        "containerDefinitions[0].cpu: expected an integer, got a number with a fraction",
		`{"containerDefinitions":[{"cpu":2147483648}]}`:                 "containerDefinitions[0].cpu: expected an integer from -2147483648 to 2147483647",
		`{"containerDefinitions":[{"cpu":1e999999999999}]}`:             "containerDefinitions[0].cpu: a number's exponent is out of range",
		`{"containerDefinitions":[{"cpu":1e-400}]}`:                     "containerDefinitions[0].cpu: expected an integer, got a number with a fraction",
		`{"containerDefinitions":[{"cpu":"1"}]}`:                        "containerDefinitions[0].cpu: expected an integer, got a string",
		`{"containerDefinitions":[{},{"essential":"true"}]}`:            "containerDefinitions[1].essential: expected a boolean, got a string",
		`{"containerDefinitions":[{"dockerLabels":{"a":"b","a":"c"}}]}`: "containerDefinitions[0].dockerLabels.a: the key appears twice",
		`{"containerDefinitions":[{"dockerLabels":{"a":null}}]}`:        "containerDefinitions[0].dockerLabels.a: null is not allowed in a map",
		`{"containerDefinitions":[null]}`:                               "containerDefinitions[0]: null is not allowed in a list",
		`{"family":"a","family":"b"}`:                                   "family: the member appears twice",
		`{"family":"a"} x`:                                              "unexpected data after the end of the document (at byte 15)",
		`[]`:                                                            "expected an object, got a list (at byte 0)",
		`{"family":"a",}`:                                               "expected a member's name in double quotes, got something that is not JSON (at byte 14)",
		`{"family" "a"}`:                                                "expected ':' after a member's name (at byte 10)",
		`{"family":"a`:                                                  "family: a string does not end",
		"{\"family\":\"a\xff\"}":                                        "family: a string is not valid UTF-8",
		`{"family":"\ud800"}`:                                           `family: a \u escape is not a Unicode character`,
		`{"family":"\x"}`:                                               "family: an unknown escape in a string",
		"{\"family\":\"a\nb\"}":                                         "family: a control character in a string must be escaped",
		`{"family":tru}`:                                                "family: expected a string, got a boolean",
		`{"family":01}`:                                                 "family: expected a string, got a number",
		`{"nope":` + deep + `}`:                                         "nope: more than 64 objects and lists inside each other",
		`{"nope":-}`:                                                    "nope: a number is malformed",
		`{"containerDefinitions":[{"linuxParameters":{"devices":[{"hostPath":7}]}}]}`: "containerDefinitions[0].linuxParameters.devices[0].hostPath: expected a string, got a number",
	} {
		var in ecs.RegisterTaskDefinitionInput
		_, err := awsjson.Unmarshal([]byte(body), &in)
		got := ""
		if err != nil {
			got = err.Error()
			var s *awsjson.SerializationError
			if !errors.As(err, &s) || s.Code() != "SerializationException" {
				t.Errorf("%s: %T", body, err)
			}
		}
		if got != want {
			t.Errorf("%s\n got  %q\n want %q", body, got, want)
		}
	}
}

func TestADocumentThatIsTooLargeIsRefused(t *testing.T) {
	var in ecs.ListTasksInput
	if _, err := awsjson.Unmarshal(make([]byte, awsjson.MaxSize+1), &in); err == nil || !strings.Contains(err.Error(), "8388609 bytes") {
		t.Error(err)
	}
}

func TestAUnionHasExactlyOneMember(t *testing.T) {
	type holder struct{ S types.SharingStrategy }
	for body, ok := range map[string]bool{`{"s":{"nvidiaMps":{}}}`: true, `{"s":{}}`: false, `{"s":{"nvidiaMps":null}}`: false, `{"s":{"nvidiaMps":{},"x":1}}`: false, `{"s":{"x":1}}`: true, `{"s":null}`: true, `{"s":7}`: false} {
		var h holder
		report, err := awsjson.Unmarshal([]byte(body), &h)
		if (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
		if strings.Contains(body, `"x"`) && ok && (len(report.Unknown) != 1 || report.Unknown[0] != "s.x") {
			t.Errorf("%s: %+v", body, report)
		}
	}
	if _, err := awsjson.Marshal(holder{(*types.SharingStrategyMemberNvidiaMps)(nil)}); err == nil {
		t.Error("a nil member was encoded")
	}
}

func TestTheReportTellsAbsentFromEmptyAndListsWhatIsUnknownAndMissing(t *testing.T) {
	body := []byte(`{"family":"f","tags":[],"volumes":null,"novel":{"a":[1, 2]},"containerDefinitions":[{"cpu":0,"dockerLabels":{"a.b":"c"},"fancy":true},{"logConfiguration":{}}]}`)
	var in ecs.RegisterTaskDefinitionInput
	r, err := awsjson.Unmarshal(body, &in)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"novel", "containerDefinitions[0].fancy"}, r.Unknown); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"containerDefinitions[1].logConfiguration.logDriver"}, r.Missing); d != "" {
		t.Error(d)
	}
	if err := r.Required(); err.Error() != "containerDefinitions[1].logConfiguration.logDriver should not be null or empty." {
		t.Error(err)
	}
	for path, want := range map[string]string{
		"family": `"f"`, "tags": "[]", "volumes": "null", "novel": `{"a":[1, 2]}`, "novel.a[1]": "2", "containerDefinitions[0].cpu": "0", "containerDefinitions[1].cpu": "",
		"containerDefinitions[0].dockerLabels.a.b": `"c"`, "containerDefinitions[2]": "", "containerDefinitions[x]": "", "cpu": "", "family.x": "", "family[0]": "", "tags[": "",
	} {
		if got := string(r.Raw(path)); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if r.Present(path) != (want != "" && want != "null") {
			t.Errorf("%s: present %v", path, r.Present(path))
		}
	}
	r, err = awsjson.Unmarshal([]byte(`{"cluster":"c","tasks":null}`), new(ecs.DescribeTasksInput))
	if err != nil || r.Required().Error() != "Tasks cannot be empty." {
		t.Error(err, r.Required())
	}
}

func TestTypesWithoutAFormAreRefused(t *testing.T) {
	type channel struct{ C chan int }
	type plain struct{ I any }
	type keys struct{ M map[int]string }
	for _, v := range []any{nil, 7, (*record)(nil), channel{}, plain{}, keys{}, record{Raw: json.RawMessage("{")}} {
		if b, err := awsjson.Marshal(v); err == nil {
			t.Errorf("%T: %s", v, b)
		}
	}
	for _, v := range []any{nil, record{}, (*record)(nil), new(int), new(channel)} {
		if _, err := awsjson.Unmarshal([]byte("{}"), v); err == nil {
			t.Errorf("%T was decoded", v)
		}
	}
}

func TestErrorsAreReadAsTheSDKsReadThem(t *testing.T) {
	for _, c := range []struct{ body, header, code, message string }{
		{`{"__type":"ClusterNotFoundException","message":"m"}`, "", "ClusterNotFoundException", "m"},
		{`{"__type":"com.amazonaws.ecs#ServerException:http://x","Message":"m"}`, "Other", "ServerException", "m"},
		{`{"message":"m"}`, "AccessDeniedException:http://x", "AccessDeniedException", "m"},
		{`{"code":"ThrottlingException"}`, "", "ThrottlingException", ""},
		{"<html>bad gateway</html>\n", "", "", "<html>bad gateway</html>"},
		{"\xff", "", "", "\ufffd"},
		{string(awsjson.EncodeError("X", `"q"`)), "", "X", `"q"`},
	} {
		code, message := awsjson.DecodeError(http.Header{"X-Amzn-Errortype": {c.header}}, []byte(c.body))
		if code != c.code || message != c.message {
			t.Errorf("%s: %q %q", c.body, code, message)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"family":"f","containerDefinitions":[{"name":"\u00e4\n","cpu":1e2,"dockerLabels":{"a":"b"},"linuxParameters":{"swappiness":-1}}],"x":[{}]}`))
	f.Add([]byte(`{"tags":[{"key":"k"}],"volumes":[{"host":{}}],"cpu":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in ecs.RegisterTaskDefinitionInput
		report, err := awsjson.Unmarshal(data, &in)
		if err != nil {
			return
		}
		if len(strings.TrimSpace(string(data))) > 0 && !json.Valid(data) {
			t.Fatalf("accepted what is not JSON: %q", data)
		}
		for _, path := range append(report.Unknown, report.Missing...) {
			report.Present(path)
		}
		first, err := awsjson.Marshal(&in)
		if err != nil {
			t.Fatal(err)
		}
		var again ecs.RegisterTaskDefinitionInput
		if _, err := awsjson.Unmarshal(first, &again); err != nil {
			t.Fatalf("our own encoding is refused: %v\n%s", err, first)
		}
		if second, _ := awsjson.Marshal(&again); string(first) != string(second) {
			t.Fatalf("not stable:\n%s\n%s", first, second)
		}
	})
}

func FuzzDecodeError(f *testing.F) {
	f.Add([]byte(`{"__type":"a#b:c","message":null}`))
	f.Fuzz(func(t *testing.T, body []byte) { awsjson.DecodeError(nil, body) })
}

func BenchmarkUnmarshalATask(b *testing.B) {
	text := []byte(`{"taskArn":"arn:aws:ecs:us-west-2:123456789012:task/daemonset/0123456789abcdef0123456789abcdef","clusterArn":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","containers":[{"name":"a","lastStatus":"PENDING","networkBindings":[],"networkInterfaces":[]}],"createdAt":1767225600.123,"version":1,"tags":[],"attributes":[]}`)
	b.ReportAllocs()
	for b.Loop() {
		var task types.Task
		if _, err := awsjson.Unmarshal(text, &task); err != nil {
			b.Fatal(err)
		}
	}
}
