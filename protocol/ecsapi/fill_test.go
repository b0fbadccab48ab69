package ecsapi_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/document"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	smithydocument "github.com/aws/smithy-go/document"
)

// filler fills values of any SDK type with what a document can carry. With full set every member is set to something that
// is neither nil nor zero.
type filler struct {
	*rand.Rand
	full bool
}

var unionMembers = map[reflect.Type][]any{
	reflect.TypeFor[types.DescribeGatewayConfiguration]():         {types.DescribeGatewayConfigurationMemberHostSharedAlb{}},
	reflect.TypeFor[types.GatewayConfiguration]():                 {types.GatewayConfigurationMemberHostSharedAlb{}},
	reflect.TypeFor[types.GatewayConnectionResources]():           {types.GatewayConnectionResourcesMemberHostSharedAlb{}},
	reflect.TypeFor[types.GatewayElbAccessLogDestination]():       {types.GatewayElbAccessLogDestinationMemberS3{}},
	reflect.TypeFor[types.GatewayInfrastructureResources]():       {types.GatewayInfrastructureResourcesMemberHostSharedAlb{}},
	reflect.TypeFor[types.GatewayRouteResources]():                {types.GatewayRouteResourcesMemberHostSharedAlb{}},
	reflect.TypeFor[types.ServiceConnectContainerConfiguration](): {types.ServiceConnectContainerConfigurationMemberLogLevel{}},
	reflect.TypeFor[types.SharingStrategy]():                      {types.SharingStrategyMemberNvidiaMps{}},
	reflect.TypeFor[types.UpdateGatewayConfiguration]():           {types.UpdateGatewayConfigurationMemberHostSharedAlb{}},
}

var words = []string{"a", "web", "ä\u2028😀", `quote " and \ slash`, "line\nbreak\tand\x01control", "<&>", "arn:aws:ecs:eu-central-1:123456789012:task/x/y", strings.Repeat("long", 50)}

func (f *filler) fill(v reflect.Value) {
	t := v.Type()
	if t == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.UnixMilli(f.Int64N(4e12) + 1).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if f.full || f.IntN(3) > 0 {
			v.Set(reflect.New(t.Elem()))
			f.fill(v.Elem())
		}
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).IsExported() && t.Field(i).Name != "ResultMetadata" {
				f.fill(v.Field(i))
			}
		}
	case reflect.Slice:
		if f.full || f.IntN(4) > 0 {
			n := f.IntN(3)
			if f.full {
				n = 1 + f.IntN(2)
			}
			v.Set(reflect.MakeSlice(t, n, n))
			for i := range n {
				f.fillSet(v.Index(i))
			}
		}
	case reflect.Map:
		if f.full || f.IntN(4) > 0 {
			v.Set(reflect.MakeMap(t))
			for range 1 + f.IntN(3) {
				k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
				f.fillSet(k)
				f.fillSet(e)
				v.SetMapIndex(k, e)
			}
		}
	case reflect.Interface:
		if f.full || f.IntN(2) > 0 {
			v.Set(f.interfaceValue(t))
		}
	case reflect.String:
		if f.full || f.IntN(4) > 0 {
			v.SetString(words[f.IntN(len(words))])
		}
	case reflect.Bool:
		v.SetBool(f.full || f.IntN(2) == 0)
	case reflect.Int32:
		v.SetInt(int64(int32(f.Uint32()) | 1))
	case reflect.Int64:
		v.SetInt(int64(f.Uint64() | 1))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(1 + f.Float64()*1e6)
	default:
		panic("fill " + t.String())
	}
}

// fillSet fills an element of a list or map, which cannot be null.
func (f *filler) fillSet(v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if v.Kind() == reflect.Interface {
		v.Set(f.interfaceValue(v.Type()))
		return
	}
	if v.Kind() == reflect.Slice {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	f.fill(v)
	if v.Kind() == reflect.Slice && v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
}

func (f *filler) interfaceValue(t reflect.Type) reflect.Value {
	if t == reflect.TypeFor[document.Interface]() {
		return reflect.ValueOf(document.NewLazyDocument(map[string]any{
			"n": smithydocument.Number("1.5"), "s": words[f.IntN(len(words))], "b": true, "l": []any{nil, "x"}, "o": map[string]any{}}))
	}
	members := unionMembers[t]
	m := reflect.New(reflect.TypeOf(members[f.IntN(len(members))]))
	f.fillSet(m.Elem().FieldByName("Value"))
	return m
}
