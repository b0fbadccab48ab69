package ecsapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/document"
	"github.com/aws/smithy-go/middleware"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

var same = cmp.Options{
	cmp.Exporter(func(reflect.Type) bool { return true }),
	cmp.Comparer(func(a, b middleware.Metadata) bool { return true }),
	cmp.FilterValues(func(a, b any) bool {
		_, x := a.(document.Interface)
		_, y := b.(document.Interface)
		return x && y
	}, cmp.Comparer(func(a, b any) bool { return documentText(a) == documentText(b) })),
}

// sameForSDK allows for the SDK's client, which reads timestamps through a float and may lose a millisecond.
var sameForSDK = append(cmp.Options{cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() <= time.Millisecond })}, same...)

func documentText(v any) string {
	b, err := v.(document.Interface).MarshalSmithyDocument()
	if err != nil {
		return err.Error()
	}
	var parsed any
	if err := json.Unmarshal(b, &parsed); err != nil {
		return err.Error()
	}
	return fmt.Sprint(parsed)
}

func TestEveryShapeSurvivesTheCodecBothWays(t *testing.T) {
	if n := len(ecsapi.Operations()); n != 88 {
		t.Fatalf("%d operations, want 88", n)
	}
	for _, op := range ecsapi.Operations() {
		for seed := range uint64(6) {
			survives(t, op.NewInput, seed)
			survives(t, op.NewOutput, seed)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		op := rapid.SampledFrom(ecsapi.Operations()).Draw(t, "operation")
		survives(t, rapid.SampledFrom([]func() any{op.NewInput, op.NewOutput}).Draw(t, "shape"), rapid.Uint64().Draw(t, "seed"))
	})
}

// survives checks that a value filled from seed is the same after the codec; every second seed fills all of it.
func survives(t rapid.TB, make func() any, seed uint64) {
	t.Helper()
	f := filler{rand.New(rand.NewPCG(seed, 1)), seed%2 == 0}
	want := make()
	f.fill(reflect.ValueOf(want).Elem())
	b, err := awsjson.Marshal(want)
	if err != nil {
		t.Fatalf("%T: %v", want, err)
	}
	got := make()
	report, err := awsjson.Unmarshal(b, got)
	if err != nil {
		t.Fatalf("%T: %v\n%s", want, err, b)
	}
	if len(report.Unknown) > 0 || f.full && len(report.Missing) > 0 {
		t.Fatalf("%T: report %+v", want, report)
	}
	if d := cmp.Diff(want, got, same); d != "" {
		t.Fatalf("%T: %s", want, d)
	}
}

// exchange answers one request of the SDK's client and keeps what it sent.
type exchange struct {
	target string
	body   []byte
	answer []byte
	status int
}

func (x *exchange) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.target = r.Header.Get("X-Amz-Target")
	x.body, _ = io.ReadAll(r.Body)
	w.Header().Set("Content-Type", awsjson.ContentType)
	w.WriteHeader(x.status)
	_, _ = w.Write(x.answer)
}

// RoundTrip hands the client's request to ServeHTTP as it is, without a socket between them.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	x.ServeHTTP(w, r)
	return w.Result(), nil
}

func sdkClient(x *exchange) *ecs.Client {
	return ecs.New(ecs.Options{
		BaseEndpoint: aws.String("http://control.test"), Region: "eu-central-1", HTTPClient: &http.Client{Transport: x}, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("AKID", "SECRET", ""),
	})
}

// sdkInput is the part of an input that the SDK's client takes.
func sdkInput(in any) reflect.Value {
	v := reflect.ValueOf(in)
	if f := v.Elem().Type().Field(0); f.Anonymous {
		return v.Elem().Field(0).Addr()
	}
	return v
}

func TestTheSDKsClientAndTheCodecUnderstandEachOtherInEveryOperation(t *testing.T) {
	x := &exchange{}
	client := sdkClient(x)
	for _, op := range ecsapi.Operations() {
		for seed := range uint64(2) {
			f := filler{rand.New(rand.NewPCG(seed, 2)), true}
			in, out := op.NewInput(), op.NewOutput()
			f.fill(sdkInput(in).Elem())
			f.fill(sdkInput(out).Elem())
			var err error
			if x.answer, err = awsjson.Marshal(out); err != nil {
				t.Fatalf("%s: %v", op.Name, err)
			}
			x.status = http.StatusOK
			res := reflect.ValueOf(client).MethodByName(op.Name).Call([]reflect.Value{reflect.ValueOf(context.Background()), sdkInput(in)})
			if err, _ := res[1].Interface().(error); err != nil {
				t.Fatalf("%s: the SDK refuses our answer: %v", op.Name, err)
			}
			if d := cmp.Diff(sdkInput(out).Interface(), res[0].Interface(), sameForSDK); d != "" {
				t.Fatalf("%s: the SDK read something else than we wrote: %s", op.Name, d)
			}
			if found, err := ecsapi.ByTarget(x.target); err != nil || found != op {
				t.Fatalf("%s: target %q is not found: %v", op.Name, x.target, err)
			}
			got := op.NewInput()
			report, err := awsjson.Unmarshal(x.body, got)
			if err != nil || len(report.Unknown) > 0 || len(report.Missing) > 0 {
				t.Fatalf("%s: %v %+v\n%s", op.Name, err, report, x.body)
			}
			if d := cmp.Diff(in, got, sameForSDK); d != "" {
				t.Fatalf("%s: we read something else than the SDK wrote: %s", op.Name, d)
			}
		}
	}
}

func TestTheSDKsClientReadsEveryErrorWithItsCodeAndMessage(t *testing.T) {
	x := &exchange{}
	client := sdkClient(x)
	for _, code := range []ecsapi.Code{ecsapi.ClusterNotFoundException, ecsapi.ServerException, ecsapi.UnknownOperationException} {
		e := ecsapi.Errorf(code, "it is %s", "so")
		x.status, x.answer = code.HTTPStatus(), e.Body()
		_, err := client.ListClusters(context.Background(), &ecs.ListClustersInput{})
		if err == nil || !strings.Contains(err.Error(), string(code)) || !strings.Contains(err.Error(), "it is so") {
			t.Errorf("%s: the SDK says %v", code, err)
		}
	}
	if ecsapi.ServerException.HTTPStatus() != 500 || ecsapi.UnknownOperationException.HTTPStatus() != 400 || !ecsapi.ThrottlingException.Known() || ecsapi.Code("X").Known() {
		t.Error("status or knowledge of a code is wrong")
	}
}

func TestATargetThatIsNotOneIsRefusedByName(t *testing.T) {
	for _, target := range []string{"", "ListClusters", ecsapi.TargetPrefix, ecsapi.TargetPrefix + "FlyToTheMoon"} {
		op, err := ecsapi.ByTarget(target)
		if op != nil || ecsapi.AsError(err).Code != ecsapi.UnknownOperationException {
			t.Errorf("%q: %v, %v", target, op, err)
		}
	}
}

func TestMembersOfTheAgentsOwnModelAreDecoded(t *testing.T) {
	in := ecsapi.ByName("RegisterContainerInstance").NewInput().(*ecsapi.RegisterContainerInstanceInput)
	report, err := awsjson.Unmarshal([]byte(`{"clientToken":"t","cluster":"c","instanceIdentityDocument":"","attributes":[{"name":"n"}]}`), in)
	if err != nil || len(report.Unknown) > 0 || *in.ClientToken != "t" || *in.Cluster != "c" || *in.Attributes[0].Name != "n" {
		t.Errorf("%+v %v", report, err)
	}
}

func TestErrorsOfTheCodecKeepTheirCodes(t *testing.T) {
	_, wrongType := awsjson.Unmarshal([]byte(`{"cluster":1}`), new(ecs.ListTasksInput))
	report, _ := awsjson.Unmarshal([]byte(`{}`), new(ecs.DescribeTasksInput))
	_, foreign := arn.Owner{}.ParseCluster("arn:")
	for err, want := range map[error]string{
		wrongType:         "SerializationException: cluster: expected a string, got a number",
		report.Required(): "InvalidParameterException: Tasks cannot be empty.",
		foreign:           "InvalidParameterException: The ARN provided is invalid.",
	} {
		if got := ecsapi.AsError(fmt.Errorf("wrapped: %w", err)); got == nil || got.Error() != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
	if ecsapi.AsError(io.EOF) != nil {
		t.Error("an error without a code got one")
	}
}
