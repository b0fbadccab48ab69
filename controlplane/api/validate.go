package api

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
)

var (
	namePattern          = regexp.MustCompile(`^[a-zA-Z0-9\-_]{1,255}$`)
	groupPattern         = regexp.MustCompile(`^[a-zA-Z0-9\-_:/.]{1,255}$`)
	attributePattern     = regexp.MustCompile(`^[a-zA-Z0-9\-_./\\]{1,128}$`)
	attributeTextPattern = regexp.MustCompile(`^[a-zA-Z0-9\-_./\\@: ]{1,128}$`)
	tagPattern           = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
)

// checkName holds a name of a cluster, service, family, container or volume to 1–255 letters, digits, - and _. what
// starts the message, as in "Cluster".
func checkName(what, name string) error {
	if !namePattern.MatchString(name) {
		return invalid(`%s must match ^[a-zA-Z0-9\-_]{1,255}$, but was %.300s`, what, name)
	}
	return nil
}

const maxTags = 50

// checkTags holds tags that a client gives to the rules: at most 50, no key twice, lengths, characters, no aws: keys.
func checkTags(tags []types.Tag) error {
	if len(tags) > maxTags {
		return invalid("The number of tags is %d; a resource can have at most %d.", len(tags), maxTags)
	}
	seen := make(map[string]bool, len(tags))
	for _, t := range tags {
		key, value := aws.ToString(t.Key), aws.ToString(t.Value)
		if seen[key] {
			return invalid("Duplicate tag keys found: %s. Each key can be given once.", key)
		}
		seen[key] = true
		if err := checkTagKey(key); err != nil {
			return err
		}
		if utf8.RuneCountInString(value) > 256 || !tagPattern.MatchString(value) {
			return invalid("The value of the tag %q is invalid: at most 256 letters, digits, spaces and + - = . _ : / @.", key)
		}
		if err := policy.Check(key, value); err != nil {
			return invalid("Invalid tag: %v.", err)
		}
	}
	return nil
}

// checkPlace refuses scheduling tags on a resource that they do nothing for.
func checkPlace(tags []types.Tag, on policy.On) error {
	if err := policy.Misplaced(tags, on); err != nil {
		return invalid("Invalid tag: %v.", err)
	}
	return nil
}

func checkTagKey(key string) error {
	switch n := utf8.RuneCountInString(key); {
	case n == 0 || n > 128 || !tagPattern.MatchString(key):
		return invalid("The tag key %.200q is invalid: 1 to 128 letters, digits, spaces and + - = . _ : / @.", key)
	case strings.HasPrefix(strings.ToLower(key), "aws:"):
		return invalid("The tag key %q is invalid: keys that start with aws: are reserved.", key)
	}
	return nil
}

// mergeTags is have with the tags of add, which win. Neither is changed.
func mergeTags(have, add []types.Tag) ([]types.Tag, error) {
	out := append([]types.Tag{}, have...)
next:
	for _, t := range add {
		for i := range out {
			if aws.ToString(out[i].Key) == aws.ToString(t.Key) {
				out[i] = t
				continue next
			}
		}
		out = append(out, t)
	}
	if len(out) > maxTags {
		return nil, invalid("The resource would have %d tags; it can have at most %d.", len(out), maxTags)
	}
	return out, nil
}

// withoutTags is have without the given keys. It is not changed.
func withoutTags(have []types.Tag, keys []string) []types.Tag {
	gone := make(map[string]bool, len(keys))
	for _, k := range keys {
		gone[k] = true
	}
	out := []types.Tag{}
	for _, t := range have {
		if !gone[aws.ToString(t.Key)] {
			out = append(out, t)
		}
	}
	return out
}

// orEmpty is a list that is written as [] when it has nothing.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// oneOf holds an enumeration to the values that the SDK knows. An absent one is fine.
func oneOf[E ~string](member string, value E, known []E) error {
	if value == "" {
		return nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		if k == value {
			return nil
		}
		names[i] = string(k)
	}
	return invalid("%s should be one of [%s], but was %.200s.", member, strings.Join(names, ", "), string(value))
}

// atMost bounds the length of a list that a client gave.
func atMost[T any](member string, list []T, n int) error {
	if len(list) > n {
		return invalid("%s has %d elements; at most %d are allowed.", member, len(list), n)
	}
	return nil
}
