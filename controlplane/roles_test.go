package controlplane

import (
	"slices"
	"testing"
)

func TestATasksCallsMayBeSignedForTheRegionThatItsInstanceWasRegisteredIn(t *testing.T) {
	for instance, want := range map[string][]string{
		"arn:aws:ecs:us-west-2:123456789012:container-instance/c/0123456789abcdef0123456789abcdef": {"us-west-2"},
		"arn:aws:ecs:eu-west-1:123456789012:container-instance/c/0123456789abcdef0123456789abcdef": {"us-west-2", "eu-west-1"},
		"": {"us-west-2"}, // a task that is yet to be placed
	} {
		if got := regionsOf("us-west-2", instance); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", instance, got, want)
		}
	}
}
