package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// mostShared bounds how many different lists are remembered.
const mostShared = 4096

// shared are the lists that many instances have in common: hosts of one kind register with the same attributes and
// resources, and the view holds each list once. It is the follower's.
type shared struct {
	attributes map[string][]types.Attribute
	resources  map[string][]types.Resource
}

// share has an instance that was not yet published refer to lists that are there already.
func (s *shared) share(r, old Record) {
	i, ok := r.(*Instance)
	if !ok {
		return
	}
	if was, ok := old.(*Instance); ok && same(i.Object.Attributes, was.Object.Attributes) && same(i.Object.RegisteredResources, was.Object.RegisteredResources) {
		return
	}
	var b strings.Builder
	for _, a := range i.Object.Attributes {
		fmt.Fprintf(&b, "%q %q %q %q\n", aws.ToString(a.Name), value(a.Value), value(a.TargetId), a.TargetType)
	}
	i.Object.Attributes = once(&s.attributes, b.String(), i.Object.Attributes)
	b.Reset()
	for _, x := range i.Object.RegisteredResources {
		fmt.Fprintf(&b, "%q %q %d %d %v %t %q\n", aws.ToString(x.Name), aws.ToString(x.Type), x.IntegerValue, x.LongValue, x.DoubleValue, x.StringSetValue == nil, x.StringSetValue)
	}
	i.Object.RegisteredResources = once(&s.resources, b.String(), i.Object.RegisteredResources)
}

// value tells no text from an empty one.
func value(s *string) string {
	if s == nil {
		return ""
	}
	return "=" + *s
}

// same tells whether two lists are one.
func same[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// once is the list that was first seen with this key.
func once[T any](lists *map[string][]T, key string, list []T) []T {
	if len(list) == 0 {
		return list
	}
	if known, ok := (*lists)[key]; ok {
		return known
	}
	if *lists == nil || len(*lists) >= mostShared {
		*lists = map[string][]T{}
	}
	list = slices.Clip(list) // whoever appends gets a list of his own
	(*lists)[key] = list
	return list
}
